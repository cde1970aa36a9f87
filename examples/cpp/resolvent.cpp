// The resolvent r = (1 - a)^-1 of a causal kernel, by the core of dmftcore from C++.
//
// For a(t, s) = dt, s < t, it is known: r(t, s) = dt (1 + dt)^(t - s - 1), the Euler form of
// exp(t - s) dt.
#include <cmath>
#include <cstdio>
#include <vector>

#include <dmftcore/ops.hpp>

int main() {
  const dmftcore::index steps = 500, block = 1, batch = 1;
  const double dt = 2.0 / steps;
  std::vector<double> a(steps * steps, dt), r(steps * steps);
  dmftcore::cpu::resolvent(batch, steps, block, a.data(), r.data()); // the lower triangle is read

  double error = 0;
  for (dmftcore::index t = 1; t < steps; ++t)
    for (dmftcore::index s = 0; s < t; ++s) {
      const double known = dt * std::pow(1 + dt, t - s - 1);
      error = std::fmax(error, std::fabs(r[t * steps + s] / known - 1));
    }
  std::printf("largest relative error: %.1e\n", error);
  return error < 1e-12 ? 0 : 1;
}
