// Lazy training, gamma_0 -> 0, mode by mode of the data, with momentum, weight decay and a
// schedule.
#pragma once

#include <cstdint>

#include "cpu/isa.hpp"

namespace dmftcore::cpu {

// To first order in what is learned, a mode of the outputs is
//     f(t) = k sum_i a_i c(t)^{e_i} phi_i(t),    phi_i(t) = sum_s kap(t,s) c(s)^{e_i} Delta(s) / P,
// with what the optimiser makes of an initial weight, c(t), and of an impulse, kap(t,s). Both obey
//     v <- m v + d - lambda x,   x <- x + eta v.
struct LazyTraining {
  index powers, outputs, rank;
  const double* sharpness;       // k (rank)
  const double* targets;         // (outputs x rank)
  const std::int64_t* exponents; // e_i (powers)
  const double* coefficients;    // a_i (powers)
  double momentum;               // m
  double decay;                  // lambda P: rates are eta / P
  double loss_limit;             // on the sum of Delta^2
  // Changed:
  double* learned;  // phi_i (powers x outputs x rank)
  double* velocity; // v of phi_i
  double* initial;  // c and its v (2)
};

// Makes up to `count` updates of the given rates; returns how many were made before the loss at
// some step was found beyond its limit.
index lazy_updates(const LazyTraining& training, const double* rates, index count);

} // namespace dmftcore::cpu
