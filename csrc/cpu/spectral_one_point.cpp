// kappa(z), for many z at a time; how is in spectral_path.hpp.
#include <algorithm>
#include <vector>

#include "cpu/pool.hpp"
#include "cpu/spectral_sums.hpp"
#include "spectral_path.hpp"

namespace dmftcore::cpu {
namespace {

using namespace spectral;

// Parameters that are solved for together.
constexpr index BLOCK = 128;

} // namespace

void spectral_kappa(index nz, index m, const double* lam, const double* mu, double samples,
                    double features, const complex* z, complex* kappa) {
  double dimension = 0, trace = 0;
  Scratch<double> powers(m);
  for (index k = 0; k < m; ++k) {
    dimension += mu[k];
    trace += powers.data()[k] = mu[k] * lam[k];
  }
  const Model model{1 / samples, 1 / features, dimension,
                    dimension <= samples && dimension <= features};
  const double* const weights = model.few ? mu : powers.data();
  const auto ends = extent(m, lam);
  const auto& kernels = spectral_kernels();

  parallel_for((nz + BLOCK - 1) / BLOCK, [&](index block) {
    const index begin = block * BLOCK, end = std::min(nz, begin + BLOCK);
    std::vector<Path> paths;
    for (index i = begin; i < end; ++i) {
      // Here R1 and R3 are positive, and h is at least |z|.
      const double start = abs(z[i]) + trace * (model.p + model.n);
      paths.emplace_back(i, z[i], start);
    }
    SpectralSums sums(end - begin);
    for (int done = 0; !paths.empty() && done < MOST_SUMS; ++done) {
      const index count = static_cast<index>(paths.size());
      for (index i = 0; i < count; ++i) sums.set(i, paths[static_cast<std::size_t>(i)].next);
      sums.run(kernels.slopes, count, m, lam, ends, weights);
      auto kept = paths.begin();
      for (index i = 0; i < count; ++i) {
        Path& path = paths[static_cast<std::size_t>(i)];
        const State state = step(path, sums.moment(i), sums.square(i), model);
        if (state == State::running)
          *kept++ = path;
        else
          kappa[path.place] = state == State::solved ? path.next : complex(NAN, NAN);
      }
      paths.erase(kept, paths.end());
    }
    for (const Path& path : paths) kappa[path.place] = complex(NAN, NAN);
  });
}

} // namespace dmftcore::cpu
