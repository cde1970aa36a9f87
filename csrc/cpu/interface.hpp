// A sampled random matrix between two sets of particles, in one direction
// (dmftcore.sampled.interfaces has the theory, and the operations that a device is given instead).
#pragma once

#include <functional>

#include "ops.hpp"

namespace dmftcore::cpu {

// Vectors of which there will be more, with room for them.
template <class T> struct GrowingVectors {
  T* rows;
  index capacity;
  index* used; // (runs,)
};

// n fields x leave one set of particles, the sources, and arrive on another. With Q the visited
// columns there, F the fresh ones here that belong to them, Z and P the same of the other direction
//     C = Q^T x,   R = Z^T (x - reference),   answer = kept F C + P (kept R + M C),
// after Q and F have grown by what of x lies outside the span of Q, if that is more than the part
// tol of its mean square (or in any case, if `formed`). Fresh columns are orthogonal to P; if they
// are matched, to the pool too, which they join while it has less than `room`.
template <class T> struct InterfacePass {
  index runs, sources, particles, n; // particles: those of the answer
  Vectors<T> x;                      // used is not read
  const T* reference;                // null, or of the layout of x
  GrowingVectors<T> visited;         // Q; room for n more
  Vectors<T> responding;             // Z
  GrowingVectors<T> fresh;           // F; room for n more
  Vectors<T> opposite;               // P
  GrowingVectors<T> pool;            // room for min(n, room) more
  index room;
  bool match, quasi;
  const double* matrix; // (runs, above, below), M or with `transposed` its transpose
  index above, below;
  bool transposed;
  double kept, tol;
  bool formed;
  Expansion<T> after; // skip, scale, base, field, repeat, activation and results of the answer
  double* along;      // C, (runs, visited.capacity, n)
  double* response;   // R, (runs, responding.capacity, n)
  double* gram;       // (runs, n, n)
  double* levels;     // (runs, 2): mean square of the fields, the largest outside the span
};

// Normal numbers for `count` fresh columns of a run, from `column` on; `dimension` is that of the
// first in a quasi-random sequence, or -1. May be called by several threads, each for another run.
template <class T>
using FillNormals =
    std::function<void(T* out, index count, index run, index column, index dimension)>;

template <class T> void interface_pass(const InterfacePass<T>&, const FillNormals<T>&);

} // namespace dmftcore::cpu
