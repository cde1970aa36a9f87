// Y = K G. More than a few columns of G are a product, and so is K^T G. For fewer, a block of
// threads takes eight rows of K through G together: lanes along s read K whole lines at a time and
// once, and each number of G that is loaded serves eight rows.
//
// The few columns are bound by memory: n^2 / 2 numbers of K, n = 4096 in double 67 MB, 14 us at 4.8
// TB/s; 16384 0.22 ms. G comes from the L2 cache, m / 8 times the traffic of K.
#include <algorithm>

#include "cuda/product.hpp"

namespace dmftcore::cuda {
namespace {

constexpr int FEW_COLUMNS = 8; // at most
constexpr int ROWS = 8;        // at a time

template <class T> struct Apply {
  int n, m;
  index batch, groups; // groups of ROWS rows
  Support support;
  const T *k, *g;
  T* y;
};

// For up to COLUMNS columns. Each thread sums every blockDim.x-th s; the sums of a warp, then those
// of the warps, are added in a fixed order.
template <class T, int COLUMNS>
__global__ void __launch_bounds__(256) causal_apply_rows(const Apply<T> p) {
  T* const of_warps = shared_memory<T>();
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % WARP, warp = thread / WARP;

  for (index i = blockIdx.x; i < p.batch * p.groups; i += gridDim.x) {
    // Longest rows first.
    const int first = static_cast<int>(p.groups - 1 - i % p.groups) * ROWS;
    const index item = i / p.groups;
    const int last = min(ROWS, p.n - first) - 1; // rows that do not exist repeat this one
    const T* const k = p.k + item * p.n * p.n + index{first} * p.n;
    const T* const g = p.g + item * p.n * p.m;

    T sum[ROWS][COLUMNS] = {};
    // All loads come first: they wait for memory together.
    const auto add = [&](int s, const auto& has) {
      T factors[ROWS], values[COLUMNS];
      DMFTCORE_UNROLL
      for (int row = 0; row < ROWS; ++row)
        factors[row] = has(min(row, last)) ? k[index{min(row, last)} * p.n + s] : T(0);
      DMFTCORE_UNROLL
      for (int c = 0; c < COLUMNS; ++c) values[c] = c < p.m ? g[index{s} * p.m + c] : T(0);
      DMFTCORE_UNROLL
      for (int row = 0; row < ROWS; ++row) {
        DMFTCORE_UNROLL
        for (int c = 0; c < COLUMNS; ++c) sum[row][c] += factors[row] * values[c];
      }
    };
    int s = thread;
    for (; s < p.support.limit(first); s += threads) add(s, [](int) { return true; });
    for (; s < p.support.limit(first + last); s += threads)
      add(s, [&](int row) { return s < p.support.limit(first + row); });

    __syncthreads(); // the sums of the rows before have been read
    DMFTCORE_UNROLL
    for (int row = 0; row < ROWS; ++row) {
      DMFTCORE_UNROLL
      for (int c = 0; c < COLUMNS; ++c) {
        T total = sum[row][c];
        DMFTCORE_UNROLL
        for (unsigned delta = WARP / 2; delta > 0; delta /= 2)
          total += __shfl_down_sync(WHOLE_WARP, total, delta);
        if (lane == 0) of_warps[(warp * ROWS + row) * COLUMNS + c] = total;
      }
    }
    __syncthreads(); // all sums of warps are there
    for (int place = thread; place < ROWS * COLUMNS; place += threads) {
      const int row = place / COLUMNS, c = place % COLUMNS;
      T total = 0;
      for (int w = 0; w < threads / WARP; ++w) total += of_warps[w * ROWS * COLUMNS + place];
      if (row <= last && c < p.m) p.y[item * p.n * p.m + index{first + row} * p.m + c] = total;
    }
  }
}

template <class T, int COLUMNS> void by_rows(Stream stream, const Apply<T>& apply) {
  // Eight numbers a thread, and few idle threads in short rows.
  const int warps = std::clamp((apply.n + 255) / 256, 1, 8);
  launch(causal_apply_rows<T, COLUMNS>,
         static_cast<unsigned>(std::min(apply.batch * apply.groups, MOST_BLOCKS)),
         static_cast<unsigned>(warps * WARP),
         static_cast<std::size_t>(warps * ROWS * COLUMNS) * sizeof(T), stream, apply);
}

} // namespace

template <class T>
void causal_apply(Stream stream, index batch, index n, index m, index block, bool strict,
                  bool transposed, const T* k, const T* g, T* y) {
  if (batch == 0 || n == 0 || m == 0) return;
  const Support support = strict ? strictly_causal_in(block) : causal_in(block);
  const Matrices<const T> kernel{k, n, support, {n * n}}, functions{g, m, ALL, {n * m}};
  const Matrices<T> results{y, m, ALL, {n * m}};
  if (transposed) {
    product<Form::left_transposed, T>(stream, {n, m, n, batch}, kernel, functions, results);
    return;
  }
  if (m > FEW_COLUMNS) {
    product<Form::plain, T>(stream, {n, m, n, batch}, kernel, functions, results);
    return;
  }
  const Apply<T> apply{
      static_cast<int>(n), static_cast<int>(m), batch, (n + ROWS - 1) / ROWS, support, k, g, y};
  if (m == 1)
    by_rows<T, 1>(stream, apply);
  else if (m <= 4)
    by_rows<T, 4>(stream, apply);
  else
    by_rows<T, FEW_COLUMNS>(stream, apply);
}

template void causal_apply(Stream, index, index, index, index, bool, bool, const double*,
                           const double*, double*);
template void causal_apply(Stream, index, index, index, index, bool, bool, const float*,
                           const float*, float*);

} // namespace dmftcore::cuda
