// Few rows stream the history once; many rows are a matrix product.
#include <algorithm>

#include "cpu/batch.hpp"
#include "cpu/product.hpp"
#include "cpu/scratch.hpp"
#include "cpu/sweep.hpp"
#include "ops.hpp"

namespace dmftcore::cpu {

template <class T> void rows_causal(index m, index n, const T* x, const T* a, index ld, T* y) {
  if (m < MANY_VECTORS)
    over_rows(row_kernels<T>().scatter, {m, a, ld, LOWER, x, n, y, n, nullptr, 0, nullptr, 0}, n);
  else
    product<T>(m, n, n, {x, n, ALL}, {a, ld, LOWER}, {y, n, ALL});
}

template <class T>
void rows_causal_transposed(index m, index n, const T* x, const T* a, index ld, T* y) {
  if (m < MANY_VECTORS)
    over_rows(row_kernels<T>().gather, {m, a, ld, LOWER, nullptr, 0, nullptr, 0, x, n, y, n}, n);
  else
    product<T>(m, n, n, {x, n, ALL}, {a, ld, LOWER, Form::transposed}, {y, n, ALL});
}

template <class T>
void rows_causal_pair(index m, index n, const T* x, const T* w, const T* a, index ld, T* y, T* z) {
  if (m < MANY_VECTORS) {
    over_rows(row_kernels<T>().both, {m, a, ld, LOWER, x, n, y, n, w, n, z, n}, n);
  } else {
    rows_causal(m, n, x, a, ld, y);
    rows_causal_transposed(m, n, w, a, ld, z);
  }
}

template <class T> void rows_symmetric(index m, index n, const T* x, const T* c, index ld, T* y) {
  if (m < MANY_VECTORS) {
    // The lower triangle with the diagonal scatters, its mirror image without it gathers.
    Scratch<T> mirrored(m * n);
    const T* const z = mirrored.data();
    over_rows(row_kernels<T>().symmetric, {m, c, ld, LOWER, x, n, y, n, x, n, mirrored.data(), n},
              n);
    for (index i = 0; i < m * n; ++i) y[i] += z[i];
  } else {
    product<T>(m, n, n, {x, n, ALL}, {c, ld, LOWER, Form::symmetric}, {y, n, ALL});
  }
}

template <class T>
void rows_congruence(index m, index n, const T* x, const T* c, index ldc, const T* r, index ldr,
                     T* y, T* z) {
  rows_symmetric(m, n, x, c, ldc, y);
  rows_causal_transposed(m, n, y, r, ldr, z);
}

template <class T>
void rows_low_rank(index m, index n, index k, const T* x, const T* u, const T* v, T* y) {
  Scratch<T> inner(m * k);
  T* const s = inner.data();
  if (m < MANY_VECTORS) {
    const Support rectangle{0, k};
    std::fill(s, s + m * k, T(0));
    row_kernels<T>().scatter({m, u, k, rectangle, x, n, s, k, nullptr, 0, nullptr, 0}, 0, n);
    row_kernels<T>().gather({m, v, k, rectangle, nullptr, 0, nullptr, 0, s, k, y, n}, 0, n);
  } else {
    product<T>(m, k, n, {x, n, ALL}, {u, k, ALL}, {s, k, ALL});
    product<T>(m, n, k, {s, k, ALL}, {v, k, ALL, Form::transposed}, {y, n, ALL});
  }
}

template <class T>
void rows_causal_batch(index batch, index n, bool transposed, const T* x, const T* a, index ld,
                       T* y) {
  over_batch(batch, n * n / 2, [&](index item) {
    const T* const history = a + item * ld * ld;
    if (transposed)
      rows_causal_transposed(1, n, x + item * n, history, ld, y + item * n);
    else
      rows_causal(1, n, x + item * n, history, ld, y + item * n);
  });
}

#define DMFTCORE_INSTANTIATE(T)                                                                    \
  template void rows_causal(index, index, const T*, const T*, index, T*);                          \
  template void rows_causal_transposed(index, index, const T*, const T*, index, T*);               \
  template void rows_causal_pair(index, index, const T*, const T*, const T*, index, T*, T*);       \
  template void rows_symmetric(index, index, const T*, const T*, index, T*);                       \
  template void rows_congruence(index, index, const T*, const T*, index, const T*, index, T*, T*); \
  template void rows_low_rank(index, index, index, const T*, const T*, const T*, T*);              \
  template void rows_causal_batch(index, index, bool, const T*, const T*, index, T*);
DMFTCORE_INSTANTIATE(double)
DMFTCORE_INSTANTIATE(float)
#undef DMFTCORE_INSTANTIATE

} // namespace dmftcore::cpu
