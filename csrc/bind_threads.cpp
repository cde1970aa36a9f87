#include <pybind11/pybind11.h>

#include "cpu/pool.hpp"

namespace py = pybind11;

namespace dmftcore {

void register_threads(py::module_& m) {
  m.def("get_num_threads", &cpu::num_threads, "Number of threads of the CPU kernels.");
  m.def(
      "set_num_threads",
      [](int count) {
        if (count < 1)
          throw py::value_error("the number of threads must be at least 1, not " +
                                std::to_string(count));
        cpu::set_num_threads(count);
      },
      py::arg("count"),
      "Set the number of threads of the CPU kernels. Results do not depend on it.");
}

} // namespace dmftcore
