// Operations on particles. dmftcore.sampled.particles documents them; here only what would read or
// write out of bounds is refused.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>

#include "cpu/interface.hpp"
#include "cpu/quasi_normals.hpp"
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

// Rows as for `vectors`, whose numbers are counted up, with room for `more` in every run.
template <class T>
cpu::GrowingVectors<T> growing(Array<T>& rows, Array<std::int64_t>& used, index runs,
                               index particles, index more, const char* text) {
  require(rows.ndim() == 3 && rows.shape(0) == runs && rows.shape(2) == particles, text);
  require(used.ndim() == 1 && used.shape(0) == runs, text);
  for (index run = 0; run < runs; ++run)
    require(used.at(run) >= 0 && used.at(run) + more <= rows.shape(1), text);
  return {rows.mutable_data(), rows.shape(1), reinterpret_cast<index*>(used.mutable_data())};
}

template <class T>
void interface(const Array<T>& x, index n, const Maybe<T>& reference, Array<T>& visited,
               Array<std::int64_t>& used_visited, const Array<T>& responding, Array<T>& fresh,
               Array<std::int64_t>& used_fresh, const Array<T>& opposite,
               const Array<std::int64_t>& used_opposite, Array<T>& pool,
               Array<std::int64_t>& used_pool, index room, bool match, bool quasi,
               const Array<double>& matrix, bool transposed, double kept, double tol, bool formed,
               const py::function& normals, Array<double>& along, Array<double>& response,
               Array<double>& gram, Array<double>& levels, double skip, double scale,
               const Maybe<T>& base, const Maybe<T>& field, index repeat, int activation,
               Maybe<T> u, Maybe<T> y, Maybe<T> value) {
  const Maybe<T>& some = y ? y : value;
  require(x.ndim() == 3 && some && some->ndim() == 3, "x, and y or value, must have three axes");
  const index runs = x.shape(0), sources = x.shape(2), particles = some->shape(2);
  require(n >= 0 && repeat >= 1, "n must not be negative, repeat must be positive");
  require(activation >= 0 && activation < ACTIVATIONS, "there is no such activation");
  cpu::InterfacePass<T> p{};
  p.runs = runs, p.sources = sources, p.particles = particles, p.n = n;
  p.x = vectors<T>(x, {}, runs, sources, n, "x must be (runs, >= n, sources)");
  if (reference) {
    require(has_shape(*reference, runs, x.shape(1), sources), "reference must be like x");
    p.reference = reference->data();
  }
  p.visited = growing(visited, used_visited, runs, sources, n, "visited must have room for n");
  p.fresh = growing(fresh, used_fresh, runs, particles, n, "fresh must have room for n");
  for (index run = 0; run < runs; ++run)
    require(used_fresh.at(run) == used_visited.at(run), "each visited column has a fresh one");
  p.pool = growing(pool, used_pool, runs, particles, 0, "pool must be (runs, capacity, particles)");
  require(!match || pool.shape(1) >= room, "pool must have its room");
  p.opposite = vectors<T>(opposite, used_opposite, runs, particles, 0,
                          "opposite must be (runs, capacity, particles)");
  p.responding = vectors<T>(responding, used_opposite, runs, sources, 0,
                            "responding must be (runs, capacity, sources)");
  p.room = room, p.match = match, p.quasi = quasi;
  p.above = matrix.ndim() == 3 ? matrix.shape(1) : 0;
  p.below = matrix.ndim() == 3 ? matrix.shape(2) : 0;
  require(has_shape(matrix, runs, transposed ? visited.shape(1) : opposite.shape(1),
                    transposed ? opposite.shape(1) : visited.shape(1)),
          "matrix must be (runs, above, below)");
  p.matrix = matrix.data(), p.transposed = transposed;
  p.kept = kept, p.tol = tol, p.formed = formed;
  require(has_shape(along, runs, visited.shape(1), n) &&
              has_shape(response, runs, responding.shape(1), n) && has_shape(gram, runs, n, n) &&
              levels.ndim() == 2 && levels.shape(0) == runs && levels.shape(1) == 2,
          "results must be (runs, capacity, n), (runs, n, n) and (runs, 2)");
  p.along = along.mutable_data(), p.response = response.mutable_data();
  p.gram = gram.mutable_data(), p.levels = levels.mutable_data();
  Expansion<T>& e = p.after;
  e.skip = skip, e.scale = scale, e.repeat = repeat;
  e.activation = static_cast<Activation>(activation);
  e.base = vectors(base, {}, runs, particles, n, "base must be (runs, >= n, particles)");
  const index fields = (n + repeat - 1) / repeat;
  e.field = vectors(field, {}, runs, particles, fields, "field must be (runs, .., particles)");
  e.u = result(u, runs, n, particles, "u must be (runs, n, particles)");
  e.y = result(y, runs, n, particles, "y must be (runs, n, particles)");
  e.value = result(value, runs, n, particles, "value must be (runs, n, particles)");
  const cpu::FillNormals<T> fill = [&](T* out, index count, index run, index column,
                                       index dimension) {
    py::gil_scoped_acquire gil;
    const py::array_t<T> rows({count, particles}, out, py::str()); // a view: it has an owner
    const auto place = dimension < 0 ? py::object(py::none()) : py::object(py::int_(dimension));
    normals(rows, run, column, place);
  };
  py::gil_scoped_release nogil;
  cpu::interface_pass(p, fill);
}

