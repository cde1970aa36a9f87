// The targets of XLA's custom calls, as the capsules that dmftcore.jax registers. jax itself is not
// needed here, and nothing is registered before it is asked for.
#include <pybind11/pybind11.h>

#include "jax/handlers.hpp"

namespace py = pybind11;

namespace dmftcore {

void register_jax(py::module_& m) {
  m.def(
      "jax_targets",
      [] {
        py::list found;
        for (const xla::Target& target : xla::targets())
          found.append(py::make_tuple(
              target.platform, target.operation,
              py::capsule(reinterpret_cast<void*>(target.handler), "xla._CUSTOM_CALL_TARGET")));
        return found;
      },
      "(platform, operation, handler) for jax.ffi.register_ffi_target.");
}

} // namespace dmftcore
