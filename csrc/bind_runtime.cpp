// What was built, and what of it this machine can use.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <utility>
#include <vector>

#include "cpu/isa.hpp"
#ifdef DMFTCORE_HAS_CUDA
#include "cuda/device.hpp"
#endif

namespace py = pybind11;

namespace dmftcore {
namespace {

std::pair<int, std::string> cuda_status() {
#ifdef DMFTCORE_HAS_CUDA
  return cuda::device_count();
#else
  return {0, "dmftcore was built without CUDA (no working nvcc was found, or DMFTCORE_CUDA=OFF)"};
#endif
}

py::object cuda_compiler() {
#ifdef DMFTCORE_HAS_CUDA
  return py::str(DMFTCORE_CUDA_COMPILER);
#else
  return py::none();
#endif
}

void set_isa(const std::string& name) {
  for (cpu::Isa level : {cpu::Isa::baseline, cpu::Isa::v3, cpu::Isa::v4}) {
    if (name != cpu::isa_name(level)) continue;
    if (!cpu::set_isa(level))
      throw py::value_error("instruction set '" + name + "' is not available on this machine");
    return;
  }
  throw py::value_error("instruction set must be 'baseline', 'v3' or 'v4', not '" + name + "'");
}

} // namespace

void register_runtime(py::module_& m) {
  m.def("cuda_status", &cuda_status,
        "Number of usable CUDA devices, and the reason when it is zero.");
  m.def("cuda_compiler", &cuda_compiler, "Version of nvcc at build time, or None.");
  m.def(
      "isa", [] { return cpu::isa_name(cpu::isa()); },
      "Instruction set of the CPU kernels in use: 'baseline', 'v3' or 'v4' (x86-64 levels).");
  m.def("set_isa", &set_isa, py::arg("name"), "Select the instruction set (for tests).");
}

} // namespace dmftcore
