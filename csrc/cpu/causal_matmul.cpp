#include "cpu/batch.hpp"
#include "cpu/product.hpp"

namespace dmftcore::cpu {

template <class T>
void causal_matmul(index batch, index n, index block, const T* a, const T* b, T* c) {
  const Support causal{block, block};
  over_batch(batch, n * n * n / 6, [&](index item) {
    const index offset = item * n * n;
    product<T>(n, n, n, {a + offset, n, causal}, {b + offset, n, causal}, {c + offset, n, causal});
    clear_beyond(n, n, c + offset, n, causal);
  });
}

template void causal_matmul(index, index, index, const double*, const double*, double*);
template void causal_matmul(index, index, index, const float*, const float*, float*);

} // namespace dmftcore::cpu
