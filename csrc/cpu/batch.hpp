// The leading axes of an operation.
#pragma once

#include "cpu/pool.hpp"

namespace dmftcore::cpu {

// body(0), ..., body(batch - 1), each of `work` multiplications. Threads take whole items where
// these are many or small; otherwise they share the work inside each item.
template <class Body> void over_batch(index batch, index work, const Body& body) {
  constexpr index SMALL = 1 << 24, LEAST = 1 << 16;
  if ((work < SMALL || batch >= 4 * num_threads()) && batch * work >= LEAST)
    parallel_for(batch, body);
  else
    for (index i = 0; i < batch; ++i) body(i);
}

} // namespace dmftcore::cpu
