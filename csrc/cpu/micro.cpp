#include "cpu/micro.hpp"

namespace dmftcore::cpu {

#define DMFTCORE_DECLARE(LEVEL)                                                                    \
  namespace LEVEL {                                                                                \
  extern const RowKernels<double> rows_double;                                                     \
  extern const RowKernels<float> rows_float;                                                       \
  }
DMFTCORE_DECLARE(baseline)
#ifdef DMFTCORE_HAS_ISA_v3
DMFTCORE_DECLARE(v3)
#endif
#ifdef DMFTCORE_HAS_ISA_v4
DMFTCORE_DECLARE(v4)
#endif
#undef DMFTCORE_DECLARE

template <> const RowKernels<double>& row_kernels<double>() {
  switch (isa()) {
#ifdef DMFTCORE_HAS_ISA_v4
  case Isa::v4:
    return v4::rows_double;
#endif
#ifdef DMFTCORE_HAS_ISA_v3
  case Isa::v3:
    return v3::rows_double;
#endif
  default:
    return baseline::rows_double;
  }
}

template <> const RowKernels<float>& row_kernels<float>() {
  switch (isa()) {
#ifdef DMFTCORE_HAS_ISA_v4
  case Isa::v4:
    return v4::rows_float;
#endif
#ifdef DMFTCORE_HAS_ISA_v3
  case Isa::v3:
    return v3::rows_float;
#endif
  default:
    return baseline::rows_float;
  }
}

} // namespace dmftcore::cpu
