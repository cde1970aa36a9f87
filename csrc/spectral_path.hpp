// kappa(z) on its physical branch.
//
// With h(kappa) = kappa R1 R3, every kappa with Im kappa > 0 and arg kappa + arg R1 + arg R3 <= pi
// solves the equations for z = h(kappa): it is then a fixed point of maps of the upper half plane
// into itself, which have one. On the positive axis the condition is kappa, R1, R3 > 0. So any such
// kappa is a place to start from, and whether a step has left the branch shows where it has led.
//
// Newton steps lead from log h to log z. As the factors of h are nearly linear in kappa, h is close
// to (kappa - kappa_0)^n with n = S^2 / (1 + a1^2 + a3^2), a the logarithmic derivatives of R1 and
// R3, S = 1 + a1 + a3 that of h, and the steps follow that.
#pragma once

#include "complex.hpp"
#include "ops.hpp"

namespace dmftcore::spectral {

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
// What a step must be to first order to be worth a look.
constexpr double NEARLY = 1e-7;
// The angle by which rounding, and the last step, may leave h beyond the cut. Solutions on other
// branches are beyond by pi and more.
constexpr double BEYOND = 1e-8;

DMFTCORE_EVERYWHERE double norm(complex a) { return a.re * a.re + a.im * a.im; }

// The logarithm without a root, where the square can be represented.
DMFTCORE_EVERYWHERE complex log_of(complex a) {
  const double squared = norm(a);
  if (squared > 1e-200 && squared < 1e200) return {0.5 * std::log(squared), arg(a)};
  return log(a);
}

// (e^x - 1) / x, from its series at x / 2^k and  g(2x) = g(x) (1 + x g(x) / 2), to 3e-7: steps need
// no more, and where they are so short that the last one counts, x is that much smaller.
DMFTCORE_EVERYWHERE complex growth(complex x) {
  int halvings = 0;
  double size = magnitude(x.re) + magnitude(x.im);
  for (; size > 0.5 && halvings < 1000; size /= 2) ++halvings;
  if (halvings > 0) x = std::ldexp(1.0, -halvings) * x;
  complex g = 1;
  for (int i = size < 0.02 ? 4 : 8; i > 1; --i) g = 1 + (1.0 / i) * x * g;
  for (; halvings > 0; --halvings) {
    g = g * (1 + 0.5 * x * g);
    x = 2 * x;
  }
  return g;
}

// The way of one kappa to its z.
struct Path {
  index place;
  complex z;
  complex start; // a positive number with positive R1 and R3
  double turned; // arg z beyond INNER

  double longest, reach;     // steps in log h
  complex kappa;             // on the branch, and
  complex rest, slope, bend; // there: log z - log h, S, 1/n
  complex next;              // to be tried

  Path() = default;
  DMFTCORE_EVERYWHERE Path(index at, complex target, double from)
      : place(at), z(target), start(from), turned(arg(target) - INNER) {
    begin(LONGEST);
  }

  DMFTCORE_EVERYWHERE void begin(double steps) {
    longest = reach = steps;
    next = start;
    rest = complex(INFINITY);
  }

  // The change of kappa, relative to it, that changes log h so much.
  DMFTCORE_EVERYWHERE complex move(complex by) const { return by / slope * growth(bend * by); }

  // Where to go from kappa, in log h. For z close to the cut not along it, but towards it.
  DMFTCORE_EVERYWHERE complex aim() const {
    const double across = std::fabs(rest.re);
    const double inward = across < NEAR ? 0 : std::fmin(across / 2, turned);
    return rest - complex(0, std::fmax(0.0, inward));
  }

  // Whether next, with these factors of h, is on the branch.
  DMFTCORE_EVERYWHERE bool on_branch(complex r1, complex r3) const {
    if (z.im == 0 || next.im == 0) // the latter at the start
      return next.re > 0 && r1.re > 0 && r3.re > 0;
    return next.im > 0 && up_to_pi(next * r1) && up_to_pi(next * r1 * r3);
  }

private:
  DMFTCORE_EVERYWHERE static bool up_to_pi(complex x) {
    return x.im >= 0 || (x.re < 0 && x.im >= -BEYOND * abs(x));
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
DMFTCORE_EVERYWHERE State step(Path& path, complex sum, complex square, const Model& model) {
  const double p = model.p, n = model.n, d = model.dimension;
  const complex rest = path.next * sum;
  const complex r1 = model.few ? 1 - p * d + p * rest : 1 - p * sum;
  const complex r3 = model.few ? 1 - n * d + n * rest : 1 - n * sum;
  const complex distance = log_of(path.z / (path.next * r1 * r3));
  const bool accepted = norm(distance) < norm(path.rest) && path.on_branch(r1, r3);
  if (accepted) {
    // - d df / d log kappa
    const complex slope = path.next * (model.few ? sum - path.next * square : square);
    const complex a1 = p * slope / r1, a3 = n * slope / r3, s = 1 + a1 + a3;
    path.kappa = path.next;
    path.rest = distance;
    path.slope = s;
    path.bend = (1 + a1 * a1 + a3 * a3) / (s * s);
    path.reach = std::fmin(path.longest, LONGER * path.reach);
    if (norm(path.rest) < NEARLY * NEARLY * norm(s)) {
      const complex last = path.move(path.rest);
      if (abs(last) < LAST_STEP) {
        path.next = path.kappa * (1 + last);
        return State::solved;
      }
    }
  } else {
    path.reach *= SHORTER;
    if (!(path.reach > SHORTEST * abs(path.rest))) {
      // Astray near a branch point. Again, with care.
      if (path.longest < CAREFUL) return State::failed;
      path.begin(path.longest / 4);
      return State::running;
    }
  }
  const complex aim = path.aim();
  const double length = std::sqrt(norm(aim));
  path.next =
      path.kappa * (1 + path.move(length <= path.reach ? aim : (path.reach / length) * aim));
  return State::running;
}

} // namespace dmftcore::spectral
