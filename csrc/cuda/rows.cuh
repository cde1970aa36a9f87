// Rows times a history: the kernels of the row operations.
//
// The lower triangle of the history is cut into strips of columns, one block wide, and into bands
// of rows. A block goes through one strip of one band, loads each element once and uses it at once:
// to scatter, y[p, j] += x[p, i] a[i, j], into sums y that stay in the registers of the thread that
// has column j, and to gather, z[p, i] += w[p, j] a[i, j], summed over the lanes of a warp. What
// the blocks have summed is added up by a second kernel, always in the same order: the result
// depends on neither the device nor the order in which blocks run.
//
// One pass reads n^2/2 elements of the history and does m n^2 flops, twice that if it scatters and
// gathers; with 8 bytes an element and 4.8 TB/s (H200, datasheet) it takes 56 us at least for
// n = 8192 and 224 us for n = 16384. The sums of the blocks are m n bands / 2 elements to scatter
// and m n strips / 2 to gather, written and read, mostly within the L2 cache; with at most 128
// bands and a strip for every 256 columns these are, for each of the m rows, 1.6 % of the elements
// of the pass at n = 8192, 0.8 % at n = 16384, and 0.4 % at any n.
//
// Many histories with a row each are as many layers of one grid: n^2/2 elements and n^2 flops for
// every history, 1.7 ms at least for 2000 of n = 1000 in float64 (8 GB). They need fewer bands to
// keep the device busy: the sums of 2000 histories in 2 bands, or of 4 strips, are 0.2 % or 0.4 %
// of the elements of the pass.
#pragma once

#include "cuda/device_code.cuh"
#include "ops.hpp"

