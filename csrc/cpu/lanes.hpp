// Vectors of the instruction set that an isa source (isa.hpp) is compiled for.
#pragma once

#include "cpu/isa.hpp"

#if defined(DMFTCORE_ISA_v4)
#define DMFTCORE_VECTOR_BYTES 64
#elif defined(DMFTCORE_ISA_v3)
#define DMFTCORE_VECTOR_BYTES 32
#else
#define DMFTCORE_VECTOR_BYTES 16
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
