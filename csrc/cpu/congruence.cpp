// S = R C R^T. With C = L + L^T, half the diagonal in L, and P = R L, which is causal,
//     S = P R^T + R P^T,   S[i, j] for j <= i from k <= j only;
// the other half is the mirror image.
#include <algorithm>

#include "cpu/batch.hpp"
#include "cpu/product.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {
namespace {

// Copies the lower triangle to the upper one, square by square to use whole cache lines.
template <class T> void mirror(index n, T* s) {
  constexpr index SQUARE = 16;
  for (index i0 = 0; i0 < n; i0 += SQUARE)
    for (index j0 = 0; j0 <= i0; j0 += SQUARE)
      for (index j = j0; j < std::min(n, j0 + SQUARE); ++j)
        for (index i = std::max(i0, j + 1); i < std::min(n, i0 + SQUARE); ++i)
          s[j * n + i] = s[i * n + j];
}

} // namespace

template <class T>
void congruence(index batch, index n, index block, const T* r, const T* c, T* s) {
  const Support causal{block, block};
  over_batch(batch, n * n * n / 2, [&](index item) {
    const index offset = item * n * n;
    const T* const ri = r + offset;
    T* const si = s + offset;
    Scratch<T> scratch(n * n);
    T* const p = scratch.data();
    product<T>(n, n, n, {ri, n, causal}, {c + offset, n, LOWER, Form::half_diagonal},
               {p, n, causal});
    product<T>(n, n, n, {p, n, causal}, {ri, n, causal, Form::transposed}, {si, n, LOWER});
    product<T>(n, n, n, {ri, n, causal}, {p, n, causal, Form::transposed}, {si, n, LOWER, si, n});
    mirror(n, si);
  });
}

template void congruence(index, index, index, const double*, const double*, double*);
template void congruence(index, index, index, const float*, const float*, float*);

} // namespace dmftcore::cpu
