// Matrix-vector products in cache: as many vectors of a row as possible stay in registers.
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"

namespace {

using dmftcore::index;
using V = vec<double>;
constexpr int N = LANES<double>;

V broadcast(double x) { return x - V{}; }

// The vector of the sums over the lanes of N vectors: a transposition and an addition at once.
V sums(V* s) {
  for (int count = N; count > 1; count /= 2)
    for (int i = 0; i < count / 2; ++i)
      s[i] = select<EvenLanes>(s[2 * i], s[2 * i + 1]) + select<OddLanes>(s[2 * i], s[2 * i + 1]);
  return s[0];
}

void apply(const double* w, index rows, index width, const double* x, double* y) {
  for (index i = 0; i < rows; i += N) {
    V s[N] = {};
    const double* row = w + i * width;
    for (index j = 0; j < width; j += N) {
      const V xj = load(x + j);
      for (int k = 0; k < N; ++k) s[k] += load(row + k * width + j) * xj;
    }
    store(y + i, sums(s));
  }
}

// Columns [0, COUNT N) of  W += scale left right^T;  y = W^T g.
template <int COUNT, bool UPDATE, bool APPLY>
void column_block(double* w, index ld, index rows, double scale, const double* left,
                  const double* right, const double* g, double* y) {
  V sum[COUNT] = {};
  V r[COUNT];
  if (UPDATE)
    for (int c = 0; c < COUNT; ++c) r[c] = load(right + c * N) * broadcast(scale);
  for (index i = 0; i < rows; ++i) {
    double* row = w + i * ld;
    const V li = UPDATE ? broadcast(left[i]) : V{};
    const V gi = APPLY ? broadcast(g[i]) : V{};
    for (int c = 0; c < COUNT; ++c) {
      V wij = load(row + c * N);
      if (UPDATE) store(row + c * N, wij = wij + li * r[c]);
      if (APPLY) sum[c] += gi * wij;
    }
  }
  if (APPLY)
    for (int c = 0; c < COUNT; ++c) store(y + c * N, sum[c]);
}

// As many vectors a block as the registers hold: a sum each, and a piece of `right` with UPDATE.
constexpr int REGISTERS = DMFTCORE_VECTOR_BYTES == 64 ? 32 : 16;
template <bool UPDATE> constexpr int WIDEST = UPDATE ? (REGISTERS - 4) / 2 : REGISTERS - 4;

template <int COUNT, bool UPDATE, bool APPLY>
void block_of(int count, double* w, index ld, index rows, double scale, const double* left,
              const double* right, const double* g, double* y) {
  if constexpr (COUNT > 0) {
    if (count == COUNT)
      column_block<COUNT, UPDATE, APPLY>(w, ld, rows, scale, left, right, g, y);
    else
      block_of<COUNT - 1, UPDATE, APPLY>(count, w, ld, rows, scale, left, right, g, y);
  }
}

template <bool UPDATE, bool APPLY>
void sweep(double* w, index rows, index width, double scale, const double* left,
           const double* right, const double* g, double* y) {
  constexpr int WIDE = WIDEST<UPDATE>;
  const index vectors = width / N;
  const index blocks = (vectors + WIDE - 1) / WIDE;
  // Blocks of equal width: a narrow last one would wait for the latency of a single sum.
  for (index b = 0; b < blocks; ++b) {
    const index begin = b * vectors / blocks, end = (b + 1) * vectors / blocks;
    const index j = begin * N;
    block_of<WIDE, UPDATE, APPLY>(static_cast<int>(end - begin), w + j, width, rows, scale, left,
                                  UPDATE ? right + j : right, g, APPLY ? y + j : y);
  }
}

void apply_transposed(const double* w, index rows, index width, const double* g, double* y) {
  // Without UPDATE nothing is written.
  sweep<false, true>(const_cast<double*>(w), rows, width, 0, nullptr, nullptr, g, y);
}

void rank_one(double* w, index rows, index width, double scale, const double* left,
              const double* right) {
  sweep<true, false>(w, rows, width, scale, left, right, nullptr, nullptr);
}

void rank_one_apply_transposed(double* w, index rows, index width, double scale, const double* left,
                               const double* right, const double* g, double* y) {
  sweep<true, true>(w, rows, width, scale, left, right, g, y);
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const NetworkKernels network;

const NetworkKernels network = {apply, apply_transposed, rank_one, rank_one_apply_transposed};

} // namespace dmftcore::cpu::DMFTCORE_ISA
