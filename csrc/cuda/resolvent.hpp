#pragma once

#include "cuda/product.hpp"

namespace dmftcore::cuda {

constexpr index RESOLVENT_BASE = 32;

// The rows of a square on the diagonal that one warp solves: whole blocks, or a part of one, inside
// which the resolvent is the identity.
constexpr index resolvent_base(index block) {
  return block < RESOLVENT_BASE ? RESOLVENT_BASE / block * block : RESOLVENT_BASE;
}

// The resolvents of `items` n x n matrices. Those squares are written, zeros included, and all that
// is below both them and the diagonal blocks. The rest of r must be zero as far as it will be read.
// `scratch` holds resolvent_scratch(n) numbers an item.
template <class T>
void resolvent_of(Stream stream, index items, index n, index block, Matrices<const T> a,
                  Matrices<T> r, T* scratch);

constexpr index resolvent_scratch(index n) { return n * n / 4; }

} // namespace dmftcore::cuda
