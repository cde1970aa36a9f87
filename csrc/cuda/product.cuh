// C = A B by tiles: one block of threads computes M x N elements of C, in steps of 16 in k, with
// three steps of A and B in shared memory, two of them on their way.
//
// Only the steps are taken in which neither the tile's rows of A nor its columns of B are all zero;
// a tile that has none writes zeros. Where the edge of a support crosses a step, elements are
// masked as they are copied, which costs no arithmetic: cp.async fills with zeros what it is told
// not to read. Elements are copied one at a time, so that odd sizes and any alignment are all the
// same: 128 instructions of a warp for a step of a tile of 128, next to 2048 clocks of tensor core
// (double) or multiply-adds (float).
//
// Such a step takes 16 KiB of A and 16 KiB of B for 0.52 MFLOP in double: 16 B/clk, of about 40
// that the L2 cache gives each multiprocessor. Tiles are handed out by rows, last rows first: the
// longest sums come first, so that the last wave is short, and neighbours find their rows of A in
// the L2 cache. Counting whole tiles on 132 multiprocessors, that keeps 82% of them at work for n =
// 4096, 93% for 8192, 97% for 16384 (causal_matmul).
//
//   tile   threads   a multiprocessor runs   shared memory, double   for
//   128    256       1                       110 KiB                 sizes that give each several
//   64     128       2 or more               56 KiB                  less than that
//   32     128       5 or more               28 KiB                  matrices up to 32; few tiles
#pragma once

#include <algorithm>
#include <string>

#include "cuda/error.hpp"
#include "cuda/product.hpp"
#include "cuda/warp_tile.cuh"

