#include "jax/call.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <new>

namespace dmftcore::xla {
namespace {

Error* error(const Api& api, int code, const char* text) {
  ErrorCreate create{};
  create.struct_size = sizeof create.struct_size + sizeof create.extension_start +
                       sizeof create.message + sizeof create.errc;
  create.message = text;
  create.errc = code;
  return api.error_create(&create);
}

MetadataExtension* metadata_question(const CallFrame& frame) {
  Extension* extension = frame.extension_start;
  while (extension && extension->type != METADATA) extension = extension->next;
  return reinterpret_cast<MetadataExtension*>(extension);
}

// All that is used here is the same in a range of versions: we are of the version that asks, or of
// the newest known one, and XLA decides. The oldest of them does not say who asks.
void answer(const Api* api, Metadata& metadata) {
  const int running = api ? api->api_version.minor_version : OLDEST_MINOR;
  metadata.api_version = {};
  metadata.api_version.struct_size = sizeof(Version);
  metadata.api_version.major_version = MAJOR;
  metadata.api_version.minor_version = std::clamp(running, OLDEST_MINOR, NEWEST_MINOR);
  metadata.traits = 0;
}

} // namespace

Call::Call(const CallFrame& frame, int arguments) : frame_(frame) {
  require(frame.stage == EXECUTE, "a handler for the execution is called in another stage");
  require(frame.args.size == arguments && frame.rets.size == 1,
          "expected " + std::to_string(arguments) + " arguments and one result");
  const auto is_buffer = [](int type) { return type == BUFFER; };
  require(std::all_of(frame.args.types, frame.args.types + arguments, is_buffer) &&
              is_buffer(frame.rets.types[0]),
          "arguments and results must be arrays");
  // A result is like the last argument, in all of our operations.
  const Buffer& last = buffer(arguments - 1);
  require(result().dtype == last.dtype && result().rank == last.rank &&
              same_axes(result(), last, last.rank),
          "the result must have the shape and the dtype of the last argument");
}

int Call::dtype() const {
  const int first = buffer(0).dtype;
  for (int i = 1; i < frame_.args.size; ++i)
    require(buffer(i).dtype == first, "the arguments must have one dtype");
  return first;
}

index Call::attribute(const char* name) const {
  const Attributes& all = frame_.attrs;
  for (std::int64_t i = 0; i < all.size; ++i) {
    if (std::string(all.names[i]->ptr, all.names[i]->len) != name) continue;
    const auto& scalar = *static_cast<const Scalar*>(all.attrs[i]);
    require(all.types[i] == SCALAR && scalar.dtype == S64,
            "the attribute " + std::string(name) + " must be an int64");
    return static_cast<index>(*static_cast<const std::int64_t*>(scalar.value));
  }
  throw InvalidCall{"there is no attribute " + std::string(name)};
}

void* Call::stream() const {
  StreamGet get{};
  get.struct_size = sizeof get;
  get.ctx = frame_.ctx;
  require(frame_.api->stream_get(&get) == nullptr, "the call has no stream");
  return get.stream;
}

Kernels::Kernels(const Call& call, int argument) : batch(1), block(call.attribute("block")) {
  const Buffer& kernels = call.buffer(argument);
  require(kernels.rank >= 2 && kernels.dims[kernels.rank - 1] == kernels.dims[kernels.rank - 2],
          "kernels must be (*batch, n, n)");
  n = static_cast<index>(kernels.dims[kernels.rank - 1]);
  for (std::int64_t d = 0; d + 2 < kernels.rank; ++d) batch *= static_cast<index>(kernels.dims[d]);
  require(block >= 1 && n % block == 0, "the size must be a multiple of block");
}

bool same_axes(const Buffer& a, const Buffer& b, std::int64_t axes) {
  return a.rank >= axes && b.rank >= axes && std::equal(a.dims, a.dims + axes, b.dims);
}

Error* guarded(CallFrame* frame, int arguments, void (*body)(const Call&)) {
  if (MetadataExtension* const question = metadata_question(*frame)) {
    answer(frame->api, *question->metadata);
    return nullptr;
  }
  const Api& api = *frame->api;
  try {
    body(Call(*frame, arguments));
    return nullptr;
  } catch (const InvalidCall& invalid) {
    return error(api, INVALID_ARGUMENT, ("dmftcore: " + invalid.text).c_str());
  } catch (const std::bad_alloc&) {
    return error(api, RESOURCE_EXHAUSTED, "dmftcore: out of memory");
  } catch (const std::exception& thrown) {
    return error(api, INTERNAL, (std::string("dmftcore: ") + thrown.what()).c_str());
  }
}

} // namespace dmftcore::xla
