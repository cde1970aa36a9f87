#include "cuda/rows_low_rank.cuh"

#include <algorithm>

namespace dmftcore::cuda {

template <class T>
void rows_low_rank(Stream stream, index m, index n, index k, const T* x, const T* u, const T* v,
                   T* y) {
  constexpr int M = 8; // rows of one pass
  if (m == 0 || n == 0) return;
  int across = 1;
  while (across < WARP && across < k) across *= 2;
  const index rows = LOW_RANK_SERIAL * (LOW_RANK_THREADS / across);
  const index chunks = (n + rows - 1) / rows, most = std::min(m, index(M));
  const Scratch<T> sums(stream, chunks * most * k);
  for (index p = 0; p < m; p += M) {
    const int present = int(std::min(m - p, index(M)));
    const std::size_t shared = LOW_RANK_SHARED<M> * sizeof(T);
    if (k > 0)
      launch(low_rank_inner<T, M>, dim3(unsigned(chunks), unsigned((k + across - 1) / across)),
             dim3(LOW_RANK_THREADS), shared, stream, present, n, k, across, x + p * n, u,
             sums.data());
    const index blocks = (n + LOW_RANK_THREADS - 1) / LOW_RANK_THREADS;
    launch(low_rank_outer<T, M>, dim3(unsigned(blocks)), dim3(LOW_RANK_THREADS), shared, stream,
           present, n, k, chunks, sums.data(), v, y + p * n);
  }
}

template void rows_low_rank(Stream, index, index, index, const double*, const double*,
                            const double*, double*);
template void rows_low_rank(Stream, index, index, index, const float*, const float*, const float*,
                            float*);

} // namespace dmftcore::cuda
