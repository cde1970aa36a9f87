// Devices and errors of the CUDA runtime, for code that does not include it.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace dmftcore::cuda {

// A call of the CUDA runtime was refused; carries its text.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

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
