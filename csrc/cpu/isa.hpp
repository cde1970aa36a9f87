// Run-time choice of the instruction set.
//
// A file listed as an isa source in CMakeLists.txt is compiled once per level, with the vectors of
// lanes.hpp. It puts everything
// but its table of kernels into an anonymous namespace and uses nothing of the standard library:
// an inline function compiled for AVX-512 would become a weak symbol that the linker may keep for
// everybody.
#pragma once

#include <cstddef>

namespace dmftcore {
using index = std::ptrdiff_t;
}

namespace dmftcore::cpu {

enum class Isa { baseline, v3, v4 };

// The level in use: the best one that both this build and this processor have, unless limited.
Isa isa();
const char* isa_name(Isa);
// Limits the level, for tests of the narrower kernels; returns false if it is not available.
bool set_isa(Isa);

} // namespace dmftcore::cpu
