// Which part of a row-major matrix is not zero.
#pragma once

#include <cstdint>

#include "ops.hpp"

namespace dmftcore::cpu {

// Row i is nonzero in the columns j < limit(i) = (i / block) * block + reach, and only these are
// read or written. Causal in blocks of P: {P, P}; strictly causal: {P, 0}; the rows of such a
// matrix from row k on, k a multiple of P: {P, P + k}. With block 0 all rows have `reach` columns.
struct Support {
  index block;
  index reach;

  // Always inline, as they serve files compiled for one instruction set (isa.hpp).
  [[gnu::always_inline]] index limit(index i) const {
    return reach + (block == 1 ? i : block == 0 ? 0 : i / block * block);
  }
  // The first row whose limit exceeds column j, where there is one.
  [[gnu::always_inline]] index first_row(index j) const {
    return j < reach || block == 0 ? 0 : (j - reach + block) / block * block;
  }
};

constexpr Support ALL{0, PTRDIFF_MAX / 2};
constexpr Support LOWER{1, 1};

} // namespace dmftcore::cpu
