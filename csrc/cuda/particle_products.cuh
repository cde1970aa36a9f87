// Inner products of directions and fields: sums over particles.
//
// The particles are cut into parts, which depend on their number alone. A warp takes 16 directions
// of a part, whose sums with all fields stay in its registers; a second kernel adds up the parts,
// always in the same order. Memory: (k + n) S elements, and 2 k n doubles for each of 512 parts at
// most: 1.6 % of a pass at S = 10^6 and n = 16, mostly within the L2 cache.
#pragma once

#include "cuda/particles.cuh"

namespace dmftcore::cuda {

// Directions of one kind, in every run.
template <class T> struct Kind {
  const T* rows;
  index capacity;
  const index* used; // null: `count`
  index count;
  const T* reference; // of the fields, or null
  int tiles;          // of DIRECTIONS each
  double* result;     // null where nothing is asked for: there are no tiles
};

template <class T> __device__ __forceinline__ index used(const Kind<T>& kind, index run) {
  return kind.used ? kind.used[run] : kind.count;
}

// Sums over parts of the particles, (runs, parts, tiles, DIRECTIONS, n).
template <class T> struct Sums {
  index runs, particles;
  index part, parts; // particles of a part, and the number of parts
  index n;
  const T* x;
  index apart; // columns of x from one run to the next
  Kind<T> a, b, gram;
  int tiles;
  double* sums;
};

// The kind of a tile, which becomes its number within that kind.
template <class T> __device__ __forceinline__ Kind<T> kind_of(const Sums<T>& s, int& tile) {
  if (tile < s.a.tiles) return s.a;
  tile -= s.a.tiles;
  if (tile < s.b.tiles) return s.b;
  tile -= s.b.tiles;
  return s.gram;
}

// Particles of an instruction, and of a step of a warp: a part is a whole number of strides.
constexpr int STRETCH = 16, STRIDE = 32;

// For the fields from `first` on, GROUPS FIELDS at most.
template <class T, int GROUPS, bool ALIGNED>
__global__ void __launch_bounds__(PARTICLE_THREADS) sum_parts(Sums<T> s, index first) {
  using Four = Quad<T, 4, ALIGNED>;
  constexpr int STRETCHES = GROUPS < 8 ? STRIDE / STRETCH : 1; // what the registers have room for
  const int warp = int(threadIdx.x) / WARP, lane = int(threadIdx.x) % WARP;
  const int g = lane / 4, t = lane % 4; // row, or column, and place of a fragment
  const index task = index(blockIdx.x) * PARTICLE_WARPS + warp;
  const index run = task / s.tiles / s.parts, part = task / s.tiles % s.parts;
  if (run >= s.runs) return;
  int tile = int(task % s.tiles);
  const Kind<T> kind = kind_of(s, tile);
  const index direction = index(tile) * DIRECTIONS + g, count = used(kind, run);
  if (direction - g >= count) return;

  const index S = s.particles, begin = part * s.part, end = min(begin + s.part, S);
  const T* const row = kind.rows + (run * kind.capacity + direction) * S;
  const index field = (run * s.apart + first + g) * S;
  double sum[GROUPS][2][2] = {};
  for (index at = begin; at < end; at += STRETCHES * STRETCH) {
    T a[STRETCHES][2][4];
    DMFTCORE_UNROLL
    for (int r = 0; r < STRETCHES; ++r) DMFTCORE_UNROLL
    for (int h = 0; h < 2; ++h) {
      const bool there = direction + 8 * h < count;
      const index from = at + r * STRETCH;
      Four::load(row + 8 * h * S + from, there ? end - from : 0, t, a[r][h]);
    }
    DMFTCORE_UNROLL
    for (int r = 0; r < STRETCHES; ++r) {
      double directions[8];
      DMFTCORE_UNROLL
      for (int q = 0; q < 8; ++q) directions[q] = double(a[r][q & 1][q >> 1]);
      DMFTCORE_UNROLL
      for (int group = 0; group < GROUPS; ++group) {
        const index from = at + r * STRETCH, place = field + group * FIELDS * S + from;
        const index present = first + group * FIELDS + g < s.n ? end - from : 0;
        T x[4], reference[4] = {};
        Four::load(s.x + place, present, t, x);
        if (kind.reference) Four::load(kind.reference + place, present, t, reference);
        double fields[4];
        DMFTCORE_UNROLL
        for (int q = 0; q < 4; ++q) fields[q] = double(x[q] - reference[q]);
        mma(sum[group], directions, fields);
      }
    }
  }
  double* const sums = s.sums + (task * DIRECTIONS + g) * s.n + first + 2 * t;
  DMFTCORE_UNROLL
  for (int group = 0; group < GROUPS; ++group) DMFTCORE_UNROLL
  for (int h = 0; h < 2; ++h) DMFTCORE_UNROLL
  for (int q = 0; q < 2; ++q)
    if (first + group * FIELDS + 2 * t + q < s.n)
      sums[8 * h * s.n + group * FIELDS + q] = sum[group][h][q];
}

// Threads of `add_parts` that share an element.
constexpr int PART_SHARES = 16;

// Elements of all tiles of all runs, a lane for each.
template <class T> __global__ void __launch_bounds__(WARP* PART_SHARES) add_parts(Sums<T> s) {
  double* const shares = shared_memory<double>();
  const int lane = int(threadIdx.x), share = int(threadIdx.y);
  const index size = s.tiles * DIRECTIONS * s.n, element = index(blockIdx.x) * WARP + lane;
  const index run = element / size, place = element % size, j = place % s.n;
  int tile = int(place / s.n / DIRECTIONS);
  const Kind<T> kind = kind_of(s, tile);
  const index i = index(tile) * DIRECTIONS + place / s.n % DIRECTIONS;
  const bool symmetric = kind.result == s.gram.result;
  const bool there = run < s.runs && i < (symmetric ? s.n : kind.capacity);
  double sum = 0;
  if (there && i < used(kind, run))
    for (index part = share; part < s.parts; part += PART_SHARES)
      sum += s.sums[(run * s.parts + part) * size + place];
  shares[share * WARP + lane] = sum;
  __syncthreads(); // all shares are there
  if (share != 0 || !there) return;
  for (int k = 1; k < PART_SHARES; ++k) sum += shares[k * WARP + lane];
  sum /= double(s.particles);
  if (!symmetric) {
    kind.result[(run * kind.capacity + i) * s.n + j] = sum;
  } else if (j <= i) {
    kind.result[(run * s.n + i) * s.n + j] = sum;
    kind.result[(run * s.n + j) * s.n + i] = sum;
  }
}

} // namespace dmftcore::cuda
