// Directions of particles and fields of particles: sums over the one, and over the other.
#include <type_traits>

#include "cpu/functions.hpp"
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"

namespace {

using dmftcore::Activation;
using dmftcore::index;
using dmftcore::cpu::Elementwise;

// Rows of a tile of inner products, fields of a tile of either kind, and vectors of particles of a
// tile of sums over rows: as many accumulators as there are registers for.
#if defined(DMFTCORE_ISA_v4)
constexpr int ROWS = 4, FIELDS = 6, WIDTH = 4;
#else
constexpr int ROWS = 4, FIELDS = 2, WIDTH = 4;
#endif

#define UNROLL _Pragma("GCC unroll 8")

// Of n fields that are left: as many as fit, in two tiles of like size rather than a small rest.
index fields_of_tile(index n) { return n <= FIELDS ? n : n < 2 * FIELDS ? (n + 1) / 2 : FIELDS; }

// body(integral_constant of n) for 1 <= n <= N.
template <int N, class Body> void with_constant(index n, const Body& body) {
  if constexpr (N > 1)
    if (n < N) return with_constant<N - 1>(n, body);
  body(std::integral_constant<int, N>{});
}

template <class T, int K, int N>
void products_tile(index count, const T* a, index lda, const T* x, index ldx, double* sums,
                   index ld) {
  vec<T> s[K][N];
  UNROLL for (int i = 0; i < K; ++i) { UNROLL for (int j = 0; j < N; ++j) s[i][j] = vec<T>{}; }
  index p = 0;
  for (; p + LANES<T> <= count; p += LANES<T>) {
    vec<T> xs[N];
    UNROLL for (int j = 0; j < N; ++j) xs[j] = load(x + j * ldx + p);
    UNROLL for (int i = 0; i < K; ++i) {
      const vec<T> ai = load(a + i * lda + p);
      UNROLL for (int j = 0; j < N; ++j) s[i][j] += ai * xs[j];
    }
  }
  for (int i = 0; i < K; ++i)
    for (int j = 0; j < N; ++j) {
      double sum = total<T>(s[i][j]);
      for (index q = p; q < count; ++q) sum += static_cast<double>(a[i * lda + q] * x[j * ldx + q]);
      sums[i * ld + j] += sum;
    }
}

template <class T, int K>
void products_rows(index count, const T* a, index lda, index n, const T* x, index ldx, double* sums,
                   index ld) {
  for (index j = 0, fields; j < n; j += fields) {
    fields = fields_of_tile(n - j);
    with_constant<FIELDS>(fields, [&](auto tile) {
      products_tile<T, K, tile.value>(count, a, lda, x + j * ldx, ldx, sums + j, ld);
    });
  }
}

template <class T>
void products(index count, index k, const T* a, index lda, index n, const T* x, index ldx,
              double* sums, index ld) {
  index i = 0;
  for (; i + ROWS <= k; i += ROWS)
    products_rows<T, ROWS>(count, a + i * lda, lda, n, x, ldx, sums + i * ld, ld);
  for (; i < k; ++i) products_rows<T, 1>(count, a + i * lda, lda, n, x, ldx, sums + i * ld, ld);
}

template <class T, int N, int W>
void combine_tile(index k, const T* a, index lda, const T* c, index ldc, T* y, index ldy) {
  vec<T> s[N][W];
  UNROLL for (int j = 0; j < N; ++j) {
    UNROLL for (int w = 0; w < W; ++w) s[j][w] = load(y + j * ldy + w * LANES<T>);
  }
  for (index i = 0; i < k; ++i) {
    vec<T> ai[W];
    UNROLL for (int w = 0; w < W; ++w) ai[w] = load(a + i * lda + w * LANES<T>);
    UNROLL for (int j = 0; j < N; ++j) {
      UNROLL for (int w = 0; w < W; ++w) s[j][w] += c[i * ldc + j] * ai[w];
    }
  }
  UNROLL for (int j = 0; j < N; ++j) {
    UNROLL for (int w = 0; w < W; ++w) store<T>(y + j * ldy + w * LANES<T>, s[j][w]);
  }
}

template <class T, int N>
void combine_fields(index count, index k, const T* a, index lda, const T* c, index ldc, T* y,
                    index ldy) {
  constexpr index WIDE = WIDTH * LANES<T>;
  index p = 0;
  for (; p + WIDE <= count; p += WIDE) combine_tile<T, N, WIDTH>(k, a + p, lda, c, ldc, y + p, ldy);
  for (; p + LANES<T> <= count; p += LANES<T>)
    combine_tile<T, N, 1>(k, a + p, lda, c, ldc, y + p, ldy);
  for (; p < count; ++p)
    for (int j = 0; j < N; ++j)
      for (index i = 0; i < k; ++i) y[j * ldy + p] += c[i * ldc + j] * a[i * lda + p];
}

template <class T>
void combine(index count, index k, const T* a, index lda, index n, const T* c, index ldc, T* y,
             index ldy) {
  for (index j = 0, fields; j < n; j += fields) {
    fields = fields_of_tile(n - j);
    with_constant<FIELDS>(fields, [&](auto tile) {
      combine_fields<T, tile.value>(count, k, a, lda, c + j, ldc, y + j * ldy, ldy);
    });
  }
}

// Vectors of a row at a time.
constexpr int TOGETHER = 4;
template <class T> constexpr index STRETCH = TOGETHER * LANES<T>;

// STRETCH numbers of a row.
template <class T, Activation PHI> inline void blend_stretch(const Elementwise<T>& e, index at) {
  using F = Functions<T>;
  const T skip = static_cast<T>(e.skip), scale = static_cast<T>(e.scale);
  vec<T> y[TOGETHER];
  UNROLL for (int v = 0; v < TOGETHER; ++v) y[v] = scale * load(e.sum + at + v * LANES<T>);
  if (e.field) {
    UNROLL for (int v = 0; v < TOGETHER; ++v) y[v] *=
        F::slope(PHI, load(e.field + at + v * LANES<T>));
  }
  if (e.base) {
    UNROLL for (int v = 0; v < TOGETHER; ++v) y[v] += skip * load(e.base + at + v * LANES<T>);
  }
  if (e.y) {
    UNROLL for (int v = 0; v < TOGETHER; ++v) store<T>(e.y + at + v * LANES<T>, y[v]);
  }
  if (e.value) {
    UNROLL for (int v = 0; v < TOGETHER; ++v)
        store<T>(e.value + at + v * LANES<T>, F::value(PHI, y[v]));
  }
}

template <class T, Activation PHI> void blend_row(index count, const Elementwise<T>& e) {
  constexpr index SIZE = STRETCH<T>;
  index p = 0;
  for (; p + SIZE <= count; p += SIZE) blend_stretch<T, PHI>(e, p);
  if (p == count) return;
  // The rest, where there is room for a whole stretch.
  const auto bytes = static_cast<std::size_t>(count - p) * sizeof(T);
  T room[5][SIZE] = {};
  Elementwise<T> rest = e;
  const auto copied = [&](const T* from, T* to) -> const T* {
    return from ? static_cast<const T*>(__builtin_memcpy(to, from + p, bytes)) : nullptr;
  };
  rest.sum = copied(e.sum, room[0]);
  rest.base = copied(e.base, room[1]);
  rest.field = copied(e.field, room[2]);
  rest.y = e.y ? room[3] : nullptr;
  rest.value = e.value ? room[4] : nullptr;
  blend_stretch<T, PHI>(rest, 0);
  if (e.y) __builtin_memcpy(e.y + p, room[3], bytes);
  if (e.value) __builtin_memcpy(e.value + p, room[4], bytes);
}

template <class T> void blend(index count, const Elementwise<T>& e) {
  using A = Activation;
  switch (e.activation) {
  case A::relu:
    return blend_row<T, A::relu>(count, e);
  case A::tanh:
    return blend_row<T, A::tanh>(count, e);
  case A::erf:
    return blend_row<T, A::erf>(count, e);
  case A::gelu:
    return blend_row<T, A::gelu>(count, e);
  case A::softplus:
    return blend_row<T, A::softplus>(count, e);
  case A::quadratic:
    return blend_row<T, A::quadratic>(count, e);
  default:
    return blend_row<T, A::linear>(count, e);
  }
}

#undef UNROLL

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const ParticleKernels<double> particles_double;
extern const ParticleKernels<float> particles_float;

const ParticleKernels<double> particles_double = {products<double>, combine<double>, blend<double>};
const ParticleKernels<float> particles_float = {products<float>, combine<float>, blend<float>};

} // namespace dmftcore::cpu::DMFTCORE_ISA
