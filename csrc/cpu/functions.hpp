// Activation functions and their slopes on vectors of lanes.hpp, for isa sources, for any argument.
// No number that is not finite becomes finite, unless the function has a limit there.
//
// Largest errors of value and slope, in units of epsilon times themselves, in both precisions and
// on all instruction sets, as long as e^(-2 |x|) and its like are normal numbers: tanh 2.5 and 3.5,
// erf 2.5 and 2, softplus 2.5 and 2, gelu 5 (3 above -0.7) and 2 epsilon, as its slope has a zero.
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
  static constexpr Bits SIGN = -0x7fffffffffffffff - 1;
  // Below it e^x is taken to be constant.
  static constexpr double SMALLEST_EXPONENT = -708;
  // Multiples of ln 2 up to 2^11 times this are exact.
  static constexpr double LN2_HIGH = 0x1.62e42fefa38p-1;
  static constexpr double LN2_LOW = 0x1.ef35793c7673p-45;
  // Adding and subtracting it rounds to an integer, which the lower bits of the sum hold.
  static constexpr double ROUNDER = 0x1.8p52;
  // Keeps half of the bits of a mantissa: the square of the rest is exact.
  static constexpr Bits UPPER_HALF = ~((1LL << 27) - 1);
  // Above it e^(-x^2) and e^(-x^2 / 2) are taken to be constant.
  static constexpr double REACH = 26.6, REACH_OF_HALF = 37.6;
  // (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2: 2e-16, of a term of at most 0.08
  static constexpr double EXPONENTIAL[] = {0.500000000000000102,     0.166666666666666675,
                                           0.0416666666666241616,    0.00833333333333006442,
                                           0.00138888889171968811,   0.000198412698630406699,
                                           0.0000248015213221168242, 2.75572684801163348e-6,
                                           2.76200759998106511e-7,   2.51003759247097169e-8};
  // erf(x) / x in x^2 <= 1: 8e-18
  static constexpr double ERROR_FUNCTION[] = {
      1.12837916709551257,     -3.76126389031835404e-1, 1.12837916709450063e-1,
      -2.68661706432377704e-2, 5.22397760711642273e-3,  -8.54832597538969208e-4,
      1.20552949048397079e-4,  -1.49247369074196603e-5, 1.64474247033173624e-6,
      -1.62084838018717059e-7, 1.37200645467776856e-8,  -7.79589882700214224e-10};
  // (3 + x) e^(x^2) erfc(x) in (x - 3) / (x + 3), x >= 0: 2e-17
  static constexpr double COMPLEMENT[] = {
      1.07400690708833968,       -0.88339445316988365,    0.590228357104108486,
      -0.310467261900566669,     0.11952776128697859,     -0.026827234624480615,
      -0.00121241662151477977,   0.00303406200119598244,  -0.000548309745247753327,
      -0.000276777848200965945,  0.000107561782500020734, 0.0000303981905221208025,
      -0.0000174716057523023307, -4.74939103213214079e-6, 2.76781122552728064e-6,
      9.99437936108101322e-7,    -4.11759759189375936e-7, -2.3454670002624263e-7,
      5.00132018429123704e-8,    5.16681476189845404e-8,  -3.59136111716109528e-9,
      -8.88784489151694737e-9,   1.11591238992503841e-11, 8.4478527843229508e-10};
  // (log((1 + z) / (1 - z)) - 2 z) / z^3 in z^2 <= 1 / 9: 1e-16, of a term of at most 0.06
  static constexpr double LOGARITHM[] = {
      0.666666666666666586,  0.400000000000145827, 0.285714285671087572, 0.22222222717427863,
      0.181817894361328582,  0.153855700649586231, 0.133141442096549362, 0.120010728095907125,
      0.0880073848614467388, 0.161640456119435322};
};

template <> struct Tables<float> {
  using Bits = int;
  static constexpr int MANTISSA = 23;
  static constexpr Bits SIGN = -0x7fffffff - 1;
  static constexpr float SMALLEST_EXPONENT = -87;
  static constexpr float LN2_HIGH = 0x1.62ep-1f;
  static constexpr float LN2_LOW = 0x1.0bfbe8p-15f;
  static constexpr float ROUNDER = 0x1.8p23f;
  static constexpr Bits UPPER_HALF = ~((1 << 12) - 1);
  static constexpr float REACH = 9.3f, REACH_OF_HALF = 13.1f;
  // 7e-8, of a term of at most 0.08
  static constexpr float EXPONENTIAL[] = {0.5f, 0.1666657703f, 0.04166655466f, 0.008363173132f,
                                          0.001392617619f};
  // 1e-9
  static constexpr float ERROR_FUNCTION[] = {1.128379166f,     -3.761262667e-1f, 1.128359472e-1f,
                                             -2.685421201e-2f, 5.189087423e-3f,  -8.016864287e-4f,
                                             7.875875063e-5f};
  // 2e-8
  static constexpr float COMPLEMENT[] = {1.074006907f,      -0.8833942286f,  0.5902282333f,
                                         -0.3104717838f,    0.1195302582f,   -0.02680146647f,
                                         -0.00122668867f,   0.002973032643f, -0.0005143136179f,
                                         -0.0002107801123f, 7.040525524e-5f};
  // 3e-7, of a term of at most 0.06
  static constexpr float LOGARITHM[] = {0.6666664034f, 0.4000756064f, 0.2823661981f, 0.2685149802f};
};

