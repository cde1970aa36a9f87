// Complex numbers for the CPU and the GPU, where std::complex has no functions; its layout. With a
// vector for T, one in each lane.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define DMFTCORE_EVERYWHERE __host__ __device__ __forceinline__
#else
#define DMFTCORE_EVERYWHERE inline __attribute__((always_inline))
#endif

namespace dmftcore {

template <class T> DMFTCORE_EVERYWHERE T magnitude(T x) { return x < 0.0 ? -x : x; }
template <class T> DMFTCORE_EVERYWHERE T smaller(T a, T b) { return a < b ? a : b; }
template <class T> DMFTCORE_EVERYWHERE T larger(T a, T b) { return a > b ? a : b; }

template <class T> struct complex_of {
  T re, im;

  complex_of() = default;
  DMFTCORE_EVERYWHERE complex_of(T real, T imaginary = T{}) : re(real), im(imaginary) {}

  DMFTCORE_EVERYWHERE friend complex_of operator+(complex_of a, complex_of b) {
    return {a.re + b.re, a.im + b.im};
  }
  DMFTCORE_EVERYWHERE friend complex_of operator-(complex_of a, complex_of b) {
    return {a.re - b.re, a.im - b.im};
  }
  DMFTCORE_EVERYWHERE friend complex_of operator*(T a, complex_of b) {
    return {a * b.re, a * b.im};
  }
  DMFTCORE_EVERYWHERE friend complex_of operator*(complex_of a, complex_of b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  }
  // Without the squares, which overflow earlier.
  DMFTCORE_EVERYWHERE friend complex_of operator/(complex_of a, complex_of b) {
    const auto wide = magnitude(b.re) >= magnitude(b.im);
    const T longer = wide ? b.re : b.im, shorter = wide ? b.im : b.re;
    const T ratio = shorter / longer, inverse = 1.0 / (longer + shorter * ratio);
    const T along = wide ? a.re : a.im, across = wide ? a.im : a.re;
    const T im = (across - along * ratio) * inverse;
    return {(along + across * ratio) * inverse, wide ? im : -im};
  }
};

using complex = complex_of<double>;

DMFTCORE_EVERYWHERE double abs(complex a) { return std::hypot(a.re, a.im); }
DMFTCORE_EVERYWHERE double arg(complex a) { return std::atan2(a.im, a.re); }
DMFTCORE_EVERYWHERE complex log(complex a) { return {std::log(abs(a)), arg(a)}; }

} // namespace dmftcore
