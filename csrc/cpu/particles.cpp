// Directions of particles and fields of particles, piece by piece. A direction is read once for all
// fields of a group, and what a piece needs besides stays in the cache.
#include <algorithm>

#include "cpu/micro.hpp"
#include "cpu/pool.hpp"
#include "cpu/scratch.hpp"
#include "ops.hpp"

namespace dmftcore::cpu {
namespace {

// Particles of a piece, directions and fields that meet in it at a time, directions that are summed
// at a time, and parts of a sum over particles that are added as a tree.
constexpr index PIECE = 512, DIRECTIONS = 8, GROUP = 32, SUMMED = 32, PARTS = 64;
// Less work than this is not worth a second thread.
constexpr index LEAST = 1 << 15;

index ceil_divide(index a, index b) { return (a + b - 1) / b; }

template <class T> index used(const Vectors<T>& v, index run) {
  return v.used ? v.used[run] : v.capacity;
}

template <class T> index most_used(const Vectors<T>& v, index runs) {
  return v.used ? *std::max_element(v.used, v.used + runs) : v.capacity;
}

template <class T> const T* rows(const Vectors<T>& v, index run, index particles, index at) {
  return v.rows ? v.rows + run * v.capacity * particles + at : nullptr;
}

template <class Body> void for_tasks(index count, index work, const Body& body) {
  if (work < LEAST)
    for (index i = 0; i < count; ++i) body(i);
  else
    parallel_for(count, body);
}

// Where the sums of a run lie in those of a part: rows of c, of d, of gram.
template <class T> struct Layout {
  index a, b, gram, n;

  Layout(const Products<T>& p, index run)
      : a(p.c ? used(p.a, run) : 0), b(p.d ? used(p.b, run) : 0), gram(p.gram ? p.n : 0), n(p.n) {}

  index size() const { return (a + b + gram) * n; }
};

template <class T>
void add_piece(const Products<T>& p, index run, index at, index count, double* sums, T* shifted) {
  const auto& kernels = particle_kernels<T>();
  const Layout<T> layout(p, run);
  const index S = p.particles;
  const T* const x = rows(p.x, run, S, at);
  const T *y = x, *const reference = p.reference;
  index ldy = S;
  if (layout.b && reference) {
    const T* const x0 = reference + run * p.x.capacity * S + at;
    for (index j = 0; j < p.n; ++j)
      for (index q = 0; q < count; ++q) shifted[j * PIECE + q] = x[j * S + q] - x0[j * S + q];
    y = shifted;
    ldy = PIECE;
  }
  const T* const a = rows(p.a, run, S, at);
  const T* const b = rows(p.b, run, S, at);
  double* const d = sums + layout.a * p.n;
  for (index j = 0; j < p.n; j += GROUP) {
    const index n = std::min(GROUP, p.n - j);
    kernels.products(count, layout.a, a, S, n, x + j * S, S, sums + j, p.n);
    kernels.products(count, layout.b, b, S, n, y + j * ldy, ldy, d + j, p.n);
  }
  double* const gram = d + layout.b * p.n;
  for (index i = 0; i < layout.gram; i += DIRECTIONS) {
    const index last = std::min(i + DIRECTIONS, p.n);
    kernels.products(count, last - i, x + i * S, S, last, x, S, gram + i * p.n, p.n);
  }
}

// result (capacity, n) = scale times the first `used` rows of sums, zero below.
void write(const double* sums, index used, index capacity, index n, double scale, double* result) {
  for (index i = 0; i < used * n; ++i) result[i] = scale * sums[i];
  std::fill(result + used * n, result + capacity * n, 0.0);
}

} // namespace

template <class T> void particle_products(const Products<T>& p) {
  const index pieces = ceil_divide(p.particles, PIECE);
  const index per_part = std::max<index>(1, ceil_divide(pieces, PARTS));
  const index parts = ceil_divide(pieces, per_part);
  const index room = ((p.c ? most_used(p.a, p.runs) : 0) + (p.d ? most_used(p.b, p.runs) : 0) +
                      (p.gram ? p.n : 0)) *
                     p.n;
  Scratch<double> scratch(p.runs * parts * room);
  double* const all = scratch.data();
  const index work = p.runs * p.particles * room;

  for_tasks(p.runs * parts, work, [&](index task) {
    const index run = task / parts, part = task % parts;
    double* const sums = all + task * room;
    std::fill(sums, sums + Layout<T>(p, run).size(), 0.0);
    Scratch<T> shifted(p.reference ? p.n * PIECE : 0);
    const index end = std::min(pieces, (part + 1) * per_part);
    for (index piece = part * per_part; piece < end; ++piece) {
      const index at = piece * PIECE;
      add_piece(p, run, at, std::min(PIECE, p.particles - at), sums, shifted.data());
    }
  });

  for_tasks(p.runs, p.runs * parts * room, [&](index run) {
    const Layout<T> layout(p, run);
    double* const sums = all + run * parts * room;
    for (index step = 1; step < parts; step *= 2)
      for (index i = 0; i + step < parts; i += 2 * step)
        for (index k = 0; k < layout.size(); ++k) sums[i * room + k] += sums[(i + step) * room + k];
    const double scale = 1.0 / static_cast<double>(p.particles);
    const index n = p.n;
    if (p.c) write(sums, layout.a, p.a.capacity, n, scale, p.c + run * p.a.capacity * n);
    const double* const d = sums + layout.a * n;
    if (p.d) write(d, layout.b, p.b.capacity, n, scale, p.d + run * p.b.capacity * n);
    if (p.gram) {
      const double* const lower = d + layout.b * n;
      double* const gram = p.gram + run * n * n;
      for (index i = 0; i < n; ++i)
        for (index j = 0; j <= i; ++j) gram[i * n + j] = gram[j * n + i] = scale * lower[i * n + j];
    }
  });
}

template <class T> void particle_expansion(const Expansion<T>& e) {
  const index S = e.particles, n = e.n;
  const index pieces = ceil_divide(S, PIECE);
  const index k = most_used(e.a, e.runs) + most_used(e.b, e.runs);

  // Coefficients in the type of the particles: those of a, then those of b.
  Scratch<T> coefficients(e.runs * (e.a.capacity + e.b.capacity) * n);
  T* const c = coefficients.data();
  T* const d = c + e.runs * e.a.capacity * n;
  const auto convert = [n](const double* from, index capacity, index used, index run, T* to) {
    for (index i = run * capacity * n; i < (run * capacity + used) * n; ++i)
      to[i] = static_cast<T>(from[i]);
  };
  for (index run = 0; run < e.runs; ++run) {
    convert(e.c, e.a.capacity, used(e.a, run), run, c);
    convert(e.d, e.b.capacity, used(e.b, run), run, d);
  }

  for_tasks(e.runs * pieces, e.runs * S * n * (k + 8), [&](index task) {
    const auto& kernels = particle_kernels<T>();
    const index run = task / pieces, at = task % pieces * PIECE;
    const index count = std::min(PIECE, S - at);
    Scratch<T> scratch(n * PIECE);
    T* const sum = scratch.data();
    std::fill(sum, sum + n * PIECE, T(0));
    const auto add = [&](const Vectors<T>& v, const T* factors) {
      const index rank = used(v, run);
      const T* const vectors = rows(v, run, S, at);
      factors += run * v.capacity * n;
      for (index i = 0; i < rank; i += SUMMED)
        kernels.combine(count, std::min(SUMMED, rank - i), vectors + i * S, S, n, factors + i * n,
                        n, sum, PIECE);
    };
    const auto result = [&](T* array, index j) {
      return array ? array + (run * n + j) * S + at : nullptr;
    };
    add(e.a, c);
    if (e.u)
      for (index j = 0; j < n; ++j) std::copy_n(sum + j * PIECE, count, result(e.u, j));
    if (!e.y && !e.value) return;
    add(e.b, d);
    const T* const base = rows(e.base, run, S, at);
    const T* const field = rows(e.field, run, S, at);
    for (index j = 0; j < n; ++j)
      kernels.blend(count, {sum + j * PIECE, base ? base + j * S : nullptr,
                            field ? field + j / e.repeat * S : nullptr, e.skip, e.scale,
                            e.activation, result(e.y, j), result(e.value, j)});
  });
}

template void particle_products(const Products<double>&);
template void particle_products(const Products<float>&);
template void particle_expansion(const Expansion<double>&);
template void particle_expansion(const Expansion<float>&);

} // namespace dmftcore::cpu
