// Which part of a row-major matrix is not zero.
#pragma once

#include "cuda/device_code.cuh"

namespace dmftcore::cuda {

// Row i is nonzero in the columns j < limit(i) = (i / block) * block + reach, and only these are
// read. Causal in blocks of P: {P, P}; strictly causal: {P, 0}. With block 0 all rows have `reach`
// columns. Rows and columns are int: a division costs a fifth of that of an index.
struct Support {
  int block;
  int reach;

  __device__ __forceinline__ int limit(int i) const {
    return reach + (block == 1 ? i : block == 0 ? 0 : i / block * block);
  }
  // The first row whose limit exceeds column j, where there is one.
  __device__ __forceinline__ int first_row(int j) const {
    return j < reach || block == 0 ? 0 : (j - reach + block) / block * block;
  }
};

constexpr Support ALL{0, 0x3fffffff};
constexpr Support LOWER{1, 1};

inline Support causal_in(index block) { return {static_cast<int>(block), static_cast<int>(block)}; }
inline Support strictly_causal_in(index block) { return {static_cast<int>(block), 0}; }

} // namespace dmftcore::cuda
