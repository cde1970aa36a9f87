// How the test process calls an operation: NAME_float64 and NAME_float32, which return null, or the
// text of what went wrong.
#pragma once

#include <exception>
#include <string>

#include "cuda/device_code.cuh"
#include "ops.hpp"

template <class Run> const char* guarded(const Run& run) {
  static std::string text;
  try {
    run();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

#define EXPORT extern "C" __attribute__((visibility("default")))
using Size = dmftcore::index; // index is a function of the C library
namespace cuda = dmftcore::cuda;
