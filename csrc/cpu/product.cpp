// K is cut into panels. For each, the panel of the right factor is packed once; then row panels of
// the left factor are packed and multiplied, tile by tile, by whichever thread is free. A tile
// skips the k for which its rows of the left factor or its columns of the right one are zero.
// With a single row panel each sliver of the right factor is used once, right after it is packed.
#include "cpu/product.hpp"

#include <algorithm>

#include "cpu/micro.hpp"
#include "cpu/pool.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {
namespace {

constexpr index PANEL_ROWS = 240;        // rows of the left factor packed together
constexpr index PANEL_COLUMNS = 4080;    // columns of the right factor packed together
constexpr index PARALLEL_WORK = 1 << 21; // below this many multiplications threads do not pay
constexpr index LARGEST_TILE = 8 * 48;

index round_up(index value, index unit) { return (value + unit - 1) / unit * unit; }

struct Range {
  index begin;
  index end;
};

// The k < depth for which some of the rows [first, first + count) of a are not zero.
template <class T> Range nonzero(const Left<T>& a, index depth, index first, index count) {
  if (a.form == Form::transposed) return {a.support.first_row(first), depth};
  return {0, std::min(depth, a.support.limit(first + count - 1))};
}

// The k < depth for which some of the columns [first, first + count) of b are not zero.
template <class T> Range nonzero(const Right<T>& b, index depth, index first, index count) {
  switch (b.form) {
  case Form::transposed:
    return {0, std::min(depth, b.support.limit(first + count - 1))};
  case Form::symmetric:
    return {0, depth};
  default:
    return {b.support.first_row(first), depth};
  }
}

// Packs the columns [first, first + count) of b for k in [begin, end).
template <class T>
void pack_right(const ProductKernels<T>& kernels, const Right<T>& b, index first, index count,
                index begin, index end, T* out) {
  const index width = kernels.columns;
  switch (b.form) {
  case Form::plain:
    kernels.right(b.data, b.ld, b.support, first, count, begin, end, out);
    break;
  case Form::transposed:
    kernels.right_transposed(b.data, b.ld, b.support, first, count, begin, end, out);
    break;
  case Form::half_diagonal:
    kernels.right(b.data, b.ld, b.support, first, count, begin, end, out);
    for (index k = std::max(begin, first); k < std::min(end, first + count); ++k)
      out[(k - begin) * width + k - first] /= 2;
    break;
  case Form::symmetric: {
    // Above the square on the diagonal the rows of the lower triangle, below it its columns.
    const index upper = std::clamp(first, begin, end);
    const index lower = std::clamp(first + count, begin, end);
    kernels.right_transposed(b.data, b.ld, ALL, first, count, begin, upper, out);
    for (index k = upper; k < lower; ++k)
      for (index w = 0; w < width; ++w) {
        const index j = first + w;
        out[(k - begin) * width + w] =
            w < count ? b.data[std::max(k, j) * b.ld + std::min(k, j)] : T(0);
      }
    kernels.right(b.data, b.ld, ALL, first, count, lower, end, out + (lower - begin) * width);
    break;
  }
  }
}

// One tile: c[i0 .., j0 ..] = left right over `depth` values of k, within the result's support.
// Only the first of its tiles along k adds `c.add`, the others what is there.
template <class T>
void write_tile(const ProductKernels<T>& kernels, index depth, const T* left, const T* right,
                const Result<T>& c, index i0, index rows, index j0, index columns, bool first) {
  T* const to = c.data + i0 * c.ld + j0;
  const T* const add = !first ? to : c.add ? c.add + i0 * c.ld_add + j0 : nullptr;
  const index ld_add = first ? c.ld_add : c.ld;
  if (rows == kernels.rows && columns == kernels.columns && j0 + columns <= c.support.limit(i0)) {
    kernels.tile(depth, left, right, to, c.ld, add, ld_add);
    return;
  }
  alignas(64) T whole[LARGEST_TILE];
  kernels.tile(depth, left, right, whole, kernels.columns, nullptr, 0);
  for (index r = 0; r < rows; ++r) {
    const index width = std::min(columns, c.support.limit(i0 + r) - j0);
    const T* const from = whole + r * kernels.columns;
    T* const row = to + r * c.ld;
    if (add)
      for (index j = 0; j < width; ++j) row[j] = add[r * ld_add + j] + from[j];
    else
      for (index j = 0; j < width; ++j) row[j] = from[j];
  }
}

} // namespace

