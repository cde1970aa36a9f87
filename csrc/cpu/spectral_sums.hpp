// Sums over the modes of a spectrum for many kappa at a time, at the peak of the vector units.
#pragma once

#include "cpu/micro.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {

class SpectralSums {
public:
  // Of at most `most` kappa at a time.
  explicit SpectralSums(index most);

  void set(index i, complex kappa, complex other = 0) {
    kappa_[0][i] = kappa.re, kappa_[1][i] = kappa.im;
    kappa_[2][i] = other.re, kappa_[3][i] = other.im;
  }
  // Sums for the first `count` kappa; `extent` of the spectrum: its smallest and largest
  // eigenvalue.
  struct Extent {
    double low, high;
  };
  void run(const SpectralKernels::Sum& sum, index count, index m, const double* lam, Extent extent,
           const double* weights, const double* more_weights = nullptr);

  // sum w / (lam + kappa) for the first or second weights, after `slopes` (first only), `moments`.
  complex moment(index i, int which = 0) const {
    return {at(2 * which + 1, i), -kappa_[1][i] * at(2 * which, i)};
  }
  // sum w / (lam + kappa)^2, after `slopes`
  complex square(index i) const {
    const double b = kappa_[1][i];
    return {at(0, i) - 2 * b * b * at(2, i), -2 * b * at(3, i)};
  }
  // sum w / ((lam + kappa)(lam + kappa')), after `pairs`
  complex pair(index i, int which) const { return {at(2 * which, i), -at(2 * which + 1, i)}; }

private:
  double at(int sum, index i) const {
    return totals_[sum * count_ + i] + errors_[sum * count_ + i];
  }

  Scratch<double> memory_;
  double *kappa_[4], *totals_, *errors_;
  index count_ = 0;
};

SpectralSums::Extent extent(index m, const double* lam);

} // namespace dmftcore::cpu
