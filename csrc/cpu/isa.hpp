// Run-time choice of the instruction set.
//
// A file listed as an isa source in CMakeLists.txt is compiled once per level. It puts everything
// but its table of kernels into an anonymous namespace and uses nothing of the standard library:
// an inline function compiled for AVX-512 would become a weak symbol that the linker may keep for
// everybody.
#pragma once

#include <cstddef>

namespace dmftcore {
using index = std::ptrdiff_t;
}

#ifdef DMFTCORE_ISA
// Inside an isa source: the vector type of the level.
#if defined(DMFTCORE_ISA_v4)
#define DMFTCORE_VECTOR_BYTES 64
#elif defined(DMFTCORE_ISA_v3)
#define DMFTCORE_VECTOR_BYTES 32
#else
#define DMFTCORE_VECTOR_BYTES 16
#endif

namespace {
template <class T> struct vector_of {
  typedef T type __attribute__((vector_size(DMFTCORE_VECTOR_BYTES)));
};
template <class T> using vec = typename vector_of<T>::type;
template <class T> constexpr int LANES = DMFTCORE_VECTOR_BYTES / static_cast<int>(sizeof(T));
} // namespace
#endif

namespace dmftcore::cpu {

enum class Isa { baseline, v3, v4 };

// The level in use: the best one that both this build and this processor have, unless limited.
Isa isa();
const char* isa_name(Isa);
// Limits the level, for tests of the narrower kernels; returns false if it is not available.
bool set_isa(Isa);

} // namespace dmftcore::cpu
