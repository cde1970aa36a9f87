// Activation functions. No number that is not finite becomes finite.
#pragma once

#include "cuda/device_code.cuh"
#include "ops.hpp"

namespace dmftcore::cuda {

// e^(-x^2), with the rounding error of the square
template <class T> __device__ __forceinline__ T gaussian(T x) {
  x = std::abs(x) > 40 ? T(40) : x; // where it is nothing, the square may be too large
  const T square = x * x, rest = std::fma(x, x, -square), e = std::exp(-square);
  return e - e * rest;
}

// The distribution function of a standard normal number
template <class T> __device__ __forceinline__ T normal(T x) {
  return std::erfc(x * T(-0.707106781186547524)) / 2;
}

template <class T> __device__ __forceinline__ T value(Activation phi, T x) {
  switch (phi) {
  case Activation::relu:
    return x < 0 ? T(0) : x;
  case Activation::tanh:
    return std::tanh(x);
  case Activation::erf:
    return std::erf(x);
  case Activation::gelu:
    return x * normal(x);
  case Activation::softplus:
    return (x > 0 ? x : T(0)) + std::log1p(std::exp(-std::abs(x)));
  case Activation::quadratic:
    return x * x;
  default:
    return x;
  }
}

template <class T> __device__ __forceinline__ T slope(Activation phi, T x) {
  switch (phi) {
  case Activation::relu:
    return T(x > 0);
  case Activation::tanh: {
    const T e = std::exp(-2 * std::abs(x));
    return 4 * e / ((1 + e) * (1 + e));
  }
  case Activation::erf:
    return T(1.12837916709551257) * gaussian(x);
  case Activation::gelu:
    return normal(x) + T(0.398942280401432678) * x * gaussian(x * T(0.707106781186547524));
  case Activation::softplus: {
    const T e = std::exp(-std::abs(x));
    return (x > 0 ? T(1) : e) / (1 + e);
  }
  case Activation::quadratic:
    return 2 * x;
  default:
    return T(1);
  }
}

} // namespace dmftcore::cuda