template <class T> void product(index m, index n, index k, Left<T> a, Right<T> b, Result<T> c) {
  const ProductKernels<T>& kernels = product_kernels<T>();
  const index MR = kernels.rows, NR = kernels.columns;
  const auto pack_left = a.form == Form::transposed ? kernels.left_transposed : kernels.left;
  if (m == 0 || n == 0) return;

  const bool parallel = num_threads() > 1 && m * n * k >= PARALLEL_WORK;
  const auto loop = [parallel](index count, const auto& body) {
    if (parallel)
      parallel_for(count, body);
    else
      for (index i = 0; i < count; ++i) body(i);
  };

  // At least four tasks a thread where there are as many tiles.
  const index wanted = parallel ? 4 * num_threads() : 1;
  const index panel_rows = std::clamp(round_up(m / wanted, MR), 4 * MR, round_up(PANEL_ROWS, MR));
  const index row_panels = (m + panel_rows - 1) / panel_rows;

  const bool pack_first = row_panels > 1;

  Scratch<T> packed_right(
      pack_first ? std::min(PRODUCT_DEPTH, k) * std::min(round_up(n, NR), PANEL_COLUMNS) : 0);
  for (index j_panel = 0; j_panel < n; j_panel += PANEL_COLUMNS) {
    const index slivers = (std::min(PANEL_COLUMNS, n - j_panel) + NR - 1) / NR;
    const index column_chunks = std::clamp<index>(wanted / row_panels, 1, (slivers + 3) / 4);
    for (index k0 = 0; k0 == 0 || k0 < k; k0 += PRODUCT_DEPTH) {
      const index k1 = std::min(k, k0 + PRODUCT_DEPTH);
      const auto pack_sliver = [&](index s, T* to) {
        const index j0 = j_panel + s * NR, columns = std::min(NR, n - j0);
        const Range range = nonzero(b, k, j0, columns);
        const index begin = std::max(k0, range.begin), end = std::min(k1, range.end);
        if (begin < end) pack_right(kernels, b, j0, columns, begin, end, to + (begin - k0) * NR);
      };
      const auto sliver_at = [&](index s) { return packed_right.data() + s * NR * (k1 - k0); };
      if (pack_first) loop(slivers, [&](index s) { pack_sliver(s, sliver_at(s)); });

      loop(row_panels * column_chunks, [&](index task) {
        // The last rows first: of a triangle they are the longest.
        const index panel = row_panels - 1 - task / column_chunks;
        const index chunk = task % column_chunks;
        const index i_begin = panel * panel_rows, i_end = std::min(m, i_begin + panel_rows);

        Scratch<T> packed_left(panel_rows * (k1 - k0));
        Scratch<T> packed_sliver(pack_first ? 0 : NR * (k1 - k0));
        for (index i0 = i_begin; i0 < i_end; i0 += MR) {
          const index rows = std::min(MR, i_end - i0);
          const Range range = nonzero(a, k, i0, rows);
          const index begin = std::max(k0, range.begin), end = std::min(k1, range.end);
          if (begin < end)
            pack_left(a.data, a.ld, a.support, i0, rows, begin, end,
                      packed_left.data() + (i0 - i_begin) * (k1 - k0) + (begin - k0) * MR);
        }
        for (index s = slivers * chunk / column_chunks; s < slivers * (chunk + 1) / column_chunks;
             ++s) {
          const index j0 = j_panel + s * NR, columns = std::min(NR, n - j0);
          const Range of_columns = nonzero(b, k, j0, columns);
          T* const right = pack_first ? sliver_at(s) : packed_sliver.data();
          if (!pack_first) pack_sliver(s, right);
          for (index i0 = i_begin; i0 < i_end; i0 += MR) {
            const index rows = std::min(MR, i_end - i0);
            if (j0 >= c.support.limit(i0 + rows - 1)) continue;
            const Range of_rows = nonzero(a, k, i0, rows);
            const Range range{std::max(of_rows.begin, of_columns.begin),
                              std::min(of_rows.end, of_columns.end)};
            const index begin = std::max(k0, range.begin), end = std::min(k1, range.end);
            // A tile without any k is written once, with depth 0.
            const bool empty = range.begin >= range.end && k0 == 0 && c.add != c.data;
            if (begin >= end && !empty) continue;
            write_tile(kernels, std::max<index>(0, end - begin),
                       packed_left.data() + (i0 - i_begin) * (k1 - k0) + (begin - k0) * MR,
                       right + (begin - k0) * NR, c, i0, rows, j0, columns, begin == range.begin);
          }
        }
      });
    }
  }
}

template <class T> void clear_beyond(index m, index n, T* c, index ld, Support support) {
  for (index i = 0; i < m; ++i)
    std::fill(c + i * ld + std::min(n, support.limit(i)), c + i * ld + n, T(0));
}

template void product(index, index, index, Left<double>, Right<double>, Result<double>);
template void product(index, index, index, Left<float>, Right<float>, Result<float>);
template void clear_beyond(index, index, double*, index, Support);
template void clear_beyond(index, index, float*, index, Support);

} // namespace dmftcore::cpu
