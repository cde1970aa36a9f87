// The two-point functions of a pair of parameters.
//
// With s(kappa) = sum_k w_k / (lam_k + kappa), sums over two resolvents are divided differences,
// sum_k w_k / ((lam_k + kappa)(lam_k + kappa')) = (s(kappa) - s(kappa')) / (kappa' - kappa), so
// that a grid costs one sum for each of its lines. Pairs for which the difference cancels are
// summed directly.
#pragma once

#include "complex.hpp"

namespace dmftcore::spectral {

// A difference may lose three digits.
constexpr double CANCELLED = 1e-3;

// One line of a grid: kappa, R1, R3, and sums over the modes with each kind of weights.
struct Node {
  complex kappa, r1, r3;
  complex power, bare, signal, target; // weights mu lam, mu, lam w^2, w^2
  complex observed, observed_target;   // mu obs, obs w^2
};

// Sums of two resolvents: with weights mu lam, lam w^2; mu obs, obs w^2.
struct PairSums {
  complex power, signal, observed, observed_target;
};

struct Difference {
  complex value; // not yet divided
  double left;   // the part of the terms that has not cancelled
};

// Within a factor sqrt(2) of the absolute value, without its root.
DMFTCORE_EVERYWHERE double size(complex a) { return std::fabs(a.re) + std::fabs(a.im); }

DMFTCORE_EVERYWHERE Difference difference(complex s, complex other_s) {
  const complex value = s - other_s;
  return {value, size(value) / std::fmax(size(s) + size(other_s), 1e-300)};
}

// kappa' - kappa times sum_k lam_k w_k / ((lam_k + kappa)(lam_k + kappa')), from sums with lam w
// and with w: the former differ more where kappa is large, the latter, times kappa, where it is
// small.
DMFTCORE_EVERYWHERE Difference difference(complex kappa, complex other_kappa, complex s,
                                          complex other_s, complex bare, complex other_bare) {
  const Difference large = difference(s, other_s);
  const Difference small = difference(other_kappa * other_bare, kappa * bare);
  return large.left > small.left ? large : small;
}

// Whether the sums are what differences make of them.
DMFTCORE_EVERYWHERE bool differences(const Node& a, const Node& b, bool observable,
                                     PairSums& sums) {
  const complex inverse = complex(1) / (b.kappa - a.kappa);
  const Difference power = difference(a.kappa, b.kappa, a.power, b.power, a.bare, b.bare);
  const Difference signal = difference(a.kappa, b.kappa, a.signal, b.signal, a.target, b.target);
  double left = std::fmin(power.left, signal.left);
  sums.power = power.value * inverse;
  sums.signal = signal.value * inverse;
  if (observable) {
    const Difference observed = difference(a.observed, b.observed);
    const Difference target = difference(a.observed_target, b.observed_target);
    left = std::fmin(left, std::fmin(observed.left, target.left));
    sums.observed = observed.value * inverse;
    sums.observed_target = target.value * inverse;
  }
  return left > CANCELLED; // also false for NaN, of equal kappa
}

struct Value {
  complex test, train, observable;
};

// With kappa the smaller of the two, G2 = df' - kappa G1, which turns 1 - G2/P into R1' + kappa
// G1/P and the denominator into R1' R3' + kappa G1 (R1'/N + R3/P): no 1 - df/P, which cancels where
// the model interpolates, is left.
DMFTCORE_EVERYWHERE Value two_point(const Node& a, const Node& b, const PairSums& sums, double p,
                                    double n, double noise, bool observable) {
  const bool swapped = size(a.kappa) > size(b.kappa);
  const complex small = swapped ? b.kappa : a.kappa, large = swapped ? a.kappa : b.kappa;
  const complex r1 = swapped ? a.r1 : b.r1, r3 = swapped ? a.r3 : b.r3;
  const complex r3_of_small = swapped ? b.r3 : a.r3;
  const complex signal = swapped ? a.signal : b.signal;
  const complex observed = swapped ? a.observed : b.observed;

  const complex g1 = small * sums.power, product = small * large;
  const complex s1 = product * sums.signal + noise, s2 = signal - small * sums.signal;
  const complex samples = r1 + p * g1, features = r3 + n * g1;
  const complex denominator = r1 * r3 + g1 * (n * r1 + p * r3_of_small);
  Value value{};
  value.test = (s1 * features + n * (large * g1) * s2) / denominator;
  value.train = a.r1 * b.r1 * value.test;
  if (!observable) return value;
  const complex c3 = n * (s2 * samples + p * sums.power * s1) / denominator;
  value.observable = product * (sums.observed_target + c3 * sums.observed) +
                     p * value.test * (observed - small * sums.observed);
  return value;
}

} // namespace dmftcore::spectral
