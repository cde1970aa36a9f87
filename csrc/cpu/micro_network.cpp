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

// What happens to W while a pass goes through it, with u = left right^T:
enum Change {
  NONE,
  ADD,      // W += scale u
  DECAY,    // W = keep W + scale u
  MOMENTUM, // v = drift + u,  W += ball.rate v,  drift = ball.momentum v - ball.decay W
};

struct Update {
  double scale = 1;
  double keep = 1;
  HeavyBall ball = {};
  double* drift = nullptr;
  const double* left = nullptr;
  const double* right = nullptr;

  Update from_column(index j) const {
    Update part = *this;
    if (drift) part.drift += j;
    if (right) part.right += j;
    return part;
  }
};

// Columns [0, COUNT N) of the change of W, and of y = W^T g with the new W.
template <int COUNT, Change CHANGE, bool APPLY>
void column_block(double* w, index ld, index rows, const Update& u, const double* g, double* y) {
  V sum[COUNT] = {};
  V r[COUNT];
  if (CHANGE != NONE)
    for (int c = 0; c < COUNT; ++c) r[c] = load(u.right + c * N) * broadcast(u.scale);
  const V keep = broadcast(u.keep);
  const V rate = broadcast(u.ball.rate);
  const V momentum = broadcast(u.ball.momentum), decay = broadcast(u.ball.decay);
  for (index i = 0; i < rows; ++i) {
    double* row = w + i * ld;
    const V li = CHANGE != NONE ? broadcast(u.left[i]) : V{};
    const V gi = APPLY ? broadcast(g[i]) : V{};
    for (int c = 0; c < COUNT; ++c) {
      V wij = load(row + c * N);
      if (CHANGE == ADD) store(row + c * N, wij = wij + li * r[c]);
      if (CHANGE == DECAY) store(row + c * N, wij = keep * wij + li * r[c]);
      if (CHANGE == MOMENTUM) {
        double* drift = u.drift + i * ld + c * N;
        const V v = load(drift) + li * r[c];
        store(row + c * N, wij = wij + rate * v);
        store(drift, momentum * v - decay * wij);
      }
      if (APPLY) sum[c] += gi * wij;
    }
  }
  if (APPLY)
    for (int c = 0; c < COUNT; ++c) store(y + c * N, sum[c]);
}

// As many vectors a block as the registers hold: a sum each, a piece of `right` if W changes, and
// what the change needs besides.
constexpr int REGISTERS = DMFTCORE_VECTOR_BYTES == 64 ? 32 : 16;
template <Change CHANGE>
constexpr int WIDEST = CHANGE == NONE    ? REGISTERS - 4
                       : CHANGE == ADD   ? (REGISTERS - 4) / 2
                       : CHANGE == DECAY ? (REGISTERS - 6) / 2
                                         : (REGISTERS - 8) / 2;

template <int COUNT, Change CHANGE, bool APPLY>
void block_of(int count, double* w, index ld, index rows, const Update& u, const double* g,
              double* y) {
  if constexpr (COUNT > 0) {
    if (count == COUNT)
      column_block<COUNT, CHANGE, APPLY>(w, ld, rows, u, g, y);
    else
      block_of<COUNT - 1, CHANGE, APPLY>(count, w, ld, rows, u, g, y);
  }
}

template <Change CHANGE, bool APPLY>
void sweep(double* w, index rows, index width, const Update& u, const double* g, double* y) {
  constexpr int WIDE = WIDEST<CHANGE>;
  const index vectors = width / N;
  const index blocks = (vectors + WIDE - 1) / WIDE;
  // Blocks of equal width: a narrow last one would wait for the latency of a single sum.
  for (index b = 0; b < blocks; ++b) {
    const index begin = b * vectors / blocks, end = (b + 1) * vectors / blocks;
    const index j = begin * N;
    block_of<WIDE, CHANGE, APPLY>(static_cast<int>(end - begin), w + j, width, rows,
                                  u.from_column(j), g, APPLY ? y + j : y);
  }
}

void apply_transposed(const double* w, index rows, index width, const double* g, double* y) {
  // With NONE nothing is written.
  sweep<NONE, true>(const_cast<double*>(w), rows, width, {}, g, y);
}

Update rank_one_update(double keep, double scale, const double* left, const double* right) {
  Update u;
  u.keep = keep;
  u.scale = scale;
  u.left = left;
  u.right = right;
  return u;
}

void rank_one(double* w, index rows, index width, double scale, const double* left,
              const double* right) {
  sweep<ADD, false>(w, rows, width, rank_one_update(1, scale, left, right), nullptr, nullptr);
}

void rank_one_apply_transposed(double* w, index rows, index width, double scale, const double* left,
                               const double* right, const double* g, double* y) {
  sweep<ADD, true>(w, rows, width, rank_one_update(1, scale, left, right), g, y);
}

void decayed_rank_one(double* w, index rows, index width, double keep, double scale,
                      const double* left, const double* right) {
  sweep<DECAY, false>(w, rows, width, rank_one_update(keep, scale, left, right), nullptr, nullptr);
}

void decayed_rank_one_apply_transposed(double* w, index rows, index width, double keep,
                                       double scale, const double* left, const double* right,
                                       const double* g, double* y) {
  sweep<DECAY, true>(w, rows, width, rank_one_update(keep, scale, left, right), g, y);
}

void momentum_apply_transposed(double* w, double* drift, index rows, index width,
                               const HeavyBall& ball, const double* left, const double* right,
                               const double* g, double* y) {
  Update u = rank_one_update(1, 1, left, right);
  u.ball = ball;
  u.drift = drift;
  sweep<MOMENTUM, true>(w, rows, width, u, g, y);
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const NetworkKernels network;

const NetworkKernels network = {
    apply,
    apply_transposed,
    rank_one,
    rank_one_apply_transposed,
    decayed_rank_one,
    decayed_rank_one_apply_transposed,
    momentum_apply_transposed,
};

} // namespace dmftcore::cpu::DMFTCORE_ISA
