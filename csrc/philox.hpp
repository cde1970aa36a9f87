// Philox4x32-10: Salmon, Moraes, Dror & Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define DMFTCORE_ANYWHERE __host__ __device__
#else
#define DMFTCORE_ANYWHERE
#endif

namespace dmftcore {

struct Philox {
  static constexpr int ROUNDS = 10;
  static constexpr std::uint32_t FACTOR_0 = 0xD2511F53, FACTOR_1 = 0xCD9E8D57;
  static constexpr std::uint32_t STEP_0 = 0x9E3779B9, STEP_1 = 0xBB67AE85;
};

struct Counter {
  std::uint32_t word[4];
};

DMFTCORE_ANYWHERE inline Counter philox(Counter c, std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  for (int round = 0; round < Philox::ROUNDS; ++round) {
    const std::uint64_t p0 = std::uint64_t{Philox::FACTOR_0} * c.word[0];
    const std::uint64_t p1 = std::uint64_t{Philox::FACTOR_1} * c.word[2];
    c = {{static_cast<std::uint32_t>(p1 >> 32) ^ c.word[1] ^ k0, static_cast<std::uint32_t>(p1),
          static_cast<std::uint32_t>(p0 >> 32) ^ c.word[3] ^ k1, static_cast<std::uint32_t>(p0)}};
    k0 += Philox::STEP_0;
    k1 += Philox::STEP_1;
  }
  return c;
}

// In (0, 1): 52 bits, and the middle of their interval.
DMFTCORE_ANYWHERE inline double uniform(std::uint32_t low, std::uint32_t high) {
  const std::uint64_t bits = (std::uint64_t{high} << 32 | low) >> 12;
  return (static_cast<double>(bits) + 0.5) * 0x1p-52;
}

} // namespace dmftcore
