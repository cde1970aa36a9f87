// kappa(z) on its physical branch.
//
// With h(kappa) = kappa R1 R3, all kappa with Im kappa > 0 and 0 < arg kappa + arg R1 + arg R3 <=
// pi solve the equations for z = h(kappa): both are then fixed points of maps of the upper half
// plane into itself, which have one. On the positive axis the condition is kappa, R1, R3 > 0. So
// any such kappa is a place to start from, and whether a step has left the branch shows where it
// has led.
//
// Newton steps lead from log h to log z. As the factors of h are nearly
// linear in kappa, h is close to (kappa - kappa_0)^n with n = S^2 / (1 + a1^2 + a3^2), a the
// logarithmic derivatives of R1 and R3, S = 1 + a1 + a3 that of h, and the steps follow that.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <vector>

#include "cpu/pool.hpp"
#include "cpu/spectral_sums.hpp"

namespace dmftcore::cpu {
namespace {

// Parameters that are solved for together.
constexpr index BLOCK = 128;

// Steps in log h: the longest, what becomes of it where a step has failed or succeeded, and what is
// called short for the longest.
constexpr double LONGEST = 2, SHORTER = 0.35, LONGER = 1.7, CAREFUL = 0.1;
// Up to the angle INNER, and for what is as near to |z| as NEAR in log h, the cut is far away.
constexpr double INNER = 2, NEAR = 0.05;
// A step shorter than this part of the way ahead will not succeed either.
constexpr double SHORTEST = 1e-7;
constexpr int MOST_SUMS = 1000;
// Convergence is quadratic: after a relative step of this size the next would be none.
constexpr double LAST_STEP = 1e-9;
// The angle by which rounding, and the last step, may leave h beyond the cut. Solutions on other
// branches are beyond by pi and more.
constexpr double BEYOND = 1e-8;

// (e^x - 1) / x
complex growth(complex x) {
  if (std::abs(x) < 1e-8) return 1.0 + x / 2.0;
  const double half = std::sin(x.imag() / 2), scale = std::expm1(x.real());
  return complex(scale * std::cos(x.imag()) - 2 * half * half, (scale + 1) * std::sin(x.imag())) /
         x;
}

// The way of one kappa to its z.
struct Path {
  index place;
  complex z;
  complex start; // a positive number with positive R1 and R3

  double longest, reach;     // steps in log h
  complex kappa;             // on the branch, and
  complex rest, slope, bend; // there: log z - log h, S, 1/n
  complex next;              // to be tried

  Path(index at, complex target, double from) : place(at), z(target), start(from) {
    begin(LONGEST);
  }

  void begin(double steps) {
    longest = reach = steps;
    next = start;
    rest = INFINITY;
  }

  // The change of kappa, relative to it, that changes log h so much.
  complex move(complex by) const { return by / slope * growth(bend * by); }

  // Where to go from kappa, in log h. For z close to the cut not along it, but towards it.
  complex aim() const {
    const double across = std::abs(rest.real());
    const double inward = across < NEAR ? 0 : std::min(across / 2, std::arg(z) - INNER);
    return rest - complex(0, std::max(0.0, inward));
  }

  // Whether next, with these factors of h, is on the branch.
  bool on_branch(complex r1, complex r3) const {
    if (z.imag() == 0 || next.imag() == 0) // the latter at the start
      return next.real() > 0 && r1.real() > 0 && r3.real() > 0;
    const auto up_to_pi = [&](complex x) {
      return x.imag() >= 0 || (x.real() < 0 && x.imag() >= -BEYOND * std::abs(x));
    };
    return next.imag() > 0 && up_to_pi(next * r1) && up_to_pi(next * r1 * r3);
  }
};

enum class State { running, solved, failed };

// How 1 - df / Q comes from a sum over the modes. With fewer directions than samples and features,
// df = D - kappa sum mu / (lam + kappa), and the small responses of small kappa keep their digits.
struct Model {
  double p, n;      // 1/P, 1/N
  double dimension; // D
  bool few;         // directions
};

// One step, from the sums of mu / (lam + next), or of mu lam / (lam + next), and the like with the
// square of the denominator.
State step(Path& path, complex sum, complex square, const Model& model) {
  const double p = model.p, n = model.n, d = model.dimension;
  const complex rest = path.next * sum;
  const complex r1 = model.few ? 1 - p * d + p * rest : 1.0 - p * sum;
  const complex r3 = model.few ? 1 - n * d + n * rest : 1.0 - n * sum;
  const complex distance = std::log(path.z / (path.next * r1 * r3));
  const bool accepted = std::abs(distance) < std::abs(path.rest) && path.on_branch(r1, r3);
  if (accepted) {
    // - d df / d log kappa
    const complex slope = path.next * (model.few ? sum - path.next * square : square);
    const complex a1 = p * slope / r1, a3 = n * slope / r3, s = 1.0 + a1 + a3;
    path.kappa = path.next;
    path.rest = distance;
    path.slope = s;
    path.bend = (1.0 + a1 * a1 + a3 * a3) / (s * s);
    path.reach = std::min(path.longest, LONGER * path.reach);
    const complex last = path.move(path.rest);
    if (std::abs(last) < LAST_STEP) {
      path.next = path.kappa * (1.0 + last);
      return State::solved;
    }
  } else {
    path.reach *= SHORTER;
    if (!(path.reach > SHORTEST * std::abs(path.rest))) {
      // Astray near a branch point. Again, with care.
      if (path.longest < CAREFUL) return State::failed;
      path.begin(path.longest / 4);
      return State::running;
    }
  }
  const complex aim = path.aim();
  const double length = std::abs(aim);
  path.next =
      path.kappa * (1.0 + path.move(length <= path.reach ? aim : aim * (path.reach / length)));
  return State::running;
}

} // namespace

index spectral_kappa(index nz, index m, const double* lam, const double* mu, double samples,
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
  std::atomic<index> first_failed{nz};
  const auto fail = [&](index place) {
    for (index first = first_failed; place < first;)
      if (first_failed.compare_exchange_weak(first, place)) break;
  };

  parallel_for((nz + BLOCK - 1) / BLOCK, [&](index block) {
    const index begin = block * BLOCK, end = std::min(nz, begin + BLOCK);
    std::vector<Path> paths;
    for (index i = begin; i < end; ++i) {
      // Here R1 and R3 are positive, and h is at least |z|.
      const double start = std::abs(z[i]) + trace * (model.p + model.n);
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
        if (state == State::solved) kappa[path.place] = path.next;
        if (state == State::failed) fail(path.place);
        if (state == State::running) *kept++ = path;
      }
      paths.erase(kept, paths.end());
    }
    for (const Path& path : paths) fail(path.place);
  });
  return first_failed;
}

} // namespace dmftcore::cpu
