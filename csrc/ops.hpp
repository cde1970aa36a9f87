// The C++ contract of every operation: pointers, sizes, strides.
//
// Two-time kernels. Matrices are row-major. A whole-matrix operation works on `batch` contiguous n
// x n matrices and reads row i of a causal one for the columns j < (i / block + 1) * block only;
// its causal results are exact zero beyond. Results are written completely and never read, and
// overlap no argument. Every operation is instantiated for T = float and double and gives the same
// bits for any number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "complex.hpp"

namespace dmftcore {

using index = std::ptrdiff_t;

// Particles: samples of one neuron of an infinitely wide layer, `particles` of them in each of
// `runs` independent runs. A vector over particles is contiguous, and the inner product of two is
// their mean <a, x> = a.x / particles.

// The order is that of dmftcore.activations; relu'(0) = 0.
enum class Activation : int { linear, relu, tanh, erf, gelu, softplus, quadratic };
constexpr int ACTIVATIONS = 7;

// Vectors of run r: the first used[r] rows of `capacity`, row i of run r at
// rows + (r * capacity + i) * particles. Rows may be null if nothing is used anywhere.
template <class T> struct Vectors {
  const T* rows;
  index capacity;
  const index* used; // (runs,); null: all of the capacity
};

// n fields x meet two bases:
//     c[r, i, j] = <a_i, x_j>,    d[r, i, j] = <b_i, x_j - reference_j>,    gram[r, i, j] = <x_i,
//     x_j>
// c and d have a.capacity and b.capacity rows, zero beyond those in use; gram is exactly symmetric.
// The fields are the first n rows of x, and of reference if that is not null, in each run. Null
// results are not computed. Sums over particles are of type T within short pieces and double
// between them.
template <class T> struct Products {
  index runs, particles, n;
  Vectors<T> a, b;
  Vectors<T> x;       // used is not read
  const T* reference; // null, or of the layout of x
  double* c;
  double* d;
  double* gram;
};

// n fields made of two bases:
//     u_j = sum_i c[r, i, j] a_i
//     y_j = skip base_j + scale gain_j (u_j + sum_i d[r, i, j] b_i),      value_j = phi(y_j)
// with gain_j = phi'(field_{j / repeat}), or 1 if field is null. base and field are the first rows
// of each run of their arrays; skip base_j is 0 if base is null. Null results are not written; y
// may be base. Results are (runs, n, particles), contiguous.
template <class T> struct Expansion {
  index runs, particles, n;
  Vectors<T> a, b;
  const double* c; // (runs, a.capacity, n)
  const double* d; // (runs, b.capacity, n)
  double skip, scale;
  Vectors<T> base;  // used is not read
  Vectors<T> field; // used is not read
  index repeat;
  Activation activation;
  T* u;
  T* y;
  T* value;
};

// The training of networks of one hidden layer, whose neurons are the particles. With
//     h_mu = sum_i x[mu, i] a_i,      f[mu, k] = <w_k, phi(h_mu)> / gamma - centre[r, mu, k]
// and the errors e = -(d loss / d f) / train of the first `train` points, for every rate
//     v_i = momentum v_i + gamma sum_{mu k} e[mu, k] x[mu, i] w_k phi'(h_mu) - decay a_i
//     a_i <- a_i + rate v_i,      and likewise w_k along  gamma sum_mu e[mu, k] phi(h_mu).
// Outputs are written before every update, and after the last. Without momentum the velocities are
// null. Sums are of the same types as those of Products. For the CPU alone: a device takes the same
// steps as products and expansions.
enum class Loss : int { square, logistic, softmax }; // the order is that of dmftcore.losses
constexpr int LOSSES = 3;

template <class T> struct TwoLayerMarch {
  index runs, particles, points, train, inputs, outputs, steps;
  const double* x;       // (points, inputs)
  const double* targets; // (train, outputs)
  const double* centre;  // (runs, points, outputs)
  const double* rates;   // (steps,)
  Activation activation;
  Loss loss;
  double gamma, momentum, decay;
  T* a;          // (runs, inputs, particles)
  T* w;          // (runs, outputs, particles)
  T* a_velocity; // like a, or null
  T* w_velocity; // like w, or null
  double* f;     // (steps + 1, runs, points, outputs)
};

// Which factor of a product is transposed.
enum class Transposed : int { neither, left, right };

// Which random numbers: the stream counts the arrays of fresh columns of one run.
struct Normals {
  std::uint64_t seed;
  std::uint32_t run, stream, column; // of the first row
};

namespace cpu {

// Threads of all operations. Default: DMFTCORE_NUM_THREADS, else the number of processors this
// process may run on.
int num_threads();
void set_num_threads(int count);
template <class T> void particle_products(const Products<T>&);
template <class T> void particle_expansion(const Expansion<T>&);
template <class T> void two_layer_march(const TwoLayerMarch<T>&);

// `count` rows of standard normal numbers, (count, particles). Number p of column k is made of the
// counter (p / 2, column + k, stream, run) and the seed as the key, by Philox4x32-10 and the
// transformation of Box and Muller.
template <class T> void normals(const Normals& which, index count, index particles, T* x);

// c = a b, or the causal part of a^T b or of a b^T, for causal a and b.
template <class T>
void causal_matmul(index batch, index n, index block, Transposed transposed, const T* a, const T* b,
                   T* c);

// x = (1 - a)^-1 b for causal b; the diagonal blocks of a are not read and count as zero.
template <class T>
void causal_solve(index batch, index n, index block, const T* a, const T* b, T* x);

// The same for a dense right-hand side, n x m.
template <class T>
void causal_solve_dense(index batch, index n, index m, index block, const T* a, const T* b, T* x);

// r = (1 - a)^-1; the diagonal blocks of a are not read and count as zero.
template <class T> void resolvent(index batch, index n, index block, const T* a, T* r);

// s = r c r^T for symmetric c, of which only the lower triangle is read; s is full, and exactly
// symmetric.
template <class T> void congruence(index batch, index n, index block, const T* r, const T* c, T* s);

// y = k g, or k^T g, for g: n x m; a strict k counts its diagonal blocks as zero and they are not
// read.
template <class T>
void causal_apply(index batch, index n, index m, index block, bool strict, bool transposed,
                  const T* k, const T* g, T* y);

// Row operations: m new rows x (m x n, contiguous) meet a history of which the leading n x n
// corner is known, stored with leading dimension ld. Only its lower triangle is read, elementwise.

// y = x a
template <class T> void rows_causal(index m, index n, const T* x, const T* a, index ld, T* y);

// y = x a^T
template <class T>
void rows_causal_transposed(index m, index n, const T* x, const T* a, index ld, T* y);

// y = x a and z = w a^T in one pass over a
template <class T>
void rows_causal_pair(index m, index n, const T* x, const T* w, const T* a, index ld, T* y, T* z);

// y = x c for symmetric c
template <class T> void rows_symmetric(index m, index n, const T* x, const T* c, index ld, T* y);

// y = x c and z = y r^T for symmetric c, causal r
template <class T>
void rows_congruence(index m, index n, const T* x, const T* c, index ldc, const T* r, index ldr,
                     T* y, T* z);

// y = (x u) v^T; u, v: n x k, contiguous
template <class T>
void rows_low_rank(index m, index n, index k, const T* x, const T* u, const T* v, T* y);

// One row for each of `batch` causal histories of ld x ld, one behind the other: y = x a, or x a^T.
template <class T>
void rows_causal_batch(index batch, index n, bool transposed, const T* x, const T* a, index ld,
                       T* y);

// Random matrices (dmftcore.spectral), of P samples and N features, either of which may be
// infinite; lam: m eigenvalues > 0.

// kappa(z) for Im z >= 0, not z <= 0;  mu: multiplicities. NaN where it was not found.
void spectral_kappa(index nz, index m, const double* lam, const double* mu, double samples,
                    double features, const complex* z, complex* kappa);

// Two-point functions on the grids of n1 x n2 parameters, for each of `batch`. one1 is three arrays
// (batch, n1): kappa, R1, R3; one2 alike. The weights are rows of m: mu lam, mu, lam w^2, w^2, and
// with the diagonal of an observable also mu obs, obs w^2; otherwise `observable` is null.
void spectral_two_point(index batch, index n1, index n2, index m, const double* lam,
                        const double* weights, double samples, double features,
                        double noise_variance, const complex* one1, const complex* one2,
                        complex* test, complex* train, complex* observable);

} // namespace cpu

// The same operations, but for two_layer_march, on device memory, queued on a stream (a
// cudaStream_t). They return before they are done, take scratch memory from the pool of that
// stream, and throw cuda::Error when an allocation or a launch is refused.
namespace cuda {

using Stream = void*;

// All pointers are of the device, those to `used` included.
template <class T> void particle_products(Stream stream, const Products<T>&);
template <class T> void particle_expansion(Stream stream, const Expansion<T>&);
template <class T>
void normals(Stream stream, const Normals& which, index count, index particles, T* x);

template <class T>
void causal_matmul(Stream stream, index batch, index n, index block, Transposed transposed,
                   const T* a, const T* b, T* c);

template <class T>
void causal_solve(Stream stream, index batch, index n, index block, const T* a, const T* b, T* x);

template <class T>
void causal_solve_dense(Stream stream, index batch, index n, index m, index block, const T* a,
                        const T* b, T* x);

template <class T>
void resolvent(Stream stream, index batch, index n, index block, const T* a, T* r);

template <class T>
void congruence(Stream stream, index batch, index n, index block, const T* r, const T* c, T* s);

template <class T>
void causal_apply(Stream stream, index batch, index n, index m, index block, bool strict,
                  bool transposed, const T* k, const T* g, T* y);

template <class T>
void rows_causal(Stream stream, index m, index n, const T* x, const T* a, index ld, T* y);

template <class T>
void rows_causal_transposed(Stream stream, index m, index n, const T* x, const T* a, index ld,
                            T* y);

template <class T>
void rows_causal_pair(Stream stream, index m, index n, const T* x, const T* w, const T* a, index ld,
                      T* y, T* z);

template <class T>
void rows_symmetric(Stream stream, index m, index n, const T* x, const T* c, index ld, T* y);

template <class T>
void rows_congruence(Stream stream, index m, index n, const T* x, const T* c, index ldc, const T* r,
                     index ldr, T* y, T* z);

template <class T>
void rows_low_rank(Stream stream, index m, index n, index k, const T* x, const T* u, const T* v,
                   T* y);

template <class T>
void rows_causal_batch(Stream stream, index batch, index n, bool transposed, const T* x, const T* a,
                       index ld, T* y);

void spectral_kappa(Stream stream, index nz, index m, const double* lam, const double* mu,
                    double samples, double features, const complex* z, complex* kappa);

// The same, of numbers that lie on the device.
void spectral_kappa_of(Stream stream, index nz, index m, const double* lam, const double* mu,
                       const double* samples, const double* features, const complex* z,
                       complex* kappa);

void spectral_two_point(Stream stream, index batch, index n1, index n2, index m, const double* lam,
                        const double* weights, double samples, double features,
                        double noise_variance, const complex* one1, const complex* one2,
                        complex* test, complex* train, complex* observable);

// Heads of attention in double, as in cpu/attention.hpp, one in each chunk; arrays on the device.
// Where scores are the state C is given as `kernel`; elsewhere perhaps as tokens (M, rank), and
// transposed (rank, train * length) of those that train.
struct AttentionOnDevice {
  int attention; // softmax, linear, exp, relu; or none: scores are the patterns
  int causal;    // whether a token attends to itself and those before it alone
  index sequences, train, length, outputs, rank, groups, heads, keys, values;
  double gamma, scale;
  const double *kernel, *tokens, *transposed, *targets, *weight, *centre;
  double *query, *key, *score, *value, *readout;
};

constexpr int ATTENTION_NONE = 4;

// Makes an update with each of `count` rates, which are on the host, and writes all outputs
// (count + 1, groups, sequences, outputs), whatever the loss.
void attention_run(Stream stream, const AttentionOnDevice& problem, const double* rates,
                   index count, double* outputs);

// Patterns (heads, sequences, length, length).
void attention_patterns(Stream stream, const AttentionOnDevice& problem, double* patterns);

} // namespace cuda
} // namespace dmftcore
