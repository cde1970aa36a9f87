#include "cuda/device.hpp"

#include <cuda_runtime.h>

namespace dmftcore::cuda {
namespace {

void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();
  throw Error(std::string(what) + ": " + cudaGetErrorString(status));
}

} // namespace

std::pair<int, std::string> device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess) return {count, count > 0 ? "" : "no CUDA device was found"};
  cudaGetLastError();
  return {0, cudaGetErrorString(status)};
}

OnDevice::OnDevice(int device) {
  require(cudaGetDevice(&before_), "cudaGetDevice");
  if (device != before_) require(cudaSetDevice(device), "cudaSetDevice");
}

OnDevice::~OnDevice() { cudaSetDevice(before_); }

} // namespace dmftcore::cuda
