// X = (1 - A)^-1 B by halves: with X1 known, X2 = (1 - A22)^-1 (B2 + A21 X1). At the end of the
// halving, blocks of about 1024 rows are multiplied with their resolvents, which are computed
// beforehand, all at once.
//
// Of a batch, as many matrices go together as leave no part of a device idle, and no more: their
// resolvents need memory.
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

constexpr index LEAF = 1024, TOGETHER = 16;

// Of `items` matrices: m columns of b, in x as far as row i has them: j < shape.limit(i).
template <class T> struct Solve {
  Stream stream;
  index items, n, m, block, leaf;
  Support shape;
  const T *a, *resolvents; // resolvents: leaf x leaf each, those of an item one after the other
  T *x, *row_scratch;      // of leaf x m an item

  // The support of the rows from `row` on.
  Support from(index row) const {
    return {shape.block, shape.reach + (shape.block ? static_cast<int>(row) : 0)};
  }

  // The columns that the rows before `end` have.
  index columns(index end) const { return shape.block ? std::min(end, m) : m; }

  // Rows begin .. end - 1, in which x holds b plus what earlier rows add to it.
  void rows(index begin, index end) const {
    if (end - begin <= leaf) {
      const index size = end - begin, width = columns(end), leaves = (n + leaf - 1) / leaf;
      const Matrices<T> here{x + begin * m, m, from(begin), {n * m}};
      // No product can be in place.
      const Matrices<T> solved{row_scratch, m, from(begin), {leaf * m}};
      product<Form::plain, T>(
          stream, {size, width, size, items},
          {resolvents + begin / leaf * leaf * leaf, leaf, causal_in(block), {leaves * leaf * leaf}},
          constant(here), solved);
      copy<T>(stream, size, width, items, constant(solved), here);
      return;
    }
    const index leaves = (end - begin + leaf - 1) / leaf;
    const index half = begin + leaves / 2 * leaf;
    rows(begin, half);
    const Matrices<T> later{x + half * m, m, ALL, {n * m}};
    product<Form::plain, T>(stream, {end - half, columns(half), half - begin, items},
                            {a + half * n + begin, n, ALL, {n * n}},
                            {x + begin * m, m, from(begin), {n * m}}, later, constant(later));
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
  const index whole = n / leaf, rest = n % leaf, together = std::min(batch, TOGETHER);
  const index inverses_size = (whole + (rest > 0)) * leaf * leaf;
  const Scratch<T> inverses(stream, together * inverses_size);
  if (block > RESOLVENT_BASE) clear(stream, inverses.data(), together * inverses_size);
  const Scratch<T> scratch(stream, std::max(whole, together) * resolvent_scratch(leaf));
  const Scratch<T> row_scratch(stream, together * leaf * m);
  for (index first = 0; first < batch; first += together) {
    const index items = std::min(together, batch - first);
    const T* const as = a + first * n * n;
    T* const xs = x + first * n * m;
    // The resolvents of `count` squares on the diagonal, steps apart in a and in inverses.
    const auto resolvents = [&](index count, index size, const T* square, index step, T* inverse,
                                index inverse_step) {
      resolvent_of<T>(stream, count, size, block, {square, n, causal, {step}},
                      {inverse, leaf, causal, {inverse_step}}, scratch.data());
    };
    // Those of an item, or the same of all items, whichever are more.
    if (whole > items)
      for (index item = 0; item < items; ++item)
        resolvents(whole, leaf, as + item * n * n, leaf * (n + 1),
                   inverses.data() + item * inverses_size, leaf * leaf);
    else
      for (index i = 0; i < whole; ++i)
        resolvents(items, leaf, as + i * leaf * (n + 1), n * n, inverses.data() + i * leaf * leaf,
                   inverses_size);
    resolvents(items, rest, as + whole * leaf * (n + 1), n * n,
               inverses.data() + whole * leaf * leaf, inverses_size);
    copy<T>(stream, n, m, items, {b + first * n * m, m, shape, {n * m}}, {xs, m, shape, {n * m}});
    Solve<T>{stream, items, n, m, block, leaf, shape, as, inverses.data(), xs, row_scratch.data()}
        .rows(0, n);
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
