// The products of two matrices as they are or with one of them transposed, in both precisions: what
// causal_matmul, the solves, the resolvent and causal_apply to many columns are made of.
#include "cuda/product.cuh"

namespace dmftcore::cuda {

#define DMFTCORE_PRODUCT(FORM)                                                                     \
  template void product<Form::FORM>(Stream, Shape, Matrices<const double>, Matrices<const double>, \
                                    Matrices<double>, Matrices<const double>);                     \
  template void product<Form::FORM>(Stream, Shape, Matrices<const float>, Matrices<const float>,   \
                                    Matrices<float>, Matrices<const float>);

DMFTCORE_PRODUCT(plain)
DMFTCORE_PRODUCT(left_transposed)
DMFTCORE_PRODUCT(right_transposed)

} // namespace dmftcore::cuda
