// The binary interface between XLA and the handler of a custom call, as far as a handler of ours
// meets it: XLA passes a call frame that points at buffers and attributes, and gets an error or
// null back.
//
// Declared here in our own words, so that the core is built without jaxlib and one build serves
// every jaxlib. Structures only grow at their end, and carry their size; tests/test_jax_abi.py
// compares each member with the header of the jaxlib that is installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace dmftcore::xla {

// What follows holds for the versions 0.1 (jaxlib 0.6) to 0.3 (jaxlib 0.10).
constexpr int MAJOR = 0, OLDEST_MINOR = 1, NEWEST_MINOR = 3;

// Enumerations are int: of types of numbers,
constexpr int S64 = 5, F32 = 11, F64 = 12, C128 = 18;
// of arguments, results and attributes,
constexpr int BUFFER = 1, SCALAR = 3;
// of errors,
constexpr int INVALID_ARGUMENT = 3, RESOURCE_EXHAUSTED = 8, INTERNAL = 13;
// of stages of a call, and of extensions.
constexpr int EXECUTE = 3, METADATA = 1;

struct Error;   // of XLA, which owns it once it was returned
struct Context; // of one execution

struct Extension {
  std::size_t struct_size;
  int type;
  Extension* next;
};

// The beginning of most structures.
struct Base {
  std::size_t struct_size;
  Extension* extension_start;
};

struct Version : Base {
  int major_version;
  int minor_version;
};

struct ErrorCreate : Base {
  const char* message;
  int errc;
};

struct StreamGet : Base {
  Context* ctx;
  void* stream; // out
};

struct Buffer : Base {
  int dtype;
  void* data;
  std::int64_t rank;
  std::int64_t* dims;
};

struct ByteSpan {
  const char* ptr;
  std::size_t len;
};

struct Scalar {
  int dtype;
  void* value;
};

struct Arguments : Base {
  std::int64_t size;
  int* types;
  void** args;
};

struct Results : Base {
  std::int64_t size;
  int* types;
  void** rets;
};

struct Attributes : Base {
  std::int64_t size;
  int* types;
  ByteSpan** names;
  void** attrs;
};

struct Api : Base {
  Version api_version;
  const void* internal_api;
  Error* (*error_create)(ErrorCreate*);
  void* error_get_message;
  void* error_destroy;
  void* handler_register;
  Error* (*stream_get)(StreamGet*);
  // and more, of no use here
};

struct CallFrame : Base {
  const Api* api;
  Context* ctx;
  int stage;
  Arguments args;
  Results rets;
  Attributes attrs;
};

// XLA calls a handler with this extension, and without arguments, to ask what it was built for.
struct Metadata {
  std::size_t struct_size;
  Version api_version;
  std::uint32_t traits;
};

struct MetadataExtension {
  Extension extension_base;
  Metadata* metadata;
};

using Handler = Error*(CallFrame*);

} // namespace dmftcore::xla
