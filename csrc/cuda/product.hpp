// The product of two matrices of which parts are zero: the engine of all whole-matrix operations.
#pragma once

#include "cuda/support.cuh"

namespace dmftcore::cuda {

// A launch works on `items` matrices of a batch and, in each, on `parts` equal submatrices along
// its diagonal. Both are steps in memory.
struct Stride {
  index item = 0, part = 0;
};

// Element (i, j) is data[i * ld + j] for j < support.limit(i), else 0.
template <class T> struct Matrices {
  T* data;
  index ld;
  Support support;
  Stride stride;
};

template <class T> Matrices<const T> constant(const Matrices<T>& matrices) {
  return {matrices.data, matrices.ld, matrices.support, matrices.stride};
}

enum class Form {
  plain,            // c = a b (+ add)
  left_transposed,  // c = a^T b, where the support of a is that of the stored matrix
  right_transposed, // c = a b^T alike
  half_diagonal,    // c = a b with half the diagonal of b, whose support is LOWER
  symmetrised,      // c = a b^T + b a^T, full and exactly symmetric; a and b share ld and stride
};

// a: m x k, b: k x n, after transposition.
struct Shape {
  index m, n, k;
  index items, parts = 1;
  index last_m = m; // in the last part
};

// Everything of c is written, with zeros beyond its support. add, which may be c, has the support
// of c. The bits of an element depend on its row of a and its column of b alone, not on the shape.
template <Form FORM, class T>
void product(Stream stream, Shape shape, Matrices<const T> a, Matrices<const T> b, Matrices<T> c,
             Matrices<const T> add = {nullptr, 0, ALL, {}});

// c = b as far as the support of c goes, zero beyond: a product without terms.
template <class T>
void copy(Stream stream, index m, index n, index items, Matrices<const T> b, Matrices<T> c) {
  product<Form::plain, T>(stream, {m, n, 0, items}, b, b, c, b);
}

} // namespace dmftcore::cuda