template <class T> struct Functions {
  using V = vec<T>;
  using C = Tables<T>;
  typedef typename C::Bits Bits __attribute__((vector_size(DMFTCORE_VECTOR_BYTES)));

  static V all(T x) { return x - V{}; }

  static Bits bits_of(V x) {
    Bits bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
  }

  static V number_of(Bits bits) {
    V x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
  }

  static V magnitude(V x) { return number_of(bits_of(x) & ~C::SIGN); }
  // size >= 0 with the sign of x
  static V with_sign_of(V x, V size) { return number_of(bits_of(size) | (bits_of(x) & C::SIGN)); }
  static V at_most(T limit, V x) { return smaller(all(limit), x); }

  // By Horner's scheme in x^4: additions and products wait for few others.
  template <int N> static V polynomial(const T (&c)[N], V x) {
    constexpr int TOP = (N - 1) / 4 * 4;
    const V x2 = x * x, x4 = x2 * x2;
    V sum = quarter<N - TOP>(c + TOP, x, x2);
    _Pragma("GCC unroll 8") for (int i = TOP - 4; i >= 0; i -= 4) sum =
        sum * x4 + quarter<4>(c + i, x, x2);
    return sum;
  }

  // The lowest N terms.
  template <int N> static V quarter(const T* c, V x, V x2) {
    if constexpr (N == 1)
      return all(c[0]);
    else if constexpr (N == 2)
      return c[1] * x + c[0];
    else if constexpr (N == 3)
      return c[2] * x2 + (c[1] * x + c[0]);
    else
      return (c[3] * x + c[2]) * x2 + (c[1] * x + c[0]);
  }

  // e^x = power (1 + rest)
  struct Exponential {
    V power, rest;
    V value() const { return power * rest + power; }
    V one_minus() const { return (1 - power) - power * rest; }
  };

  // For x from SMALLEST_EXPONENT to 1: e^x = power e^r
  struct Reduced {
    V power, r;

    explicit Reduced(V x) {
      const V shifted = x * T(1.44269504088896341) + C::ROUNDER;
      const V n = shifted - C::ROUNDER;
      r = (x - n * C::LN2_HIGH) - n * C::LN2_LOW;
      power = number_of((bits_of(shifted) << C::MANTISSA) + bits_of(all(1)));
    }
    Exponential exponential() const { return {power, r + r * r * polynomial(C::EXPONENTIAL, r)}; }
  };

  static Exponential exponential(V x) { return Reduced(x).exponential(); }

  // e^(-scale x^2), for x >= 0 within reach and a scale that is a power of two. The rounding error
  // of the square counts.
  static V gaussian(V x, T scale) {
    const V high = number_of(bits_of(x) & C::UPPER_HALF);
    Reduced square(high * high * -scale);
    square.r += (high - x) * (high + x) * scale;
    return square.exponential().value();
  }

  // e^(x^2) erfc(x) for x >= 0
  static V scaled_complement(V x) {
    const V inverse = 1 / (x + 3);
    return polynomial(C::COMPLEMENT, 1 - 6 * inverse) * inverse;
  }

  struct Both {
    V value, slope;
  };

  static Both tanh(V x) {
    const V size = at_most(-C::SMALLEST_EXPONENT / 2, magnitude(x));
    const Exponential e = exponential(-2 * size);
    const V rest = e.one_minus(), inverse = 1 / (2 - rest);
    return {with_sign_of(x, rest * inverse), 4 * e.value() * inverse * inverse};
  }

  // For x >= 0: e^(-x^2), which is given, the error function as far as 1, its complement
  struct ErrorFunction {
    V density, inner, tail;

    ErrorFunction(V x, V given) : density(given), tail(density * scaled_complement(x)) {
      const V inside = at_most(1, x);
      inner = x * polynomial(C::ERROR_FUNCTION, inside * inside);
    }
  };

  static Both erf(V x) {
    const V size = magnitude(x);
    const ErrorFunction e(size, gaussian(at_most(C::REACH, size), 1));
    return {with_sign_of(x, size > 1 ? 1 - e.tail : e.inner), T(1.12837916709551257) * e.density};
  }

  static Both gelu(V x) {
    const V size = magnitude(x), y = size * T(0.707106781186547524);
    const ErrorFunction e(y, gaussian(at_most(C::REACH_OF_HALF, size), T(0.5)));
    const V tail = (y > T(0.5) ? e.tail : 1 - e.inner) / 2;
    const V normal = x > 0 ? 1 - tail : tail;
    return {x * normal, normal + T(0.398942280401432678) * x * e.density};
  }

  static Both softplus(V x) {
    const V e = exponential(-at_most(-C::SMALLEST_EXPONENT, magnitude(x))).value();
    const V z = e / (2 + e), z2 = z * z;
    const V logarithm = z * z2 * polynomial(C::LOGARITHM, z2) + 2 * z;
    return {(x > 0 ? x : V{}) + logarithm, (x > 0 ? all(1) : e) / (1 + e)};
  }

  // phi(x) and phi'(x). Who wants one alone pays for no more, once this is inlined.
  [[gnu::always_inline]] static Both both(dmftcore::Activation phi, V x) {
    using A = dmftcore::Activation;
    switch (phi) {
    case A::relu:
      return {x < 0 ? V{} : x, x > 0 ? all(1) : V{}};
    case A::tanh:
      return tanh(x);
    case A::erf:
      return erf(x);
    case A::gelu:
      return gelu(x);
    case A::softplus:
      return softplus(x);
    case A::quadratic:
      return {x * x, 2 * x};
    default:
      return {x, all(1)};
    }
  }

  static V value(dmftcore::Activation phi, V x) { return both(phi, x).value; }
  static V slope(dmftcore::Activation phi, V x) { return both(phi, x).slope; }
  static void value_and_slope(dmftcore::Activation phi, V x, V& y, V& gain) {
    const Both result = both(phi, x);
    y = result.value, gain = result.slope;
  }
};

} // namespace
