#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace dmftcore {
void register_runtime(py::module_&);
void register_threads(py::module_&);
void register_twotime(py::module_&);
void register_row_program(py::module_&);
void register_growing(py::module_&);
void register_jax(py::module_&);
void register_spectral(py::module_&);
void register_particles(py::module_&);
void register_attention(py::module_&);
void register_device(py::module_&); // where CUDA was built
} // namespace dmftcore

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  m.doc() = "Compiled core of dmftcore; the documented interface is the Python package.";
  dmftcore::register_runtime(m);
  dmftcore::register_threads(m);
  dmftcore::register_twotime(m);
  dmftcore::register_row_program(m);
  dmftcore::register_growing(m);
  dmftcore::register_jax(m);
  dmftcore::register_spectral(m);
  dmftcore::register_particles(m);
  dmftcore::register_attention(m);
#ifdef DMFTCORE_HAS_CUDA
  dmftcore::register_device(m);
#endif
}
