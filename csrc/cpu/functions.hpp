// Activation functions on vectors of lanes.hpp, accurate to a few units in the last place; for isa
// sources. No number that is not finite becomes finite.
//
// The polynomials interpolate at Chebyshev nodes; each comes with its largest relative error.
#pragma once

#include "cpu/lanes.hpp"
#include "ops.hpp"

namespace {

template <class T> struct Tables;

template <> struct Tables<double> {
  using Bits = long long;
  static constexpr int MANTISSA = 52;
  static constexpr double SMALLEST_EXPONENT = -708;
  static constexpr double LARGEST_EXPONENT = 709;
  // Multiples of ln 2 up to 2^11 times this are exact.
  static constexpr double LN2_HIGH = 0x1.62e42fefa38p-1;
  static constexpr double LN2_LOW = 0x1.ef35793c7673p-45;
  // Adding and subtracting it rounds to an integer, which the lower bits of the sum hold.
  static constexpr double ROUNDER = 0x1.8p52;
  // Keeps half of the bits of a mantissa: the square of the rest is exact.
  static constexpr Bits UPPER_HALF = ~((1LL << 27) - 1);
  // (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: Taylor, 1e-17
  static constexpr double EXPONENTIAL[] = {
      1 / 2.,     1 / 6.,      1 / 24.,      1 / 120.,      1 / 720.,       1 / 5040.,
      1 / 40320., 1 / 362880., 1 / 3628800., 1 / 39916800., 1 / 479001600., 1 / 6227020800.};
  // erf(x) / x in x^2 <= 1: 8e-18
  static constexpr double ERROR_FUNCTION[] = {
      1.12837916709551257,     -3.76126389031835404e-1, 1.12837916709450063e-1,
      -2.68661706432377704e-2, 5.22397760711642273e-3,  -8.54832597538969208e-4,
      1.20552949048397079e-4,  -1.49247369074196603e-5, 1.64474247033173624e-6,
      -1.62084838018717059e-7, 1.37200645467776856e-8,  -7.79589882700214224e-10};
  // (1 + 2 x) e^(x^2) erfc(x) in (x - 4) / (x + 4), x >= 0: 2e-18
  static constexpr double COMPLEMENT[] = {
      1.23299511862555251,      -1.39621116840562505e-1, 1.53796521026195903e-2,
      6.8097054254691298e-2,    -1.01039066036299905e-1, 9.37328349984104914e-2,
      -6.63303658121990448e-2,  3.71675155363239885e-2,  -1.61977340596832917e-2,
      5.03196998952425171e-3,   -7.57773262030915026e-4, -1.99256760264104567e-4,
      1.50621492378373348e-4,   -2.43989944557620998e-5, -1.12212926153142735e-5,
      5.70931411353249177e-6,   2.91982190845482583e-7,  -8.25078338681245044e-7,
      7.74606863568197927e-8,   1.10252719990001527e-7,  -2.05545313698593001e-8,
      -1.48069881469257943e-8,  3.16726111193616954e-9,  1.82569511895390696e-9,
      -2.65572661631257483e-10, -1.43113184709281615e-10};
  // log((1 + z) / (1 - z)) / z in z^2 <= 1 / 9: 1e-18
  static constexpr double LOGARITHM[] = {2.0,
                                         6.66666666666661496e-1,
                                         4.00000000001857475e-1,
                                         2.85714285454541145e-1,
                                         2.22222240807476732e-1,
                                         1.81817408325048045e-1,
                                         1.53866140423040078e-1,
                                         1.33003740326746243e-1,
                                         1.21101687280692177e-1,
                                         8.32450651186082058e-2,
                                         1.70441635627813981e-1};
};

template <> struct Tables<float> {
  using Bits = int;
  static constexpr int MANTISSA = 23;
  static constexpr float SMALLEST_EXPONENT = -87;
  static constexpr float LARGEST_EXPONENT = 88;
  static constexpr float LN2_HIGH = 0x1.62ep-1f;
  static constexpr float LN2_LOW = 0x1.0bfbe8p-15f;
  static constexpr float ROUNDER = 0x1.8p23f;
  static constexpr Bits UPPER_HALF = ~((1 << 12) - 1);
  // 5e-10
  static constexpr float EXPONENTIAL[] = {1 / 2.f,   1 / 6.f,   1 / 24.f,
                                          1 / 120.f, 1 / 720.f, 1 / 5040.f};
  // 1e-9
  static constexpr float ERROR_FUNCTION[] = {1.128379166f,     -3.761262667e-1f, 1.128359472e-1f,
                                             -2.685421201e-2f, 5.189087423e-3f,  -8.016864287e-4f,
                                             7.875875063e-5f};
  // 4e-9
  static constexpr float COMPLEMENT[] = {
      1.232995119f,     -1.396210843e-1f, 1.537968365e-2f, 6.809613205e-2f,  -1.010399508e-1f,
      9.374044379e-2f,  -6.632325954e-2f, 3.71399169e-2f,  -1.622227456e-2f, 5.082809154e-3f,
      -7.163394719e-4f, -2.486322974e-4f, 1.166079966e-4f};
  // 1e-10
  static constexpr float LOGARITHM[] = {
      2.0f, 6.666667903e-1f, 3.999871125e-1f, 2.862020741e-1f, 2.139856051e-1f, 2.439390808e-1f};
};

template <class T> struct Functions {
  using V = vec<T>;
  using C = Tables<T>;
  typedef typename C::Bits bits __attribute__((vector_size(DMFTCORE_VECTOR_BYTES)));

  static V all(T x) { return x - V{}; }
  static V magnitude(V x) { return x < 0 ? -x : x; }
  static V with_sign_of(V x, V magnitude) { return x < 0 ? -magnitude : magnitude; }

  template <int N> static V polynomial(const T (&coefficients)[N], V x) {
    V sum = all(coefficients[N - 1]);
    for (int i = N - 2; i >= 0; --i) sum = sum * x + coefficients[i];
    return sum;
  }

  // e^x = power (1 + rest)
  struct Exponential {
    V power, rest;
    V value() const { return power * rest + power; }
    V minus_one() const { return power * rest + (power - 1); }
  };

  static Exponential exponential(V x) {
    x = x < C::SMALLEST_EXPONENT ? all(C::SMALLEST_EXPONENT) : x;
    x = x > C::LARGEST_EXPONENT ? all(C::LARGEST_EXPONENT) : x;
    const V shifted = x * T(1.44269504088896341) + C::ROUNDER;
    const V n = shifted - C::ROUNDER;
    const V r = (x - n * C::LN2_HIGH) - n * C::LN2_LOW;
    bits power;
    __builtin_memcpy(&power, &shifted, sizeof power);
    const V one = all(1);
    bits exponent;
    __builtin_memcpy(&exponent, &one, sizeof exponent);
    power = (power << C::MANTISSA) + exponent;
    Exponential result;
    __builtin_memcpy(&result.power, &power, sizeof power);
    result.rest = r + r * r * polynomial(C::EXPONENTIAL, r);
    return result;
  }

  // e^(-x^2), with the rounding error of the square
  static V gaussian(V x) {
    bits b;
    __builtin_memcpy(&b, &x, sizeof b);
    b &= C::UPPER_HALF;
    V high;
    __builtin_memcpy(&high, &b, sizeof b);
    // Where e^(-x^2) is nothing, x may be too large for a square.
    x = magnitude(x) > 40 ? all(40) : x;
    high = magnitude(high) > 40 ? all(40) : high;
    const V rest = (x - high) * (x + high);
    const V e = exponential(-high * high).value();
    return e - e * (rest * (1 - rest / 2 * (1 - rest / 3)));
  }

  // e^(x^2) erfc(x) for x >= 0
  static V scaled_complement(V x) {
    x = x > T(1e6) ? all(T(1e6)) : x;
    return polynomial(C::COMPLEMENT, (x - 4) / (x + 4)) / (1 + 2 * x);
  }

  static V erf(V x) {
    const V size = magnitude(x);
    const V inner = x * polynomial(C::ERROR_FUNCTION, size > 1 ? all(1) : x * x);
    const V outer = 1 - gaussian(x) * scaled_complement(size);
    return size > 1 ? with_sign_of(x, outer) : inner;
  }

  // The distribution function of a standard normal number
  static V normal(V x) {
    const V y = magnitude(x) * T(0.707106781186547524);
    const V tail = gaussian(y) * scaled_complement(y) / 2;
    return x > 0 ? 1 - tail : tail;
  }

  // log(1 + e) for 0 <= e <= 1
  static V log_plus_one(V e) {
    const V z = e / (2 + e);
    return z * polynomial(C::LOGARITHM, z * z);
  }

  static V value(dmftcore::Activation phi, V x) {
    using A = dmftcore::Activation;
    switch (phi) {
    case A::relu:
      return x < 0 ? V{} : x;
    case A::tanh: {
      const V e = exponential(-2 * magnitude(x)).minus_one();
      return with_sign_of(x, -e / (2 + e));
    }
    case A::erf:
      return erf(x);
    case A::gelu:
      return x * normal(x);
    case A::softplus:
      return (x > 0 ? x : V{}) + log_plus_one(exponential(-magnitude(x)).value());
    case A::quadratic:
      return x * x;
    default:
      return x;
    }
  }

  static V slope(dmftcore::Activation phi, V x) {
    using A = dmftcore::Activation;
    switch (phi) {
    case A::relu:
      return x > 0 ? all(1) : V{};
    case A::tanh: {
      const V e = exponential(-2 * magnitude(x)).value();
      return 4 * e / ((1 + e) * (1 + e));
    }
    case A::erf:
      return T(1.12837916709551257) * gaussian(x);
    case A::gelu:
      return normal(x) + T(0.398942280401432678) * x * gaussian(x * T(0.707106781186547524));
    case A::softplus: {
      const V e = exponential(-magnitude(x)).value();
      return (x > 0 ? all(1) : e) / (1 + e);
    }
    case A::quadratic:
      return 2 * x;
    default:
      return all(1);
    }
  }

  // Both at once.
  static void value_and_slope(dmftcore::Activation phi, V x, V& y, V& gain) {
    if (phi == dmftcore::Activation::tanh) {
      const V e = exponential(-2 * magnitude(x)).minus_one();
      const V inverse = 1 / (2 + e);
      y = with_sign_of(x, -e * inverse);
      gain = 4 * (1 + e) * inverse * inverse;
      return;
    }
    y = value(phi, x);
    gain = slope(phi, x);
  }
};

} // namespace
