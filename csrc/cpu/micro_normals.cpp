// Normal numbers by their counters, as many at a time as a vector has lanes. What is added to a
// product is rounded by itself (CMakeLists.txt forbids to fuse the two), and so every instruction
// set makes the same bits.
//
// Their errors are below 3 epsilon times themselves.
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"
#include "philox.hpp"

namespace {

using dmftcore::index;
using dmftcore::Normals;
using dmftcore::Philox;

using V = vec<double>;
constexpr int N = LANES<double>;
// Vectors of counters at a time.
constexpr int TOGETHER = 2;

#define EACH _Pragma("GCC unroll 4") for (int v = 0; v < TOGETHER; ++v)

Words bits_of(V x) {
  Words bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}

V number_of(Words bits) {
  V x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}

template <int TERMS> V polynomial(const double (&c)[TERMS], V x) {
  V sum = c[TERMS - 1] - V{};
  _Pragma("GCC unroll 8") for (int i = TERMS - 2; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

Words lane_numbers() {
  Words numbers{};
  for (int l = 0; l < N; ++l) numbers[l] = static_cast<std::uint64_t>(l);
  return numbers;
}

void store_rounded(double* p, V x) { store(p, x); }
void store_rounded(float* p, V x) {
  typedef float Floats __attribute__((vector_size(DMFTCORE_VECTOR_BYTES / 2)));
  const Floats rounded = __builtin_convertvector(x, Floats);
  __builtin_memcpy(p, &rounded, sizeof rounded);
}

// Four words of 32 bits in each lane; what is above them is of no meaning.
struct Counters {
  Words word[4];
};

// As dmftcore::philox.
[[gnu::always_inline]] inline void philox(Counters (&c)[TOGETHER], std::uint64_t key) {
  auto k0 = static_cast<std::uint32_t>(key), k1 = static_cast<std::uint32_t>(key >> 32);
  _Pragma("GCC unroll 10") for (int round = 0; round < Philox::ROUNDS; ++round) {
    EACH {
      const Words p0 = product_of_halves(c[v].word[0], Philox::FACTOR_0 + Words{});
      const Words p1 = product_of_halves(c[v].word[2], Philox::FACTOR_1 + Words{});
      c[v] = {{(p1 >> 32) ^ c[v].word[1] ^ k0, p1, (p0 >> 32) ^ c[v].word[3] ^ k1, p0}};
    }
    k0 += Philox::STEP_0;
    k1 += Philox::STEP_1;
  }
}

// As dmftcore::uniform.
V uniform(Words low, Words high) {
  const Words bits = (high << 32 | (low & 0xffffffff)) >> 12;
  return number_of(bits | bits_of(1 - V{})) - (1 - 0x1p-53);
}

// (log((1 + z) / (1 - z)) - 2 z) / z^3 in z^2 for |z| <= 3 - sqrt(8): 5e-18 of the logarithm
constexpr double LOGARITHM[] = {0.666666666666666969, 0.399999999998995045, 0.285714286259754852,
                                0.222222111347950345, 0.181828891252650259, 0.153317216004462239,
                                0.146164496864007965};
// sin(pi r) / r and cos(pi r) in r^2 for |r| <= 1 / 4: 4e-18, 4e-20
constexpr double SINE[] = {3.14159265358979323,    -5.16771278004995453,  2.5501640398733761,
                           -0.599264528939644927,  0.0821458691800017462, -0.00737002158690777027,
                           0.000461531855383580996};
constexpr double COSINE[] = {1.0,
                             -4.93480220054467925,
                             4.05871212641674735,
                             -1.33526276885191738,
                             0.235330630190887865,
                             -0.0258068856529513046,
                             0.00192946574408000431,
                             -0.000103567472551994793};

// sqrt(-2 log u) for 0 < u < 1
[[gnu::always_inline]] inline V radius(V u) {
  constexpr std::uint64_t SQRT_HALF = 0x3fe6a09e667f3bcd, ONE = 0x3ff0000000000000;
  // u = 2^k m with 1 / sqrt(2) <= m < sqrt(2)
  const Words shifted = bits_of(u) + (ONE - SQRT_HALF);
  const V k = number_of((shifted >> 52) | bits_of(0x1p52 - V{})) - (0x1p52 + 1023);
  const V f = number_of((shifted & 0xfffffffffffff) + SQRT_HALF) - 1;
  const V z = f / (2 + f), z2 = z * z;
  const V logarithm = z * z2 * polynomial(LOGARITHM, z2) + 2 * z;
  const V square = -2 * (k * 0.693147180559945309 + logarithm);
  return square_root(square);
}

// cos(2 pi u) and sin(2 pi u)
[[gnu::always_inline]] inline void cosine_and_sine(V u, V& cosine, V& sine) {
  // Adding it rounds to an integer, the number of quarter turns, which the lower bits hold.
  constexpr double ROUNDER = 0x1.8p52;
  const V shifted = 4 * u + ROUNDER;
  const V r = 2 * u - (shifted - ROUNDER) / 2, r2 = r * r;
  const Words s = bits_of(r * polynomial(SINE, r2)), c = bits_of(polynomial(COSINE, r2));
  const Words turns = bits_of(shifted), odd = -(turns & 1), exchanged = (s ^ c) & odd;
  cosine = number_of(c ^ exchanged ^ ((turns + 1) & 2) << 62);
  sine = number_of(s ^ exchanged ^ (turns & 2) << 62);
}

// 2 N TOGETHER numbers from the given pair on.
template <class T>
[[gnu::always_inline]] inline void stretch(const Normals& which, std::uint32_t column, index pair,
                                           T* out) {
  Counters c[TOGETHER];
  EACH {
    const auto first = static_cast<std::uint64_t>(pair + v * N);
    c[v] = {
        {lane_numbers() + first, column + Words{}, which.stream + Words{}, which.run + Words{}}};
  }
  philox(c, which.seed);
  EACH {
    V cosine, sine;
    cosine_and_sine(uniform(c[v].word[2], c[v].word[3]), cosine, sine);
    const V length = radius(uniform(c[v].word[0], c[v].word[1]));
    cosine *= length, sine *= length;
    store_rounded(out + 2 * v * N, select<LowerHalves>(cosine, sine));
    store_rounded(out + (2 * v + 1) * N, select<UpperHalves>(cosine, sine));
  }
}

#undef EACH

template <class T>
void row(const Normals& which, std::uint32_t column, index begin, index end, T* out) {
  constexpr index SIZE = 2 * N * TOGETHER;
  index p = begin;
  for (; p + SIZE <= end; p += SIZE) stretch(which, column, p / 2, out + (p - begin));
  if (p == end) return;
  T rest[SIZE];
  stretch(which, column, p / 2, rest);
  __builtin_memcpy(out + (p - begin), rest, static_cast<std::size_t>(end - p) * sizeof(T));
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const NormalKernels<double> normals_double;
extern const NormalKernels<float> normals_float;

const NormalKernels<double> normals_double = {row<double>};
const NormalKernels<float> normals_float = {row<float>};

} // namespace dmftcore::cpu::DMFTCORE_ISA
