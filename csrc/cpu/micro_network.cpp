// Matrix-vector products in cache: as many vectors of a row as possible stay in registers.
#include "cpu/micro.hpp"

namespace {

using dmftcore::index;
using V = vec<double>;
constexpr int N = LANES<double>;

const V& at(const double* p) { return *reinterpret_cast<const V*>(p); }
V& at(double* p) { return *reinterpret_cast<V*>(p); }

V broadcast(double x) { return x - V{}; }

#if DMFTCORE_VECTOR_BYTES == 64
V even(V a, V b) { return __builtin_shufflevector(a, b, 0, 8, 2, 10, 4, 12, 6, 14); }
V odd(V a, V b) { return __builtin_shufflevector(a, b, 1, 9, 3, 11, 5, 13, 7, 15); }
V low2(V a, V b) { return __builtin_shufflevector(a, b, 0, 1, 8, 9, 4, 5, 12, 13); }
V high2(V a, V b) { return __builtin_shufflevector(a, b, 2, 3, 10, 11, 6, 7, 14, 15); }
V low4(V a, V b) { return __builtin_shufflevector(a, b, 0, 1, 2, 3, 8, 9, 10, 11); }
V high4(V a, V b) { return __builtin_shufflevector(a, b, 4, 5, 6, 7, 12, 13, 14, 15); }
#elif DMFTCORE_VECTOR_BYTES == 32
V even(V a, V b) { return __builtin_shufflevector(a, b, 0, 4, 2, 6); }
V odd(V a, V b) { return __builtin_shufflevector(a, b, 1, 5, 3, 7); }
V low2(V a, V b) { return __builtin_shufflevector(a, b, 0, 1, 4, 5); }
V high2(V a, V b) { return __builtin_shufflevector(a, b, 2, 3, 6, 7); }
#else
V even(V a, V b) { return __builtin_shufflevector(a, b, 0, 2); }
V odd(V a, V b) { return __builtin_shufflevector(a, b, 1, 3); }
#endif

// The vector of the sums over the lanes of N vectors: a transpose and an addition at once.
V sums(const V* s) {
  V pairs[N / 2];
  for (int i = 0; i < N / 2; ++i)
    pairs[i] = even(s[2 * i], s[2 * i + 1]) + odd(s[2 * i], s[2 * i + 1]);
#if DMFTCORE_VECTOR_BYTES == 64
  V quads[2];
  for (int i = 0; i < 2; ++i)
    quads[i] = low2(pairs[2 * i], pairs[2 * i + 1]) + high2(pairs[2 * i], pairs[2 * i + 1]);
  return low4(quads[0], quads[1]) + high4(quads[0], quads[1]);
#elif DMFTCORE_VECTOR_BYTES == 32
  return low2(pairs[0], pairs[1]) + high2(pairs[0], pairs[1]);
#else
  return pairs[0];
#endif
}

void apply(const double* w, index rows, index width, const double* x, double* y) {
  for (index i = 0; i < rows; i += N) {
    V s[N] = {};
    const double* row = w + i * width;
    for (index j = 0; j < width; j += N) {
      const V xj = at(x + j);
      for (int k = 0; k < N; ++k) s[k] += at(row + k * width + j) * xj;
    }
    at(y + i) = sums(s);
  }
}

// Columns [0, COUNT N) of  W += scale left right^T;  y = W^T g.
template <int COUNT, bool UPDATE, bool APPLY>
void column_block(double* w, index ld, index rows, double scale, const double* left,
                  const double* right, const double* g, double* y) {
  V sum[COUNT] = {};
  V r[COUNT];
  if (UPDATE)
    for (int c = 0; c < COUNT; ++c) r[c] = at(right + c * N) * broadcast(scale);
  for (index i = 0; i < rows; ++i) {
    double* row = w + i * ld;
    const V li = UPDATE ? broadcast(left[i]) : V{};
    const V gi = APPLY ? broadcast(g[i]) : V{};
    for (int c = 0; c < COUNT; ++c) {
      V wij = at(row + c * N);
      if (UPDATE) at(row + c * N) = wij = wij + li * r[c];
      if (APPLY) sum[c] += gi * wij;
    }
  }
  if (APPLY)
    for (int c = 0; c < COUNT; ++c) at(y + c * N) = sum[c];
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
