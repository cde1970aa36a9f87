// Matrix-vector products in cache: as many vectors of a row as possible stay in registers.
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"

namespace {

using dmftcore::index;
using dmftcore::cpu::HeavyBall;
using dmftcore::cpu::Panel;
using Rows = Panel<const double>;
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

void apply(const Rows& w, const double* x, double* y) {
  for (index i = 0; i < w.rows; i += N) {
    V s[N] = {};
    const double* row = w.data + i * w.ld;
    for (index j = 0; j < w.width; j += N) {
      const V xj = load(x + j);
      for (int k = 0; k < N; ++k) s[k] += load(row + k * w.ld + j) * xj;
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
void sweep(const Panel<double>& w, const Push& push, const double* g, double keep, double* y) {
  constexpr int WIDE = WIDEST<PUSHED>;
  const index vectors = w.width / N;
  const index blocks = (vectors + WIDE - 1) / WIDE;
  // Blocks of equal width: a narrow last one would wait for the latency of a single sum.
  for (index b = 0; b < blocks; ++b) {
    const index begin = b * vectors / blocks, end = (b + 1) * vectors / blocks;
    const index j = begin * N;
    block_of<WIDE, PUSHED>(static_cast<int>(end - begin), w.data + j, w.ld, w.rows,
                           push.from_column(j), g, keep, y + j);
  }
}

void apply_transposed(const Rows& w, const double* g, double keep, double* y) {
  // Without a push nothing is written.
  sweep<false>({const_cast<double*>(w.data), w.rows, w.width, w.ld}, {}, g, keep, y);
}

void momentum_apply_transposed(const Panel<double>& w, double* drift, const HeavyBall& ball,
                               const double* left, const double* right, const double* g,
                               double* y) {
  sweep<true>(w, {ball, drift, left, right}, g, 0, y);
}

// Columns [j, j + COUNT N) of  W <- keep W + left^T right  with RANK rows of left and right from
// `first` on.
template <int RANK, int COUNT>
void product_block(const Panel<double>& w, index j, double keep, const Rows& left,
                   const Rows& right, index first) {
  V r[RANK][COUNT];
  for (int k = 0; k < RANK; ++k)
    for (int c = 0; c < COUNT; ++c) r[k][c] = load(right.data + (first + k) * right.ld + j + c * N);
  const V kept = broadcast(keep);
  for (index i = 0; i < w.rows; ++i) {
    double* row = w.data + i * w.ld + j;
    V wi[COUNT];
    for (int c = 0; c < COUNT; ++c) wi[c] = kept * load(row + c * N);
    for (int k = 0; k < RANK; ++k) {
      const V lk = broadcast(left.data[(first + k) * left.ld + i]);
      for (int c = 0; c < COUNT; ++c) wi[c] += lk * r[k][c];
    }
    for (int c = 0; c < COUNT; ++c) store(row + c * N, wi[c]);
  }
}

// Rows of `right` that stay in registers while a pass goes through W, and vectors of each.
constexpr int MOST = 8;
constexpr int STRIP = REGISTERS / 16;

template <int RANK>
void product_of(index rank, const Panel<double>& w, double keep, const Rows& left,
                const Rows& right, index first) {
  if constexpr (RANK > 0) {
    if (rank < RANK) return product_of<RANK - 1>(rank, w, keep, left, right, first);
    index j = 0;
    for (; j + STRIP * N <= w.width; j += STRIP * N)
      product_block<RANK, STRIP>(w, j, keep, left, right, first);
    for (; j < w.width; j += N) product_block<RANK, 1>(w, j, keep, left, right, first);
  }
}

void add_product(const Panel<double>& w, double keep, const Rows& left, const Rows& right) {
  for (index first = 0; first < left.rows; first += MOST, keep = 1)
    product_of<MOST>(left.rows - first, w, keep, left, right, first);
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
