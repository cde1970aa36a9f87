// C = A B of causal matrices: one launch of products, over the k between the blocks of j and i.
// With a factor transposed the causal part, over the k from the block of i on, or up to that of j:
// as many.
//
// n^3 / 3 flops and 1.5 n^2 numbers of traffic (two lower halves read, one matrix written). At 50
// TFLOP/s: n = 4096 in 0.46 ms, 16384 in 29 ms; 4000 matrices of 32 in double are 74 MB, 15 us at
// 4.8 TB/s.
#include <type_traits>

#include "cuda/product.hpp"

namespace dmftcore::cuda {

template <class T>
void causal_matmul(Stream stream, index batch, index n, index block, Transposed transposed,
                   const T* a, const T* b, T* c) {
  const auto matrices = [&](auto* data) {
    return Matrices<std::remove_pointer_t<decltype(data)>>{data, n, causal_in(block), {n * n}};
  };
  const Shape shape{n, n, n, batch};
  switch (transposed) {
  case Transposed::neither:
    return product<Form::plain, T>(stream, shape, matrices(a), matrices(b), matrices(c));
  case Transposed::left:
    return product<Form::left_transposed, T>(stream, shape, matrices(a), matrices(b), matrices(c));
  case Transposed::right:
    return product<Form::right_transposed, T>(stream, shape, matrices(a), matrices(b), matrices(c));
  }
}

template void causal_matmul(Stream, index, index, index, Transposed, const double*, const double*,
                            double*);
template void causal_matmul(Stream, index, index, index, Transposed, const float*, const float*,
                            float*);

} // namespace dmftcore::cuda
