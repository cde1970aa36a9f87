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
    return __builtin_cpu_supports("x86-64-v3");
#else
    return false;
#endif
  case Isa::v4:
#ifdef DMFTCORE_HAS_ISA_v4
    return __builtin_cpu_supports("x86-64-v4");
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
