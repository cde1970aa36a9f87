#include <algorithm>

#include "cpu/batch.hpp"
#include "cpu/product.hpp"
#include "cpu/scratch.hpp"
#include "cpu/sweep.hpp"

namespace dmftcore::cpu {
namespace {

// Fewer columns than this would not fill the register tile of a product.
constexpr index FEW_COLUMNS = 16;

template <class T> void transpose(index rows, index columns, const T* from, T* to) {
  for (index i = 0; i < rows; ++i)
    for (index j = 0; j < columns; ++j) to[j * rows + i] = from[i * columns + j];
}

// Few columns: one pass over k, each column of g a contiguous vector.
template <class T>
void by_rows(index n, index m, Support support, bool transposed, const T* k, const T* g, T* y) {
  Scratch<T> vectors(m * n), results(m * n);
  transpose(n, m, g, vectors.data());
  if (transposed)
    over_rows(row_kernels<T>().scatter,
              {m, k, n, support, vectors.data(), n, results.data(), n, nullptr, 0, nullptr, 0}, n);
  else
    over_rows(row_kernels<T>().gather,
              {m, k, n, support, nullptr, 0, nullptr, 0, vectors.data(), n, results.data(), n}, n);
  transpose(m, n, results.data(), y);
}

} // namespace

template <class T>
void causal_apply(index batch, index n, index m, index block, bool strict, bool transposed,
                  const T* k, const T* g, T* y) {
  const Form form = transposed ? Form::transposed : Form::plain;
  const Support support{block, strict ? 0 : block};
  over_batch(batch, n * n * m / 2, [&](index item) {
    const T* const ki = k + item * n * n;
    const T* const gi = g + item * n * m;
    T* const yi = y + item * n * m;
    if (m < FEW_COLUMNS)
      by_rows(n, m, support, transposed, ki, gi, yi);
    else
      product<T>(n, m, n, {ki, n, support, form}, {gi, m, ALL}, {yi, m, ALL});
  });
}

template void causal_apply(index, index, index, index, bool, bool, const double*, const double*,
                           double*);
template void causal_apply(index, index, index, index, bool, bool, const float*, const float*,
                           float*);

} // namespace dmftcore::cpu
