// Rows times a history of low rank, y = (x u) v^T: two kernels, one for each factor.
//
// Memory: (n k) elements of u and of v, once. k is small: with k = 10 and n = 16384 both factors
// together are 2.6 MB, and the launches take longer than the loads.
#pragma once

#include "cuda/device_code.cuh"
#include "ops.hpp"

namespace dmftcore::cuda {

constexpr int LOW_RANK_THREADS = 256;
// Rows of u that a thread of `low_rank_inner` takes.
constexpr int LOW_RANK_SERIAL = 16;

// Shared memory of both kernels, in elements.
template <int M> constexpr int LOW_RANK_SHARED = M * LOW_RANK_THREADS;

// sums (chunks, m, k): x u over the rows of each chunk. `across` threads, a power of two, lie along
// k and the others along the rows.
template <class T, int M>
__global__ void __launch_bounds__(LOW_RANK_THREADS)
    low_rank_inner(int m, index n, index k, int across, const T* x, const T* u, T* sums) {
  T* const shared = shared_memory<T>();
  const int thread = int(threadIdx.x), along = LOW_RANK_THREADS / across;
  const index c = index(blockIdx.y) * across + thread % across;
  const index first = index(blockIdx.x) * LOW_RANK_SERIAL * along + thread / across;
  T sum[M] = {};
  for (int r = 0; r < LOW_RANK_SERIAL; ++r) {
    const index i = first + index(r) * along;
    if (i < n && c < k) {
      const T element = u[i * k + c];
      DMFTCORE_UNROLL
      for (int p = 0; p < M; ++p)
        if (p < m) sum[p] += x[p * n + i] * element;
    }
  }
  DMFTCORE_UNROLL
  for (int p = 0; p < M; ++p) shared[p * LOW_RANK_THREADS + thread] = sum[p];
  for (int half = LOW_RANK_THREADS / 2; half >= across; half /= 2) {
    __syncthreads(); // both halves are there
    if (thread < half)
      for (int p = 0; p < M; ++p)
        shared[p * LOW_RANK_THREADS + thread] += shared[p * LOW_RANK_THREADS + thread + half];
  }
  if (thread < across && c < k)
    for (int p = 0; p < m; ++p)
      sums[(blockIdx.x * index(m) + p) * k + c] = shared[p * LOW_RANK_THREADS + thread];
}

// y = s v^T with s = sum over the chunks of `sums`, a thread for each column of y.
template <class T, int M>
__global__ void __launch_bounds__(LOW_RANK_THREADS)
    low_rank_outer(int m, index n, index k, index chunks, const T* sums, const T* v, T* y) {
  T* const s = shared_memory<T>(); // (M, WARP)
  const int thread = int(threadIdx.x);
  const index j = index(blockIdx.x) * LOW_RANK_THREADS + thread;
  T result[M] = {};
  for (index begin = 0; begin < k; begin += WARP) {
    const int p = thread / WARP;
    const index c = begin + thread % WARP;
    T sum = 0;
    if (p < m && c < k)
      for (index chunk = 0; chunk < chunks; ++chunk) sum += sums[(chunk * m + p) * k + c];
    if (p < M) s[thread] = sum;
    __syncthreads(); // s is there
    const index width = k - begin < WARP ? k - begin : WARP;
    if (j < n)
      for (index d = 0; d < width; ++d) {
        const T element = v[j * k + begin + d];
        DMFTCORE_UNROLL
        for (int q = 0; q < M; ++q) result[q] += s[q * WARP + d] * element;
      }
    __syncthreads(); // s has been read
  }
  DMFTCORE_UNROLL
  for (int q = 0; q < M; ++q)
    if (q < m && j < n) y[q * n + j] = result[q];
}

} // namespace dmftcore::cuda
