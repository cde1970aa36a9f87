// The plain product, in both precisions: what causal_matmul, the solves, the resolvent and
// causal_apply to many columns are made of.
#include "cuda/product.cuh"

namespace dmftcore::cuda {

template void product<Form::plain>(Stream, Shape, Matrices<const double>, Matrices<const double>,
                                   Matrices<double>, Matrices<const double>);
template void product<Form::plain>(Stream, Shape, Matrices<const float>, Matrices<const float>,
                                   Matrices<float>, Matrices<const float>);

} // namespace dmftcore::cuda
