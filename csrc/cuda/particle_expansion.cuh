// Fields made of directions: sums over directions.
//
// A warp makes 32 particles of all fields, whose sums stay in its registers while it goes through
// the directions; what follows elementwise has a lane for each particle. Memory: k S elements, and
// n S for every array that is read or written besides. The coefficients lie in shared memory, 128
// directions at a time, and cost k n doubles for every 128 particles, 12 % of the directions at
// n = 16 in float64, within the L2 cache.
#pragma once

#include "cuda/functions.cuh"
#include "cuda/particles.cuh"

namespace dmftcore::cuda {

// Directions between two barriers, and particles of a block.
constexpr int CHUNK = 128, PARTICLES = PARTICLE_THREADS;

// Shared memory of `expand`, in doubles: the coefficients of a chunk, (GROUPS, CHUNK, FIELDS), or
// the sums of the fields, (warps, GROUPS FIELDS, particles of a warp).
template <int GROUPS> constexpr int EXPANSION_SHARED = GROUPS * FIELDS * CHUNK;
static_assert(CHUNK == PARTICLES, "both uses of the shared memory are of one size");

// For the fields from `first` on, GROUPS FIELDS at most; `blocks` of the grid for every run.
template <class T, int GROUPS, bool ALIGNED>
__global__ void __launch_bounds__(PARTICLE_THREADS)
    expand(Expansion<T> e, index first, unsigned blocks) {
  using Eight = Quad<T, 8, ALIGNED>;
  double* const memory = shared_memory<double>();
  const int thread = int(threadIdx.x), warp = thread / WARP, lane = thread % WARP;
  const int g = lane / 4, t = lane % 4; // row, or column, and place of a fragment
  const index run = blockIdx.x / blocks, S = e.particles;
  const index begin = index(blockIdx.x % blocks) * PARTICLES + warp * WARP; // of the warp
  const int width = int(min(e.n - first, index(GROUPS * FIELDS)));
  // Particles 2 m and 2 m + 1 of a lane are rows g and g + 8 of sum[m].
  double sum[2][GROUPS][2][2] = {};

  const auto add = [&](const Vectors<T>& v, const double* factors) {
    const index count = used(v, run);
    for (index chunk = 0; chunk < count; chunk += CHUNK) {
      const int present = int(min(count - chunk, index(CHUNK)));
      const double* const c = factors + (run * v.capacity + chunk) * e.n + first;
      __syncthreads(); // the coefficients, or the sums, before have been read
      for (int q = thread; q < EXPANSION_SHARED<GROUPS>; q += PARTICLE_THREADS) {
        const int i = q / (GROUPS * FIELDS), j = q % (GROUPS * FIELDS);
        const double factor = i < present && j < width ? c[i * e.n + j] : 0.0;
        memory[(j / FIELDS * CHUNK + i) * FIELDS + j % FIELDS] = factor;
      }
      __syncthreads(); // the coefficients are there
      for (int i = 0; i < present; i += DIRECTIONS) {
        T a[4][4];
        DMFTCORE_UNROLL
        for (int s = 0; s < 4; ++s) {
          const int direction = i + t + 4 * s;
          const T* const row = v.rows + (run * v.capacity + chunk + direction) * S + begin;
          Eight::load(row, direction < present ? S - begin : 0, g, a[s]);
        }
        double directions[2][8];
        DMFTCORE_UNROLL
        for (int m = 0; m < 2; ++m) DMFTCORE_UNROLL
        for (int q = 0; q < 8; ++q) directions[m][q] = double(a[q >> 1][2 * m + (q & 1)]);
        DMFTCORE_UNROLL
        for (int group = 0; group < GROUPS; ++group) {
          double fields[4];
          DMFTCORE_UNROLL
          for (int q = 0; q < 4; ++q)
            fields[q] = memory[(group * CHUNK + i + t + 4 * q) * FIELDS + g];
          DMFTCORE_UNROLL
          for (int m = 0; m < 2; ++m) mma(sum[m][group], directions[m], fields);
        }
      }
    }
  };
  // Lets the lanes of the warp have all fields of a particle each.
  double* const sums = memory + warp * GROUPS * FIELDS * WARP;
  const auto show = [&] {
    __syncthreads(); // the latest coefficients have been read
    DMFTCORE_UNROLL
    for (int group = 0; group < GROUPS; ++group) DMFTCORE_UNROLL
    for (int m = 0; m < 2; ++m) DMFTCORE_UNROLL
    for (int h = 0; h < 2; ++h) DMFTCORE_UNROLL
    for (int q = 0; q < 2; ++q)
      sums[(group * FIELDS + 2 * t + q) * WARP + Eight::place(g, 2 * m + h)] = sum[m][group][h][q];
    __syncwarp(); // the sums of the warp are there
  };

  const index p = begin + lane;
  add(e.a, e.c);
  if (e.u) {
    show();
    if (p < S)
      for (int j = 0; j < width; ++j)
        e.u[(run * e.n + first + j) * S + p] = T(sums[j * WARP + lane]);
  }
  if (!e.y && !e.value) return;
  add(e.b, e.d);
  show();
  if (p >= S) return;
  const T skip = T(e.skip), scale = T(e.scale);
  DMFTCORE_NO_UNROLL
  for (int j = 0; j < width; ++j) {
    const index field = first + j, place = (run * e.n + field) * S + p;
    T y = scale * T(sums[j * WARP + lane]);
    if (e.field.rows)
      y *= slope(e.activation, e.field.rows[(run * e.field.capacity + field / e.repeat) * S + p]);
    if (e.base.rows) y += skip * e.base.rows[(run * e.base.capacity + field) * S + p];
    if (e.y) e.y[place] = y;
    if (e.value) e.value[place] = value(e.activation, y);
  }
}

} // namespace dmftcore::cuda
