// Operations on numpy arrays. dmftcore.twotime documents them and words the errors; here only what
// would read or write out of bounds is refused.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <utility>

#include "ops.hpp"

namespace py = pybind11;
using namespace dmftcore;

namespace {

template <class T> using Array = py::array_t<T, py::array::c_style>;

void require(bool condition, const char* text) {
  if (!condition) throw py::value_error(text);
}

template <class T> void require_rows(const Array<T>& x, const char* text) {
  require(x.ndim() == 2, text);
}

// A stored history (N, N) that reaches at least as far as the rows x (m, n).
template <class T> void require_history(const Array<T>& x, const Array<T>& a, const char* text) {
  require(a.ndim() == 2 && a.shape(0) == a.shape(1) && a.shape(0) >= x.shape(1), text);
}

template <class T> Array<T> rows_causal(const Array<T>& x, const Array<T>& a) {
  require_rows(x, "x must be (m, n)");
  require_history(x, a, "a must be (N, N) with N >= n");
  Array<T> y({x.shape(0), x.shape(1)});
  const T *xp = x.data(), *ap = a.data();
  T* yp = y.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::rows_causal(x.shape(0), x.shape(1), xp, ap, a.shape(1), yp);
  }
  return y;
}

template <class T> Array<T> rows_causal_transposed(const Array<T>& x, const Array<T>& a) {
  require_rows(x, "x must be (m, n)");
  require_history(x, a, "a must be (N, N) with N >= n");
  Array<T> y({x.shape(0), x.shape(1)});
  const T *xp = x.data(), *ap = a.data();
  T* yp = y.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::rows_causal_transposed(x.shape(0), x.shape(1), xp, ap, a.shape(1), yp);
  }
  return y;
}

template <class T>
std::pair<Array<T>, Array<T>> rows_causal_pair(const Array<T>& x, const Array<T>& w,
                                               const Array<T>& a) {
  require_rows(x, "x must be (m, n)");
  require(w.ndim() == 2 && w.shape(0) == x.shape(0) && w.shape(1) == x.shape(1),
          "w must have the shape of x");
  require_history(x, a, "a must be (N, N) with N >= n");
  Array<T> y({x.shape(0), x.shape(1)}), z({x.shape(0), x.shape(1)});
  const T *xp = x.data(), *wp = w.data(), *ap = a.data();
  T *yp = y.mutable_data(), *zp = z.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::rows_causal_pair(x.shape(0), x.shape(1), xp, wp, ap, a.shape(1), yp, zp);
  }
  return {std::move(y), std::move(z)};
}

template <class T> Array<T> rows_symmetric(const Array<T>& x, const Array<T>& c) {
  require_rows(x, "x must be (m, n)");
  require_history(x, c, "c must be (N, N) with N >= n");
  Array<T> y({x.shape(0), x.shape(1)});
  const T *xp = x.data(), *cp = c.data();
  T* yp = y.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::rows_symmetric(x.shape(0), x.shape(1), xp, cp, c.shape(1), yp);
  }
  return y;
}

template <class T>
std::pair<Array<T>, Array<T>> rows_congruence(const Array<T>& x, const Array<T>& c,
                                              const Array<T>& r) {
  require_rows(x, "x must be (m, n)");
  require_history(x, c, "c must be (N, N) with N >= n");
  require_history(x, r, "r must be (N, N) with N >= n");
  Array<T> y({x.shape(0), x.shape(1)}), z({x.shape(0), x.shape(1)});
  const T *xp = x.data(), *cp = c.data(), *rp = r.data();
  T *yp = y.mutable_data(), *zp = z.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::rows_congruence(x.shape(0), x.shape(1), xp, cp, c.shape(1), rp, r.shape(1), yp, zp);
  }
  return {std::move(y), std::move(z)};
}

template <class T> Array<T> rows_low_rank(const Array<T>& x, const Array<T>& u, const Array<T>& v) {
  require_rows(x, "x must be (m, n)");
  require(u.ndim() == 2 && u.shape(0) >= x.shape(1), "u must be (N, k) with N >= n");
  require(v.ndim() == 2 && v.shape(0) >= x.shape(1) && v.shape(1) == u.shape(1),
          "v must be (N, k) with N >= n and the k of u");
  Array<T> y({x.shape(0), x.shape(1)});
  const T *xp = x.data(), *up = u.data(), *vp = v.data();
  T* yp = y.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::rows_low_rank(x.shape(0), x.shape(1), u.shape(1), xp, up, vp, yp);
  }
  return y;
}

template <class T> void register_for(py::module_& m) {
  const auto strict = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("rows_causal", &rows_causal<T>, strict("x"), strict("a"));
  m.def("rows_causal_transposed", &rows_causal_transposed<T>, strict("x"), strict("a"));
  m.def("rows_causal_pair", &rows_causal_pair<T>, strict("x"), strict("w"), strict("a"));
  m.def("rows_symmetric", &rows_symmetric<T>, strict("x"), strict("c"));
  m.def("rows_congruence", &rows_congruence<T>, strict("x"), strict("c"), strict("r"));
  m.def("rows_low_rank", &rows_low_rank<T>, strict("x"), strict("u"), strict("v"));
}

} // namespace

void register_twotime(py::module_& m) {
  register_for<double>(m);
  register_for<float>(m);
}
