// Sums over the modes of a spectrum by a warp: lanes take modes, and each mode that is loaded
// serves several kappa. Sums of a few modes are rounded as usual and then added up, so that errors
// do not grow with the number of modes.
//
// A mode costs some 20 FP64 instructions for each kappa, the division among them, and 16 bytes for
// all of them, which come from the caches: the sums are bound by FP64.
#pragma once

#include "complex.hpp"
#include "cuda/device_code.cuh"

namespace dmftcore::cuda {

// kappa a warp takes together, the sums for each of them, and modes of a lane between two roundings
// of the totals.
constexpr int SLOTS = 4, SUMS = 4, CHUNK = 64;

struct Modes {
  index count;
  const double* lam;
  const double* weights[2]; // of modes
};

// totals[q][i] of all lanes, from add(k, lam, q, sums[q]), the sums that mode k adds for slot q.
template <class Add>
__device__ __forceinline__ void sum_over_modes(const Modes& modes, int lane,
                                               double (&totals)[SLOTS][SUMS], const Add& add) {
  DMFTCORE_UNROLL
  for (int q = 0; q < SLOTS; ++q) {
    DMFTCORE_UNROLL
    for (int i = 0; i < SUMS; ++i) totals[q][i] = 0;
  }
  for (index k = lane; k < modes.count;) {
    double sums[SLOTS][SUMS] = {};
    for (int step = 0; step < CHUNK && k < modes.count; ++step, k += WARP) {
      const double lam = modes.lam[k];
      DMFTCORE_UNROLL
      for (int q = 0; q < SLOTS; ++q) add(k, lam, q, sums[q]);
    }
    DMFTCORE_UNROLL
    for (int q = 0; q < SLOTS; ++q) {
      DMFTCORE_UNROLL
      for (int i = 0; i < SUMS; ++i) totals[q][i] += sums[q][i];
    }
  }
  DMFTCORE_UNROLL
  for (int q = 0; q < SLOTS; ++q) {
    DMFTCORE_UNROLL
    for (int i = 0; i < SUMS; ++i) {
      DMFTCORE_UNROLL
      for (int distance = WARP / 2; distance > 0; distance /= 2)
        totals[q][i] += __shfl_xor_sync(WHOLE_WARP, totals[q][i], distance);
    }
  }
}

// Lane q keeps the totals of slot q.
__device__ __forceinline__ void take_own(int lane, const double (&totals)[SLOTS][SUMS],
                                         double (&own)[SUMS]) {
  DMFTCORE_UNROLL
  for (int q = 0; q < SLOTS; ++q) {
    DMFTCORE_UNROLL
    for (int i = 0; i < SUMS; ++i)
      if (lane == q) own[i] = totals[q][i];
  }
}

} // namespace dmftcore::cuda
