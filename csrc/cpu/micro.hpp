// Tables of the inner kernels, one set for each instruction set (isa.hpp).
#pragma once

#include "cpu/isa.hpp"
#include "cpu/support.hpp"

namespace dmftcore::cpu {

// One pass over rows of a history a, for m row vectors at once:
//     y[p, j] += sum_i x[p, i] a[i, j]        ("scatter")
//     z[p, i]  = sum_j w[p, j] a[i, j]        ("gather")
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

// The table of the level in use (isa.hpp).
template <class T> const RowKernels<T>& row_kernels();

} // namespace dmftcore::cpu
