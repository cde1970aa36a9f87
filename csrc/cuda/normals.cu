#include "cuda/device_code.cuh"
#include "ops.hpp"
#include "philox.hpp"

namespace dmftcore::cuda {
namespace {

constexpr int THREADS = 256;

// Two numbers a thread; `blocks` of the grid for every row. About 100 integer operations, a
// logarithm, a sine and a cosine make 16 bytes: 0.3 TB/s would be enough memory for it.
template <class T>
__global__ void __launch_bounds__(THREADS)
    draw(Normals which, index particles, unsigned blocks, T* x) {
  const unsigned row = blockIdx.x / blocks;
  const index p = 2 * (index(blockIdx.x % blocks) * THREADS + threadIdx.x);
  if (p >= particles) return;
  const Counter bits =
      philox({{std::uint32_t(p / 2), which.column + row, which.stream, which.run}}, which.seed);
  const double radius = std::sqrt(-2 * std::log(uniform(bits.word[0], bits.word[1])));
  double sine, cosine;
  sincospi(2 * uniform(bits.word[2], bits.word[3]), &sine, &cosine);
  T* const pair = x + row * particles + p;
  pair[0] = T(radius * cosine);
  if (p + 1 < particles) pair[1] = T(radius * sine);
}

} // namespace

template <class T>
void normals(Stream stream, const Normals& which, index count, index particles, T* x) {
  if (count == 0 || particles == 0) return;
  const index blocks = (particles + 2 * THREADS - 1) / (2 * THREADS);
  launch(draw<T>, dim3(unsigned(blocks * count)), dim3(THREADS), 0, stream, which, particles,
         unsigned(blocks), x);
}

template void normals(Stream, const Normals&, index, index, double*);
template void normals(Stream, const Normals&, index, index, float*);

} // namespace dmftcore::cuda