namespace dmftcore::cuda {

// Warps of a block, side by side, and its threads.
constexpr int WARPS = 4, PASS_THREADS = WARPS * WARP;
// Columns of a thread: what one load of 16 bytes brings.
template <class T> constexpr int WIDTH = 16 / sizeof(T);
// Columns of a block.
template <class T> constexpr int STRIP = PASS_THREADS * WIDTH<T>;
// Rows between two barriers; a band is a whole number of chunks.
constexpr int CHUNK = 32;

// The lower triangle of n rows, cut.
struct Triangle {
  index n;
  index band, bands; // rows of a band, and the number of bands
  index strip;       // columns of a strip
};

__device__ __forceinline__ index last_row(const Triangle& t, index band) {
  return ((band + 1) * t.band < t.n ? (band + 1) * t.band : t.n) - 1;
}

__device__ __forceinline__ index strips(const Triangle& t, index band) {
  return last_row(t, band) / t.strip + 1;
}

// One pass over histories, of which block z of the grid has the z-th: each has m rows x and w,
// (histories, m, n), and the sums (bands, histories, m, n) and (strips, histories, m, n).
template <class T> struct Pass {
  Triangle triangle;
  const T* a;
  index ld;
  index apart;  // elements from one history to the next
  bool aligned; // every row of a starts at a multiple of 16 bytes
  int m;
  const T *x, *w;
  T *scattered, *gathered;
};

template <class T> struct alignas(16) Packet {
  T element[WIDTH<T>];
};

// Values, each summed over the lanes of a warp: lane l returns the sum of values[l % SPREAD], where
// SPREAD is their number at first. A step halves it and doubles the lanes they are summed over.
template <int SPREAD, int COUNT, class T>
__device__ __forceinline__ T sum_over_lanes(T (&values)[COUNT], int lane) {
  if constexpr (COUNT > 1) {
    constexpr int HALF = COUNT / 2;
    const bool upper = lane & HALF;
    T sums[HALF];
    DMFTCORE_UNROLL
    for (int k = 0; k < HALF; ++k) {
      const T kept = upper ? values[k + HALF] : values[k];
      const T given = upper ? values[k] : values[k + HALF];
      sums[k] = kept + __shfl_xor_sync(WHOLE_WARP, given, HALF);
    }
    return sum_over_lanes<SPREAD>(sums, lane);
  } else {
    T sum = values[0];
    DMFTCORE_UNROLL
    for (int distance = SPREAD; distance < WARP; distance *= 2)
      sum += __shfl_xor_sync(WHOLE_WARP, sum, distance);
    return sum;
  }
}

// Shared memory of `pass`, in elements: x of a chunk, and what each warp has gathered for it.
template <int M> constexpr int PASS_SHARED = (1 + WARPS) * M * CHUNK;

// For m <= M. MIRRORED gathers without the diagonal: the sum of both results is x c, c symmetric.
template <class T, int M, bool SCATTER, bool GATHER, bool MIRRORED>
__global__ void __launch_bounds__(PASS_THREADS) pass(Pass<T> s) {
  constexpr int V = WIDTH<T>, ROWS = M < 8 ? 8 : 4; // rows at once: M ROWS values are gathered
  const Triangle& triangle = s.triangle;
  const index n = triangle.n;

  // The triangle folded to a rectangle: a long band, and beside it its short counterpart.
  index band = triangle.bands - 1 - index(blockIdx.y), strip = blockIdx.x;
  if (strip >= strips(triangle, band)) {
    strip -= strips(triangle, band);
    if (band == index(blockIdx.y)) return; // the middle one, which has no counterpart
    band = blockIdx.y;
    if (strip >= strips(triangle, band)) return;
  }

  const index history = blockIdx.z, first = history * s.m, count = index(gridDim.z) * s.m;
  T* const x = shared_memory<T>();
  T* const sums = x + M * CHUNK;
  const int thread = int(threadIdx.x), warp = thread / WARP, lane = thread % WARP;
  const index begin = strip * STRIP<T> + warp * WARP * V, end = begin + WARP * V;
  index column[V];
  T w[M][V], y[M][V] = {};
  DMFTCORE_UNROLL
  for (int v = 0; v < V; ++v) {
    column[v] = begin + (s.aligned ? lane * V + v : lane + v * WARP);
    DMFTCORE_UNROLL
    for (int p = 0; p < M; ++p)
      if constexpr (GATHER)
        w[p][v] = p < s.m && column[v] < n ? s.w[(first + p) * n + column[v]] : T(0);
  }

  for (index chunk = band * triangle.band; chunk <= last_row(triangle, band); chunk += CHUNK) {
    if constexpr (SCATTER)
      for (int q = thread; q < M * CHUNK; q += PASS_THREADS) {
        const index p = q / CHUNK, i = chunk + q % CHUNK;
        x[q] = p < s.m && i < n ? s.x[(first + p) * n + i] : T(0);
      }
    __syncthreads(); // x is there, and the sums of the chunk before have been read
    for (int r = 0; r < CHUNK; r += ROWS) {
      const index i = chunk + r;
      const T* const a = s.a + history * s.apart + i * s.ld;
      T* const sum_of_lane = sums + (warp * M + lane / ROWS) * CHUNK + r + lane % ROWS;
      if (begin >= i + ROWS || i >= n) { // above the diagonal or below the end
        if (GATHER && lane < M * ROWS) *sum_of_lane = 0;
        continue;
      }
      const bool inside = end <= i && i + ROWS <= n; // not across either of them
      T element[ROWS][V];
      if (inside && s.aligned) {
        DMFTCORE_UNROLL
        for (int q = 0; q < ROWS; ++q) {
          const Packet<T> packet = *reinterpret_cast<const Packet<T>*>(a + q * s.ld + column[0]);
          DMFTCORE_UNROLL
          for (int v = 0; v < V; ++v) element[q][v] = packet.element[v];
        }
      } else {
        DMFTCORE_UNROLL
        for (int q = 0; q < ROWS; ++q) DMFTCORE_UNROLL
        for (int v = 0; v < V; ++v) {
          const bool known = inside || (i + q < n && column[v] <= i + q);
          element[q][v] = known ? a[q * s.ld + column[v]] : T(0);
        }
      }
      if constexpr (SCATTER) DMFTCORE_UNROLL
      for (int p = 0; p < M; ++p) DMFTCORE_UNROLL
      for (int q = 0; q < ROWS; ++q) DMFTCORE_UNROLL
      for (int v = 0; v < V; ++v) y[p][v] += x[p * CHUNK + r + q] * element[q][v];
      if constexpr (GATHER) {
        T z[M * ROWS] = {};
        DMFTCORE_UNROLL
        for (int q = 0; q < ROWS; ++q) DMFTCORE_UNROLL
        for (int v = 0; v < V; ++v) {
          if (MIRRORED && !inside && column[v] == i + q) element[q][v] = 0;
          DMFTCORE_UNROLL
          for (int p = 0; p < M; ++p) z[p * ROWS + q] += w[p][v] * element[q][v];
        }
        const T sum = sum_over_lanes<M * ROWS>(z, lane);
        if (lane < M * ROWS) *sum_of_lane = sum;
      }
    }
    __syncthreads(); // all sums of warps are there
    if constexpr (GATHER)
      for (int q = thread; q < M * CHUNK; q += PASS_THREADS) {
        const index p = q / CHUNK, i = chunk + q % CHUNK;
        T sum = 0;
        for (int k = 0; k < WARPS; ++k) sum += sums[k * M * CHUNK + q];
        if (p < s.m && i < n) s.gathered[(strip * count + first + p) * n + i] = sum;
      }
  }
  if constexpr (SCATTER) DMFTCORE_UNROLL
  for (int p = 0; p < M; ++p) DMFTCORE_UNROLL
  for (int v = 0; v < V; ++v)
    if (p < s.m && column[v] < n) s.scattered[(band * count + first + p) * n + column[v]] = y[p][v];
}

// A result, from the sums of a pass that make it up; null for none.
template <class T> struct Result {
  const T *scattered, *gathered;
  T* sum;
};

// Threads of `collect` that share a column.
constexpr int SHARES = 8;

// Column j has been scattered to by its own band and the later ones; row j has been gathered from
// its own strip and the earlier ones.
template <class T>
__global__ void __launch_bounds__(WARP* SHARES)
    collect(Triangle triangle, Result<T> first, Result<T> second) {
  T* const shares = shared_memory<T>();
  const T* const scattered = blockIdx.z ? second.scattered : first.scattered;
  const T* const gathered = blockIdx.z ? second.gathered : first.gathered;
  T* const result = blockIdx.z ? second.sum : first.sum;
  const index n = triangle.n, stride = gridDim.y * n;
  const int lane = int(threadIdx.x), share = int(threadIdx.y);
  const index j = index(blockIdx.x) * WARP + lane, own = blockIdx.y * n + j;
  T sum = 0;
  if (j < n) {
    if (scattered)
      for (index b = j / triangle.band + share; b < triangle.bands; b += SHARES)
        sum += scattered[b * stride + own];
    if (gathered)
      for (index s = share; s <= j / triangle.strip; s += SHARES) sum += gathered[s * stride + own];
  }
  shares[share * WARP + lane] = sum;
  __syncthreads(); // all shares are there
  if (share == 0 && j < n) {
    for (int k = 1; k < SHARES; ++k) sum += shares[k * WARP + lane];
    result[own] = sum;
  }
}

} // namespace dmftcore::cuda
