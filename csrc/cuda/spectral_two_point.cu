// The two-point functions on grids: sums over the modes for each line, then a pair for each thread.
// Where differences cancel the warp sums over the modes together, for one of its pairs after the
// other.
#include "cuda/spectral_sums.cuh"
#include "spectral_pair.hpp"

namespace dmftcore::cuda {
namespace {

using namespace spectral;

// Lines that a team takes together.
constexpr int SLOTS = 4;

struct Lines {
  index count;
  Modes modes;
  const complex* kappa;
  complex *first, *second; // sums of w / (lam + kappa) with the two weights
};

template <int TEAM> __global__ void __launch_bounds__(BLOCK<TEAM>) line_sums(const Lines p) {
  const Place<TEAM> place;
  const int lane = place.lane;
  for (index first = place.team * SLOTS; first < p.count; first += place.teams * SLOTS) {
    complex kappa[SLOTS];
    DMFTCORE_UNROLL
    for (int q = 0; q < SLOTS; ++q) kappa[q] = p.kappa[min(first + q, p.count - 1)];
    double totals[SLOTS][SUMS], own[SUMS] = {};
    sum_over_modes(p.modes, place, totals, [&](index k, double lam, int q, double (&sums)[SUMS]) {
      const double a = kappa[q].re + lam, inverse = 1 / (a * a + kappa[q].im * kappa[q].im);
      const double once = p.modes.weights[0][k] * inverse;
      const double again = p.modes.weights[1][k] * inverse;
      sums[0] += a * once;
      sums[1] += once;
      sums[2] += a * again;
      sums[3] += again;
    });
    take_own(lane, totals, own);
    if (place.warp == 0 && lane < SLOTS && first + lane < p.count) {
      const double im = p.kappa[first + lane].im;
      p.first[first + lane] = {own[0], -im * own[1]};
      p.second[first + lane] = {own[2], -im * own[3]};
    }
  }
}

// Lines of a grid: kappa, R1, R3, each (batch, n), and the sums over the modes.
struct Side {
  index count; // batch n
  const complex* one;
  const complex* sums;

  __device__ __forceinline__ Node node(index i, bool observable) const {
    Node node;
    node.kappa = one[i], node.r1 = one[count + i], node.r3 = one[2 * count + i];
    node.power = sums[i], node.bare = sums[count + i];
    node.signal = sums[2 * count + i], node.target = sums[3 * count + i];
    node.observed = observable ? sums[4 * count + i] : complex(0);
    node.observed_target = observable ? sums[5 * count + i] : complex(0);
    return node;
  }
};

struct Grid {
  index pairs, n1, n2, m;
  const double *lam, *weights;
  double p, n, noise;
  Side rows, columns;
  complex *test, *train, *observable;
};

// sum w / ((lam + kappa)(lam + kappa')) for the weights of four rows, of all lanes.
__device__ __forceinline__ PairSums direct(const Grid& p, const Place<1>& place, complex kappa,
                                           complex other) {
  const double product = kappa.im * other.im;
  double totals[2][SUMS];
  // Two slots: the weights of power and signal, and those of the observable.
  sum_over_modes(Modes{p.m, p.lam, {nullptr, nullptr}}, place, totals,
                 [&](index k, double lam, int q, double (&sums)[SUMS]) {
                   if (q == 1 && !p.observable) return;
                   const double a = kappa.re + lam, c = other.re + lam;
                   const double x = a * c - product, y = a * other.im + c * kappa.im;
                   const double inverse = 1 / (x * x + y * y);
                   const double first = p.weights[(q == 0 ? 0 : 4) * p.m + k] * inverse;
                   const double second = p.weights[(q == 0 ? 2 : 5) * p.m + k] * inverse;
                   sums[0] += x * first;
                   sums[1] -= y * first;
                   sums[2] += x * second;
                   sums[3] -= y * second;
                 });
  return {{totals[0][0], totals[0][1]},
          {totals[0][2], totals[0][3]},
          {totals[1][0], totals[1][1]},
          {totals[1][2], totals[1][3]}};
}

// Three blocks of a multiprocessor: with more the compiler would run out of registers.
__global__ void __launch_bounds__(BLOCK<1>, 3) pair_functions(const Grid p) {
  const Place<1> place;
  const int lane = place.lane;
  for (index first = place.team * WARP; first < p.pairs; first += place.teams * WARP) {
    const bool exists = first + lane < p.pairs;
    const index pair = exists ? first + lane : p.pairs - 1;
    const Node row = p.rows.node(pair / p.n2, p.observable != nullptr);
    const Node column =
        p.columns.node(pair / (p.n1 * p.n2) * p.n2 + pair % p.n2, p.observable != nullptr);
    PairSums sums{};
    const bool close = !(differences(row, column, p.observable != nullptr, sums) > CANCELLED);
    for (int q = 0; q < WARP; ++q) {
      if (!__shfl_sync(WHOLE_WARP, int(close && exists), q)) continue;
      const complex kappa = {__shfl_sync(WHOLE_WARP, row.kappa.re, q),
                             __shfl_sync(WHOLE_WARP, row.kappa.im, q)};
      const complex other = {__shfl_sync(WHOLE_WARP, column.kappa.re, q),
                             __shfl_sync(WHOLE_WARP, column.kappa.im, q)};
      const PairSums found = direct(p, place, kappa, other);
      if (lane == q) sums = found;
    }
    if (!exists) continue;
    const Value value = two_point(row, column, sums, p.p, p.n, p.noise, p.observable != nullptr);
    p.test[pair] = value.test;
    p.train[pair] = value.train;
    if (p.observable) p.observable[pair] = value.observable;
  }
}

template <int TEAM> void sum_lines(Stream stream, const Lines& lines) {
  launch(line_sums<TEAM>, blocks_of<TEAM>((lines.count + SLOTS - 1) / SLOTS), BLOCK<TEAM>,
         team_shared_bytes<TEAM, SLOTS>(), stream, lines);
}

} // namespace

void spectral_two_point(Stream stream, index batch, index n1, index n2, index m, const double* lam,
                        const double* weights, double samples, double features,
                        double noise_variance, const complex* one1, const complex* one2,
                        complex* test, complex* train, complex* observable) {
  const index pairs = batch * n1 * n2, kinds = observable ? 6 : 4;
  if (pairs == 0) return;
  const Scratch<complex> sums1(stream, kinds * batch * n1), sums2(stream, kinds * batch * n2);
  const auto sums_of = m < MANY_MODES ? sum_lines<1> : sum_lines<LARGE_TEAM>;
  const auto sum = [&](index count, const complex* kappa, complex* sums) {
    for (index kind = 0; kind < kinds; kind += 2)
      sums_of(stream, {count,
                       {m, lam, {weights + kind * m, weights + (kind + 1) * m}},
                       kappa,
                       sums + kind * count,
                       sums + (kind + 1) * count});
  };
  sum(batch * n1, one1, sums1.data());
  sum(batch * n2, one2, sums2.data());
  launch(pair_functions, blocks_of<1>((pairs + WARP - 1) / WARP), BLOCK<1>, 0, stream,
         Grid{pairs, n1, n2, m, lam, weights, 1 / samples, 1 / features, noise_variance,
              Side{batch * n1, one1, sums1.data()}, Side{batch * n2, one2, sums2.data()}, test,
              train, observable});
}

} // namespace dmftcore::cuda
