// The functions of random matrices for the test process, as in exports.cpp.
#include <exception>
#include <string>

#include "cuda/device_code.cuh"
#include "ops.hpp"

namespace {

template <class Run> const char* guarded(const Run& run) {
  static std::string text;
  try {
    run();
    return nullptr;
  } catch (const std::exception& error) {
    text = error.what();
    return text.c_str();
  }
}

} // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))
using Size = dmftcore::index;
using dmftcore::complex;
namespace cuda = dmftcore::cuda;

EXPORT const char* spectral_kappa_complex128(Size nz, Size m, const double* lam, const double* mu,
                                             double samples, double features, const complex* z,
                                             complex* kappa) {
  return guarded(
      [&] { cuda::spectral_kappa(nullptr, nz, m, lam, mu, samples, features, z, kappa); });
}

EXPORT const char* spectral_kappa_of_complex128(Size nz, Size m, const double* lam,
                                                const double* mu, const double* samples,
                                                const double* features, const complex* z,
                                                complex* kappa) {
  return guarded(
      [&] { cuda::spectral_kappa_of(nullptr, nz, m, lam, mu, samples, features, z, kappa); });
}

// The observable is written where `observed`.
EXPORT const char* spectral_two_point_complex128(Size batch, Size n1, Size n2, Size m,
                                                 const double* lam, const double* weights,
                                                 double samples, double features, double noise,
                                                 const complex* one1, const complex* one2,
                                                 complex* test, complex* train, complex* observable,
                                                 Size observed) {
  return guarded([&] {
    cuda::spectral_two_point(nullptr, batch, n1, n2, m, lam, weights, samples, features, noise,
                             one1, one2, test, train, observed ? observable : nullptr);
  });
}
