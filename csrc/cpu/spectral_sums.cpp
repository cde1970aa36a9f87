#include "cpu/spectral_sums.hpp"

#include <algorithm>
#include <cmath>

namespace dmftcore::cpu {
namespace {

// Modes that stay in the first-level cache while all kappa meet them. Their sums are rounded as
// usual, those of the tiles are compensated.
constexpr index TILE = 256;

// Where four squares can be multiplied.
constexpr double LEAST = 1e-37, MOST = 1e37;

index padded(index count) { return (count + LANES_MOST - 1) / LANES_MOST * LANES_MOST; }

} // namespace

SpectralSums::SpectralSums(index most) : memory_(12 * padded(most)) {
  double* next = memory_.data();
  for (double*& part : kappa_) {
    part = next;
    next += padded(most);
  }
  totals_ = next;
  errors_ = totals_ + 4 * padded(most);
}

void SpectralSums::run(const SpectralKernels::Sum& sum, index count, index m, const double* lam,
                       Extent extent, const double* weights, const double* more_weights) {
  count_ = padded(count);
  for (double* part : kappa_) std::fill(part + count, part + count_, part[count - 1]);
  std::fill(totals_, totals_ + 4 * count_, 0.0);
  std::fill(errors_, errors_ + 4 * count_, 0.0);

  bool fast = true;
  for (index i = 0; i < count; ++i) {
    const double re = kappa_[0][i], im = std::abs(kappa_[1][i]);
    const double nearest = re < 0 ? im : std::max({re, im, extent.low});
    fast = fast && nearest > LEAST && std::max({std::abs(re), im, extent.high}) < MOST;
  }
  const SpectralSweep sweep{lam,
                            {weights, more_weights},
                            {kappa_[0], kappa_[1], kappa_[2], kappa_[3]},
                            count_,
                            totals_,
                            errors_};
  for (index begin = 0; begin < m; begin += TILE)
    (fast ? sum.fast : sum.safe)(sweep, begin, std::min(begin + TILE, m));
}

SpectralSums::Extent extent(index m, const double* lam) {
  const auto ends = std::minmax_element(lam, lam + m);
  return {*ends.first, *ends.second};
}

} // namespace dmftcore::cpu
