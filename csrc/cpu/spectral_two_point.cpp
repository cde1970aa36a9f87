// The two-point functions of pairs of parameters.
//
// With s(kappa) = sum_k w_k / (lam_k + kappa), sums over two resolvents are divided differences,
// sum_k w_k / ((lam_k + kappa)(lam_k + kappa')) = (s(kappa) - s(kappa')) / (kappa' - kappa), so
// that a grid costs one sum for each of its lines. Pairs for which the difference cancels are
// summed directly.
#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/pool.hpp"
#include "cpu/spectral_sums.hpp"

namespace dmftcore::cpu {
namespace {

// What a task takes.
constexpr index NODES = 128, PAIRS = 1024;

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
  complex value;
  double left; // the part of the terms that has not cancelled
};

Difference divided(complex s, complex other_s, complex between) {
  const complex difference = s - other_s;
  return {difference / between,
          std::abs(difference) / std::max(std::abs(s) + std::abs(other_s), 1e-300)};
}

// sum_k lam_k w_k / ((lam_k + kappa)(lam_k + kappa')) from sums with lam w and with w: the former
// differ more where kappa is large, the latter, times kappa, where it is small.
Difference divided(complex kappa, complex other_kappa, complex s, complex other_s, complex bare,
                   complex other_bare) {
  const complex between = other_kappa - kappa;
  const Difference large = divided(s, other_s, between);
  const Difference small = divided(other_kappa * other_bare, kappa * bare, between);
  return large.left > small.left ? large : small;
}

// Whether the sums are what differences make of them.
bool differences(const Node& a, const Node& b, bool observable, PairSums& sums) {
  const Difference power = divided(a.kappa, b.kappa, a.power, b.power, a.bare, b.bare);
  const Difference signal = divided(a.kappa, b.kappa, a.signal, b.signal, a.target, b.target);
  double left = std::min(power.left, signal.left);
  sums.power = power.value;
  sums.signal = signal.value;
  if (observable) {
    const complex between = b.kappa - a.kappa;
    const Difference observed = divided(a.observed, b.observed, between);
    const Difference target = divided(a.observed_target, b.observed_target, between);
    left = std::min({left, observed.left, target.left});
    sums.observed = observed.value;
    sums.observed_target = target.value;
  }
  return left > CANCELLED; // also false for NaN, of equal kappa
}

struct Value {
  complex test, train, observable;
};

// With kappa the smaller of the two, G2 = df' - kappa G1, which turns 1 - G2/P into R1' + kappa
// G1/P and the denominator into R1' R3' + kappa G1 (R1'/N + R3/P): no 1 - df/P, which cancels where
// the model interpolates, is left.
Value two_point(const Node& a, const Node& b, const PairSums& sums, double p, double n,
                double noise) {
  const bool swapped = std::abs(a.kappa) > std::abs(b.kappa);
  const Node &small = swapped ? b : a, &large = swapped ? a : b;
  const complex product = a.kappa * b.kappa;
  const complex g1 = small.kappa * sums.power;
  const complex s1 = product * sums.signal + noise, s2 = large.signal - small.kappa * sums.signal;
  const complex samples = large.r1 + p * g1, features = large.r3 + n * g1;
  const complex denominator = large.r1 * large.r3 + g1 * (n * large.r1 + p * small.r3);
  Value value;
  value.test = (s1 * features + n * (large.kappa * g1) * s2) / denominator;
  value.train = a.r1 * b.r1 * value.test;
  const complex c3 = n * (s2 * samples + p * sums.power * s1) / denominator;
  value.observable = product * (sums.observed_target + c3 * sums.observed) +
                     p * value.test * (large.observed - small.kappa * sums.observed);
  return value;
}

struct Spectrum {
  index m;
  const double* lam;
  const double* weights;
  bool observable;
  SpectralSums::Extent extent;
};

std::vector<Node> nodes(const Spectrum& spectrum, index count, const complex* one) {
  std::vector<Node> all(static_cast<std::size_t>(count));
  const auto& kernel = spectral_kernels().moments;
  parallel_for((count + NODES - 1) / NODES, [&](index block) {
    const index begin = block * NODES, here = std::min(NODES, count - begin);
    Node* const node = all.data() + begin;
    SpectralSums sums(here);
    for (index i = 0; i < here; ++i) {
      const complex* const values = one + begin + i;
      node[i].kappa = values[0], node[i].r1 = values[count], node[i].r3 = values[2 * count];
      sums.set(i, node[i].kappa);
    }
    const auto sum = [&](index row, complex Node::* first, complex Node::* second) {
      const double* const weights = spectrum.weights + row * spectrum.m;
      sums.run(kernel, here, spectrum.m, spectrum.lam, spectrum.extent, weights,
               weights + spectrum.m);
      for (index i = 0; i < here; ++i)
        node[i].*first = sums.moment(i, 0), node[i].*second = sums.moment(i, 1);
    };
    sum(0, &Node::power, &Node::bare);
    sum(2, &Node::signal, &Node::target);
    if (spectrum.observable) sum(4, &Node::observed, &Node::observed_target);
  });
  return all;
}

} // namespace

