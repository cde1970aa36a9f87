// Sums over the modes of a spectrum by a team of warps: threads take modes, and each mode that is
// loaded serves several kappa, the slots of a team. Sums of a few modes are rounded as usual and
// then added up, so that errors do not grow with the number of modes.
//
// A mode costs some 20 FP64 instructions for each kappa, the division among them, and 16 bytes for
// all of them, which come from the caches: with four slots the sums are bound by FP64, with one by
// the second-level cache, at half of that rate on an H200.
//
// How many warps a team has is decided by the number of modes, and how many slots by the number of
// kappa, which changes no bit of a sum. A team of several is a block, and many modes are then a
// block's work even for a single kappa: going beyond one block for it would take a launch for each
// step of its path, or a barrier of the whole grid.
#pragma once

#include <algorithm>
#include <cstddef>

#include "complex.hpp"
#include "cuda/device_code.cuh"

namespace dmftcore::cuda {

// Sums for each kappa, and modes of a thread between two roundings of the totals.
constexpr int SUMS = 4, CHUNK = 64;
// Warps of a team from so many modes on; with fewer a team is one warp.
constexpr int LARGE_TEAM = 8;
constexpr index MANY_MODES = 16384;

// Threads of a block: a large team, or a few small ones.
template <int TEAM> constexpr int BLOCK = (TEAM == 1 ? 4 : TEAM) * WARP;

struct Modes {
  index count;
  const double* lam;
  const double* weights[2]; // of modes
};

// The place of a thread in its team of TEAM warps, and of the team in the grid.
template <int TEAM> struct Place {
  static constexpr int TEAMS = BLOCK<TEAM> / (TEAM * WARP); // of a block

  int lane = static_cast<int>(threadIdx.x) % WARP;
  int warp = static_cast<int>(threadIdx.x) / WARP % TEAM;
  index team = index(blockIdx.x) * TEAMS + static_cast<int>(threadIdx.x) / (TEAM * WARP);
  index teams = index(gridDim.x) * TEAMS;
};

template <int TEAM, int SLOTS> constexpr std::size_t team_shared_bytes() {
  return TEAM == 1 ? 0 : TEAM * SLOTS * SUMS * sizeof(double);
}

// totals[q][i] of all threads of the team, the same in each, from add(k, lam, q, sums[q]), the sums
// that mode k adds for slot q.
template <int TEAM, int SLOTS, class Add>
__device__ __forceinline__ void sum_over_modes(const Modes& modes, const Place<TEAM>& place,
                                               double (&totals)[SLOTS][SUMS], const Add& add) {
  static_assert(SLOTS * SUMS <= WARP);
  DMFTCORE_UNROLL
  for (int q = 0; q < SLOTS; ++q) {
    DMFTCORE_UNROLL
    for (int i = 0; i < SUMS; ++i) totals[q][i] = 0;
  }
  for (index k = place.warp * WARP + place.lane; k < modes.count;) {
    double sums[SLOTS][SUMS] = {};
    for (int step = 0; step < CHUNK && k < modes.count; ++step, k += TEAM * WARP) {
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
  if constexpr (TEAM > 1) {
    // (TEAM, SLOTS, SUMS)
    double* const parts = shared_memory<double>();
    __syncthreads(); // the parts before have been read
    DMFTCORE_UNROLL
    for (int q = 0; q < SLOTS; ++q) {
      DMFTCORE_UNROLL
      for (int i = 0; i < SUMS; ++i)
        if (q * SUMS + i == place.lane)
          parts[place.warp * SLOTS * SUMS + place.lane] = totals[q][i];
    }
    __syncthreads(); // the parts of all warps are there
    double sum = 0;
    if (place.lane < SLOTS * SUMS)
      for (int warp = 0; warp < TEAM; ++warp) sum += parts[warp * SLOTS * SUMS + place.lane];
    DMFTCORE_UNROLL
    for (int q = 0; q < SLOTS; ++q) {
      DMFTCORE_UNROLL
      for (int i = 0; i < SUMS; ++i) totals[q][i] = __shfl_sync(WHOLE_WARP, sum, q * SUMS + i);
    }
  }
}

// Lane q keeps the totals of slot q.
template <int SLOTS>
__device__ __forceinline__ void take_own(int lane, const double (&totals)[SLOTS][SUMS],
                                         double (&own)[SUMS]) {
  DMFTCORE_UNROLL
  for (int q = 0; q < SLOTS; ++q) {
    DMFTCORE_UNROLL
    for (int i = 0; i < SUMS; ++i)
      if (lane == q) own[i] = totals[q][i];
  }
}

// The blocks for so many teams.
template <int TEAM> unsigned blocks_of(index teams) {
  return static_cast<unsigned>(
      std::min((teams + Place<TEAM>::TEAMS - 1) / Place<TEAM>::TEAMS, MOST_BLOCKS));
}

} // namespace dmftcore::cuda
