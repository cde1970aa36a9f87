// The product of two matrices of which parts are zero: the engine of all whole-matrix operations.
#pragma once

#include "cpu/support.hpp"

namespace dmftcore::cpu {

// Of a left factor plain and transposed alone.
enum class Form {
  plain,         // element (i, j) is data[i * ld + j] for j < support.limit(i), else 0
  transposed,    // element (i, j) is data[j * ld + i] for i < support.limit(j), else 0
  half_diagonal, // as plain with support {1, 1}, and the diagonal halved
  symmetric,     // data[max(i, j) * ld + min(i, j)]
};

template <class T> struct Left {
  const T* data;
  index ld;
  Support support;
  Form form = Form::plain;
};

template <class T> struct Right {
  const T* data;
  index ld;
  Support support;
  Form form = Form::plain;
};

// The part of the result to write: element (i, j), j < support.limit(i), at data[i * ld + j]; it is
// the product, plus add[i * ld_add + j] unless that is null. add may be data.
template <class T> struct Result {
  T* data;
  index ld;
  Support support;
  const T* add = nullptr;
  index ld_add = 0;
};

// The k that are packed together. Up to this k the result may overwrite b: of every column all of b
// is packed before anything of c is written.
constexpr index PRODUCT_DEPTH = 240;

// c = a b (+ add) for a: m x k, b: k x n. Each element is summed in an order that depends on the
// shapes alone. Threads share the work unless it is small.
template <class T> void product(index m, index n, index k, Left<T> a, Right<T> b, Result<T> c);

// Zeros in the columns of an m x n matrix beyond its support.
template <class T> void clear_beyond(index m, index n, T* c, index ld, Support support);

} // namespace dmftcore::cpu
