// Matrix-vector kernels of the growing network: W and the vectors fit into the first cache levels.
//
// Layout, for all of them: W is row-major with `ld` doubles a row; every row starts on a 64-byte
// boundary, and rows and vectors are padded with zeros to a multiple of PAD doubles, so that no
// kernel has a tail. `rows` and `cols` count without the padding.
#pragma once

#include "cpu/isa.hpp"

namespace dmftcore::cpu {

constexpr index PAD = 8;
// static: the copy of each instruction set stays in its own object file (isa.hpp).
static constexpr index padded(index n) { return (n + PAD - 1) / PAD * PAD; }

struct NetworkKernels {
  // y = W x. Reads padded(rows) rows of W and writes padded(rows) entries of y.
  void (*apply)(const double* w, index ld, index rows, index cols, const double* x, double* y);
  // y = W^T g
  void (*apply_transposed)(const double* w, index ld, index rows, index cols, const double* g,
                           double* y);
  // W += scale left right^T
  void (*rank_one)(double* w, index ld, index rows, index cols, double scale, const double* left,
                   const double* right);
  // The two before in one pass over W: W += scale left right^T, then y = W^T g.
  void (*rank_one_apply_transposed)(double* w, index ld, index rows, index cols, double scale,
                                    const double* left, const double* right, const double* g,
                                    double* y);
};

namespace isa_baseline {
extern const NetworkKernels network_kernels;
}
namespace isa_v3 {
extern const NetworkKernels network_kernels;
}
namespace isa_v4 {
extern const NetworkKernels network_kernels;
}

// The table of the instruction set in use.
const NetworkKernels& network_kernels();

} // namespace dmftcore::cpu
