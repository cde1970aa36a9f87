#include <algorithm>
#include <cmath>

#include "cpu/pool.hpp"
#include "ops.hpp"
#include "philox.hpp"

namespace dmftcore::cpu {

template <class T> void normals(const Normals& which, index count, index particles, T* x) {
  constexpr index PIECE = 4096;
  const index pieces = (particles + PIECE - 1) / PIECE;
  parallel_for(count * pieces, [&](index task) {
    const index row = task / pieces, begin = task % pieces * PIECE;
    const index end = std::min(particles, begin + PIECE);
    T* const out = x + row * particles;
    for (index p = begin; p < end; p += 2) {
      const auto [bits] =
          philox({{static_cast<std::uint32_t>(p / 2),
                   which.column + static_cast<std::uint32_t>(row), which.stream, which.run}},
                 which.seed);
      const double radius = std::sqrt(-2 * std::log(uniform(bits[0], bits[1])));
      const double angle = 2 * 3.14159265358979323846 * uniform(bits[2], bits[3]);
      out[p] = static_cast<T>(radius * std::cos(angle));
      if (p + 1 < end) out[p + 1] = static_cast<T>(radius * std::sin(angle));
    }
  });
}

template void normals(const Normals&, index, index, double*);
template void normals(const Normals&, index, index, float*);

} // namespace dmftcore::cpu
