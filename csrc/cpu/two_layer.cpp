// Networks of one hidden layer: one pass over the particles for each step of their training.
#include <algorithm>

#include "cpu/micro.hpp"
#include "cpu/pool.hpp"
#include "cpu/scratch.hpp"
#include "ops.hpp"

namespace dmftcore::cpu {
namespace {

// Particles of a piece, and parts of a run whose sums are added as a tree.
constexpr index PIECE = 512, PARTS = 64;
static_assert(PIECE % TWO_LAYER_PADDING == 0, "only the last piece is padded");

index ceil_divide(index a, index b) { return (a + b - 1) / b; }

// The last particles of a run, copied to where there is room for the padding.
template <class T> void padded_step(const TwoLayerStep<T>& s, TwoLayerPiece<T> piece) {
  const index ld = ceil_divide(piece.count, TWO_LAYER_PADDING) * TWO_LAYER_PADDING;
  Scratch<T> scratch((s.inputs + s.outputs) * ld);
  T* const rows = scratch.data();
  std::fill(rows, rows + (s.inputs + s.outputs) * ld, T(0));
  T *const a = piece.a, *const w = piece.w;
  piece.a = rows, piece.w = rows + s.inputs * ld, piece.ld = ld;
  for (index i = 0; i < s.inputs; ++i)
    std::copy_n(a + i * s.particles, piece.count, piece.a + i * ld);
  for (index k = 0; k < s.outputs; ++k)
    std::copy_n(w + k * s.particles, piece.count, piece.w + k * ld);
  two_layer_kernels<T>().step(piece);
  if (!s.errors) return;
  for (index i = 0; i < s.inputs; ++i)
    std::copy_n(piece.a + i * ld, piece.count, a + i * s.particles);
  for (index k = 0; k < s.outputs; ++k)
    std::copy_n(piece.w + k * ld, piece.count, w + k * s.particles);
}

} // namespace

template <class T> void two_layer_step(const TwoLayerStep<T>& s) {
  const index S = s.particles, count = s.points * s.outputs, errors = s.train * s.outputs;
  const index pieces = ceil_divide(S, PIECE);
  const index per_part = std::max<index>(1, ceil_divide(pieces, PARTS));
  const index parts = ceil_divide(pieces, per_part);

  Scratch<T> numbers(s.points * s.inputs + s.runs * errors);
  T *const x = numbers.data(), *const e = x + s.points * s.inputs;
  std::transform(s.x, s.x + s.points * s.inputs, x, [](double v) { return static_cast<T>(v); });
  if (s.errors)
    std::transform(s.errors, s.errors + s.runs * errors, e,
                   [](double v) { return static_cast<T>(v); });
  Scratch<double> all(s.runs * parts * count);

  parallel_for(s.runs * parts, [&](index task) {
    const index run = task / parts, part = task % parts;
    Scratch<T> room(two_layer_room(s.points, s.train, s.outputs));
    double* const sums = all.data() + task * count;
    std::fill(sums, sums + count, 0.0);
    const index end = std::min(pieces, (part + 1) * per_part);
    for (index p = part * per_part; p < end; ++p) {
      const index at = p * PIECE;
      const TwoLayerPiece<T> piece{std::min(PIECE, S - at),
                                   s.points,
                                   s.train,
                                   s.inputs,
                                   s.outputs,
                                   S,
                                   x,
                                   s.errors ? e + run * errors : nullptr,
                                   static_cast<T>(s.kept),
                                   s.activation,
                                   s.a + run * s.inputs * S + at,
                                   s.w + run * s.outputs * S + at,
                                   room.data(),
                                   sums};
      if (piece.count % TWO_LAYER_PADDING)
        padded_step(s, piece);
      else
        two_layer_kernels<T>().step(piece);
    }
  });

  for (index run = 0; run < s.runs; ++run) {
    double* const sums = all.data() + run * parts * count;
    for (index step = 1; step < parts; step *= 2)
      for (index i = 0; i + step < parts; i += 2 * step)
        for (index k = 0; k < count; ++k) sums[i * count + k] += sums[(i + step) * count + k];
    for (index k = 0; k < count; ++k) s.f[run * count + k] = sums[k] / static_cast<double>(S);
  }
}

template void two_layer_step(const TwoLayerStep<double>&);
template void two_layer_step(const TwoLayerStep<float>&);

} // namespace dmftcore::cpu