namespace dmftcore::cuda {

constexpr int STAGES = 3;

// BLOCKS of them run on a multiprocessor together.
template <int SIZE, int WARP_ROWS, int WARP_COLUMNS, int TOGETHER> struct Tile {
  static constexpr int BLOCKS = TOGETHER;
  static constexpr int ROWS = SIZE, COLUMNS = SIZE;
  static constexpr int PART_ROWS = WARP_ROWS, PART_COLUMNS = WARP_COLUMNS;
  static constexpr int WARPS_ACROSS = COLUMNS / PART_COLUMNS;
  static constexpr int THREADS = ROWS / PART_ROWS * WARPS_ACROSS * WARP;
  static constexpr int PITCH_A = DEPTH + 4, PITCH_B = COLUMNS + 4;
  static constexpr int SIZE_A = ROWS * PITCH_A, STAGE = SIZE_A + DEPTH * PITCH_B;
  template <class T> static constexpr std::size_t shared_bytes() {
    return STAGES * STAGE * sizeof(T);
  }
};

template <class T> struct Problem {
  int m, n, k, last_m;
  index items, parts, row_tiles, column_tiles;
  Matrices<const T> a, b;
  Matrices<T> c;
  Matrices<const T> add;
};

// The rows row0, ... of a matrix in the columns k0 .. k0 + DEPTH - 1, of rows x k.
template <class TILE, class T>
__device__ __forceinline__ void load_rows(T* to, const T* from, int ld, Support support, int row0,
                                          int rows, int k0, int k) {
  constexpr int AT_ONCE = TILE::THREADS / DEPTH;
  const int thread = static_cast<int>(threadIdx.x), first = row0 + thread / DEPTH;
  const int column = thread % DEPTH, at = k0 + column;
  const auto copy = [&](const auto& valid) {
    const T* source = from + index{first} * ld + at;
    T* target = to + thread / DEPTH * TILE::PITCH_A + column;
    DMFTCORE_UNROLL
    for (int i = 0; i < TILE::ROWS; i += AT_ONCE) {
      copy_async(target + i * TILE::PITCH_A, source, valid(first + i));
      source += index{AT_ONCE} * ld;
    }
  };
  if (row0 + TILE::ROWS <= rows && k0 + DEPTH <= min(k, support.limit(row0)))
    copy([](int) { return true; });
  else
    copy([&](int i) { return i < rows && at < min(k, support.limit(i)); });
}

// The same of the transpose of a matrix, of k x rows. Lanes lie 8 along the rows, to read whole
// sectors, by 4 along k, to write to different banks.
template <class TILE, class T>
__device__ __forceinline__ void load_rows_transposed(T* to, const T* from, int ld, Support support,
                                                     int row0, int rows, int k0, int k) {
  constexpr int ACROSS = 8, ALONG = WARP / ACROSS;
  constexpr int AT_ONCE = TILE::THREADS / WARP * ACROSS;
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / WARP * ACROSS + thread % ACROSS, step = thread % WARP / ACROSS;
  const auto copy = [&](const auto& valid) {
    const T* source = from + index{k0 + step} * ld + row0 + row;
    T* target = to + row * TILE::PITCH_A + step;
    DMFTCORE_UNROLL
    for (int at = 0; at < DEPTH; at += ALONG) {
      DMFTCORE_UNROLL
      for (int i = 0; i < TILE::ROWS; i += AT_ONCE)
        copy_async(target + i * TILE::PITCH_A + at, source + i,
                   valid(row0 + row + i, k0 + step + at));
      source += index{ALONG} * ld;
    }
  };
  if (k0 + DEPTH <= k && row0 + TILE::ROWS <= min(rows, support.limit(k0)))
    copy([](int, int) { return true; });
  else
    copy([&](int i, int at) { return at < k && i < min(rows, support.limit(at)); });
}

// The columns column0, ... of a matrix in the rows k0 .. k0 + DEPTH - 1, of k x columns.
template <Form FORM, class TILE, class T>
__device__ __forceinline__ void load_columns(T* to, const T* from, int ld, Support support,
                                             int column0, int columns, int k0, int k) {
  constexpr int AT_ONCE = TILE::THREADS / TILE::COLUMNS;
  const int thread = static_cast<int>(threadIdx.x), first = k0 + thread / TILE::COLUMNS;
  const int column = thread % TILE::COLUMNS, j = column0 + column;
  const auto copy = [&](const auto& put) {
    const T* source = from + index{first} * ld + j;
    T* target = to + thread / TILE::COLUMNS * TILE::PITCH_B + column;
    DMFTCORE_UNROLL
    for (int row = 0; row < DEPTH; row += AT_ONCE) {
      put(target + row * TILE::PITCH_B, source, first + row);
      source += index{AT_ONCE} * ld;
    }
  };
  constexpr bool HALVED = FORM == Form::half_diagonal;
  if (k0 + DEPTH <= k && column0 + TILE::COLUMNS <= min(columns, support.limit(k0) - HALVED))
    copy([](T* target, const T* source, int) { copy_async(target, source, true); });
  else
    copy([&](T* target, const T* source, int at) {
      const bool valid = at < k && j < min(columns, support.limit(at));
      if (HALVED && valid && at == j)
        *target = *source / 2;
      else
        copy_async(target, source, valid);
    });
}

// The transpose of load_rows, with the pitch of columns. Lanes lie 4 along k, to read whole
// sectors, by 8 across, to write to different banks.
template <class TILE, class T>
__device__ __forceinline__ void load_transposed(T* to, const T* from, int ld, Support support,
                                                int row0, int rows, int k0, int k) {
  constexpr int AT_ONCE = TILE::THREADS / 4;
  const int thread = static_cast<int>(threadIdx.x), first = row0 + thread / 4;
  const int column = thread % 4;
  const auto copy = [&](const auto& valid) {
    const T* source = from + index{first} * ld + k0 + column;
    T* target = to + column * TILE::PITCH_B + thread / 4;
    DMFTCORE_UNROLL
    for (int i = 0; i < TILE::COLUMNS; i += AT_ONCE) {
      DMFTCORE_UNROLL
      for (int quarter = 0; quarter < DEPTH; quarter += 4)
        copy_async(target + quarter * TILE::PITCH_B + i, source + quarter,
                   valid(first + i, k0 + column + quarter));
      source += index{AT_ONCE} * ld;
    }
  };
  if (row0 + TILE::COLUMNS <= rows && k0 + DEPTH <= min(k, support.limit(row0)))
    copy([](int, int) { return true; });
  else
    copy([&](int i, int at) { return i < rows && at < min(k, support.limit(i)); });
}

template <class T, Form FORM, class TILE>
__global__ void __launch_bounds__(TILE::THREADS, TILE::BLOCKS) product_kernel(const Problem<T> p) {
  T* const shared = shared_memory<T>();
  const int warp = static_cast<int>(threadIdx.x) / WARP;
  const int warp_row = warp / TILE::WARPS_ACROSS * TILE::PART_ROWS;
  const int warp_column = warp % TILE::WARPS_ACROSS * TILE::PART_COLUMNS;
  const index tiles = p.items * p.parts * p.row_tiles * p.column_tiles;

  for (index tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const int column0 = static_cast<int>(tile % p.column_tiles) * TILE::COLUMNS;
    const index above = tile / p.column_tiles;
    const index row_tile = above % p.row_tiles;
    const int row0 =
        static_cast<int>(FORM == Form::left_transposed ? row_tile : p.row_tiles - 1 - row_tile) *
        TILE::ROWS;
    const index part = above / p.row_tiles % p.parts, item = above / p.row_tiles / p.parts;
    const int m = part == p.parts - 1 ? p.last_m : p.m;
    if (row0 >= m || (FORM == Form::symmetrised && column0 >= row0 + TILE::ROWS)) continue;

    const auto at = [&](Stride stride) { return item * stride.item + part * stride.part; };
    const int ld_a = static_cast<int>(p.a.ld), ld_b = static_cast<int>(p.b.ld);
    const T *const a = p.a.data + at(p.a.stride), *const b = p.b.data + at(p.b.stride);
    const int last_row = min(row0 + TILE::ROWS, m) - 1;
    const int last_column = min(column0 + TILE::COLUMNS, p.n) - 1;

    // Steps start at multiples of DEPTH whatever the tile. Nothing is read from end_k on.
    constexpr bool BY_COLUMNS = FORM == Form::symmetrised || FORM == Form::right_transposed;
    int first_k = 0, end_k = p.k;
    if (FORM == Form::left_transposed)
      first_k = p.a.support.first_row(row0);
    else
      end_k = min(end_k, p.a.support.limit(last_row));
    if (BY_COLUMNS)
      end_k = min(end_k, p.b.support.limit(last_column));
    else
      first_k = max(first_k, p.b.support.first_row(column0));
    first_k = first_k / DEPTH * DEPTH;
    if (column0 >= p.c.support.limit(last_row)) end_k = 0; // nothing of the tile is kept
    const int steps = end_k > first_k ? (end_k - first_k + DEPTH - 1) / DEPTH : 0;
    const int all_steps = FORM == Form::symmetrised ? 2 * steps : steps;

    const auto load = [&](int step) {
      if (step < all_steps) {
        T* const to_a = shared + step % STAGES * TILE::STAGE;
        T* const to_b = to_a + TILE::SIZE_A;
        if constexpr (FORM == Form::symmetrised) {
          const bool second = step >= steps;
          const int k0 = (second ? step - steps : step) * DEPTH;
          load_rows<TILE>(to_a, second ? b : a, ld_a, p.a.support, row0, m, k0, end_k);
          load_transposed<TILE>(to_b, second ? a : b, ld_b, p.b.support, column0, p.n, k0, end_k);
        } else {
          const int k0 = first_k + step * DEPTH;
          if constexpr (FORM == Form::left_transposed)
            load_rows_transposed<TILE>(to_a, a, ld_a, p.a.support, row0, m, k0, end_k);
          else
            load_rows<TILE>(to_a, a, ld_a, p.a.support, row0, m, k0, end_k);
          if constexpr (FORM == Form::right_transposed)
            load_transposed<TILE>(to_b, b, ld_b, p.b.support, column0, p.n, k0, end_k);
          else
            load_columns<FORM, TILE>(to_b, b, ld_b, p.b.support, column0, p.n, k0, end_k);
        }
      }
      copy_async_commit(); // empty at the end, so that the number of open groups tells the step
    };

    WarpTile<T, TILE::PART_ROWS, TILE::PART_COLUMNS> sum;
    __syncthreads(); // the tile before has been read
    DMFTCORE_NO_UNROLL
    for (int step = 0; step < STAGES - 1; ++step) load(step);
    for (int step = 0; step < all_steps; ++step) {
      copy_async_wait<STAGES - 2>();
      __syncthreads(); // this step is complete, and the one before has been read
      load(step + STAGES - 1);
      const T* const from_a = shared + step % STAGES * TILE::STAGE;
      const T* const from_b = from_a + TILE::SIZE_A;
      sum.template add_product<TILE::PITCH_A, TILE::PITCH_B>(from_a + warp_row * TILE::PITCH_A,
                                                             from_b + warp_column);
    }

    T* const c = p.c.data + at(p.c.stride);
    const T* const add = p.add.data ? p.add.data + at(p.add.stride) : nullptr;
    const bool inside = column0 + TILE::COLUMNS <= p.c.support.limit(row0);
    sum.for_each([&](int row, int column, T value) {
      const int i = row0 + warp_row + row, j = column0 + warp_column + column;
      if (i >= m || j >= p.n) return;
      if constexpr (FORM == Form::symmetrised) {
        if (j > i) return;
        c[i * p.c.ld + j] = value;
        c[j * p.c.ld + i] = value;
      } else {
        const bool kept = inside || j < p.c.support.limit(i);
        if (kept && add) value += add[i * p.add.ld + j];
        c[i * p.c.ld + j] = kept ? value : T(0);
      }
    });
  }
}

inline int small(index size) {
  if (size >= ALL.reach) throw Error("more than 2^30 rows or columns: " + std::to_string(size));
  return static_cast<int>(size);
}

template <Form FORM, class TILE, class T>
void product_by(Stream stream, Shape shape, Matrices<const T> a, Matrices<const T> b, Matrices<T> c,
                Matrices<const T> add) {
  const index rows = (shape.m + TILE::ROWS - 1) / TILE::ROWS;
  const index columns = (shape.n + TILE::COLUMNS - 1) / TILE::COLUMNS;
  const index tiles = shape.items * shape.parts * rows * columns;
  const Problem<T> problem{small(shape.m),
                           small(shape.n),
                           small(shape.k),
                           small(shape.last_m),
                           shape.items,
                           shape.parts,
                           rows,
                           columns,
                           a,
                           b,
                           c,
                           add};
  launch(product_kernel<T, FORM, TILE>, static_cast<unsigned>(std::min(tiles, MOST_BLOCKS)),
         TILE::THREADS, TILE::template shared_bytes<T>(), stream, problem);
}

template <Form FORM, class T>
void product(Stream stream, Shape shape, Matrices<const T> a, Matrices<const T> b, Matrices<T> c,
             Matrices<const T> add) {
  if (shape.m == 0 || shape.n == 0 || shape.items == 0) return;
  // Two waves on the 132 multiprocessors of an H200, of tiles that are not empty. Not asked of the
  // device: the choice is one of speed alone, and one size should behave alike everywhere.
  constexpr index ENOUGH = 256;
  // From here on a triangle of tiles of 128, (1 + 1/N) (1 + 2/N) times as large as what has to be
  // computed for N tiles a side, is less than a quarter larger than one of 64.
  constexpr index WIDE = 768;
  const bool half = c.support.block != 0;
  const auto tiles = [&](index size) {
    const index all = ((shape.m + size - 1) / size) * ((shape.n + size - 1) / size);
    return shape.items * shape.parts * (half ? (all + 1) / 2 : all);
  };
  const index least = std::min(shape.m, shape.n);
  using Wide = Tile<128, 64, 32, 1>;
  // Consumer GPUs have less shared memory than this takes in double.
  if (least >= WIDE && tiles(128) >= ENOUGH &&
      Wide::template shared_bytes<T>() <= shared_memory_limit())
    product_by<FORM, Wide>(stream, shape, a, b, c, add);
  else if (least > 32 && tiles(64) >= ENOUGH)
    product_by<FORM, Tile<64, 32, 32, 2>>(stream, shape, a, b, c, add);
  else
    product_by<FORM, Tile<32, 16, 16, 5>>(stream, shape, a, b, c, add);
}

} // namespace dmftcore::cuda
