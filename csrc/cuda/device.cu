#include "cuda/device.hpp"

#include <cuda_runtime.h>

#include <cstdint>
#include <mutex>
#include <vector>

#include "cuda/device_code.cuh"

namespace dmftcore::cuda {

std::pair<int, std::string> device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return {count, count > 0 ? "" : "no CUDA device was found"};
  cudaGetLastError();
  return {0, cudaGetErrorString(status)};
}

OnDevice::OnDevice(int device) {
  check(cudaGetDevice(&before_));
  if (device != before_) check(cudaSetDevice(device));
}

OnDevice::~OnDevice() { cudaSetDevice(before_); }

// A pool of our own: the default one gives everything back whenever the host waits for the device,
// as a march does at each step, and others share it.
cudaMemPool_t scratch_pool() {
  constexpr std::uint64_t KEPT = std::uint64_t{1} << 28; // bytes that are not given back
  static std::mutex mutex;
  static std::vector<cudaMemPool_t> pools; // by device
  const std::lock_guard<std::mutex> lock(mutex);
  int device = 0;
  check(cudaGetDevice(&device));
  const auto place = static_cast<std::size_t>(device);
  if (pools.size() <= place) pools.resize(place + 1);
  if (!pools[place]) {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    properties.location.id = device;
    cudaMemPool_t pool = nullptr;
    check(cudaMemPoolCreate(&pool, &properties));
    std::uint64_t kept = KEPT;
    check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &kept));
    pools[place] = pool;
  }
  return pools[place];
}

} // namespace dmftcore::cuda
