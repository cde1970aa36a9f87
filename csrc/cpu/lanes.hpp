// Vectors of the instruction set that an isa source (isa.hpp) is compiled for.
#pragma once

#include "cpu/isa.hpp"

#if defined(DMFTCORE_ISA_v4)
#define DMFTCORE_VECTOR_BYTES 64
#define DMFTCORE_INTRINSIC(NAME) _mm512_##NAME
#elif defined(DMFTCORE_ISA_v3)
#define DMFTCORE_VECTOR_BYTES 32
#define DMFTCORE_INTRINSIC(NAME) _mm256_##NAME
#else
#define DMFTCORE_VECTOR_BYTES 16
#if defined(__x86_64__)
#define DMFTCORE_INTRINSIC(NAME) _mm_##NAME
#endif
#endif
// Only for what the compiler does not find by itself; elsewhere there is a loop.
#if defined(DMFTCORE_INTRINSIC)
#pragma GCC diagnostic push
#if !defined(__clang__)
// What g++ 12 says of its own header.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

namespace {

template <class T> struct vector_of {
  typedef T type __attribute__((vector_size(DMFTCORE_VECTOR_BYTES)));
};
template <class T> using vec = typename vector_of<T>::type;
template <class T> constexpr int LANES = DMFTCORE_VECTOR_BYTES / static_cast<int>(sizeof(T));

template <class T> inline vec<T> load(const T* p) {
  vec<T> v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T> inline void store(T* p, vec<T> v) { __builtin_memcpy(p, &v, sizeof v); }

// Words of 64 bits.
typedef unsigned long long Words __attribute__((vector_size(DMFTCORE_VECTOR_BYTES)));

// smaller: a < b ? a : b, and so b if there is no order; product_of_halves: the product of the
// lower 32 bits of each word.
#if defined(DMFTCORE_INTRINSIC)
inline vec<double> smaller(vec<double> a, vec<double> b) {
  return DMFTCORE_INTRINSIC(min_pd)(a, b);
}
inline vec<float> smaller(vec<float> a, vec<float> b) { return DMFTCORE_INTRINSIC(min_ps)(a, b); }
inline vec<double> square_root(vec<double> x) { return DMFTCORE_INTRINSIC(sqrt_pd)(x); }
inline Words product_of_halves(Words a, Words b) {
  typedef long long Signed __attribute__((vector_size(DMFTCORE_VECTOR_BYTES)));
  return (Words)DMFTCORE_INTRINSIC(mul_epu32)((Signed)a, (Signed)b);
}
#else
template <class V> inline V smaller(V a, V b) { return a < b ? a : b; }
inline vec<double> square_root(vec<double> x) {
  for (int l = 0; l < LANES<double>; ++l) x[l] = __builtin_sqrt(x[l]);
  return x;
}
inline Words product_of_halves(Words a, Words b) { return (a & 0xffffffff) * (b & 0xffffffff); }
#endif

// Sum of the lanes, in double.
template <class T> double total(vec<T> v) {
  T lanes[LANES<T>];
  store(lanes, v);
  double sums[LANES<T>];
  for (int l = 0; l < LANES<T>; ++l) sums[l] = static_cast<double>(lanes[l]);
  for (int width = LANES<T> / 2; width > 0; width /= 2)
    for (int l = 0; l < width; ++l) sums[l] += sums[l + width];
  return sums[0];
}

// Selections from two vectors of n lanes side by side: lane l of the result is lane from(l, n).
struct EvenLanes {
  static constexpr int from(int l, int) { return 2 * l; }
};
struct OddLanes {
  static constexpr int from(int l, int) { return 2 * l + 1; }
};
// a0 b0 a1 b1 ... of the lower halves, and of the upper ones
struct LowerHalves {
  static constexpr int from(int l, int n) { return l / 2 + l % 2 * n; }
};
struct UpperHalves {
  static constexpr int from(int l, int n) { return n / 2 + l / 2 + l % 2 * n; }
};

template <int... L> struct Sequence {};
template <int N, int... L> struct UpTo : UpTo<N - 1, N - 1, L...> {};
template <int... L> struct UpTo<0, L...> {
  using type = Sequence<L...>;
};

template <class Selection, class V, int... L> inline V select(V a, V b, Sequence<L...>) {
  constexpr int n = sizeof...(L);
#ifdef __clang__
  return __builtin_shufflevector(a, b, Selection::from(L, n)...);
#else
  using Lanes = decltype(a < b);
  return __builtin_shuffle(a, b, Lanes{Selection::from(L, n)...});
#endif
}

template <class Selection, class V> inline V select(V a, V b) {
  return select<Selection>(a, b, typename UpTo<sizeof(V) / sizeof(a[0])>::type{});
}

} // namespace
