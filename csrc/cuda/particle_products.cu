#include "cuda/particle_products.cuh"

#include <algorithm>

#include "cuda/particle_launch.hpp"

namespace dmftcore::cuda {
namespace {

constexpr index MOST_PARTS = 512, LEAST_PART = 128;

} // namespace

template <class T> void particle_products(Stream stream, const Products<T>& p) {
  const index S = p.particles;
  const index strides = std::max(LEAST_PART, (S + MOST_PARTS - 1) / MOST_PARTS);
  const index part = (strides + STRIDE - 1) / STRIDE * STRIDE;
  const auto kind = [&](const Vectors<T>& v, index count, const T* reference, double* result) {
    const int tiles = result ? int((count + DIRECTIONS - 1) / DIRECTIONS) : 0;
    return Kind<T>{v.rows, v.capacity, v.used, count, reference, tiles, result};
  };
  Sums<T> s{};
  s.runs = p.runs, s.particles = S, s.n = p.n;
  s.part = part, s.parts = (S + part - 1) / part;
  s.x = p.x.rows, s.apart = p.x.capacity;
  s.a = kind(p.a, p.a.capacity, nullptr, p.c);
  s.b = kind(p.b, p.b.capacity, p.reference, p.d);
  s.gram = kind({p.x.rows, p.x.capacity, nullptr}, p.n, nullptr, p.gram);
  s.tiles = s.a.tiles + s.b.tiles + s.gram.tiles;
  const index elements = s.runs * s.tiles * DIRECTIONS * s.n;
  if (elements == 0) return;
  const Scratch<double> scratch(stream, s.parts * elements);
  s.sums = scratch.data();

  const index tasks = s.runs * s.parts * s.tiles;
  const dim3 grid(unsigned((tasks + PARTICLE_WARPS - 1) / PARTICLE_WARPS));
  const bool aligned = in_packets<T>(S, {p.x.rows, p.a.rows, p.b.rows, p.reference});
  for_fields(p.n, aligned, [&](index first, auto groups, auto in_packets) {
    launch(sum_parts<T, groups, in_packets>, grid, dim3(PARTICLE_THREADS), 0, stream, s, first);
  });
  launch(add_parts<T>, dim3(unsigned((elements + WARP - 1) / WARP)), dim3(WARP, PART_SHARES),
         WARP * PART_SHARES * sizeof(double), stream, s);
}

template void particle_products(Stream, const Products<double>&);
template void particle_products(Stream, const Products<float>&);

} // namespace dmftcore::cuda
