// Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
#include <algorithm>
#include <array>
#include <cmath>

#include "cpu/pool.hpp"
#include "ops.hpp"

namespace dmftcore::cpu {
namespace {

using Counter = std::array<std::uint32_t, 4>;

Counter philox(Counter c, std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c[0];
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<std::uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<std::uint32_t>(p1),
         static_cast<std::uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<std::uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

// In (0, 1): 52 bits, and the middle of their interval.
double uniform(std::uint32_t low, std::uint32_t high) {
  const std::uint64_t bits = (std::uint64_t{high} << 32 | low) >> 12;
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

} // namespace

template <class T> void normals(const Normals& which, index count, index particles, T* x) {
  constexpr index PIECE = 4096;
  const index pieces = (particles + PIECE - 1) / PIECE;
  parallel_for(count * pieces, [&](index task) {
    const index row = task / pieces, begin = task % pieces * PIECE;
    const index end = std::min(particles, begin + PIECE);
    T* const out = x + row * particles;
    for (index p = begin; p < end; p += 2) {
      const Counter bits =
          philox({static_cast<std::uint32_t>(p / 2), which.column + static_cast<std::uint32_t>(row),
                  which.stream, which.run},
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
