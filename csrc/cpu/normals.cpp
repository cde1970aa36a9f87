#include <algorithm>

#include "cpu/micro.hpp"
#include "cpu/pool.hpp"
#include "ops.hpp"

namespace dmftcore::cpu {

template <class T> void normals(const Normals& which, index count, index particles, T* x) {
  constexpr index PIECE = 4096;
  const index pieces = (particles + PIECE - 1) / PIECE;
  parallel_for(count * pieces, [&](index task) {
    const index row = task / pieces, begin = task % pieces * PIECE;
    const auto column = which.column + static_cast<std::uint32_t>(row);
    normal_kernels<T>().row(which, column, begin, std::min(particles, begin + PIECE),
                            x + row * particles + begin);
  });
}

template void normals(const Normals&, index, index, double*);
template void normals(const Normals&, index, index, float*);

} // namespace dmftcore::cpu
