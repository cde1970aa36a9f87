// Rows of a history times vectors: each element is loaded once and used at once, so that the loops
// run at the bandwidth of the memory. Several rows go together to spare passes over the result.
#include "cpu/micro.hpp"

namespace {

using dmftcore::index;
using dmftcore::cpu::Support;
using dmftcore::cpu::Sweep;

// Rows taken together: as many as there are registers for.
#if defined(DMFTCORE_ISA_v4)
constexpr int ROWS = 8;
#else
constexpr int ROWS = 4;
#endif

// With several vectors the rows are cut into strips that stay in the first-level cache.
template <class T> constexpr index STRIP = 2048 / sizeof(T);

template <class T> vec<T> load(const T* p) {
  vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T> void store(T* p, vec<T> v) { __builtin_memcpy(p, &v, sizeof v); }

template <class T> struct selection_of {
  typedef decltype(vec<T>{} < vec<T>{}) type;
};

// z[r] += the sum of the lanes of v[r]. Adding the even to the odd lanes of two vectors halves
// their number and keeps the lanes of one row together.
template <class T, int N> inline void add_sums(vec<T>* v, T* z) {
  typename selection_of<T>::type even, odd;
  for (int l = 0; l < LANES<T>; ++l) {
    even[l] = 2 * l;
    odd[l] = 2 * l + 1;
  }
  int count = N, lanes = LANES<T>; // vectors left, and lanes of each row in them
  for (; count > 1 && lanes > 1; count /= 2, lanes /= 2)
    for (int i = 0; i < count / 2; ++i)
      v[i] = __builtin_shuffle(v[2 * i], v[2 * i + 1], even) +
             __builtin_shuffle(v[2 * i], v[2 * i + 1], odd);
  T parts[LANES<T> * N];
  for (int i = 0; i < count; ++i) store(parts + i * LANES<T>, v[i]);
  for (int r = 0; r < N; ++r) {
    for (int width = lanes / 2; width > 0; width /= 2)
      for (int l = 0; l < width; ++l) parts[r * lanes + l] += parts[r * lanes + l + width];
    z[r] += parts[r * lanes];
  }
}

// y[j] += sum_r x[r] a[r, j];  z[r] += sum_j w[j] a[r, j];  for N rows and `columns` columns.
template <class T, int N, bool SCATTER, bool GATHER>
inline void rectangle(index columns, const T* a, index lda, const T* x, T* y, const T* w, T* z) {
  vec<T> sums[N] = {};
  index j = 0;
  for (; j + LANES<T> <= columns; j += LANES<T>) {
    vec<T> yj = {}, wj = {};
    if constexpr (SCATTER) yj = load(y + j);
    if constexpr (GATHER) wj = load(w + j);
    for (int r = 0; r < N; ++r) {
      const vec<T> element = load(a + r * lda + j);
      if constexpr (SCATTER) yj += x[r] * element;
      if constexpr (GATHER) sums[r] += wj * element;
    }
    if constexpr (SCATTER) store(y + j, yj);
  }
  for (; j < columns; ++j)
    for (int r = 0; r < N; ++r) {
      if constexpr (SCATTER) y[j] += x[r] * a[r * lda + j];
      if constexpr (GATHER) z[r] += w[j] * a[r * lda + j];
    }
  if constexpr (GATHER) add_sums<T, N>(sums, z);
}

// The columns [first, first + columns) of N rows from row i on, all vectors.
template <class T, int N, bool SCATTER, bool GATHER>
inline void rows(const Sweep<T>& s, index i, const T* a, index lda, index first, index columns) {
  for (index p = 0; p < s.m; ++p)
    rectangle<T, N, SCATTER, GATHER>(columns, a, lda, SCATTER ? s.x + p * s.ldx + i : nullptr,
                                     SCATTER ? s.y + p * s.ldy + first : nullptr,
                                     GATHER ? s.w + p * s.ldw + first : nullptr,
                                     GATHER ? s.z + p * s.ldz + i : nullptr);
}

// N rows from row i on: the columns that all N rows have, then what later rows have in addition.
template <class T, int N, bool SCATTER, bool GATHER, bool SKIP_DIAGONAL>
inline void group(const Sweep<T>& s, index i) {
  const T* const a = s.a + i * s.lda;
  if constexpr (GATHER)
    for (index p = 0; p < s.m; ++p)
      for (int r = 0; r < N; ++r) s.z[p * s.ldz + i + r] = 0;

  // An elementwise triangle ends in a square of N columns, of which row r has the first r + reach.
  const bool triangle = s.support.block == 1;
  const index common = triangle ? i : s.support.limit(i);
  const index strip = s.m > 1 ? STRIP<T> : common;
  for (index j = 0; j < common; j += strip)
    rows<T, N, SCATTER, GATHER>(s, i, a + j, s.lda, j, common - j < strip ? common - j : strip);

  if (triangle) {
    T square[N * N];
    const index diagonal = SKIP_DIAGONAL ? 0 : s.support.reach;
    for (int r = 0; r < N; ++r)
      for (int j = 0; j < N; ++j)
        square[r * N + j] = j < r + diagonal ? a[r * s.lda + common + j] : T(0);
    rows<T, N, SCATTER, GATHER>(s, i, square, N, common, N);
    if constexpr (SKIP_DIAGONAL)
      for (index p = 0; p < s.m; ++p)
        for (int r = 0; r < N; ++r)
          s.y[p * s.ldy + i + r] += s.x[p * s.ldx + i + r] * a[r * s.lda + common + r];
  } else if (s.support.limit(i + N - 1) > common) {
    for (int r = 0; r < N; ++r)
      rows<T, 1, SCATTER, GATHER>(s, i + r, a + r * s.lda + common, s.lda, common,
                                  s.support.limit(i + r) - common);
  }
}

template <class T, bool SCATTER, bool GATHER, bool SKIP_DIAGONAL = false>
void sweep(const Sweep<T>& s, index begin, index end) {
  index i = begin;
  for (; i + ROWS <= end; i += ROWS) group<T, ROWS, SCATTER, GATHER, SKIP_DIAGONAL>(s, i);
  for (; i < end; ++i) group<T, 1, SCATTER, GATHER, SKIP_DIAGONAL>(s, i);
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const RowKernels<double> rows_double;
extern const RowKernels<float> rows_float;

const RowKernels<double> rows_double = {sweep<double, true, false>, sweep<double, false, true>,
                                        sweep<double, true, true>, sweep<double, true, true, true>};
const RowKernels<float> rows_float = {sweep<float, true, false>, sweep<float, false, true>,
                                      sweep<float, true, true>, sweep<float, true, true, true>};

} // namespace dmftcore::cpu::DMFTCORE_ISA
