// The vocabulary of cuda/device_code.cuh for nvcc.
#pragma once

#include <cuda_runtime.h>

#include <cmath>
#include <cstddef>

#include "cuda/error.hpp"
#include "ops.hpp"

#define DMFTCORE_UNROLL _Pragma("unroll")
#define DMFTCORE_NO_UNROLL _Pragma("unroll 1")

namespace dmftcore::cuda {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
constexpr bool HAS_MMA_M16N8K16 = true;
#else
constexpr bool HAS_MMA_M16N8K16 = false;
#endif

__device__ __forceinline__ void mma_m8n8k4(double (&c)[2], double a, double b) {
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
      : "+d"(c[0]), "+d"(c[1])
      : "d"(a), "d"(b));
}

__device__ __forceinline__ void mma_m16n8k16(double (&c)[2][2], const double (&a)[8],
                                             const double (&b)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0, %1, %2, %3}, "
      "{%4, %5, %6, %7, %8, %9, %10, %11}, {%12, %13, %14, %15}, {%0, %1, %2, %3};"
      : "+d"(c[0][0]), "+d"(c[0][1]), "+d"(c[1][0]), "+d"(c[1][1])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]),
        "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3]));
}

// Without a memory clobber: barriers, which have one, order these with the reads around them.
template <class T> __device__ __forceinline__ void copy_async(T* to, const T* from, bool valid) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  const auto address = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = valid ? sizeof(T) : 0; // what is not read is zero
  if constexpr (sizeof(T) == 16)           // past the L1 cache, which takes whole lines only
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(bytes));
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(address), "l"(from),
                 "n"(sizeof(T)), "r"(bytes));
}

__device__ __forceinline__ void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int OPEN> __device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(OPEN) : "memory");
}

template <class T> __device__ __forceinline__ T* shared_memory() {
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
}

// The blocks of a grid.
constexpr index MOST_BLOCKS = 0x7fffffff;

inline void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError(); // the error is reported here, not again by the next call
  throw Error(cudaGetErrorString(status));
}

template <class... PARAMETERS, class... ARGUMENTS>
void launch(void (*kernel)(PARAMETERS...), dim3 grid, dim3 block, std::size_t shared_bytes,
            Stream stream, const ARGUMENTS&... arguments) {
  constexpr std::size_t GRANTED = 48 * 1024; // more is to be asked for
  if (shared_bytes > GRANTED)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)));
  kernel<<<grid, block, shared_bytes, static_cast<cudaStream_t>(stream)>>>(arguments...);
  check(cudaGetLastError());
}

template <class T> void clear(Stream stream, T* data, index count) {
  if (count > 0)
    check(cudaMemsetAsync(data, 0, static_cast<std::size_t>(count) * sizeof(T),
                          static_cast<cudaStream_t>(stream)));
}

inline std::size_t shared_memory_limit() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return static_cast<std::size_t>(bytes);
}

// Of the current device.
cudaMemPool_t scratch_pool();

template <class T> class Scratch {
public:
  Scratch(Stream stream, index count) : stream_(static_cast<cudaStream_t>(stream)) {
    if (count > 0)
      check(cudaMallocFromPoolAsync(&data_, static_cast<std::size_t>(count) * sizeof(T),
                                    scratch_pool(), stream_));
  }
  // An error of the free is one of an earlier operation, which reports it.
  ~Scratch() {
    if (data_) cudaFreeAsync(data_, stream_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() const { return data_; }

private:
  cudaStream_t stream_;
  T* data_ = nullptr;
};

} // namespace dmftcore::cuda
