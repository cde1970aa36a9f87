// Products and expansions of particles: n fields and k directions of them on FP64 tensor cores.
//
// Fields are few and directions many, so that reading the directions takes the time. Each is read
// once for as many as 64 fields: k S elements for S particles, with S = 10^6, k = 256 and n = 16
// 2.2 GB in float64, fields included, and 0.45 ms at 4.8 TB/s (H200, datasheet). The 2 k n S flops
// are 18 TFLOP/s then, of 67 that the tensor cores have; up to n = 56 memory is the limit, where it
// would be n = 28 without them. Particles in float32 are widened in registers: sums are in double.
//
// Fragments are loaded as they are used, without shared memory: which particle has which place in
// an instruction is free, as long as both factors agree.
#pragma once

#include "cuda/device_code.cuh"
#include "ops.hpp"

namespace dmftcore::cuda {

constexpr int PARTICLE_WARPS = 4, PARTICLE_THREADS = PARTICLE_WARPS * WARP;

// Directions and fields of an instruction.
constexpr int DIRECTIONS = 16, FIELDS = 8;

// Four particles for each of LANES lanes: 4 LANES that lie one behind the other. Aligned ones are
// loaded in packets of 16 bytes.
template <class T, int LANES, bool ALIGNED> struct Quad {
  static constexpr int WIDTH = ALIGNED ? 16 / sizeof(T) : 1;
  struct alignas(WIDTH * sizeof(T)) Packet {
    T element[WIDTH];
  };

  // The q-th particle of a lane.
  __device__ __forceinline__ static int place(int lane, int q) {
    return q / WIDTH * WIDTH * LANES + lane * WIDTH + q % WIDTH;
  }

  // Of the particles from `row` on there are `present`; the others are zero.
  __device__ __forceinline__ static void load(const T* row, index present, int lane, T (&x)[4]) {
    DMFTCORE_UNROLL
    for (int q = 0; q < 4; q += WIDTH) {
      const int at = place(lane, q);
      Packet packet{};
      if (at < present) packet = *reinterpret_cast<const Packet*>(row + at);
      DMFTCORE_UNROLL
      for (int v = 0; v < WIDTH; ++v) x[q + v] = packet.element[v];
    }
  }
};

template <class T> __device__ __forceinline__ index used(const Vectors<T>& v, index run) {
  return v.used ? v.used[run] : v.capacity;
}

} // namespace dmftcore::cuda
