// The binding of the device operations, with the emulator behind it: an extension module that has
// the submodule `cuda` of the compiled core. There are two devices; their memory is the host's.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "cuda/device.hpp"
#include "cuda/error.hpp"
#include "emulate/block.hpp"

namespace py = pybind11;

namespace dmftcore {

void register_device(py::module_& m);

namespace cuda {
namespace {

int current = 0;
std::vector<int> entered; // devices that have been made the current one

} // namespace

OnDevice::OnDevice(int device) : before_(current) {
  if (device < 0 || device > 1) throw Error("invalid device ordinal");
  current = device;
  entered.push_back(device);
}

OnDevice::~OnDevice() { current = before_; }

} // namespace cuda
} // namespace dmftcore

PYBIND11_MODULE(_emulated, m) {
  using namespace dmftcore;
  register_device(m);
  m.def("current_device", [] { return cuda::current; });
  m.def("entered", [] { return std::exchange(cuda::entered, {}); });
  m.def("set_order", [](int order) { emulate::set_order(emulate::Order(order)); });
}
