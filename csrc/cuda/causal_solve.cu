// X = (1 - A)^-1 B by halves: with X1 known, X2 = (1 - A22)^-1 (B2 + A21 X1). At the end of the
// halving, blocks of about 1024 rows are multiplied with their resolvents, which are computed
// beforehand, all at once.
//
// n^3 / 3 flops for causal B, n^2 m for dense, and LEAF n^2 / 2 (LEAF n m) for the resolvents'
// products: half of what the full resolvent and a product would take when n is large, but in long
// enough products to fill the device. Up to LEAF rows that is what is done. At 50 TFLOP/s, causal:
// n = 4096 in 0.63 ms, 16384 in 32 ms; 4000 matrices of 32 in double move 0.2 GB through the
// resolvent, 40 us at 4.8 TB/s.
#include <algorithm>

#include "cuda/resolvent.hpp"

namespace dmftcore::cuda {
namespace {

constexpr index LEAF = 1024;

// Of one matrix: m columns of b, in x as far as row i has them: j < shape.limit(i).
template <class T> struct Solve {
  Stream stream;
  index n, m, block, leaf;
  Support shape;
  const T *a, *resolvents; // resolvents: leaf x leaf each
  T *x, *row_scratch;      // of leaf x m

  // The support of the rows from `row` on.
  Support from(index row) const {
    return {shape.block, shape.reach + (shape.block ? static_cast<int>(row) : 0)};
  }

  // The columns that the rows before `end` have.
  index columns(index end) const { return shape.block ? std::min(end, m) : m; }

  // Rows begin .. end - 1, in which x holds b plus what earlier rows add to it.
  void rows(index begin, index end) const {
    if (end - begin <= leaf) {
      const index size = end - begin, width = columns(end);
      const Matrices<T> here{x + begin * m, m, from(begin), {}};
      const Matrices<T> solved{row_scratch, m, from(begin), {}}; // no product can be in place
      product<Form::plain, T>(stream, {size, width, size, 1},
                              {resolvents + begin / leaf * leaf * leaf, leaf, causal_in(block), {}},
                              constant(here), solved);
      copy<T>(stream, size, width, 1, constant(solved), here);
      return;
    }
    const index leaves = (end - begin + leaf - 1) / leaf;
    const index half = begin + leaves / 2 * leaf;
    rows(begin, half);
    T* const later = x + half * m;
    product<Form::plain, T>(stream, {end - half, columns(half), half - begin, 1},
                            {a + half * n + begin, n, ALL, {}}, {x + begin * m, m, from(begin), {}},
                            {later, m, ALL, {}}, {later, m, ALL, {}});
    rows(half, end);
  }
};

template <class T>
void solve(Stream stream, index batch, index n, index m, index block, const T* a, const T* b, T* x,
           Support shape) {
  if (batch == 0 || n == 0 || m == 0) return;
  const Support causal = causal_in(block);
  const index leaf = std::max(block, LEAF / block * block);
  if (n <= leaf) {
    const Scratch<T> inverse(stream, batch * n * n);
    const Scratch<T> scratch(stream, batch * resolvent_scratch(n));
    if (block > RESOLVENT_BASE) clear(stream, inverse.data(), batch * n * n);
    const Matrices<T> r{inverse.data(), n, causal, {n * n}};
    resolvent_of<T>(stream, batch, n, block, {a, n, causal, {n * n}}, r, scratch.data());
    product<Form::plain, T>(stream, {n, m, n, batch}, constant(r), {b, m, shape, {n * m}},
                            {x, m, shape, {n * m}});
    return;
  }
  const index whole = n / leaf, rest = n % leaf;
  const index inverses_size = (whole + (rest > 0)) * leaf * leaf;
  const Scratch<T> inverses(stream, inverses_size);
  if (block > RESOLVENT_BASE) clear(stream, inverses.data(), inverses_size);
  const Scratch<T> scratch(stream, whole * resolvent_scratch(leaf));
  const Scratch<T> row_scratch(stream, leaf * m);
  for (index item = 0; item < batch; ++item) {
    const T* const ai = a + item * n * n;
    T* const xi = x + item * n * m;
    const auto leaves = [&](index first, index count, index size) {
      resolvent_of<T>(
          stream, count, size, block, {ai + first * leaf * (n + 1), n, causal, {leaf * (n + 1)}},
          {inverses.data() + first * leaf * leaf, leaf, causal, {leaf * leaf}}, scratch.data());
    };
    leaves(0, whole, leaf);
    leaves(whole, 1, rest);
    copy<T>(stream, n, m, 1, {b + item * n * m, m, shape, {}}, {xi, m, shape, {}});
    Solve<T>{stream, n, m, block, leaf, shape, ai, inverses.data(), xi, row_scratch.data()}.rows(0,
                                                                                                 n);
  }
}

} // namespace

template <class T>
void causal_solve(Stream stream, index batch, index n, index block, const T* a, const T* b, T* x) {
  solve(stream, batch, n, n, block, a, b, x, causal_in(block));
}

template <class T>
void causal_solve_dense(Stream stream, index batch, index n, index m, index block, const T* a,
                        const T* b, T* x) {
  solve(stream, batch, n, m, block, a, b, x, ALL);
}

template void causal_solve(Stream, index, index, index, const double*, const double*, double*);
template void causal_solve(Stream, index, index, index, const float*, const float*, float*);
template void causal_solve_dense(Stream, index, index, index, index, const double*, const double*,
                                 double*);
template void causal_solve_dense(Stream, index, index, index, index, const float*, const float*,
                                 float*);

} // namespace dmftcore::cuda
