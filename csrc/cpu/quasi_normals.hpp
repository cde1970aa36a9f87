// Normal numbers from Sobol's sequence; dmftcore.sampled.quasi has the source.
#pragma once

#include "ops.hpp"

namespace dmftcore::cpu {

constexpr index QUASI_BITS = 32;

// A column: the point p is the sum modulo 2 of the numbers (QUASI_BITS,) that belong to the bits of
// p, and of the shift. At most 2^QUASI_BITS particles.
template <class T>
void quasi_normals(const std::uint32_t* numbers, std::uint32_t shift, index particles, T* x);

} // namespace dmftcore::cpu
