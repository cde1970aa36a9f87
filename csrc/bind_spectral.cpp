// Functions of random matrices on numpy arrays. dmftcore.spectral documents them and words the
// errors; here only what would read or write out of bounds is refused.
#include <pybind11/complex.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <complex>

#include "ops.hpp"

namespace py = pybind11;

namespace dmftcore {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Complexes = py::array_t<std::complex<double>, py::array::c_style>;

// The same numbers as the core sees them.
const complex* data(const Complexes& a) { return reinterpret_cast<const complex*>(a.data()); }
complex* data(Complexes& a) { return reinterpret_cast<complex*>(a.mutable_data()); }

void require(bool condition, const char* text) {
  if (!condition) throw py::value_error(text);
}

Complexes spectral_kappa(const Complexes& z, const Doubles& lam, const Doubles& mu, double samples,
                         double features) {
  require(z.ndim() == 1, "z must be (n,)");
  require(lam.ndim() == 1 && lam.shape(0) > 0, "lam must be (modes,)");
  require(mu.ndim() == 1 && mu.shape(0) == lam.shape(0), "mu must be (modes,)");
  Complexes kappa(z.shape(0));
  const complex* const zp = data(z);
  const double *const lp = lam.data(), *const wp = mu.data();
  complex* const kp = data(kappa);
  {
    py::gil_scoped_release nogil;
    cpu::spectral_kappa(z.shape(0), lam.shape(0), lp, wp, samples, features, zp, kp);
  }
  return kappa;
}

py::tuple spectral_two_point(const Complexes& one1, const Complexes& one2, const Doubles& lam,
                             const Doubles& weights, double samples, double features,
                             double noise_variance) {
  require(one1.ndim() == 3 && one1.shape(0) == 3, "one1 must be (3, batch, n1)");
  require(one2.ndim() == 3 && one2.shape(0) == 3 && one2.shape(1) == one1.shape(1),
          "one2 must be (3, batch, n2)");
  require(lam.ndim() == 1 && lam.shape(0) > 0, "lam must be (modes,)");
  require(weights.ndim() == 2 && (weights.shape(0) == 4 || weights.shape(0) == 6) &&
              weights.shape(1) == lam.shape(0),
          "weights must be (4, modes) or (6, modes)");
  const index batch = one1.shape(1), n1 = one1.shape(2), n2 = one2.shape(2);
  const bool observed = weights.shape(0) == 6;
  Complexes test({batch, n1, n2}), train({batch, n1, n2}), observable;
  if (observed) observable = Complexes({batch, n1, n2});
  const complex *const p1 = data(one1), *const p2 = data(one2);
  const double *const lp = lam.data(), *const wp = weights.data();
  complex *const to = data(test), *const tr = data(train);
  complex* const ob = observed ? data(observable) : nullptr;
  {
    py::gil_scoped_release nogil;
    cpu::spectral_two_point(batch, n1, n2, lam.shape(0), lp, wp, samples, features, noise_variance,
                            p1, p2, to, tr, ob);
  }
  return py::make_tuple(test, train, observed ? py::object(observable) : py::none());
}

} // namespace

void register_spectral(py::module_& m) {
  const auto strict = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("spectral_kappa", &spectral_kappa, strict("z"), strict("lam"), strict("mu"),
        py::arg("samples"), py::arg("features"));
  m.def("spectral_two_point", &spectral_two_point, strict("one1"), strict("one2"), strict("lam"),
        strict("weights"), py::arg("samples"), py::arg("features"), py::arg("noise_variance"));
}

} // namespace dmftcore
