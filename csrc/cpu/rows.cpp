#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/micro.hpp"
#include "cpu/pool.hpp"
#include "ops.hpp"

namespace dmftcore::cpu {
namespace {

constexpr Support LOWER{1, 1};

// A history long enough for threads is cut into chunks of rows of about equal area. Every chunk
// scatters into its own copy of the result; the copies are added in order.
index chunk_count(index n) { return n < 1024 ? 1 : std::min<index>(n / 128, 64); }

index chunk_begin(index n, index chunk, index chunks) {
  if (chunk == chunks) return n;
  const double part = static_cast<double>(chunk) / static_cast<double>(chunks);
  return static_cast<index>(static_cast<double>(n) * std::sqrt(part)) / 8 * 8;
}

template <class T> using Kernel = void (*)(const Sweep<T>&, index begin, index end);

// Runs `kernel` over the lower triangle of the n x n corner; sweep.y is overwritten.
template <class T> void over_triangle(Kernel<T> kernel, Sweep<T> sweep, index n) {
  const index chunks = chunk_count(n);
  T* const y = sweep.y;
  if (y) std::fill(y, y + sweep.m * n, T(0));
  if (chunks == 1) {
    kernel(sweep, 0, n);
    return;
  }
  std::vector<T> copies(y ? static_cast<std::size_t>(chunks * sweep.m * n) : 0);
  parallel_for(chunks, [&](index chunk) {
    Sweep<T> part = sweep;
    if (y) part.y = copies.data() + chunk * sweep.m * n;
    kernel(part, chunk_begin(n, chunk, chunks), chunk_begin(n, chunk + 1, chunks));
  });
  if (!y) return;
  for (index chunk = 0; chunk < chunks; ++chunk) {
    const index columns = chunk_begin(n, chunk + 1, chunks);
    for (index p = 0; p < sweep.m; ++p) {
      const T* const copy = copies.data() + (chunk * sweep.m + p) * n;
      for (index j = 0; j < columns; ++j) y[p * n + j] += copy[j];
    }
  }
}

} // namespace

template <class T> void rows_causal(index m, index n, const T* x, const T* a, index ld, T* y) {
  over_triangle(row_kernels<T>().scatter, {m, a, ld, LOWER, x, n, y, n, nullptr, 0, nullptr, 0}, n);
}

template <class T>
void rows_causal_transposed(index m, index n, const T* x, const T* a, index ld, T* y) {
  over_triangle(row_kernels<T>().gather, {m, a, ld, LOWER, nullptr, 0, nullptr, 0, x, n, y, n}, n);
}

template <class T>
void rows_causal_pair(index m, index n, const T* x, const T* w, const T* a, index ld, T* y, T* z) {
  over_triangle(row_kernels<T>().both, {m, a, ld, LOWER, x, n, y, n, w, n, z, n}, n);
}

template <class T> void rows_symmetric(index m, index n, const T* x, const T* c, index ld, T* y) {
  std::vector<T> gathered(static_cast<std::size_t>(m * n));
  over_triangle(row_kernels<T>().symmetric, {m, c, ld, LOWER, x, n, y, n, x, n, gathered.data(), n},
                n);
  for (index i = 0; i < m * n; ++i) y[i] += gathered[static_cast<std::size_t>(i)];
}

template <class T>
void rows_congruence(index m, index n, const T* x, const T* c, index ldc, const T* r, index ldr,
                     T* y, T* z) {
  rows_symmetric(m, n, x, c, ldc, y);
  rows_causal_transposed(m, n, y, r, ldr, z);
}

template <class T>
void rows_low_rank(index m, index n, index k, const T* x, const T* u, const T* v, T* y) {
  std::vector<T> inner(static_cast<std::size_t>(m * k));
  T* const s = inner.data();
  const Support rectangle{std::max<index>(n, 1), k}; // one block of n rows
  row_kernels<T>().scatter({m, u, k, rectangle, x, n, s, k, nullptr, 0, nullptr, 0}, 0, n);
  row_kernels<T>().gather({m, v, k, rectangle, nullptr, 0, nullptr, 0, s, k, y, n}, 0, n);
}

#define DMFTCORE_INSTANTIATE(T)                                                                    \
  template void rows_causal(index, index, const T*, const T*, index, T*);                          \
  template void rows_causal_transposed(index, index, const T*, const T*, index, T*);               \
  template void rows_causal_pair(index, index, const T*, const T*, const T*, index, T*, T*);       \
  template void rows_symmetric(index, index, const T*, const T*, index, T*);                       \
  template void rows_congruence(index, index, const T*, const T*, index, const T*, index, T*, T*); \
  template void rows_low_rank(index, index, index, const T*, const T*, const T*, T*);
DMFTCORE_INSTANTIATE(double)
DMFTCORE_INSTANTIATE(float)
#undef DMFTCORE_INSTANTIATE

} // namespace dmftcore::cpu
