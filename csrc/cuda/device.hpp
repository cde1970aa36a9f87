// The devices of this machine, for code that does not include the CUDA runtime.
#pragma once

#include <string>
#include <utility>

namespace dmftcore::cuda {

// Number of usable devices, and the runtime's reason when it is zero. Leaves no error behind.
std::pair<int, std::string> device_count();

// Makes a device the current one of the calling thread for the lifetime of the object.
class OnDevice {
public:
  explicit OnDevice(int device);
  ~OnDevice();
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

private:
  int before_;
};

} // namespace dmftcore::cuda
