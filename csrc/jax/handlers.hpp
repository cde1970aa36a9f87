// The operations of ops.hpp as targets of XLA's custom calls.
#pragma once

#include <vector>

#include "jax/xla_ffi.hpp"

namespace dmftcore::xla {

struct Target {
  const char* platform; // as jax calls it
  const char* operation;
  Handler* handler;
};

// For every operation and every platform that was built.
const std::vector<Target>& targets();

} // namespace dmftcore::xla
