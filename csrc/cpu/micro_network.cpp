// Matrix-vector products in cache: as many vectors of a row as possible stay in registers.
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"

namespace {

using dmftcore::index;
using dmftcore::cpu::HeavyBall;
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

// A step of the heavy ball for a pass through W to take, v = drift + left right^T.
struct Push {
  HeavyBall ball = {};
  double* drift = nullptr;
  const double* left = nullptr;
  const double* right = nullptr;

  Push from_column(index j) const { return drift ? Push{ball, drift + j, left, right + j} : *this; }
};

// Columns [0, COUNT N) of the step, if it is to be taken, and of y = keep y + W^T g.
template <int COUNT, bool PUSHED>
void column_block(double* w, index ld, index rows, const Push& push, const double* g, double keep,
                  double* y) {
  V sum[COUNT] = {};
  V r[COUNT];
  if (keep != 0)
    for (int c = 0; c < COUNT; ++c) sum[c] = broadcast(keep) * load(y + c * N);
  if (PUSHED)
    for (int c = 0; c < COUNT; ++c) r[c] = load(push.right + c * N);
  const V rate = broadcast(push.ball.rate);
  const V momentum = broadcast(push.ball.momentum), decay = broadcast(push.ball.decay);
  for (index i = 0; i < rows; ++i) {
    double* row = w + i * ld;
    const V li = PUSHED ? broadcast(push.left[i]) : V{};
    const V gi = broadcast(g[i]);
    for (int c = 0; c < COUNT; ++c) {
      V wij = load(row + c * N);
      if (PUSHED) {
        double* drift = push.drift + i * ld + c * N;
        const V v = load(drift) + li * r[c];
        store(row + c * N, wij = wij + rate * v);
        store(drift, momentum * v - decay * wij);
      }
      sum[c] += gi * wij;
    }
  }
  for (int c = 0; c < COUNT; ++c) store(y + c * N, sum[c]);
}

// As many vectors a block as the registers hold: a sum each, a piece of `right` if W moves, and
// what the motion needs besides.
constexpr int REGISTERS = DMFTCORE_VECTOR_BYTES == 64 ? 32 : 16;
template <bool PUSHED> constexpr int WIDEST = PUSHED ? (REGISTERS - 8) / 2 : REGISTERS - 4;

template <int COUNT, bool PUSHED>
void block_of(int count, double* w, index ld, index rows, const Push& push, const double* g,
              double keep, double* y) {
  if constexpr (COUNT > 0) {
    if (count == COUNT)
      column_block<COUNT, PUSHED>(w, ld, rows, push, g, keep, y);
    else
      block_of<COUNT - 1, PUSHED>(count, w, ld, rows, push, g, keep, y);
  }
}

template <bool PUSHED>
void sweep(double* w, index rows, index width, const Push& push, const double* g, double keep,
           double* y) {
  constexpr int WIDE = WIDEST<PUSHED>;
  const index vectors = width / N;
  const index blocks = (vectors + WIDE - 1) / WIDE;
  // Blocks of equal width: a narrow last one would wait for the latency of a single sum.
  for (index b = 0; b < blocks; ++b) {
    const index begin = b * vectors / blocks, end = (b + 1) * vectors / blocks;
    const index j = begin * N;
    block_of<WIDE, PUSHED>(static_cast<int>(end - begin), w + j, width, rows, push.from_column(j),
                           g, keep, y + j);
  }
}

void apply_transposed(const double* w, index rows, index width, const double* g, double keep,
                      double* y) {
  // Without a push nothing is written.
  sweep<false>(const_cast<double*>(w), rows, width, {}, g, keep, y);
}

void momentum_apply_transposed(double* w, double* drift, index rows, index width,
                               const HeavyBall& ball, const double* left, const double* right,
                               const double* g, double* y) {
  sweep<true>(w, rows, width, {ball, drift, left, right}, g, 0, y);
}

// Columns [0, COUNT N) of  W <- keep W + left^T right  with RANK rows of left and right.
template <int RANK, int COUNT>
void product_block(double* w, index rows, index ld, double keep, const double* left, index ld_left,
                   const double* right) {
  V r[RANK][COUNT];
  for (int k = 0; k < RANK; ++k)
    for (int c = 0; c < COUNT; ++c) r[k][c] = load(right + k * ld + c * N);
  const V kept = broadcast(keep);
  for (index i = 0; i < rows; ++i) {
    double* row = w + i * ld;
    V wi[COUNT];
    for (int c = 0; c < COUNT; ++c) wi[c] = kept * load(row + c * N);
    for (int k = 0; k < RANK; ++k) {
      const V lk = broadcast(left[k * ld_left + i]);
      for (int c = 0; c < COUNT; ++c) wi[c] += lk * r[k][c];
    }
    for (int c = 0; c < COUNT; ++c) store(row + c * N, wi[c]);
  }
}

// Rows of `right` that stay in registers while a pass goes through W, and vectors of each.
constexpr int RANK = 8;
constexpr int STRIP = REGISTERS / 16;

template <int COUNT>
void product_of(index rank, double* w, index rows, index ld, double keep, const double* left,
                index ld_left, const double* right) {
  if constexpr (COUNT > 0) {
    if (rank == COUNT)
      for (index j = 0; j < ld; j += STRIP * N) {
        const bool narrow = j + STRIP * N > ld;
        (narrow ? product_block<COUNT, 1> : product_block<COUNT, STRIP>)(w + j, rows, ld, keep,
                                                                         left, ld_left, right + j);
      }
    else
      product_of<COUNT - 1>(rank, w, rows, ld, keep, left, ld_left, right);
  }
}

void add_product(double* w, index rows, index width, double keep, index rank, const double* left,
                 index ld_left, const double* right) {
  for (index k = 0; k < rank; k += RANK, keep = 1)
    product_of<RANK>(rank - k < RANK ? rank - k : RANK, w, rows, width, keep, left + k * ld_left,
                     ld_left, right + k * width);
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const NetworkKernels network;

const NetworkKernels network = {
    apply,
    apply_transposed,
    add_product,
    momentum_apply_transposed,
};

} // namespace dmftcore::cpu::DMFTCORE_ISA
