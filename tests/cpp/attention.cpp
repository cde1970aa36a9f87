// Heads of attention for the test process: a library of its own, with or without planted faults.
#include <exception>
#include <string>

#include "cuda/device_code.cuh"
#include "ops.hpp"

#define EXPORT extern "C" __attribute__((visibility("default")))

// Read by planted faults (planted.hpp) alone.
extern "C" {
__attribute__((visibility("default"))) int planted = 0;
}

EXPORT void set_order(std::ptrdiff_t order) {
  dmftcore::emulate::set_order(static_cast<dmftcore::emulate::Order>(order));
}

EXPORT const char* attention_run(const dmftcore::cuda::AttentionOnDevice* problem,
                                 const double* rates, std::ptrdiff_t count, double* outputs) {
  static std::string text;
  try {
    dmftcore::cuda::attention_run(nullptr, *problem, rates, count, outputs);
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}
