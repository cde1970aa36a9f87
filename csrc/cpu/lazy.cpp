#include "cpu/lazy.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace dmftcore::cpu {

index lazy_updates(const LazyTraining& p, const double* rates, index count) {
  const index size = p.outputs * p.rank;
  std::vector<double> error(static_cast<std::size_t>(size));
  std::vector<double> power(static_cast<std::size_t>(p.powers));
  double &c = p.initial[0], &c_velocity = p.initial[1];
  for (index step = 0; step < count; ++step) {
    for (index i = 0; i < p.powers; ++i)
      power[static_cast<std::size_t>(i)] = std::pow(c, static_cast<double>(p.exponents[i]));

    std::fill(error.begin(), error.end(), 0.0);
    for (index i = 0; i < p.powers; ++i) {
      const double a = p.coefficients[i] * power[static_cast<std::size_t>(i)];
      for (index j = 0; j < size; ++j)
        error[static_cast<std::size_t>(j)] += a * p.learned[i * size + j];
    }
    double loss = 0;
    for (index k = 0; k < p.outputs; ++k)
      for (index j = 0; j < p.rank; ++j) {
        double& e = error[static_cast<std::size_t>(k * p.rank + j)];
        e = p.targets[k * p.rank + j] - p.sharpness[j] * e;
        loss += e * e;
      }
    if (!(loss <= p.loss_limit)) return step;

    const double rate = rates[step];
    for (index i = 0; i < p.powers; ++i)
      for (index j = 0; j < size; ++j) {
        double &phi = p.learned[i * size + j], &v = p.velocity[i * size + j];
        v = p.momentum * v +
            power[static_cast<std::size_t>(i)] * error[static_cast<std::size_t>(j)] - p.decay * phi;
        phi += rate * v;
      }
    c_velocity = p.momentum * c_velocity - p.decay * c;
    c += rate * c_velocity;
  }
  return count;
}

} // namespace dmftcore::cpu
