#include "cuda/device.hpp"

#include <cuda_runtime.h>

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

} // namespace dmftcore::cuda
