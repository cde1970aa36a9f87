// The two-point functions of a pair of parameters.
//
// With s(kappa) = sum_k w_k / (lam_k + kappa), sums over two resolvents are divided differences,
// sum_k w_k / ((lam_k + kappa)(lam_k + kappa')) = (s(kappa) - s(kappa')) / (kappa' - kappa), so
// that a grid costs one sum for each of its lines. Pairs for which the difference cancels are
// summed directly.
//
// With a vector for T, a pair in each lane.
#pragma once

#include "complex.hpp"

namespace dmftcore::spectral {

// A difference may lose three digits.
constexpr double CANCELLED = 1e-3;

// One line of a grid: kappa, R1, R3, and sums over the modes with each kind of weights.
template <class T> struct node_of {
  complex_of<T> kappa, r1, r3;
  complex_of<T> power, bare, signal, target; // weights mu lam, mu, lam w^2, w^2
  complex_of<T> observed, observed_target;   // mu obs, obs w^2
};
using Node = node_of<double>;

// Sums of two resolvents: with weights mu lam, lam w^2; mu obs, obs w^2.
template <class T> struct pair_sums_of {
  complex_of<T> power, signal, observed, observed_target;
};
using PairSums = pair_sums_of<double>;

template <class T> struct difference_of {
  complex_of<T> value; // not yet divided
  T left;              // the part of the terms that has not cancelled
};

// Within a factor sqrt(2) of the absolute value, without its root.
template <class T> DMFTCORE_EVERYWHERE T size(complex_of<T> a) {
  return magnitude(a.re) + magnitude(a.im);
}

template <class Condition, class T>
DMFTCORE_EVERYWHERE complex_of<T> choose(Condition first, complex_of<T> a, complex_of<T> b) {
  return {first ? a.re : b.re, first ? a.im : b.im};
}

template <class T>
DMFTCORE_EVERYWHERE difference_of<T> difference(complex_of<T> s, complex_of<T> other_s) {
  const complex_of<T> value = s - other_s;
  return {value, size(value) / (size(s) + size(other_s) + 1e-300)};
}

// kappa' - kappa times sum_k lam_k w_k / ((lam_k + kappa)(lam_k + kappa')), from sums with lam w
// and with w: the former differ more where kappa is large, the latter, times kappa, where it is
// small.
template <class T>
DMFTCORE_EVERYWHERE difference_of<T> difference(complex_of<T> kappa, complex_of<T> other_kappa,
                                                complex_of<T> s, complex_of<T> other_s,
                                                complex_of<T> bare, complex_of<T> other_bare) {
  const difference_of<T> large = difference(s, other_s);
  const difference_of<T> small = difference(other_kappa * other_bare, kappa * bare);
  const auto first = large.left > small.left;
  return {choose(first, large.value, small.value), larger(large.left, small.left)};
}

// The sums as differences make them, and what has not cancelled: more than CANCELLED, or the sums
// are of no use, as those of equal kappa.
template <class T>
DMFTCORE_EVERYWHERE T differences(const node_of<T>& a, const node_of<T>& b, bool observable,
                                  pair_sums_of<T>& sums) {
  const complex_of<T> inverse = complex_of<T>(T{} + 1.0) / (b.kappa - a.kappa);
  const difference_of<T> power = difference(a.kappa, b.kappa, a.power, b.power, a.bare, b.bare);
  const difference_of<T> signal =
      difference(a.kappa, b.kappa, a.signal, b.signal, a.target, b.target);
  T left = smaller(power.left, signal.left);
  sums.power = power.value * inverse;
  sums.signal = signal.value * inverse;
  if (observable) {
    const difference_of<T> observed = difference(a.observed, b.observed);
    const difference_of<T> target = difference(a.observed_target, b.observed_target);
    left = smaller(left, smaller(observed.left, target.left));
    sums.observed = observed.value * inverse;
    sums.observed_target = target.value * inverse;
  }
  return left;
}

template <class T> struct value_of {
  complex_of<T> test, train, observable;
};
using Value = value_of<double>;

// With kappa the smaller of the two, G2 = df' - kappa G1, which turns 1 - G2/P into R1' + kappa
// G1/P and the denominator into R1' R3' + kappa G1 (R1'/N + R3/P): no 1 - df/P, which cancels where
// the model interpolates, is left.
template <class T>
DMFTCORE_EVERYWHERE value_of<T> two_point(const node_of<T>& a, const node_of<T>& b,
                                          const pair_sums_of<T>& sums, T p, T n, T noise,
                                          bool observable) {
  using C = complex_of<T>;
  const auto swapped = size(a.kappa) > size(b.kappa);
  const C small = choose(swapped, b.kappa, a.kappa), large = choose(swapped, a.kappa, b.kappa);
  const C r1 = choose(swapped, a.r1, b.r1), r3 = choose(swapped, a.r3, b.r3);
  const C r3_of_small = choose(swapped, b.r3, a.r3);
  const C signal = choose(swapped, a.signal, b.signal);

  const C g1 = small * sums.power, product = small * large;
  const C s1 = product * sums.signal + noise, s2 = signal - small * sums.signal;
  const C samples = r1 + p * g1, features = r3 + n * g1;
  const C denominator = r1 * r3 + g1 * (n * r1 + p * r3_of_small);
  value_of<T> value{};
  value.test = (s1 * features + n * (large * g1) * s2) / denominator;
  value.train = a.r1 * b.r1 * value.test;
  if (!observable) return value;
  const C observed = choose(swapped, a.observed, b.observed);
  const C c3 = n * (s2 * samples + p * sums.power * s1) / denominator;
  value.observable = product * (sums.observed_target + c3 * sums.observed) +
                     p * value.test * (observed - small * sums.observed);
  return value;
}

} // namespace dmftcore::spectral
