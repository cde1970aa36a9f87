// Tables of the inner kernels, one set for each instruction set (isa.hpp).
#pragma once

#include "cpu/isa.hpp"
#include "cpu/support.hpp"

namespace dmftcore::cpu {

// One pass over rows of a history a, for m row vectors at once:
//     y[p, j] += sum_i x[p, i] a[i, j]        ("scatter")
//     z[p, i]  = sum_j w[p, j] a[i, j]        ("gather")
// With support.block = 1 the reach is 0 or 1: a triangle with or without its diagonal.
template <class T> struct Sweep {
  index m;
  const T* a;
  index lda;
  Support support;
  const T* x;
  index ldx;
  T* y;
  index ldy;
  const T* w;
  index ldw;
  T* z;
  index ldz;
};

// Each takes the rows begin <= i < end of a.
template <class T> struct RowKernels {
  void (*scatter)(const Sweep<T>&, index begin, index end);
  void (*gather)(const Sweep<T>&, index begin, index end);
  void (*both)(const Sweep<T>&, index begin, index end);
  // Both, where the gather leaves out the diagonal: x c for symmetric c is then y + z.
  void (*symmetric)(const Sweep<T>&, index begin, index end);
};

// The packed product (product.cpp). A panel holds slivers of `rows` rows of the left factor, or
// `columns` columns of the right one, side by side for each k, with zeros outside the support.
template <class T> struct ProductKernels {
  index rows;
  index columns;
  // out[(k - begin) * W + w] = data[(first + w) * ld + k] for the `count` <= W rows that exist,
  // with W = rows (left factor) or W = columns (transposed right factor).
  using Pack = void (*)(const T* data, index ld, Support support, index first, index count,
                        index begin, index end, T* out);
  Pack left;
  Pack right_transposed;
  // out[(k - begin) * W + w] = data[k * ld + first + w], W alike.
  Pack left_transposed;
  Pack right;
  // c = left right over `depth` values of k, plus `add` unless that is null; add may be c.
  void (*tile)(index depth, const T* left, const T* right, T* c, index ldc, const T* add,
               index ld_add);
};

// A row-major matrix whose rows lie `ld` doubles apart.
template <class T> struct Panel {
  T* data;
  index rows, width, ld;
};

// Matrix-vector products of the growing network, whose matrices fit into the first cache levels.
// Rows are on 64-byte boundaries, and widths multiples of PAD. Matrices are followed by zeros up to
// a multiple of PAD rows, and what comes from them has room for as many: no kernel has a tail.
constexpr index PAD = 8;

struct HeavyBall {
  double rate;
  double momentum;
  double decay;
};

struct NetworkKernels {
  // y = W x
  void (*apply)(const Panel<const double>& w, const double* x, double* y);
  // y = keep y + W^T g; with keep = 0 it does not matter what y held.
  void (*apply_transposed)(const Panel<const double>& w, const double* g, double keep, double* y);
  // W <- keep W + left^T right; nothing if these have no rows.
  void (*add_product)(const Panel<double>& w, double keep, const Panel<const double>& left,
                      const Panel<const double>& right);
  // A step of the heavy ball in one pass:  v = drift + left right^T,  W += ball.rate v,
  // drift = ball.momentum v - ball.decay W,  then y = W^T g. drift has the layout of W.
  void (*momentum_apply_transposed)(const Panel<double>& w, double* drift, const HeavyBall& ball,
                                    const double* left, const double* right, const double* g,
                                    double* y);
};

// Sums over the modes of a spectrum for many complex kappa (spectral_sums.hpp).
struct SpectralSweep {
  const double* lam;
  const double* weights[2];
  const double* kappa[4]; // real and imaginary parts of kappa, and of kappa' where pairs are summed
  index count;            // of kappa; a multiple of LANES_MOST
  double* totals;         // four for each kappa, `count` apart, and
  double* errors;         // what their rounding has left out
};

// What a number of kappa is padded to: the lanes of the widest vectors.
constexpr index LANES_MOST = 8;

// The two-point functions of one row of a grid and `count` columns (spectral_pair.hpp).
struct SpectralRow {
  const double* row;     // the real numbers of a node
  const double* columns; // those of the columns, each for all of them, `stride` apart
  index stride, count;   // columns are allocated up to a multiple of LANES_MOST
  double p, n, noise;
  bool observable;
  double *test, *train, *value; // complex numbers
  double* left;                 // of each column what has not cancelled, allocated as the columns
};

struct SpectralKernels {
  void (*row)(const SpectralRow&);
  // Takes the modes begin <= k < end.
  using Sweep = void (*)(const SpectralSweep&, index begin, index end);
  // Fast: several modes share one division, for which |lam + kappa| must lie in 1e-37..1e37.
  struct Sum {
    Sweep fast, safe;
  };
  Sum slopes, moments, pairs;
};

// Columns of normal numbers (normals.cpp).
template <class T> struct NormalKernels {
  // Numbers begin <= p < end of a column, for even begin.
  void (*row)(const Normals&, std::uint32_t column, index begin, index end, T* out);
};

// A row of the last part of an Expansion (ops.hpp): sum becomes y and value.
template <class T> struct Elementwise {
  const T* sum;
  const T* base;  // or null
  const T* field; // or null
  double skip, scale;
  Activation activation;
  T* y;     // or null
  T* value; // or null
};

// Products and sums of k rows `a` and n fields over `count` particles. Rows lie ld apart.
template <class T> struct ParticleKernels {
  // sums[i, j] += sum_p a[i, p] x[j, p]
  void (*products)(index count, index k, const T* a, index lda, index n, const T* x, index ldx,
                   double* sums, index ld);
  // y[j, p] += sum_i c[i, j] a[i, p]
  void (*combine)(index count, index k, const T* a, index lda, index n, const T* c, index ldc, T* y,
                  index ldy);
  void (*blend)(index count, const Elementwise<T>&);
};

// A step for a piece of a TwoLayerMarch (ops.hpp): the update, unless errors is null, and what the
// outputs sum. Rows over particles lie ld apart and have room for a multiple of TWO_LAYER_PADDING
// of them: what lies beyond `count` counts for nothing.
constexpr index TWO_LAYER_PADDING = 64;

template <class T> struct TwoLayerPiece {
  index count, points, train, inputs, outputs, ld;
  const T* x;      // (points, inputs)
  bool triangular; // whether x[mu, i] = 0 for i > mu
  const T* errors; // (train, outputs), times all that multiplies them; or null
  // Without velocities rate is that of the errors, too: W <- kept W + direction.
  T kept, rate, momentum, decay;
  Activation activation;
  T* a;
  T* w;
  T* a_velocity; // or null
  T* w_velocity;
  T* known;     // phi(h) of the first `train` points, then phi'(h) if that does not tell; or null
  T* room;      // two_layer_room numbers
  double* sums; // (points, outputs), added to
};

constexpr index two_layer_room(index points, index train, index outputs) {
  return (2 * train + points * outputs) * TWO_LAYER_PADDING;
}

template <class T> struct TwoLayerKernels {
  void (*step)(const TwoLayerPiece<T>&);
};

// What several heads of attention side by side do to one sequence (attention.hpp). Arrays of heads
// have the lanes of a chunk innermost: x[i][j] is `lanes` doubles.
enum class Attention { softmax, linear, exp, relu };
constexpr index ATTENTION_LANES = 8;

struct AttentionKernels {
  // scores[s][t] = scale queries[s] . keys[t] for tokens of `keys` components
  void (*scores)(index length, index keys, double scale, const double* query, const double* key,
                 double* scores);
  // patterns = sigma(scores); with `causal` token s sees t <= s alone, and the rest is zero
  void (*patterns)(Attention, bool causal, index length, const double* scores, double* patterns);
  // c[t] = mean over s of patterns[s][t];  F[t][k] = value[t] . readout[k];
  // output[k] = sum_t c[t] F[t][k]
  void (*read)(index length, index values, index outputs, const double* patterns,
               const double* value, const double* readout, double* c, double* f, double* output);
  // demand[t] = sum_k errors[k] F[t][k] / length: how much attention to t would lower the loss
  void (*demand)(index length, index outputs, const double* errors, const double* f,
                 double* demand);
  // slopes = vjp(patterns, demand), by the scores
  void (*slopes)(Attention, bool causal, index length, const double* patterns, const double* demand,
                 double* slopes);
  // For each token of `keys` components, in rows `pitch` doubles apart:
  // to_query[s] = scale sum_t slopes[s][t] key[t];  to_key[t] = scale sum_s slopes[s][t] query[s]
  void (*drives)(index length, index keys, double scale, const double* slopes, const double* query,
                 const double* key, index pitch, double* to_query, double* to_key);
  // y[i][j] += sum_k x(i, k) z[k][j], x(i, k) = x[i * row + k * column]
  void (*left)(index rows, index depth, index columns, const double* x, index row, index column,
               const double* z, double* y);
  // y[i][j] += factor sum_k z[i][k] x(j, k)
  void (*right)(index rows, index depth, index columns, double factor, const double* x, index row,
                index column, const double* z, double* y);
  // value[i] += rate sum_k e[i][k] readout[k] for all tokens, e in rows `pitch` doubles apart;
  // readout[k] += rate sum_i cv[i][k] value[i] over the first `train` tokens, cv in rows alike.
  // Both with what the other was before; `moves` has room for one more readout.
  void (*learn)(index tokens, index train, index values, index outputs, double rate,
                const double* e, const double* cv, index pitch, double* value, double* readout,
                double* moves);
};

// The tables of the level in use (isa.hpp).
template <class T> const RowKernels<T>& row_kernels();
template <class T> const ProductKernels<T>& product_kernels();
const NetworkKernels& network_kernels();
const SpectralKernels& spectral_kernels();
template <class T> const ParticleKernels<T>& particle_kernels();
template <class T> const NormalKernels<T>& normal_kernels();
template <class T> const TwoLayerKernels<T>& two_layer_kernels();
// For chunks of ATTENTION_LANES heads, or of one.
const AttentionKernels& attention_kernels(index lanes);

} // namespace dmftcore::cpu
