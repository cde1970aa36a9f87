// The two-point functions on grids of parameters; those of a pair are in spectral_pair.hpp.
#include <algorithm>
#include <vector>

#include "cpu/pool.hpp"
#include "cpu/spectral_sums.hpp"
#include "spectral_pair.hpp"

namespace dmftcore::cpu {
namespace {

using namespace spectral;

// What a task takes.
constexpr index NODES = 128, PAIRS = 1024;

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

  parallel_for((pairs + PAIRS - 1) / PAIRS, [&](index block) {
    const index begin = block * PAIRS, end = std::min(pairs, begin + PAIRS);
    const auto write = [&](const Pair& pair, const PairSums& sums) {
      const Value value =
          two_point(*pair.row, *pair.column, sums, p, n, noise_variance, spectrum.observable);
      test[pair.place] = value.test;
      train[pair.place] = value.train;
      if (observable) observable[pair.place] = value.observable;
    };
    std::vector<Pair> close;
    for (index first = begin, stop; first < end; first = stop) {
      // What is left of a line of a grid.
      const index line = first / n2;
      stop = std::min(end, (line + 1) * n2);
      Pair pair{first, rows.data() + line, columns.data() + line / n1 * n2 + first % n2};
      for (; pair.place < stop; ++pair.place, ++pair.column) {
        PairSums sums{};
        if (differences(*pair.row, *pair.column, spectrum.observable, sums))
          write(pair, sums);
        else
          close.push_back(pair);
      }
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
    for (std::size_t i = 0; i < close.size(); ++i) write(close[i], sums[i]);
  });
}

} // namespace dmftcore::cpu
