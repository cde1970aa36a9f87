// The register tile of the packed product, and packing.
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"

namespace {

using dmftcore::index;
using dmftcore::cpu::Support;

// The tile is MR rows by NR columns: as many accumulators as the registers hold beside one row of
// the right factor. Packing transposes squares of SQUARE x SQUARE elements.
#if defined(DMFTCORE_ISA_v4)
constexpr int MR = 8, VECTORS = 3;
template <class T> constexpr int SQUARE = 8;
#elif defined(DMFTCORE_ISA_v3)
constexpr int MR = 4, VECTORS = 3;
template <class T> constexpr int SQUARE = 4;
#else
constexpr int MR = 4, VECTORS = 2;
template <class T> constexpr int SQUARE = LANES<T>;
#endif
template <class T> constexpr int NR = VECTORS * LANES<T>;

// The accumulators stay in registers only when every loop over them is unrolled early.
#define UNROLL _Pragma("GCC unroll 8")

template <class T>
void tile(index depth, const T* left, const T* right, T* c, index ldc, const T* add, index ld_add) {
  vec<T> sum[MR][VECTORS];
  UNROLL for (int i = 0; i < MR; ++i) {
    UNROLL for (int v = 0; v < VECTORS; ++v) {
      __builtin_prefetch(c + i * ldc + v * LANES<T>, 1);
      sum[i][v] = vec<T>{};
    }
  }
  for (index k = 0; k < depth; ++k, left += MR, right += NR<T>) {
    vec<T> b[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; ++v) b[v] = load(right + v * LANES<T>);
    UNROLL for (int i = 0; i < MR; ++i) {
      UNROLL for (int v = 0; v < VECTORS; ++v) sum[i][v] += left[i] * b[v];
    }
  }
  if (add) UNROLL for (int i = 0; i < MR; ++i) {
      UNROLL for (int v = 0; v < VECTORS; ++v) sum[i][v] += load(add + i * ld_add + v * LANES<T>);
    }
  UNROLL for (int i = 0; i < MR; ++i) {
    UNROLL for (int v = 0; v < VECTORS; ++v) store<T>(c + i * ldc + v * LANES<T>, sum[i][v]);
  }
}

#undef UNROLL

template <class T> struct square_row {
  typedef T type __attribute__((vector_size(SQUARE<T> * sizeof(T))));
};

// Transposes SQUARE x SQUARE elements from rows `ld` apart to rows `pitch` apart. Interleaving row
// i with row i + SQUARE / 2, log2(SQUARE) times, is a transposition.
template <class T> inline void transpose(const T* in, index ld, T* out, index pitch) {
  using row = typename square_row<T>::type;
  constexpr int N = SQUARE<T>;
  row from[N], to[N];
  for (int r = 0; r < N; ++r) __builtin_memcpy(&from[r], in + r * ld, sizeof(row));
  for (int step = 1; step < N; step *= 2) {
    for (int r = 0; r < N / 2; ++r) {
      to[2 * r] = select<LowerHalves>(from[r], from[r + N / 2]);
      to[2 * r + 1] = select<UpperHalves>(from[r], from[r + N / 2]);
    }
    for (int r = 0; r < N; ++r) from[r] = to[r];
  }
  for (int r = 0; r < N; ++r) __builtin_memcpy(out + r * pitch, &from[r], sizeof(row));
}

template <class T, int W>
void pack_rows(const T* data, index ld, Support support, index first, index count, index begin,
               index end, T* out) {
  for (index w = 0; w < W; w += SQUARE<T>) {
    index k = begin;
    if (w + SQUARE<T> <= count) {
      const index limit = support.limit(first + w);
      const index common = limit < end ? limit : end;
      for (; k + SQUARE<T> <= common; k += SQUARE<T>)
        transpose(data + (first + w) * ld + k, ld, out + (k - begin) * W + w, W);
    }
    for (index r = w; r < w + SQUARE<T>; ++r) {
      const index limit = r < count ? support.limit(first + r) : 0;
      const T* const row = data + (first + r) * ld;
      for (index kk = k; kk < end; ++kk) out[(kk - begin) * W + r] = kk < limit ? row[kk] : T(0);
    }
  }
}

template <class T, int W>
void pack_columns(const T* data, index ld, Support support, index first, index count, index begin,
                  index end, T* out) {
  for (index k = begin; k < end; ++k, out += W) {
    const T* const row = data + k * ld + first;
    const index limit = support.limit(k) - first;
    const index width = limit < count ? limit : count; // negative where nothing is left
    index w = 0;
    for (; w + LANES<T> <= width; w += LANES<T>) store(out + w, load(row + w));
    for (; w < width; ++w) out[w] = row[w];
    for (; w < W; ++w) out[w] = 0;
  }
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const ProductKernels<double> product_double;
extern const ProductKernels<float> product_float;

const ProductKernels<double> product_double = {MR,
                                               NR<double>,
                                               pack_rows<double, MR>,
                                               pack_rows<double, NR<double>>,
                                               pack_columns<double, MR>,
                                               pack_columns<double, NR<double>>,
                                               tile<double>};
const ProductKernels<float> product_float = {MR,
                                             NR<float>,
                                             pack_rows<float, MR>,
                                             pack_rows<float, NR<float>>,
                                             pack_columns<float, MR>,
                                             pack_columns<float, NR<float>>,
                                             tile<float>};

} // namespace dmftcore::cpu::DMFTCORE_ISA
