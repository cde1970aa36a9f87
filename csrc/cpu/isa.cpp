#include "cpu/isa.hpp"

#include <atomic>
#include <initializer_list>

namespace dmftcore::cpu {
namespace {

bool available(Isa level) {
  switch (level) {
  case Isa::baseline:
    return true;
  case Isa::v3:
#ifdef DMFTCORE_HAS_ISA_v3
    // The levels themselves are no names that every compiler knows here.
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
#else
    return false;
#endif
  case Isa::v4:
#ifdef DMFTCORE_HAS_ISA_v4
    return available(Isa::v3) && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
    return false;
#endif
  }
  return false;
}

Isa best() {
  for (Isa level : {Isa::v4, Isa::v3})
    if (available(level)) return level;
  return Isa::baseline;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> level{best()};
  return level;
}

} // namespace

Isa isa() { return current().load(std::memory_order_relaxed); }

const char* isa_name(Isa level) {
  switch (level) {
  case Isa::v4:
    return "v4";
  case Isa::v3:
    return "v3";
  default:
    return "baseline";
  }
}

bool set_isa(Isa level) {
  if (!available(level)) return false;
  current().store(level, std::memory_order_relaxed);
  return true;
}

} // namespace dmftcore::cpu
