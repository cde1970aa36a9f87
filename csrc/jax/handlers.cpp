#include "jax/handlers.hpp"

#include <type_traits>

#include "jax/call.hpp"

namespace dmftcore::xla {
namespace {

// OPERATION(arguments...), on the stream of the call where it takes one.
template <auto OPERATION, class... A> void run(const Call& call, A... arguments) {
  if constexpr (std::is_invocable_v<decltype(OPERATION), cuda::Stream, A...>)
    OPERATION(call.stream(), arguments...);
  else
    OPERATION(arguments...);
}

// The sizes of two kernels of one shape.
Kernels two_kernels(const Call& call) {
  const Kernels k(call, 0);
  const Buffer& a = call.buffer(0);
  require(a.rank == call.buffer(1).rank && same_axes(a, call.buffer(1), a.rank),
          "the kernels must have one shape");
  return k;
}

template <class T, auto OPERATION> struct Matmul {
  static constexpr int ARGUMENTS = 2;

  static void call(const Call& call) {
    const Kernels k = two_kernels(call);
    const index transposed = call.attribute("transposed");
    require(transposed >= 0 && transposed <= 2, "transposed must be 0, 1 or 2");
    run<OPERATION>(call, k.batch, k.n, k.block, Transposed(transposed), call.input<T>(0),
                   call.input<T>(1), call.output<T>());
  }
};

// A kernel from two.
template <class T, auto OPERATION> struct OfTwoKernels {
  static constexpr int ARGUMENTS = 2;

  static void call(const Call& call) {
    const Kernels k = two_kernels(call);
    run<OPERATION>(call, k.batch, k.n, k.block, call.input<T>(0), call.input<T>(1),
                   call.output<T>());
  }
};

template <class T, auto OPERATION> struct OfOneKernel {
  static constexpr int ARGUMENTS = 1;

  static void call(const Call& call) {
    const Kernels k(call, 0);
    run<OPERATION>(call, k.batch, k.n, k.block, call.input<T>(0), call.output<T>());
  }
};

// The number of columns of g (*batch, n, *trailing), on which kernels (*batch, n, n) act.
index columns(const Call& call) {
  const Buffer &k = call.buffer(0), &g = call.buffer(1);
  require(same_axes(k, g, k.rank - 1), "the second argument must be (*batch, n, *trailing)");
  index count = 1;
  for (std::int64_t d = k.rank - 1; d < g.rank; ++d) count *= static_cast<index>(g.dims[d]);
  return count;
}

template <class T, auto OPERATION> struct SolveDense {
  static constexpr int ARGUMENTS = 2;

  static void call(const Call& call) {
    const Kernels k(call, 0);
    run<OPERATION>(call, k.batch, k.n, columns(call), k.block, call.input<T>(0), call.input<T>(1),
                   call.output<T>());
  }
};

template <class T, auto OPERATION> struct Apply {
  static constexpr int ARGUMENTS = 2;

  static void call(const Call& call) {
    const Kernels k(call, 0);
    run<OPERATION>(call, k.batch, k.n, columns(call), k.block, call.attribute("strict") != 0,
                   call.attribute("transposed") != 0, call.input<T>(0), call.input<T>(1),
                   call.output<T>());
  }
};

// The handler of an operation that is instantiated for both types.
template <class DOUBLE, class FLOAT> Error* handle(CallFrame* frame) {
  return guarded(frame, DOUBLE::ARGUMENTS, [](const Call& call) {
    const int dtype = call.dtype();
    require(dtype == F64 || dtype == F32, "arrays must be float64 or float32");
    dtype == F64 ? DOUBLE::call(call) : FLOAT::call(call);
  });
}

// The sizes are on the host here, and with the arrays on a device.
struct KappaHere {
  static void call(const Call&, index nz, index m, const double* lam, const double* mu,
                   const double* samples, const double* features, const complex* z,
                   complex* kappa) {
    cpu::spectral_kappa(nz, m, lam, mu, *samples, *features, z, kappa);
  }
};

#ifdef DMFTCORE_HAS_CUDA
struct KappaOnDevice {
  template <class... A> static void call(const Call& call, A... arguments) {
    cuda::spectral_kappa_of(call.stream(), arguments...);
  }
};
#endif

// kappa(z) of populations lam, mu (*batch, m), sizes (*batch) and parameters z (*batch, *any).
template <class KAPPA> Error* spectral_kappa(CallFrame* frame) {
  return guarded(frame, 5, [](const Call& call) {
    const Buffer &lam = call.buffer(0), &z = call.buffer(4);
    require(lam.rank >= 1 && z.dtype == C128, "lam must be (*batch, m) and z complex128");
    const std::int64_t axes = lam.rank - 1;
    for (int i = 0; i < 4; ++i) {
      const Buffer& real = call.buffer(i);
      require(real.dtype == F64 && same_axes(real, lam, i < 2 ? lam.rank : axes),
              "lam, mu must be (*batch, m), samples and features (*batch), of float64");
    }
    require(same_axes(z, lam, axes), "z must be (*batch, *any)");
    index batch = 1, count = 1;
    for (std::int64_t d = 0; d < axes; ++d) batch *= static_cast<index>(lam.dims[d]);
    for (std::int64_t d = axes; d < z.rank; ++d) count *= static_cast<index>(z.dims[d]);
    const index m = static_cast<index>(lam.dims[axes]);
    for (index i = 0; i < batch; ++i)
      KAPPA::call(call, count, m, call.input<double>(0) + i * m, call.input<double>(1) + i * m,
                  call.input<double>(2) + i, call.input<double>(3) + i,
                  call.input<complex>(4) + i * count, call.output<complex>() + i * count);
  });
}

} // namespace

// One operation on one platform, whose functions are in the namespace SPACE.
#define DMFTCORE_TARGET(PLATFORM, SPACE, SHAPE, OPERATION)                                         \
  {PLATFORM, #OPERATION,                                                                           \
   handle<SHAPE<double, SPACE::OPERATION<double>>, SHAPE<float, SPACE::OPERATION<float>>>}

#define DMFTCORE_TARGETS(PLATFORM, SPACE)                                                          \
  DMFTCORE_TARGET(PLATFORM, SPACE, Matmul, causal_matmul),                                         \
      DMFTCORE_TARGET(PLATFORM, SPACE, OfTwoKernels, causal_solve),                                \
      DMFTCORE_TARGET(PLATFORM, SPACE, SolveDense, causal_solve_dense),                            \
      DMFTCORE_TARGET(PLATFORM, SPACE, OfOneKernel, resolvent),                                    \
      DMFTCORE_TARGET(PLATFORM, SPACE, OfTwoKernels, congruence),                                  \
      DMFTCORE_TARGET(PLATFORM, SPACE, Apply, causal_apply)

const std::vector<Target>& targets() {
  static const std::vector<Target> all = {
      DMFTCORE_TARGETS("cpu", cpu),
      {"cpu", "spectral_kappa", spectral_kappa<KappaHere>},
#ifdef DMFTCORE_HAS_CUDA
      DMFTCORE_TARGETS("CUDA", cuda),
      {"CUDA", "spectral_kappa", spectral_kappa<KappaOnDevice>},
#endif
  };
  return all;
}

} // namespace dmftcore::xla
