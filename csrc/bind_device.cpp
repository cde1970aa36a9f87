// Operations on device memory: addresses and sizes as integers, which dmftcore._device takes from
// arrays it has checked. A submodule for each type: _core.cuda.float64, _core.cuda.float32; and
// complex128, for what has results of this type.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <exception>
#include <type_traits>

#include "cuda/device.hpp"
#include "cuda/error.hpp"
#include "ops.hpp"

namespace py = pybind11;

namespace dmftcore {
namespace {

// How an argument of an operation is passed: a pointer as its address.
template <class A> using Passed = std::conditional_t<std::is_pointer_v<A>, std::uintptr_t, A>;

template <class A> A received(Passed<A> value) {
  if constexpr (std::is_pointer_v<A>)
    return reinterpret_cast<A>(value);
  else
    return value;
}

// name(device, stream, *arguments of the operation)
template <class... A>
void define(py::module_& m, const char* name, void (*operation)(cuda::Stream, A...)) {
  m.def(name, [operation](int device, std::uintptr_t stream, Passed<A>... arguments) {
    py::gil_scoped_release nogil;
    const cuda::OnDevice current(device);
    operation(received<cuda::Stream>(stream), received<A>(arguments)...);
  });
}

template <class T> void define_operations(py::module_ m) {
  define(m, "causal_matmul", &cuda::causal_matmul<T>);
  define(m, "causal_solve", &cuda::causal_solve<T>);
  define(m, "causal_solve_dense", &cuda::causal_solve_dense<T>);
  define(m, "resolvent", &cuda::resolvent<T>);
  define(m, "congruence", &cuda::congruence<T>);
  define(m, "causal_apply", &cuda::causal_apply<T>);
  define(m, "rows_causal", &cuda::rows_causal<T>);
  define(m, "rows_causal_transposed", &cuda::rows_causal_transposed<T>);
  define(m, "rows_causal_pair", &cuda::rows_causal_pair<T>);
  define(m, "rows_symmetric", &cuda::rows_symmetric<T>);
  define(m, "rows_congruence", &cuda::rows_congruence<T>);
  define(m, "rows_low_rank", &cuda::rows_low_rank<T>);
  define(m, "rows_causal_batch", &cuda::rows_causal_batch<T>);
}

void translate(std::exception_ptr thrown) {
  try {
    if (thrown) std::rethrow_exception(thrown);
  } catch (const cuda::Error& error) {
    py::set_error(py::module_::import("dmftcore.errors").attr("CudaError"), error.what());
  }
}

} // namespace

void register_device(py::module_& m) {
  py::register_local_exception_translator(&translate);
  py::module_ cuda = m.def_submodule("cuda", "Operations on device memory.");
  define_operations<double>(cuda.def_submodule("float64"));
  define_operations<float>(cuda.def_submodule("float32"));
  py::module_ complexes = cuda.def_submodule("complex128");
  define(complexes, "spectral_kappa", &cuda::spectral_kappa);
  define(complexes, "spectral_two_point", &cuda::spectral_two_point);
}

} // namespace dmftcore
