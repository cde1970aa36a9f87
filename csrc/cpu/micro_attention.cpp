// Attention of several heads side by side: a number of each is one vector, whatever the sizes of
// sequence and head. Vectors of 64 bytes are as many of the processor's as they need.
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"

namespace {

using dmftcore::index;
using dmftcore::cpu::Attention;
using dmftcore::cpu::AttentionKernels;

typedef double Many __attribute__((vector_size(dmftcore::cpu::ATTENTION_LANES * sizeof(double))));
typedef unsigned long long ManyBits
    __attribute__((vector_size(dmftcore::cpu::ATTENTION_LANES * sizeof(double))));

// Numbers of all heads of a chunk, and their bits.
template <class V> struct bits_of {
  using type = unsigned long long;
};
template <> struct bits_of<Many> {
  using type = ManyBits;
};
template <class V> constexpr index LANES_OF = sizeof(V) / sizeof(double);

template <class V> inline V get(const double* x, index i) {
  V v;
  __builtin_memcpy(&v, x + i * LANES_OF<V>, sizeof v);
  return v;
}
template <class V> inline void put(double* x, index i, V v) {
  __builtin_memcpy(x + i * LANES_OF<V>, &v, sizeof v);
}
template <class V> inline V larger(V a, V b) { return a > b ? a : b; }

// exp(x) to two units in the last place: 2^k e^r with |r| <= log(2) / 2. Below -708 it stays at
// e^-708.
template <class V> inline V exponential(V x) {
  using Bits = typename bits_of<V>::type;
  constexpr double ROUNDER = 6755399441055744.0; // 1.5 2^52: what is added to it loses its fraction
  constexpr double LOG2_HIGH = 6.93147180369123816490e-01, LOG2_LOW = 1.90821492927058770002e-10;
  const V bounded = larger<V>(x, V{} - 708.0);
  const V shifted = bounded * 1.4426950408889634074 + ROUNDER;
  const V k = shifted - ROUNDER;
  const V r = (bounded - k * LOG2_HIGH) - k * LOG2_LOW;
  constexpr double FACTORIALS[] = {6227020800., 479001600., 39916800., 3628800., 362880., 40320.,
                                   5040.,       720.,       120.,      24.,      6.,      2.};
  V p = V{} + 1 / FACTORIALS[0];
  for (int i = 1; i < 12; ++i) p = p * r + 1 / FACTORIALS[i];
  p = (p * r + 1.0) * r + 1.0;
  Bits exponent, result;
  __builtin_memcpy(&exponent, &shifted, sizeof exponent);
  __builtin_memcpy(&result, &p, sizeof result);
  result += exponent << 52;
  __builtin_memcpy(&p, &result, sizeof p);
  p = x > V{} + 709.0 ? V{} + __builtin_inf() : p;
  return x == x ? p : x;
}

template <class V>
void scores(index length, index keys, double scale, const double* query, const double* key,
            double* out) {
  for (index s = 0; s < length; ++s)
    for (index t = 0; t < length; ++t) {
      const double *q = query + s * keys * LANES_OF<V>, *k = key + t * keys * LANES_OF<V>;
      V sum = V{};
      for (index d = 0; d < keys; ++d) sum += get<V>(q, d) * get<V>(k, d);
      put<V>(out, s * length + t, sum * scale);
    }
}

template <class V>
void patterns(Attention attention, bool causal, index length, const double* from, double* to) {
  const double share = 1 / static_cast<double>(length);
  for (index s = 0; s < length; ++s, from += length * LANES_OF<V>, to += length * LANES_OF<V>) {
    const index seen = causal ? s + 1 : length;
    for (index t = seen; t < length; ++t) put<V>(to, t, V{});
    if (attention != Attention::softmax) {
      for (index t = 0; t < seen; ++t) {
        const V a = get<V>(from, t);
        const V p = attention == Attention::linear ? a + 1.0
                    : attention == Attention::exp  ? exponential<V>(a)
                                                   : (a < V{} ? V{} : a);
        put<V>(to, t, p * share);
      }
      continue;
    }
    V top = get<V>(from, 0), sum = V{};
    for (index t = 1; t < seen; ++t) top = larger<V>(top, get<V>(from, t));
    for (index t = 0; t < seen; ++t) {
      const V e = exponential<V>(get<V>(from, t) - top);
      put<V>(to, t, e);
      sum += e;
    }
    for (index t = 0; t < seen; ++t) put<V>(to, t, get<V>(to, t) / sum);
  }
}

template <class V>
void read(index length, index values, index outputs, const double* pattern, const double* value,
          const double* readout, double* c, double* f, double* output) {
  for (index k = 0; k < outputs; ++k) put<V>(output, k, V{});
  for (index t = 0; t < length; ++t) {
    V column = V{};
    for (index s = 0; s < length; ++s) column += get<V>(pattern, s * length + t);
    column = column / static_cast<double>(length);
    put<V>(c, t, column);
    for (index k = 0; k < outputs; ++k) {
      V overlap = V{};
      for (index d = 0; d < values; ++d)
        overlap += get<V>(value, t * values + d) * get<V>(readout, k * values + d);
      put<V>(f, t * outputs + k, overlap);
      put<V>(output, k, get<V>(output, k) + column * overlap);
    }
  }
}

template <class V>
void demand(index length, index outputs, const double* errors, const double* f, double* to) {
  for (index t = 0; t < length; ++t) {
    V sum = V{};
    for (index k = 0; k < outputs; ++k) sum += errors[k] * get<V>(f, t * outputs + k);
    put<V>(to, t, sum / static_cast<double>(length));
  }
}

template <class V>
void slopes(Attention attention, bool causal, index length, const double* pattern,
            const double* demands, double* out) {
  for (index s = 0; s < length; ++s) {
    const index row = s * length, seen = causal ? s + 1 : length;
    for (index t = seen; t < length; ++t) put<V>(out, row + t, V{});
    V mean = V{};
    if (attention == Attention::softmax)
      for (index t = 0; t < seen; ++t) mean += get<V>(pattern, row + t) * get<V>(demands, t);
    for (index t = 0; t < seen; ++t) {
      const V p = get<V>(pattern, row + t), b = get<V>(demands, t);
      V slope;
      switch (attention) {
      case Attention::softmax:
        slope = p * (b - mean);
        break;
      case Attention::linear:
        slope = b / static_cast<double>(length);
        break;
      case Attention::exp:
        slope = b * p;
        break;
      default:
        slope = p > V{} ? b / static_cast<double>(length) : V{};
      }
      put<V>(out, row + t, slope);
    }
  }
}

template <class V>
void drives(index length, index keys, double scale, const double* slope, const double* query,
            const double* key, index pitch, double* to_query, double* to_key) {
  for (index s = 0; s < length; ++s)
    for (index d = 0; d < keys; ++d) {
      V by_key = V{}, by_query = V{};
      for (index t = 0; t < length; ++t) {
        by_key += get<V>(slope, s * length + t) * get<V>(key, t * keys + d);
        by_query += get<V>(slope, t * length + s) * get<V>(query, t * keys + d);
      }
      put<V>(to_query + s * pitch, d, by_key * scale);
      put<V>(to_key + s * pitch, d, by_query * scale);
    }
}

// STRIP numbers of a row of y at a time stay in registers.
constexpr int STRIP = 4;

template <class V, int COUNT>
void left_strip(index depth, const double* x, index column, const double* z, index columns,
                double* y) {
  V sum[COUNT];
  for (int c = 0; c < COUNT; ++c) sum[c] = get<V>(y, c);
  for (index k = 0; k < depth; ++k)
    for (int c = 0; c < COUNT; ++c) sum[c] += x[k * column] * get<V>(z, k * columns + c);
  for (int c = 0; c < COUNT; ++c) put<V>(y, c, sum[c]);
}

template <class V>
void left(index rows, index depth, index columns, const double* x, index row, index column,
          const double* z, double* y) {
  for (index i = 0; i < rows; ++i) {
    double* const to = y + i * columns * LANES_OF<V>;
    index j = 0;
    for (; j + STRIP <= columns; j += STRIP)
      left_strip<V, STRIP>(depth, x + i * row, column, z + j * LANES_OF<V>, columns,
                           to + j * LANES_OF<V>);
    for (; j < columns; ++j)
      left_strip<V, 1>(depth, x + i * row, column, z + j * LANES_OF<V>, columns,
                       to + j * LANES_OF<V>);
  }
}

template <class V, int COUNT>
void right_strip(index depth, double factor, const double* x, index row, index column,
                 const double* z, double* y) {
  V sum[COUNT] = {};
  for (index k = 0; k < depth; ++k) {
    const V zk = get<V>(z, k);
    for (int c = 0; c < COUNT; ++c) sum[c] += x[c * row + k * column] * zk;
  }
  for (int c = 0; c < COUNT; ++c) put<V>(y, c, get<V>(y, c) + factor * sum[c]);
}

template <class V>
void right(index rows, index depth, index columns, double factor, const double* x, index row,
           index column, const double* z, double* y) {
  for (index i = 0; i < rows; ++i) {
    const double* const from = z + i * depth * LANES_OF<V>;
    double* const to = y + i * columns * LANES_OF<V>;
    index j = 0;
    for (; j + STRIP <= columns; j += STRIP)
      right_strip<V, STRIP>(depth, factor, x + j * row, row, column, from, to + j * LANES_OF<V>);
    for (; j < columns; ++j)
      right_strip<V, 1>(depth, factor, x + j * row, row, column, from, to + j * LANES_OF<V>);
  }
}

template <class V>
void learn(index tokens, index train, index values, index outputs, double rate, const double* e,
           const double* cv, index pitch, double* value, double* readout, double* moves) {
  for (index i = 0; i < outputs * values; ++i) put<V>(moves, i, V{});
  for (index i = 0; i < tokens; ++i) {
    double* const v = value + i * values * LANES_OF<V>;
    for (index k = 0; i < train && k < outputs; ++k) {
      const V drive = get<V>(cv + i * pitch, k);
      for (index d = k * values; d < (k + 1) * values; ++d)
        put<V>(moves, d, get<V>(moves, d) + drive * get<V>(v, d - k * values));
    }
    for (index k = 0; k < outputs; ++k) {
      const V move = rate * get<V>(e + i * pitch, k);
      for (index d = 0; d < values; ++d)
        put<V>(v, d, get<V>(v, d) + move * get<V>(readout, k * values + d));
    }
  }
  for (index i = 0; i < outputs * values; ++i)
    put<V>(readout, i, get<V>(readout, i) + rate * get<V>(moves, i));
}

template <class V>
constexpr AttentionKernels kernels = {scores<V>, patterns<V>, read<V>,  demand<V>, slopes<V>,
                                      drives<V>, left<V>,     right<V>, learn<V>};

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const AttentionKernels attention_of_one;
extern const AttentionKernels attention_of_many;

const AttentionKernels attention_of_one = kernels<double>;
const AttentionKernels attention_of_many = kernels<Many>;

} // namespace dmftcore::cpu::DMFTCORE_ISA
