// R = (1 - A)^-1 from small diagonal blocks by doubling:  R21 = R22 (A21 R11)  for all pairs of
// neighbouring blocks of one size at once, log2(n / 32) times two launches of products.
//
// n^3 / 3 flops, nearly all of them in the last levels; A is read once, R written once and read
// once a level. At 50 TFLOP/s n = 4096 takes 0.46 ms and the launches of the small levels 0.1 ms;
// 16384 takes 29 ms. 4000 matrices of 32 in double are 66 MB, 14 us at 4.8 TB/s.
#include "cuda/resolvent.hpp"

#include <algorithm>

namespace dmftcore::cuda {
namespace {

constexpr int BASE = static_cast<int>(RESOLVENT_BASE);

template <class T> struct Diagonal {
  Matrices<const T> a;
  Matrices<T> r;
  int n, size;
  index items, blocks; // blocks of `size` rows in each item, the last one perhaps smaller
};

// One warp for each block of up to 32 rows, a lane for each column j of its R, which is in
// registers: once R[k, j] is known, A[i, k] R[k, j] is added to all later R[i, j]. 496
// multiply-adds a lane, all those of one k independent.
template <class T, int WARPS>
__global__ void __launch_bounds__(WARPS* WARP) solve_base(const Diagonal<T> p) {
  constexpr int PITCH = BASE + 2;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % WARP, warp = thread / WARP;
  T* const transposed = shared_memory<T>() + warp * BASE * PITCH;

  // The warps of a block go round together: its barriers are those of a warp only.
  for (index i = index{blockIdx.x} * WARPS + warp; i < p.items * p.blocks;
       i += index{gridDim.x} * WARPS) {
    const int start = static_cast<int>(i % p.blocks) * p.size;
    const int rows = min(p.size, p.n - start);
    const T* const a = p.a.data + i / p.blocks * p.a.stride.item + start * (p.a.ld + 1);
    T* const r = p.r.data + i / p.blocks * p.r.stride.item + start * (p.r.ld + 1);

    __syncwarp(); // the block before has been read
    DMFTCORE_UNROLL
    for (int row = 0; row < BASE; ++row) {
      const bool valid = row < rows && lane < p.a.support.limit(start + row) - start;
      transposed[lane * PITCH + row] = valid ? a[row * p.a.ld + lane] : T(0);
    }
    __syncwarp(); // the block is complete
    T column[BASE];
    DMFTCORE_UNROLL
    for (int row = 0; row < BASE; ++row) column[row] = row == lane ? T(1) : T(0);
    DMFTCORE_UNROLL
    for (int k = 0; k < BASE; ++k) {
      DMFTCORE_UNROLL
      for (int row = k + 1; row < BASE; ++row)
        column[row] += transposed[k * PITCH + row] * column[k];
    }
    DMFTCORE_UNROLL
    for (int row = 0; row < BASE; ++row)
      if (row < rows && lane < rows) r[row * p.r.ld + lane] = lane <= row ? column[row] : T(0);
  }
}

} // namespace

template <class T>
void resolvent_of(Stream stream, index items, index n, index block, Matrices<const T> a,
                  Matrices<T> r, T* scratch) {
  if (items == 0 || n == 0) return;
  const index base = resolvent_base(block);
  constexpr int WARPS = 4;
  const index blocks = (n + base - 1) / base;
  const Diagonal<T> diagonal{{a.data, a.ld, strictly_causal_in(block), a.stride},
                             r,
                             static_cast<int>(n),
                             static_cast<int>(base),
                             items,
                             blocks};
  launch(solve_base<T, WARPS>,
         static_cast<unsigned>(std::min((items * blocks + WARPS - 1) / WARPS, MOST_BLOCKS)),
         WARPS * WARP, WARPS * BASE * (BASE + 2) * sizeof(T), stream, diagonal);

  const Support causal = causal_in(block);
  for (index size = std::max(base, block); size < n; size *= 2) {
    const index pairs = (n - size + 2 * size - 1) / (2 * size);
    const index last = std::min(size, n - size - 2 * size * (pairs - 1));
    const Shape shape{pairs == 1 ? last : size, size, size, items, pairs, last};
    const auto stride = [&](index item, index ld) { return Stride{item, 2 * size * (ld + 1)}; };
    const Stride of_a = stride(a.stride.item, a.ld), of_r = stride(r.stride.item, r.ld);
    const Stride of_t{resolvent_scratch(n), size * size};
    product<Form::plain, T>(stream, shape, {a.data + size * a.ld, a.ld, ALL, of_a},
                            {r.data, r.ld, causal, of_r}, {scratch, size, ALL, of_t});
    product<Form::plain, T>(stream, shape, {r.data + size * (r.ld + 1), r.ld, causal, of_r},
                            {scratch, size, ALL, of_t}, {r.data + size * r.ld, r.ld, ALL, of_r});
  }
}

template <class T>
void resolvent(Stream stream, index batch, index n, index block, const T* a, T* r) {
  const Scratch<T> scratch(stream, batch * resolvent_scratch(n));
  if (n > resolvent_base(block)) clear(stream, r, batch * n * n);
  const Support causal = causal_in(block);
  resolvent_of<T>(stream, batch, n, block, {a, n, causal, {n * n}}, {r, n, causal, {n * n}},
                  scratch.data());
}

template void resolvent_of(Stream, index, index, index, Matrices<const double>, Matrices<double>,
                           double*);
template void resolvent_of(Stream, index, index, index, Matrices<const float>, Matrices<float>,
                           float*);
template void resolvent(Stream, index, index, index, const double*, double*);
template void resolvent(Stream, index, index, index, const float*, float*);

} // namespace dmftcore::cuda
