// What XLA passes to a handler, checked.
#pragma once

#include <string>
#include <vector>

#include "jax/xla_ffi.hpp"
#include "ops.hpp"

namespace dmftcore::xla {

// A call that does not fit the operation: the text for the user of the target. dmftcore.jax words
// the errors of its own users.
struct InvalidCall {
  std::string text;
};

inline void require(bool condition, const std::string& text) {
  if (!condition) throw InvalidCall{text};
}

class Call {
public:
  Call(const CallFrame& frame, int arguments);

  // The type of all buffers, which must have one.
  int dtype() const;
  const Buffer& buffer(int argument) const {
    return *static_cast<const Buffer*>(frame_.args.args[argument]);
  }
  template <class T> const T* input(int argument) const {
    return static_cast<const T*>(buffer(argument).data);
  }
  template <class T> T* output() const { return static_cast<T*>(result().data); }
  index attribute(const char* name) const;
  void* stream() const;

private:
  const Buffer& result() const { return *static_cast<const Buffer*>(frame_.rets.rets[0]); }

  const CallFrame& frame_;
};

// The sizes of kernels (*batch, n, n), in blocks.
struct Kernels {
  Kernels(const Call& call, int argument);

  index batch, n, block;
};

// Whether two buffers agree in their axes [0, axes).
bool same_axes(const Buffer& a, const Buffer& b, std::int64_t axes);

// Runs body(call) for a frame with that many arguments; what it throws becomes the error of XLA.
// Answers the question for metadata by itself.
Error* guarded(CallFrame* frame, int arguments, void (*body)(const Call&));

} // namespace dmftcore::xla
