#include "cpu/micro.hpp"

namespace dmftcore::cpu {

#define DMFTCORE_DECLARE(LEVEL)                                                                    \
  namespace LEVEL {                                                                                \
  extern const RowKernels<double> rows_double;                                                     \
  extern const RowKernels<float> rows_float;                                                       \
  extern const ProductKernels<double> product_double;                                              \
  extern const ProductKernels<float> product_float;                                                \
  extern const NetworkKernels network;                                                             \
  extern const SpectralKernels spectral;                                                           \
  extern const ParticleKernels<double> particles_double;                                           \
  extern const ParticleKernels<float> particles_float;                                             \
  extern const NormalKernels<double> normals_double;                                               \
  extern const NormalKernels<float> normals_float;                                                 \
  extern const TwoLayerKernels<double> two_layer_double;                                           \
  extern const TwoLayerKernels<float> two_layer_float;                                             \
  extern const AttentionKernels attention_of_one;                                                  \
  extern const AttentionKernels attention_of_many;                                                 \
  }
DMFTCORE_DECLARE(baseline)
DMFTCORE_DECLARE(v3)
DMFTCORE_DECLARE(v4)
#undef DMFTCORE_DECLARE

namespace {

// Only the tables of the levels that were built may be named.
template <class Table>
const Table& choose([[maybe_unused]] const Table& baseline, [[maybe_unused]] const Table& v3,
                    [[maybe_unused]] const Table& v4) {
  switch (isa()) {
  case Isa::v4:
    return v4;
  case Isa::v3:
    return v3;
  default:
    return baseline;
  }
}

} // namespace

#if defined(DMFTCORE_HAS_ISA_v4) && defined(DMFTCORE_HAS_ISA_v3)
#define DMFTCORE_CHOOSE(TABLE) choose(baseline::TABLE, v3::TABLE, v4::TABLE)
#else
#define DMFTCORE_CHOOSE(TABLE) baseline::TABLE
#endif

template <> const RowKernels<double>& row_kernels() { return DMFTCORE_CHOOSE(rows_double); }
template <> const RowKernels<float>& row_kernels() { return DMFTCORE_CHOOSE(rows_float); }
template <> const ProductKernels<double>& product_kernels() {
  return DMFTCORE_CHOOSE(product_double);
}
template <> const ProductKernels<float>& product_kernels() {
  return DMFTCORE_CHOOSE(product_float);
}
const NetworkKernels& network_kernels() { return DMFTCORE_CHOOSE(network); }
const SpectralKernels& spectral_kernels() { return DMFTCORE_CHOOSE(spectral); }
template <> const ParticleKernels<double>& particle_kernels() {
  return DMFTCORE_CHOOSE(particles_double);
}
template <> const ParticleKernels<float>& particle_kernels() {
  return DMFTCORE_CHOOSE(particles_float);
}
template <> const NormalKernels<double>& normal_kernels() {
  return DMFTCORE_CHOOSE(normals_double);
}
template <> const NormalKernels<float>& normal_kernels() { return DMFTCORE_CHOOSE(normals_float); }
template <> const TwoLayerKernels<double>& two_layer_kernels() {
  return DMFTCORE_CHOOSE(two_layer_double);
}
template <> const TwoLayerKernels<float>& two_layer_kernels() {
  return DMFTCORE_CHOOSE(two_layer_float);
}
const AttentionKernels& attention_kernels(index lanes) {
  return lanes == 1 ? DMFTCORE_CHOOSE(attention_of_one) : DMFTCORE_CHOOSE(attention_of_many);
}

} // namespace dmftcore::cpu
