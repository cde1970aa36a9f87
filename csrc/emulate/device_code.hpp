// The vocabulary of cuda/device_code.cuh for a C++ compiler.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>

#include "emulate/block.hpp"
#include "emulate/copies.hpp"
#include "emulate/warp.hpp"
#include "ops.hpp"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define DMFTCORE_UNROLL
#define DMFTCORE_NO_UNROLL
#define threadIdx (::dmftcore::emulate::block().current->index)
#define blockIdx (::dmftcore::emulate::block().index)
#define blockDim (::dmftcore::emulate::block().dimensions)
#define gridDim (::dmftcore::emulate::block().grid)

// Which GPU is played: what it has decides between variants of a kernel.
#ifndef DMFTCORE_EMULATED_ARCH
#define DMFTCORE_EMULATED_ARCH 900
#endif

namespace dmftcore::cuda {

using dim3 = emulate::Dim3;
using std::max;
using std::min;

inline void sincospi(double x, double* sine, double* cosine) {
  constexpr double PI = 3.14159265358979323846;
  *sine = std::sin(PI * x);
  *cosine = std::cos(PI * x);
}

inline void __syncthreads(emulate::Site site = emulate::Site::here()) {
  emulate::block_barrier(site);
}

inline void __syncwarp(emulate::Site site = emulate::Site::here()) { emulate::warp_barrier(site); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, emulate::Site site = emulate::Site::here()) {
  return emulate::shuffle(mask, value, site,
                          [&](unsigned) { return static_cast<unsigned>(source) % emulate::WARP; });
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta,
                   emulate::Site site = emulate::Site::here()) {
  return emulate::shuffle(mask, value, site, [&](unsigned lane) {
    return lane + delta < emulate::WARP ? lane + delta : lane;
  });
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, emulate::Site site = emulate::Site::here()) {
  return emulate::shuffle(mask, value, site, [&](unsigned lane) {
    return (lane ^ static_cast<unsigned>(bits)) % emulate::WARP;
  });
}

constexpr bool HAS_MMA_M16N8K16 = DMFTCORE_EMULATED_ARCH >= 900;

inline void mma_m8n8k4(double (&c)[2], double a, double b,
                       emulate::Site site = emulate::Site::here()) {
  emulate::mma_m8n8k4(c, a, b, site);
}

inline void mma_m16n8k16(double (&c)[2][2], const double (&a)[8], const double (&b)[4],
                         emulate::Site site = emulate::Site::here()) {
  if (!HAS_MMA_M16N8K16) throw std::logic_error("mma.m16n8k16.f64 does not exist on this GPU");
  emulate::mma_m16n8k16(c, a, b, site);
}

template <class T> void copy_async(T* to, const T* from, bool valid) {
  emulate::copy_async(to, from, sizeof(T), valid);
}

inline void copy_async_commit() { emulate::copy_async_commit(); }

template <int OPEN> void copy_async_wait() { emulate::copy_async_wait(OPEN); }

template <class T> T* shared_memory() { return reinterpret_cast<T*>(emulate::block().shared); }

template <class... PARAMETERS, class... ARGUMENTS>
void launch(void (*kernel)(PARAMETERS...), dim3 grid, dim3 block, std::size_t shared_bytes, Stream,
            const ARGUMENTS&... arguments) {
  emulate::run(grid, block, shared_bytes, [&] { kernel(arguments...); });
}

template <class T> void clear(Stream, T* data, index count) {
  if (count > 0) std::memset(data, 0, static_cast<std::size_t>(count) * sizeof(T));
}

// Few, so that loops over blocks go round.
constexpr index MOST_BLOCKS = 6;

inline std::size_t shared_memory_limit() { return emulate::MOST_SHARED; }

template <class T> class Scratch {
public:
  Scratch(Stream, index count) : data_(new T[static_cast<std::size_t>(count)]) {
    std::memset(data_.get(), 0xff, static_cast<std::size_t>(count) * sizeof(T));
  }
  T* data() const { return data_.get(); }

private:
  std::unique_ptr<T[]> data_;
};

} // namespace dmftcore::cuda
