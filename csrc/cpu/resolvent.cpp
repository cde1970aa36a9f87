// R = (1 - A)^-1 by halves:  R21 = R22 (A21 R11).
#include "cpu/resolvent.hpp"

#include <algorithm>

#include "cpu/batch.hpp"
#include "cpu/micro.hpp"
#include "cpu/product.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {
namespace {

constexpr index BASE = 24;

// Row by row:  R[i, :] = 1 + sum_k A[i, k] R[k, :]  over the k of earlier blocks.
template <class T> void by_rows(index n, index block, const T* a, index lda, T* r, index ldr) {
  const Support causal{block, block};
  for (index i = 0; i < n; ++i) {
    T* const row = r + i * ldr;
    std::fill(row, row + causal.limit(i), T(0));
    row_kernels<T>().scatter({1, r, ldr, causal, a + i * lda, 0, row, 0, nullptr, 0, nullptr, 0}, 0,
                             i / block * block);
    row[i] = 1;
  }
}

template <class T>
void by_halves(index n, index block, const T* a, index lda, T* r, index ldr, T* scratch) {
  if (n <= std::max(BASE, block)) {
    by_rows(n, block, a, lda, r, ldr);
    return;
  }
  const Support causal{block, block};
  const index unit = (8 + block - 1) / block * block;
  const index h = (n / 2 + unit - 1) / unit * unit, rest = n - h;
  const T* const a21 = a + h * lda;
  T* const r21 = r + h * ldr;
  by_halves(h, block, a, lda, r, ldr, scratch);
  by_halves(rest, block, a21 + h, lda, r21 + h, ldr, scratch);
  product<T>(rest, h, h, {a21, lda, ALL}, {r, ldr, causal}, {scratch, h, ALL});
  product<T>(rest, h, rest, {r21 + h, ldr, causal}, {scratch, h, ALL}, {r21, ldr, ALL});
}

} // namespace

template <class T>
void resolvent_causal(index n, index block, const T* a, index lda, T* r, index ldr) {
  Scratch<T> scratch(n * n / 4 + n);
  by_halves(n, block, a, lda, r, ldr, scratch.data());
}

template <class T> void resolvent(index batch, index n, index block, const T* a, T* r) {
  over_batch(batch, n * n * n / 6, [&](index item) {
    const index offset = item * n * n;
    resolvent_causal(n, block, a + offset, n, r + offset, n);
    clear_beyond(n, n, r + offset, n, {block, block});
  });
}

template void resolvent_causal(index, index, const double*, index, double*, index);
template void resolvent_causal(index, index, const float*, index, float*, index);
template void resolvent(index, index, index, const double*, double*);
template void resolvent(index, index, index, const float*, float*);

} // namespace dmftcore::cpu
