#pragma once

#include "cuda/product.hpp"

namespace dmftcore::cuda {

// Rows that are solved directly; `block` may be more.
constexpr int RESOLVENT_BASE = 32;

// The resolvents of `items` n x n matrices. What is written: squares of up to RESOLVENT_BASE rows
// along the diagonal, and everything below the diagonal blocks. Elsewhere r must be zero, as far as
// it will be read. `scratch` holds resolvent_scratch(n) numbers an item.
template <class T>
void resolvent_of(Stream stream, index items, index n, index block, Matrices<const T> a,
                  Matrices<T> r, T* scratch);

constexpr index resolvent_scratch(index n) { return n * n / 4; }

} // namespace dmftcore::cuda
