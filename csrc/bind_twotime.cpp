// Operations on numpy arrays. dmftcore.twotime documents them and words the errors; here only what
// would read or write out of bounds is refused.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "ops.hpp"

namespace py = pybind11;

namespace dmftcore {
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

// Rows times one history: the operations with the signature of rows_causal.
template <class T, void (*OPERATION)(index, index, const T*, const T*, index, T*)>
Array<T> rows_times_history(const Array<T>& x, const Array<T>& a) {
  require_rows(x, "x must be (m, n)");
  require_history(x, a, "the history must be (N, N) with N >= n");
  Array<T> y({x.shape(0), x.shape(1)});
  const T *xp = x.data(), *ap = a.data();
  T* yp = y.mutable_data();
  {
    py::gil_scoped_release nogil;
    OPERATION(x.shape(0), x.shape(1), xp, ap, a.shape(1), yp);
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

// Sizes of (*batch, rows, columns).
struct Shape {
  index batch = 1;
  index rows;
  index columns;
};

template <class T> Shape shape_of(const Array<T>& a, const char* text) {
  require(a.ndim() >= 2, text);
  Shape shape;
  for (py::ssize_t d = 0; d + 2 < a.ndim(); ++d) shape.batch *= a.shape(d);
  shape.rows = a.shape(a.ndim() - 2);
  shape.columns = a.shape(a.ndim() - 1);
  return shape;
}

template <class T> Shape square(const Array<T>& a, index block, const char* text) {
  const Shape shape = shape_of(a, text);
  require(shape.rows == shape.columns, text);
  require(block >= 1 && shape.rows % block == 0, "the size must be a multiple of block");
  return shape;
}

template <class T> void same_shape(const Array<T>& a, const Array<T>& b, const char* text) {
  require(a.ndim() == b.ndim() && std::equal(a.shape(), a.shape() + a.ndim(), b.shape()), text);
}

template <class T> Array<T> empty_like(const Array<T>& a) {
  return Array<T>(std::vector<py::ssize_t>(a.shape(), a.shape() + a.ndim()));
}

// A kernel from two: OPERATION(batch, n, block, options..., a, b, c).
template <class T, auto OPERATION, class... O>
Array<T> of_two_kernels(const Array<T>& a, const Array<T>& b, O... options, index block) {
  const Shape shape = square(a, block, "kernels must be (*batch, n, n)");
  same_shape(a, b, "the kernels must have one shape");
  Array<T> c = empty_like(a);
  const T *ap = a.data(), *bp = b.data();
  T* cp = c.mutable_data();
  {
    py::gil_scoped_release nogil;
    OPERATION(shape.batch, shape.rows, block, options..., ap, bp, cp);
  }
  return c;
}

template <class T>
Array<T> causal_matmul(const Array<T>& a, const Array<T>& b, int transposed, index block) {
  require(transposed >= 0 && transposed <= 2, "transposed must be 0, 1 or 2");
  return of_two_kernels<T, cpu::causal_matmul<T>, Transposed>(a, b, Transposed(transposed), block);
}

template <class T>
Array<T> causal_solve(const Array<T>& a, const Array<T>& b, bool dense, index block) {
  const Shape shape = square(a, block, "a must be (*batch, n, n)");
  const Shape right = shape_of(b, "b must be (*batch, n, m)");
  require(right.batch == shape.batch && right.rows == shape.rows &&
              (dense || right.columns == shape.columns),
          "the shape of b does not fit a");
  Array<T> x = empty_like(b);
  const T *ap = a.data(), *bp = b.data();
  T* xp = x.mutable_data();
  {
    py::gil_scoped_release nogil;
    if (dense)
      cpu::causal_solve_dense(shape.batch, shape.rows, right.columns, block, ap, bp, xp);
    else
      cpu::causal_solve(shape.batch, shape.rows, block, ap, bp, xp);
  }
  return x;
}

template <class T> Array<T> resolvent(const Array<T>& a, index block) {
  const Shape shape = square(a, block, "a must be (*batch, n, n)");
  Array<T> r = empty_like(a);
  const T* ap = a.data();
  T* rp = r.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::resolvent(shape.batch, shape.rows, block, ap, rp);
  }
  return r;
}

template <class T>
Array<T> causal_apply(const Array<T>& k, const Array<T>& g, bool strict, bool transposed,
                      index block) {
  const Shape shape = square(k, block, "k must be (*batch, n, n)");
  require(g.ndim() >= k.ndim() - 1 && std::equal(k.shape(), k.shape() + k.ndim() - 1, g.shape()),
          "g must be (*batch, n, *trailing)");
  index columns = 1;
  for (py::ssize_t d = k.ndim() - 1; d < g.ndim(); ++d) columns *= g.shape(d);
  Array<T> y = empty_like(g);
  const T *kp = k.data(), *gp = g.data();
  T* yp = y.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::causal_apply(shape.batch, shape.rows, columns, block, strict, transposed, kp, gp, yp);
  }
  return y;
}

template <class T>
Array<T> rows_causal_batch(const Array<T>& x, const Array<T>& a, bool transposed) {
  require(x.ndim() == 2, "x must be (batch, n)");
  require(a.ndim() == 3 && a.shape(0) == x.shape(0) && a.shape(1) == a.shape(2) &&
              a.shape(1) >= x.shape(1),
          "a must be (batch, N, N) with N >= n");
  Array<T> y = empty_like(x);
  const T *xp = x.data(), *ap = a.data();
  T* yp = y.mutable_data();
  {
    py::gil_scoped_release nogil;
    cpu::rows_causal_batch(x.shape(0), x.shape(1), transposed, xp, ap, a.shape(1), yp);
  }
  return y;
}

template <class T> void register_for(py::module_& m) {
  const auto strict = [](const char* name) { return py::arg(name).noconvert(); };
  m.def("causal_matmul", &causal_matmul<T>, strict("a"), strict("b"), py::arg("transposed"),
        py::arg("block"));
  m.def("causal_solve", &causal_solve<T>, strict("a"), strict("b"), py::arg("dense"),
        py::arg("block"));
  m.def("resolvent", &resolvent<T>, strict("a"), py::arg("block"));
  m.def("congruence", &of_two_kernels<T, cpu::congruence<T>>, strict("r"), strict("c"),
        py::arg("block"));
  m.def("causal_apply", &causal_apply<T>, strict("k"), strict("g"), py::arg("strict"),
        py::arg("transposed"), py::arg("block"));
  m.def("rows_causal", &rows_times_history<T, cpu::rows_causal<T>>, strict("x"), strict("a"));
  m.def("rows_causal_transposed", &rows_times_history<T, cpu::rows_causal_transposed<T>>,
        strict("x"), strict("a"));
  m.def("rows_causal_pair", &rows_causal_pair<T>, strict("x"), strict("w"), strict("a"));
  m.def("rows_symmetric", &rows_times_history<T, cpu::rows_symmetric<T>>, strict("x"), strict("c"));
  m.def("rows_congruence", &rows_congruence<T>, strict("x"), strict("c"), strict("r"));
  m.def("rows_low_rank", &rows_low_rank<T>, strict("x"), strict("u"), strict("v"));
  m.def("rows_causal_batch", &rows_causal_batch<T>, strict("x"), strict("a"),
        py::arg("transposed"));
}

} // namespace

void register_twotime(py::module_& m) {
  register_for<double>(m);
  register_for<float>(m);
}

} // namespace dmftcore
