// Complex numbers for the CPU and the GPU, where std::complex has no functions; its layout.
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define DMFTCORE_EVERYWHERE __host__ __device__ __forceinline__
#else
#define DMFTCORE_EVERYWHERE inline
#endif

namespace dmftcore {

struct complex {
  double re, im;

  complex() = default;
  DMFTCORE_EVERYWHERE complex(double real, double imaginary = 0) : re(real), im(imaginary) {}
};

DMFTCORE_EVERYWHERE complex operator+(complex a, complex b) { return {a.re + b.re, a.im + b.im}; }
DMFTCORE_EVERYWHERE complex operator-(complex a, complex b) { return {a.re - b.re, a.im - b.im}; }
DMFTCORE_EVERYWHERE complex operator*(double a, complex b) { return {a * b.re, a * b.im}; }
DMFTCORE_EVERYWHERE complex operator*(complex a, complex b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
// Without the squares, which overflow earlier.
DMFTCORE_EVERYWHERE complex operator/(complex a, complex b) {
  if (std::fabs(b.re) >= std::fabs(b.im)) {
    const double ratio = b.im / b.re, scale = b.re + b.im * ratio;
    return {(a.re + a.im * ratio) / scale, (a.im - a.re * ratio) / scale};
  }
  const double ratio = b.re / b.im, scale = b.re * ratio + b.im;
  return {(a.re * ratio + a.im) / scale, (a.im * ratio - a.re) / scale};
}
DMFTCORE_EVERYWHERE double abs(complex a) { return std::hypot(a.re, a.im); }
DMFTCORE_EVERYWHERE double arg(complex a) { return std::atan2(a.im, a.re); }
DMFTCORE_EVERYWHERE complex log(complex a) { return {std::log(abs(a)), arg(a)}; }

} // namespace dmftcore
