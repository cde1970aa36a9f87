// Sums over the modes of a spectrum, of 1 / (lam + kappa) and the like, for a kappa in each lane;
// two-point functions for a pair in each lane.
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"
#include "spectral_pair.hpp"

namespace {

using dmftcore::index;
using dmftcore::cpu::SpectralRow;
using dmftcore::cpu::SpectralSweep;

using V = vec<double>;
constexpr int WIDTH = LANES<double>;

// Modes that share one division, as many as there are registers for.
#if defined(DMFTCORE_ISA_v4)
constexpr int SHARED = 4;
#else
constexpr int SHARED = 2;
#endif

// n[i] becomes 1 / n[i].
template <int N> inline void invert(V* n) {
  if constexpr (N == 1) {
    n[0] = 1.0 / n[0];
  } else {
    V products[N / 2];
    for (int i = 0; i < N / 2; ++i) products[i] = n[2 * i] * n[2 * i + 1];
    invert<N / 2>(products);
    for (int i = 0; i < N / 2; ++i) {
      const V first = products[i] * n[2 * i + 1];
      n[2 * i + 1] = products[i] * n[2 * i];
      n[2 * i] = first;
    }
  }
}

// Each of these has real parts x and y = a, b or their products, where kappa enters, of which the
// modes need 1 / (x^2 + y^2), and four sums.

// With a = lam + Re kappa, n = |lam + kappa|^2:  sums of w/n, w a/n, w/n^2, w a/n^2.
struct Slopes {
  V re, squared;

  Slopes(const SpectralSweep& s, index at) : re(load(s.kappa[0] + at)) {
    const V im = load(s.kappa[1] + at);
    squared = im * im;
  }
  struct Term {
    V a;
  };
  V norm(double lam, Term& t) const {
    t.a = re + lam;
    return t.a * t.a + squared;
  }
  static void add(const Term& t, V inverse, const SpectralSweep& s, index k, V* sums) {
    const V once = inverse * s.weights[0][k], twice = once * inverse;
    sums[0] += once;
    sums[1] += t.a * once;
    sums[2] += twice;
    sums[3] += t.a * twice;
  }
};

// w/n and w a/n for two kinds of weights.
struct Moments : Slopes {
  using Slopes::Slopes;
  static void add(const Term& t, V inverse, const SpectralSweep& s, index k, V* sums) {
    const V along = t.a * inverse;
    sums[0] += inverse * s.weights[0][k];
    sums[1] += along * s.weights[0][k];
    sums[2] += inverse * s.weights[1][k];
    sums[3] += along * s.weights[1][k];
  }
};

// With (lam + kappa)(lam + kappa') = x + i y, n = x^2 + y^2:  w x/n and w y/n for two weights.
struct Pairs {
  V re, im, other_re, other_im, product;

  Pairs(const SpectralSweep& s, index at)
      : re(load(s.kappa[0] + at)), im(load(s.kappa[1] + at)), other_re(load(s.kappa[2] + at)),
        other_im(load(s.kappa[3] + at)), product(im * other_im) {}
  struct Term {
    V x, y;
  };
  V norm(double lam, Term& t) const {
    const V a = re + lam, c = other_re + lam;
    t.x = a * c - product;
    t.y = a * other_im + c * im;
    return t.x * t.x + t.y * t.y;
  }
  static void add(const Term& t, V inverse, const SpectralSweep& s, index k, V* sums) {
    const V x = t.x * inverse, y = t.y * inverse;
    sums[0] += x * s.weights[0][k];
    sums[1] += y * s.weights[0][k];
    sums[2] += x * s.weights[1][k];
    sums[3] += y * s.weights[1][k];
  }
};

template <class Kind, int N>
inline void modes(const Kind& kind, const SpectralSweep& s, index k, V* sums) {
  typename Kind::Term terms[N];
  V n[N];
  for (int i = 0; i < N; ++i) n[i] = kind.norm(s.lam[k + i], terms[i]);
  invert<N>(n);
  for (int i = 0; i < N; ++i) Kind::add(terms[i], n[i], s, k + i, sums);
}

// Adds the modes begin <= k < end to the totals, whose rounding errors are kept beside them.
template <class Kind, int N> void sweep(const SpectralSweep& s, index begin, index end) {
  for (index at = 0; at < s.count; at += WIDTH) {
    const Kind kind(s, at);
    V sums[4] = {};
    index k = begin;
    for (; k + N <= end; k += N) modes<Kind, N>(kind, s, k, sums);
    for (; k < end; ++k) modes<Kind, 1>(kind, s, k, sums);
    for (int i = 0; i < 4; ++i) {
      double *const total = s.totals + i * s.count + at, *const error = s.errors + i * s.count + at;
      const V before = load(total), after = before + sums[i], added = after - before;
      store(error, load(error) + ((before - (after - added)) + (sums[i] - added)));
      store(total, after);
    }
  }
}

using Lines = dmftcore::spectral::node_of<V>;
constexpr int NODE = sizeof(Lines) / sizeof(V);

inline V everywhere(double x) { return V{} + x; }

inline void put(double* to, index count, dmftcore::complex_of<V> values) {
  double re[WIDTH], im[WIDTH];
  store(re, values.re);
  store(im, values.im);
  for (index l = 0; l < count; ++l) to[2 * l] = re[l], to[2 * l + 1] = im[l];
}

void row(const SpectralRow& r) {
  V line[NODE], lines[NODE];
  for (int i = 0; i < NODE; ++i) line[i] = everywhere(r.row[i]);
  Lines a, b;
  __builtin_memcpy(&a, line, sizeof a);
  const V p = everywhere(r.p), n = everywhere(r.n), noise = everywhere(r.noise);
  for (index at = 0; at < r.count; at += WIDTH) {
    for (int i = 0; i < NODE; ++i) lines[i] = load(r.columns + i * r.stride + at);
    __builtin_memcpy(&b, lines, sizeof b);
    dmftcore::spectral::pair_sums_of<V> sums{};
    store(r.left + at, differences(a, b, r.observable, sums));
    const auto value = two_point(a, b, sums, p, n, noise, r.observable);
    const index count = at + WIDTH < r.count ? WIDTH : r.count - at;
    put(r.test + 2 * at, count, value.test);
    put(r.train + 2 * at, count, value.train);
    if (r.observable) put(r.value + 2 * at, count, value.observable);
  }
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const SpectralKernels spectral;

const SpectralKernels spectral = {
    row,
    {sweep<Slopes, SHARED>, sweep<Slopes, 1>},
    {sweep<Moments, SHARED>, sweep<Moments, 1>},
    {sweep<Pairs, 1>, sweep<Pairs, 1>},
};

} // namespace dmftcore::cpu::DMFTCORE_ISA
