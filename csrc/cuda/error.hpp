#pragma once

#include <stdexcept>

namespace dmftcore::cuda {

// An allocation, a launch or a query that CUDA refused, with its text.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

} // namespace dmftcore::cuda