template <class T>
void two_layer(Array<T>& a, Array<T>& w, Maybe<T>& a_velocity, Maybe<T>& w_velocity,
               const Array<double>& x, const Array<double>& targets, const Array<double>& centre,
               const Array<double>& rates, Array<double>& f, int activation, int loss, double gamma,
               double momentum, double decay) {
  require(a.ndim() == 3 && w.ndim() == 3 && w.shape(0) == a.shape(0) && w.shape(2) == a.shape(2),
          "a must be (runs, inputs, particles), w (runs, outputs, particles)");
  require(activation >= 0 && activation < ACTIVATIONS, "there is no such activation");
  require(loss >= 0 && loss < LOSSES, "there is no such loss");
  TwoLayerMarch<T> m{};
  m.runs = a.shape(0), m.inputs = a.shape(1), m.outputs = w.shape(1), m.particles = a.shape(2);
  require(m.particles > 0 && m.outputs > 0, "there must be particles and outputs");
  require(x.ndim() == 2 && x.shape(1) == m.inputs, "x must be (points, inputs)");
  m.points = x.shape(0);
  require(targets.ndim() == 2 && targets.shape(0) > 0 && targets.shape(0) <= m.points &&
              targets.shape(1) == m.outputs,
          "targets must be (<= points, outputs)");
  m.train = targets.shape(0);
  require(has_shape(centre, m.runs, m.points, m.outputs), "centre must be (runs, points, outputs)");
  require(rates.ndim() == 1, "rates must be (steps,)");
  m.steps = rates.shape(0);
  require(f.ndim() == 4 && f.shape(0) == m.steps + 1 && f.shape(1) == m.runs &&
              f.shape(2) == m.points && f.shape(3) == m.outputs,
          "f must be (steps + 1, runs, points, outputs)");
  require(a_velocity.has_value() == w_velocity.has_value(), "velocities must be two, or none");
  m.a_velocity = result(a_velocity, m.runs, m.inputs, m.particles, "a_velocity must be like a");
  m.w_velocity = result(w_velocity, m.runs, m.outputs, m.particles, "w_velocity must be like w");
  m.activation = static_cast<Activation>(activation), m.loss = static_cast<Loss>(loss);
  m.x = x.data(), m.targets = targets.data(), m.centre = centre.data(), m.rates = rates.data();
  m.gamma = gamma, m.momentum = momentum, m.decay = decay;
  m.a = a.mutable_data(), m.w = w.mutable_data(), m.f = f.mutable_data();
  py::gil_scoped_release nogil;
  cpu::two_layer_march(m);
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

template <class T>
void fill_quasi_normals(Array<T>& x, const Array<std::uint32_t>& numbers, std::uint32_t shift) {
  require(x.ndim() == 1, "x must be (particles,)");
  require(numbers.ndim() == 1 && numbers.shape(0) == cpu::QUASI_BITS, "numbers must be (32,)");
  T* const out = x.mutable_data();
  const index particles = x.shape(0);
  require(particles <= index{1} << cpu::QUASI_BITS, "there are no more than 2^32 points");
  py::gil_scoped_release nogil;
  cpu::quasi_normals(numbers.data(), shift, particles, out);
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
  m.def("interface_pass", &interface<T>, py::kw_only(), py::arg("x").noconvert(), py::arg("n"),
        py::arg("reference").noconvert() = none, py::arg("visited").noconvert(),
        py::arg("used_visited").noconvert(), py::arg("responding").noconvert(),
        py::arg("fresh").noconvert(), py::arg("used_fresh").noconvert(),
        py::arg("opposite").noconvert(), py::arg("used_opposite").noconvert(),
        py::arg("pool").noconvert(), py::arg("used_pool").noconvert(), py::arg("room"),
        py::arg("match"), py::arg("quasi"), py::arg("matrix").noconvert(), py::arg("transposed"),
        py::arg("kept"), py::arg("tol"), py::arg("formed"), py::arg("normals"),
        py::arg("along").noconvert(), py::arg("response").noconvert(), py::arg("gram").noconvert(),
        py::arg("levels").noconvert(), py::arg("skip") = 1.0, py::arg("scale") = 1.0,
        py::arg("base").noconvert() = none, py::arg("field").noconvert() = none,
        py::arg("repeat") = 1, py::arg("activation") = 0, py::arg("u").noconvert() = none,
        py::arg("y").noconvert() = none, py::arg("value").noconvert() = none);
  m.def("two_layer_march", &two_layer<T>, py::kw_only(), py::arg("a").noconvert(),
        py::arg("w").noconvert(), py::arg("a_velocity").noconvert() = none,
        py::arg("w_velocity").noconvert() = none, py::arg("x").noconvert(),
        py::arg("targets").noconvert(), py::arg("centre").noconvert(), py::arg("rates").noconvert(),
        py::arg("f").noconvert(), py::arg("activation"), py::arg("loss"), py::arg("gamma"),
        py::arg("momentum") = 0.0, py::arg("decay") = 0.0);
  m.def("normals", &fill_normals<T>, py::arg("x").noconvert(), py::kw_only(), py::arg("seed"),
        py::arg("run"), py::arg("stream"), py::arg("column"));
  m.def("quasi_normals", &fill_quasi_normals<T>, py::arg("x").noconvert(), py::kw_only(),
        py::arg("numbers").noconvert(), py::arg("shift"));
}

} // namespace

void register_particles(py::module_& m) {
  define<double>(m);
  define<float>(m);
}

} // namespace dmftcore
