// What the lanes of a warp do together: shuffles and tensor-core products.
#pragma once

#include <cstring>
#include <stdexcept>

#include "emulate/block.hpp"

namespace dmftcore::emulate {

// Shows `mine` to the warp while use(exchange, lane) runs on every lane.
template <std::size_t WORDS, class Use>
void together(const double (&mine)[WORDS], Site site, const Use& use) {
  const unsigned rank = block().current->rank, lane = rank % WARP;
  Exchange& exchange = block().exchanges[rank / WARP];
  static_assert(sizeof mine <= sizeof exchange.lanes[0]);
  std::memcpy(exchange.lanes[lane], mine, sizeof mine);
  warp_barrier(site);
  use(exchange, lane);
  warp_barrier(site);
}

// The value of the lane source(lane).
template <class T, class Source>
T shuffle(unsigned mask, T value, Site site, const Source& source) {
  static_assert(sizeof(T) <= sizeof(double));
  if (mask != 0xffffffffu) throw std::invalid_argument("a shuffle of part of a warp");
  double word = 0;
  std::memcpy(&word, &value, sizeof(T));
  together({word}, site, [&](const Exchange& exchange, unsigned lane) {
    std::memcpy(&value, exchange.lanes[source(lane)], sizeof(T));
  });
  return value;
}

// The fragments of PTX, which CUTLASS describes alike (MMA_Traits of SM80_8x8x4_F64F64F64F64_TN and
// SM90_16x8x16_F64F64F64F64_TN): with g = lane / 4 and t = lane % 4,
//   m8n8k4     A: (g, t)                         B: (t, g)           C[q]: (g, 2t + q)
//   m16n8k16   A[q]: (g + 8(q&1), t + 4(q>>1))   B[q]: (t + 4q, g)   C[h][q]: (g + 8h, 2t + q)

inline void mma_m8n8k4(double (&c)[2], double a, double b, Site site) {
  together({a, b}, site, [&](const Exchange& exchange, unsigned lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned q = 0; q < 2; ++q)
      for (unsigned k = 0; k < 4; ++k)
        c[q] += exchange.lanes[4 * g + k][0] * exchange.lanes[4 * (2 * t + q) + k][1];
  });
}

inline void mma_m16n8k16(double (&c)[2][2], const double (&a)[8], const double (&b)[4], Site site) {
  double mine[12];
  std::memcpy(mine, a, sizeof a);
  std::memcpy(mine + 8, b, sizeof b);
  together(mine, site, [&](const Exchange& exchange, unsigned lane) {
    const unsigned g = lane / 4, t = lane % 4;
    for (unsigned h = 0; h < 2; ++h)
      for (unsigned q = 0; q < 2; ++q)
        for (unsigned k = 0; k < 16; ++k)
          c[h][q] += exchange.lanes[4 * g + k % 4][h + 2 * (k / 4)] *
                     exchange.lanes[4 * (2 * t + q) + k % 4][8 + k / 4];
  });
}

} // namespace dmftcore::emulate