void spectral_two_point(index batch, index n1, index n2, index m, const double* lam,
                        const double* weights, double samples, double features,
                        double noise_variance, const complex* one1, const complex* one2,
                        complex* test, complex* train, complex* observable) {
  const double p = 1 / samples, n = 1 / features;
  const Spectrum spectrum{m, lam, weights, observable != nullptr, extent(m, lam)};
  const std::vector<Node> rows = nodes(spectrum, batch * n1, one1);
  const std::vector<Node> columns = nodes(spectrum, batch * n2, one2);
  const index pairs = batch * n1 * n2;
  const auto row = [&](index pair) -> const Node& {
    return rows[static_cast<std::size_t>(pair / n2)];
  };
  const auto column = [&](index pair) -> const Node& {
    return columns[static_cast<std::size_t>(pair / (n1 * n2) * n2 + pair % n2)];
  };

  parallel_for((pairs + PAIRS - 1) / PAIRS, [&](index block) {
    const index begin = block * PAIRS, end = std::min(pairs, begin + PAIRS);
    const auto write = [&](index pair, const PairSums& sums) {
      const Value value = two_point(row(pair), column(pair), sums, p, n, noise_variance);
      test[pair] = value.test;
      train[pair] = value.train;
      if (observable) observable[pair] = value.observable;
    };
    std::vector<index> close;
    for (index pair = begin; pair < end; ++pair) {
      PairSums sums;
      if (differences(row(pair), column(pair), spectrum.observable, sums))
        write(pair, sums);
      else
        close.push_back(pair);
    }
    if (close.empty()) return;

    const index count = static_cast<index>(close.size());
    SpectralSums direct(count);
    for (index i = 0; i < count; ++i) {
      const index pair = close[static_cast<std::size_t>(i)];
      direct.set(i, row(pair).kappa, column(pair).kappa);
    }
    std::vector<PairSums> sums(close.size());
    const auto sum = [&](index first, index second, complex PairSums::* to,
                         complex PairSums::* too) {
      direct.run(spectral_kernels().pairs, count, m, lam, spectrum.extent, weights + first * m,
                 weights + second * m);
      for (index i = 0; i < count; ++i) {
        sums[static_cast<std::size_t>(i)].*to = direct.pair(i, 0);
        sums[static_cast<std::size_t>(i)].*too = direct.pair(i, 1);
      }
    };
    sum(0, 2, &PairSums::power, &PairSums::signal);
    if (spectrum.observable) sum(4, 5, &PairSums::observed, &PairSums::observed_target);
    for (std::size_t i = 0; i < close.size(); ++i) write(close[i], sums[i]);
  });
}

} // namespace dmftcore::cpu
