#include "cuda/particle_expansion.cuh"

#include "cuda/particle_launch.hpp"

namespace dmftcore::cuda {

template <class T> void particle_expansion(Stream stream, const Expansion<T>& e) {
  if (e.runs == 0 || e.particles == 0) return;
  const index blocks = (e.particles + PARTICLES - 1) / PARTICLES;
  const bool aligned = in_packets<T>(e.particles, {e.a.rows, e.b.rows});
  for_fields(e.n, aligned, [&](index first, auto groups, auto in_packets) {
    launch(expand<T, groups, in_packets>, dim3(unsigned(blocks * e.runs)), dim3(PARTICLE_THREADS),
           EXPANSION_SHARED<groups> * sizeof(double), stream, e, first, unsigned(blocks));
  });
}

template void particle_expansion(Stream, const Expansion<double>&);
template void particle_expansion(Stream, const Expansion<float>&);

} // namespace dmftcore::cuda
