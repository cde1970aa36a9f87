// Operations on particles. dmftcore.sampled.particles documents them; here only what would read or
// write out of bounds is refused.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "ops.hpp"

namespace py = pybind11;

namespace dmftcore {
namespace {

template <class T> using Array = py::array_t<T, py::array::c_style>;
template <class T> using Maybe = std::optional<Array<T>>;
using Ranks = Maybe<std::int64_t>;

void require(bool condition, const char* text) {
  if (!condition) throw py::value_error(text);
}

template <class T> bool has_shape(const Array<T>& x, index a, index b, index c) {
  return x.ndim() == 3 && x.shape(0) == a && x.shape(1) == b && x.shape(2) == c;
}

// Rows (runs, capacity, particles), of which the first used[run] count; at least `at_least` exist.
template <class T>
Vectors<T> vectors(const Maybe<T>& rows, const Ranks& used, index runs, index particles,
                   index at_least, const char* text) {
  if (!rows) return {nullptr, 0, nullptr};
  require(rows->ndim() == 3 && rows->shape(0) == runs && rows->shape(1) >= at_least &&
              rows->shape(2) == particles,
          text);
  const index capacity = rows->shape(1);
  if (!used) return {rows->data(), capacity, nullptr};
  static_assert(sizeof(index) == sizeof(std::int64_t));
  require(used->ndim() == 1 && used->shape(0) == runs, text);
  for (index run = 0; run < runs; ++run)
    require(used->at(run) >= 0 && used->at(run) <= capacity, text);
  return {rows->data(), capacity, reinterpret_cast<const index*>(used->data())};
}

template <class T> T* result(Maybe<T>& x, index a, index b, index c, const char* text) {
  if (!x) return nullptr;
  require(has_shape(*x, a, b, c), text);
  return x->mutable_data();
}

template <class T>
void products(const Array<T>& x, index n, const Maybe<T>& reference, const Maybe<T>& a,
              const Ranks& used_a, const Maybe<T>& b, const Ranks& used_b, Maybe<double> c,
              Maybe<double> d, Maybe<double> gram) {
  require(x.ndim() == 3, "x must be (runs, >= n, particles)");
  const index runs = x.shape(0), S = x.shape(2);
  Products<T> p{};
  p.runs = runs, p.particles = S, p.n = n;
  require(n >= 0, "n must not be negative");
  p.x = vectors<T>(x, {}, runs, S, n, "x must be (runs, >= n, particles)");
  p.a = vectors(a, used_a, runs, S, 0, "a must be (runs, capacity, particles)");
  p.b = vectors(b, used_b, runs, S, 0, "b must be (runs, capacity, particles)");
  if (reference) {
    require(has_shape(*reference, runs, x.shape(1), S), "reference must have the shape of x");
    p.reference = reference->data();
  }
  p.c = result(c, runs, p.a.capacity, n, "c must be (runs, capacity, n)");
  p.d = result(d, runs, p.b.capacity, n, "d must be (runs, capacity, n)");
  p.gram = result(gram, runs, n, n, "gram must be (runs, n, n)");
  py::gil_scoped_release nogil;
  cpu::particle_products(p);
}

template <class T>
void expansion(index n, const Maybe<T>& a, const Ranks& used_a, const Maybe<double>& c,
               const Maybe<T>& b, const Ranks& used_b, const Maybe<double>& d, double skip,
               double scale, const Maybe<T>& base, const Maybe<T>& field, index repeat,
               int activation, Maybe<T> u, Maybe<T> y, Maybe<T> value) {
  const Maybe<T>& some = y ? y : value ? value : u;
  require(some && some->ndim() == 3, "one of u, y, value must be (runs, n, particles)");
  const index runs = some->shape(0), S = some->shape(2);
  Expansion<T> e{};
  e.runs = runs, e.particles = S, e.n = n;
  e.skip = skip, e.scale = scale, e.repeat = repeat;
  require(activation >= 0 && activation < ACTIVATIONS, "there is no such activation");
  require(n >= 0 && repeat >= 1, "n must not be negative, repeat must be positive");
  e.activation = static_cast<Activation>(activation);
  e.a = vectors(a, used_a, runs, S, 0, "a must be (runs, capacity, particles)");
  e.b = vectors(b, used_b, runs, S, 0, "b must be (runs, capacity, particles)");
  const auto factors = [&](const Maybe<double>& x, index capacity, const char* text) {
    require(capacity == 0 || (x && has_shape(*x, runs, capacity, n)), text);
    return x ? x->data() : nullptr;
  };
  e.c = factors(c, e.a.capacity, "c must be (runs, capacity, n)");
  e.d = factors(d, e.b.capacity, "d must be (runs, capacity, n)");
  e.base = vectors(base, {}, runs, S, n, "base must be (runs, >= n, particles)");
  const index fields = (n + repeat - 1) / repeat;
  e.field = vectors(field, {}, runs, S, fields, "field must be (runs, >= n / repeat, particles)");
  e.u = result(u, runs, n, S, "u must be (runs, n, particles)");
  e.y = result(y, runs, n, S, "y must be (runs, n, particles)");
  e.value = result(value, runs, n, S, "value must be (runs, n, particles)");
  py::gil_scoped_release nogil;
  cpu::particle_expansion(e);
}

template <class T>
void step(Array<T>& a, Array<T>& w, const Array<double>& x, Array<double>& f, int activation,
          const Maybe<double>& errors, double kept) {
  require(a.ndim() == 3 && w.ndim() == 3 && w.shape(0) == a.shape(0) && w.shape(2) == a.shape(2),
          "a must be (runs, inputs, particles), w (runs, outputs, particles)");
  require(activation >= 0 && activation < ACTIVATIONS, "there is no such activation");
  TwoLayerStep<T> s{};
  s.runs = a.shape(0), s.inputs = a.shape(1), s.outputs = w.shape(1), s.particles = a.shape(2);
  require(s.particles > 0, "there must be particles");
  require(x.ndim() == 2 && x.shape(1) == s.inputs, "x must be (points, inputs)");
  s.points = x.shape(0);
  require(has_shape(f, s.runs, s.points, s.outputs), "f must be (runs, points, outputs)");
  if (errors) {
    require(errors->ndim() == 3 && has_shape(*errors, s.runs, errors->shape(1), s.outputs) &&
                errors->shape(1) <= s.points,
            "errors must be (runs, <= points, outputs)");
    s.train = errors->shape(1), s.errors = errors->data();
  }
  s.activation = static_cast<Activation>(activation), s.kept = kept, s.x = x.data();
  s.a = a.mutable_data(), s.w = w.mutable_data(), s.f = f.mutable_data();
  py::gil_scoped_release nogil;
  cpu::two_layer_step(s);
}

template <class T>
void fill_normals(Array<T>& x, std::uint64_t seed, std::uint32_t run, std::uint32_t stream,
                  std::uint32_t column) {
  require(x.ndim() == 2, "x must be (count, particles)");
  T* const out = x.mutable_data();
  const index count = x.shape(0), particles = x.shape(1);
  py::gil_scoped_release nogil;
  cpu::normals(Normals{seed, run, stream, column}, count, particles, out);
}

template <class T> void define(py::module_& m) {
  const auto none = py::none();
  m.def("particle_products", &products<T>, py::kw_only(), py::arg("x").noconvert(), py::arg("n"),
        py::arg("reference").noconvert() = none, py::arg("a").noconvert() = none,
        py::arg("used_a").noconvert() = none, py::arg("b").noconvert() = none,
        py::arg("used_b").noconvert() = none, py::arg("c").noconvert() = none,
        py::arg("d").noconvert() = none, py::arg("gram").noconvert() = none);
  m.def("particle_expansion", &expansion<T>, py::kw_only(), py::arg("n"),
        py::arg("a").noconvert() = none, py::arg("used_a").noconvert() = none,
        py::arg("c").noconvert() = none, py::arg("b").noconvert() = none,
        py::arg("used_b").noconvert() = none, py::arg("d").noconvert() = none,
        py::arg("skip") = 1.0, py::arg("scale") = 1.0, py::arg("base").noconvert() = none,
        py::arg("field").noconvert() = none, py::arg("repeat") = 1, py::arg("activation") = 0,
        py::arg("u").noconvert() = none, py::arg("y").noconvert() = none,
        py::arg("value").noconvert() = none);
  m.def("two_layer_step", &step<T>, py::kw_only(), py::arg("a").noconvert(),
        py::arg("w").noconvert(), py::arg("x").noconvert(), py::arg("f").noconvert(),
        py::arg("activation"), py::arg("errors").noconvert() = none, py::arg("kept") = 1.0);
  m.def("normals", &fill_normals<T>, py::arg("x").noconvert(), py::kw_only(), py::arg("seed"),
        py::arg("run"), py::arg("stream"), py::arg("column"));
}

} // namespace

void register_particles(py::module_& m) {
  define<double>(m);
  define<float>(m);
}

} // namespace dmftcore
