// The words kernels and their launchers are written in. nvcc reads CUDA; a C++ compiler reads the
// same sources as functions that run on fibers, which is how tests execute them without a GPU.
//
// CUDA's own:  __global__ __device__ __forceinline__ __launch_bounds__ dim3
//              threadIdx blockIdx blockDim gridDim
//              __syncthreads __syncwarp __shfl_sync __shfl_down_sync __shfl_xor_sync min max
//              sincospi, and the functions of <cmath> under their names in std
// Ours (cuda/device_code_nvcc.cuh and emulate/device_code.hpp define them twice):
//   DMFTCORE_UNROLL             before a loop: unroll it
//   shared_memory<T>()          the dynamic shared memory of the block; there is no other
//   copy_async(to, from, valid) one element of 4, 8 or 16 bytes from global to shared memory, zero
//                               if not valid; copy_async_commit() closes a group and
//                               copy_async_wait<N>() waits for all groups of this thread but the
//                               N latest
//   mma_m8n8k4, mma_m16n8k16    c += a b on FP64 tensor cores; the latter where HAS_MMA_M16N8K16.
//                               mma, below, chooses
//   MOST_BLOCKS                 of a grid; a kernel loops over the work beyond
//   launch(kernel, grid, block, shared_bytes, stream, arguments...)
//   clear(stream, data, count)  zeros
//   Scratch<T>(stream, count)   memory of this stream, freed in its order; not initialised
//   shared_memory_limit()       bytes a block can have on the current device
//
// A barrier must be reached by all threads of its block or warp at one line; blocks have whole
// warps. Sources include nothing else of CUDA, and use no asm, no <<<>>> and no __shared__.
#pragma once

#ifdef __CUDACC__
#include "cuda/device_code_nvcc.cuh"
#else
#include "emulate/device_code.hpp"
#endif

namespace dmftcore::cuda {

constexpr unsigned WHOLE_WARP = 0xffffffffu;
constexpr int WARP = 32;

// c += a b for 16 x 16 times 16 x 8, the fragments as m16n8k16 has them; elsewhere that instruction
// is eight of m8n8k4, in the same order of k.
__device__ __forceinline__ void mma(double (&c)[2][2], const double (&a)[8], const double (&b)[4]) {
  if constexpr (HAS_MMA_M16N8K16) {
    mma_m16n8k16(c, a, b);
  } else {
    DMFTCORE_UNROLL
    for (int q = 0; q < 4; ++q) {
      mma_m8n8k4(c[0], a[2 * q], b[q]);
      mma_m8n8k4(c[1], a[2 * q + 1], b[q]);
    }
  }
}

} // namespace dmftcore::cuda
