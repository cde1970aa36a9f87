// Few rows stream the history once, eight at a time; each pass is two launches. Many histories with
// a row each are one pass, too.
#include "cuda/rows.cuh"

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace dmftcore::cuda {
namespace {

constexpr index MOST_ROWS = 8;       // of one pass: what the registers hold
constexpr index MOST_LAYERS = 65535; // of a grid, along its last two axes

// For `histories` of n rows each: the more of them, the fewer bands are needed to have work for
// every multiprocessor.
Triangle cut(index n, index strip, index histories) {
  constexpr index MOST_BANDS = 128, ENOUGH_BANDS = 4096;
  const index most = std::clamp<index>(ENOUGH_BANDS / histories, 1, MOST_BANDS);
  const index chunks = (n + CHUNK * most - 1) / (CHUNK * most), band = CHUNK * chunks;
  return {n, band, (n + band - 1) / band, strip};
}

// Blocks side by side in the folded triangle: a long band and its counterpart.
index folded_width(const Triangle& t) {
  const auto strips = [&](index band) {
    return (std::min((band + 1) * t.band, t.n) - 1) / t.strip + 1;
  };
  index width = 0;
  for (index band = 0; 2 * band < t.bands; ++band)
    width = std::max(width, strips(band) + strips(t.bands - 1 - band));
  return width;
}

// run(std::integral_constant<int, M>) for the smallest M >= m that there is.
template <class Run> void with_rows(index m, const Run& run) {
  if (m <= 1)
    run(std::integral_constant<int, 1>());
  else if (m <= 2)
    run(std::integral_constant<int, 2>());
  else if (m <= 4)
    run(std::integral_constant<int, 4>());
  else
    run(std::integral_constant<int, 8>());
}

// y = x a and z = w a^T, as far as asked for; y = x c of a symmetric c if MIRRORED. Every history
// has m rows of its own; of several histories they go through one pass.
template <class T, bool SCATTER, bool GATHER, bool MIRRORED = false>
void over_histories(Stream stream, index histories, index m, index n, const T* x, const T* w,
                    const T* a, index ld, T* y, T* z) {
  if (histories == 0 || m == 0 || n == 0) return;
  const Triangle triangle = cut(n, STRIP<T>, histories);
  const index strips = (n - 1) / triangle.strip + 1, most = histories * std::min(m, MOST_ROWS);
  const Scratch<T> scattered(stream, SCATTER ? triangle.bands * most * n : 0);
  const Scratch<T> gathered(stream, GATHER ? strips * most * n : 0);
  const bool aligned = reinterpret_cast<std::uintptr_t>(a) % 16 == 0 && ld % WIDTH<T> == 0;
  const dim3 pass_grid(unsigned(folded_width(triangle)), unsigned(triangle.bands + 1) / 2,
                       unsigned(histories));

  for (index p = 0; p < m; p += MOST_ROWS) {
    const index rows = std::min(m - p, MOST_ROWS);
    with_rows(rows, [&](auto most_rows) {
      constexpr int M = decltype(most_rows)::value;
      const Pass<T> task{triangle,
                         a,
                         ld,
                         ld * ld,
                         aligned,
                         int(rows),
                         SCATTER ? x + p * n : nullptr,
                         GATHER ? w + p * n : nullptr,
                         scattered.data(),
                         gathered.data()};
      launch(pass<T, M, SCATTER, GATHER, MIRRORED>, pass_grid, dim3(PASS_THREADS),
             PASS_SHARED<M> * sizeof(T), stream, task);
    });
    const Result<T> result_y{scattered.data(), MIRRORED ? gathered.data() : nullptr, y + p * n};
    const Result<T> result_z{nullptr, gathered.data(), GATHER && !MIRRORED ? z + p * n : nullptr};
    const dim3 collect_grid(unsigned((n + WARP - 1) / WARP), unsigned(histories * rows),
                            SCATTER && GATHER && !MIRRORED ? 2 : 1);
    launch(collect<T>, collect_grid, dim3(WARP, SHARES), WARP * SHARES * sizeof(T), stream,
           triangle, SCATTER ? result_y : result_z, result_z);
  }
}

template <class T, bool SCATTER, bool GATHER, bool MIRRORED = false>
void over_history(Stream stream, index m, index n, const T* x, const T* w, const T* a, index ld,
                  T* y, T* z) {
  over_histories<T, SCATTER, GATHER, MIRRORED>(stream, 1, m, n, x, w, a, ld, y, z);
}

} // namespace

template <class T>
void rows_causal(Stream stream, index m, index n, const T* x, const T* a, index ld, T* y) {
  over_history<T, true, false>(stream, m, n, x, nullptr, a, ld, y, nullptr);
}

template <class T>
void rows_causal_transposed(Stream stream, index m, index n, const T* x, const T* a, index ld,
                            T* y) {
  over_history<T, false, true>(stream, m, n, nullptr, x, a, ld, nullptr, y);
}

template <class T>
void rows_causal_pair(Stream stream, index m, index n, const T* x, const T* w, const T* a, index ld,
                      T* y, T* z) {
  over_history<T, true, true>(stream, m, n, x, w, a, ld, y, z);
}

template <class T>
void rows_symmetric(Stream stream, index m, index n, const T* x, const T* c, index ld, T* y) {
  over_history<T, true, true, true>(stream, m, n, x, x, c, ld, y, nullptr);
}

template <class T>
void rows_congruence(Stream stream, index m, index n, const T* x, const T* c, index ldc, const T* r,
                     index ldr, T* y, T* z) {
  rows_symmetric(stream, m, n, x, c, ldc, y);
  rows_causal_transposed(stream, m, n, y, r, ldr, z);
}

template <class T>
void rows_causal_batch(Stream stream, index batch, index n, bool transposed, const T* x, const T* a,
                       index ld, T* y) {
  for (index k = 0; k < batch; k += MOST_LAYERS) {
    const index histories = std::min(batch - k, MOST_LAYERS);
    const T *const rows = x + k * n, *const known = a + k * ld * ld;
    T* const result = y + k * n;
    if (transposed)
      over_histories<T, false, true>(stream, histories, 1, n, nullptr, rows, known, ld, nullptr,
                                     result);
    else
      over_histories<T, true, false>(stream, histories, 1, n, rows, nullptr, known, ld, result,
                                     nullptr);
  }
}

#define DMFTCORE_INSTANTIATE(T)                                                                    \
  template void rows_causal(Stream, index, index, const T*, const T*, index, T*);                  \
  template void rows_causal_transposed(Stream, index, index, const T*, const T*, index, T*);       \
  template void rows_causal_pair(Stream, index, index, const T*, const T*, const T*, index, T*,    \
                                 T*);                                                              \
  template void rows_symmetric(Stream, index, index, const T*, const T*, index, T*);               \
  template void rows_congruence(Stream, index, index, const T*, const T*, index, const T*, index,  \
                                T*, T*);                                                           \
  template void rows_causal_batch(Stream, index, index, bool, const T*, const T*, index, T*);
DMFTCORE_INSTANTIATE(double)
DMFTCORE_INSTANTIATE(float)
#undef DMFTCORE_INSTANTIATE

} // namespace dmftcore::cuda
