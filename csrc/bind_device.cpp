// Operations on device memory: addresses and sizes as integers, which dmftcore._device takes from
// arrays it has checked. A submodule for each type: _core.cuda.float64, _core.cuda.float32; and
// complex128, for what has results of this type.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <exception>
#include <type_traits>
#include <vector>

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

template <class T>
void causal_matmul(cuda::Stream stream, index batch, index n, index block, int transposed,
                   const T* a, const T* b, T* c) {
  cuda::causal_matmul(stream, batch, n, block, Transposed(transposed), a, b, c);
}

// Operations on particles, whose arguments ops.hpp has in structs.

template <class T>
void particle_products(cuda::Stream stream, index runs, index particles, index n, const T* a,
                       index capacity_a, const index* used_a, const T* b, index capacity_b,
                       const index* used_b, const T* x, index capacity_x, const T* reference,
                       double* c, double* d, double* gram) {
  const Vectors<T> left{a, capacity_a, used_a}, right{b, capacity_b, used_b};
  const Vectors<T> fields{x, capacity_x, nullptr};
  cuda::particle_products<T>(stream,
                             {runs, particles, n, left, right, fields, reference, c, d, gram});
}

template <class T>
void particle_expansion(cuda::Stream stream, index runs, index particles, index n, const T* a,
                        index capacity_a, const index* used_a, const T* b, index capacity_b,
                        const index* used_b, const double* c, const double* d, double skip,
                        double scale, const T* base, index capacity_base, const T* field,
                        index capacity_field, index repeat, int activation, T* u, T* y, T* value) {
  const Vectors<T> left{a, capacity_a, used_a}, right{b, capacity_b, used_b};
  const Vectors<T> bases{base, capacity_base, nullptr}, fields{field, capacity_field, nullptr};
  cuda::particle_expansion<T>(stream, {runs, particles, n, left, right, c, d, skip, scale, bases,
                                       fields, repeat, Activation(activation), u, y, value});
}

template <class T>
void normals(cuda::Stream stream, std::uint64_t seed, std::uint32_t run, std::uint32_t number,
             std::uint32_t column, index count, index particles, T* x) {
  cuda::normals(stream, {seed, run, number, column}, count, particles, x);
}

template <class T> void define_operations(py::module_ m) {
  define(m, "causal_matmul", &causal_matmul<T>);
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
  define(m, "particle_products", &particle_products<T>);
  define(m, "particle_expansion", &particle_expansion<T>);
  define(m, "normals", &normals<T>);
}

// Pointers as addresses, 0 for null.
cuda::AttentionOnDevice attention_of(const py::dict& fields) {
  const auto number = [&](const char* name) { return fields[name].cast<index>(); };
  const auto real = [&](const char* name) { return fields[name].cast<double>(); };
  const auto array = [&](const char* name) {
    return reinterpret_cast<double*>(fields[name].cast<std::uintptr_t>());
  };
  return {fields["attention"].cast<int>(),
          fields["causal"].cast<bool>(),
          number("sequences"),
          number("train"),
          number("length"),
          number("outputs"),
          number("rank"),
          number("groups"),
          number("heads"),
          number("keys"),
          number("values"),
          real("gamma"),
          real("scale"),
          array("kernel"),
          array("tokens"),
          array("transposed"),
          array("targets"),
          array("weight"),
          array("centre"),
          array("query"),
          array("key"),
          array("score"),
          array("value"),
          array("readout")};
}

void define_attention(py::module_ m) {
  m.def("attention_run", [](int device, std::uintptr_t stream, const py::dict& problem,
                            const std::vector<double>& rates, std::uintptr_t outputs) {
    const cuda::AttentionOnDevice heads = attention_of(problem);
    py::gil_scoped_release nogil;
    const cuda::OnDevice current(device);
    cuda::attention_run(received<cuda::Stream>(stream), heads, rates.data(),
                        static_cast<index>(rates.size()), received<double*>(outputs));
  });
  m.def("attention_patterns", [](int device, std::uintptr_t stream, const py::dict& problem,
                                 std::uintptr_t patterns) {
    const cuda::AttentionOnDevice heads = attention_of(problem);
    py::gil_scoped_release nogil;
    const cuda::OnDevice current(device);
    cuda::attention_patterns(received<cuda::Stream>(stream), heads, received<double*>(patterns));
  });
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
  py::module_ float64 = cuda.def_submodule("float64");
  define_operations<double>(float64);
  define_attention(float64);
  define_operations<float>(cuda.def_submodule("float32"));
  py::module_ complexes = cuda.def_submodule("complex128");
  define(complexes, "spectral_kappa", &cuda::spectral_kappa);
  define(complexes, "spectral_two_point", &cuda::spectral_two_point);
}

} // namespace dmftcore
