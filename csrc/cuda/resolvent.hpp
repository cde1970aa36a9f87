#pragma once

#include "cuda/product.hpp"

namespace dmftcore::cuda {

// The resolvents of `items` n x n matrices. r must be zero above the blocks of 32 rows on its
// diagonal where zeros are wanted; nothing is written there. `scratch` holds resolvent_scratch(n)
// numbers an item.
template <class T>
void resolvent_of(Stream stream, index items, index n, index block, Matrices<const T> a,
                  Matrices<T> r, T* scratch);

constexpr index resolvent_scratch(index n) { return n * n / 4; }

} // namespace dmftcore::cuda
