#include "cpu/batch.hpp"
#include "cpu/product.hpp"

namespace dmftcore::cpu {

template <class T>
void causal_matmul(index batch, index n, index block, Transposed transposed, const T* a, const T* b,
                   T* c) {
  const Support causal{block, block};
  const auto form = [&](Transposed factor) {
    return transposed == factor ? Form::transposed : Form::plain;
  };
  over_batch(batch, n * n * n / 6, [&](index item) {
    const index offset = item * n * n;
    product<T>(n, n, n, {a + offset, n, causal, form(Transposed::left)},
               {b + offset, n, causal, form(Transposed::right)}, {c + offset, n, causal});
    clear_beyond(n, n, c + offset, n, causal);
  });
}

template void causal_matmul(index, index, index, Transposed, const double*, const double*, double*);
template void causal_matmul(index, index, index, Transposed, const float*, const float*, float*);

} // namespace dmftcore::cpu
