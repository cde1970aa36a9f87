// The two-point functions on grids of parameters; those of a pair are in spectral_pair.hpp.
#include <algorithm>
#include <cstring>
#include <vector>

#include "cpu/pool.hpp"
#include "cpu/spectral_sums.hpp"
#include "spectral_pair.hpp"

namespace dmftcore::cpu {
namespace {

using namespace spectral;

// What a task takes.
constexpr index NODES = 128, PAIRS = 1024;
// Real numbers of a node.
constexpr index NUMBERS = sizeof(Node) / sizeof(double);

struct Spectrum {
  index m;
  const double* lam;
  const double* weights;
  bool observable;
  SpectralSums::Extent extent;
};

struct Pair {
  index place;
  const Node* row;
  const Node* column;
};

std::vector<Node> unsummed(index count, const complex* one) {
  std::vector<Node> all(static_cast<std::size_t>(count));
  for (index i = 0; i < count; ++i) {
    Node& node = all[static_cast<std::size_t>(i)];
    node.kappa = one[i], node.r1 = one[count + i], node.r3 = one[2 * count + i];
  }
  return all;
}

void sum_over_modes(const Spectrum& spectrum, const std::vector<Node*>& all) {
  const index count = static_cast<index>(all.size());
  const auto& kernel = spectral_kernels().moments;
  parallel_for((count + NODES - 1) / NODES, [&](index block) {
    const index begin = block * NODES, here = std::min(NODES, count - begin);
    Node* const* const node = all.data() + begin;
    SpectralSums sums(here);
    for (index i = 0; i < here; ++i) sums.set(i, node[i]->kappa);
    const auto sum = [&](index row, complex Node::* first, complex Node::* second) {
      const double* const weights = spectrum.weights + row * spectrum.m;
      sums.run(kernel, here, spectrum.m, spectrum.lam, spectrum.extent, weights,
               weights + spectrum.m);
      for (index i = 0; i < here; ++i)
        node[i]->*first = sums.moment(i, 0), node[i]->*second = sums.moment(i, 1);
    };
    sum(0, &Node::power, &Node::bare);
    sum(2, &Node::signal, &Node::target);
    if (spectrum.observable) sum(4, &Node::observed, &Node::observed_target);
  });
}

// Takes the sums from a node with the same or the conjugate kappa, if this is one.
bool shares(Node& node, const Node& other) {
  if (node.kappa.re != other.kappa.re || std::fabs(node.kappa.im) != std::fabs(other.kappa.im))
    return false;
  const double sign = node.kappa.im == other.kappa.im ? 1 : -1;
  for (complex Node::* sum : {&Node::power, &Node::bare, &Node::signal, &Node::target,
                              &Node::observed, &Node::observed_target})
    node.*sum = {(other.*sum).re, sign * (other.*sum).im};
  return true;
}

} // namespace

void spectral_two_point(index batch, index n1, index n2, index m, const double* lam,
                        const double* weights, double samples, double features,
                        double noise_variance, const complex* one1, const complex* one2,
                        complex* test, complex* train, complex* observable) {
  const double p = 1 / samples, n = 1 / features;
  const Spectrum spectrum{m, lam, weights, observable != nullptr, extent(m, lam)};
  std::vector<Node> rows = unsummed(batch * n1, one1), columns = unsummed(batch * n2, one2);
  std::vector<Node*> some;
  for (Node& node : rows) some.push_back(&node);
  sum_over_modes(spectrum, some);
  // Most grids are of nodes with themselves and with their conjugates, in this order.
  some.clear();
  for (index i = 0; i < batch * n2; ++i) {
    Node& node = columns[static_cast<std::size_t>(i)];
    if (n1 == 0 || !shares(node, rows[static_cast<std::size_t>(i / n2 * n1 + i % n2 % n1)]))
      some.push_back(&node);
  }
  sum_over_modes(spectrum, some);

  // The columns of each grid, number by number, for a pair in each lane.
  const index stride = (n2 + LANES_MOST - 1) / LANES_MOST * LANES_MOST;
  std::vector<double> by_number(static_cast<std::size_t>(batch * NUMBERS * stride), 1.0);
  for (index i = 0; i < batch * n2; ++i) {
    double numbers[NUMBERS];
    std::memcpy(numbers, &columns[static_cast<std::size_t>(i)], sizeof numbers);
    double* const to = by_number.data() + i / n2 * NUMBERS * stride + i % n2;
    for (index k = 0; k < NUMBERS; ++k) to[k * stride] = numbers[k];
  }

  const index lines = std::max<index>(1, PAIRS / std::max<index>(1, n2));
  parallel_for((batch * n1 + lines - 1) / lines, [&](index block) {
    std::vector<Pair> close;
    std::vector<double> left(static_cast<std::size_t>(stride));
    for (index line = block * lines; line < std::min((block + 1) * lines, batch * n1); ++line) {
      const Node* const row = rows.data() + line;
      const index grid = line / n1, first = line * n2;
      const auto at = [first](complex* values) {
        return values ? reinterpret_cast<double*>(values + first) : nullptr;
      };
      spectral_kernels().row({reinterpret_cast<const double*>(row),
                              by_number.data() + grid * NUMBERS * stride, stride, n2, p, n,
                              noise_variance, spectrum.observable, at(test), at(train),
                              at(observable), left.data()});
      for (index j = 0; j < n2; ++j)
        if (!(left[static_cast<std::size_t>(j)] > CANCELLED))
          close.push_back({first + j, row, columns.data() + grid * n2 + j});
    }
    if (close.empty()) return;

    const index count = static_cast<index>(close.size());
    SpectralSums direct(count);
    for (index i = 0; i < count; ++i) {
      const Pair& pair = close[static_cast<std::size_t>(i)];
      direct.set(i, pair.row->kappa, pair.column->kappa);
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
    for (std::size_t i = 0; i < close.size(); ++i) {
      const Pair& pair = close[i];
      const Value value =
          two_point(*pair.row, *pair.column, sums[i], p, n, noise_variance, spectrum.observable);
      test[pair.place] = value.test;
      train[pair.place] = value.train;
      if (observable) observable[pair.place] = value.observable;
    }
  });
}

} // namespace dmftcore::cpu
