// The growing network as a Python class, and its lazy limit. Their documented users are
// dmftcore.growing.interfaces and dmftcore.limits.lazy.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>

#include "cpu/growing_networks.hpp"
#include "cpu/lazy.hpp"

namespace py = pybind11;

namespace dmftcore {
namespace {

using cpu::GrowingNetwork;
using cpu::Matrix;

using Doubles = py::array_t<double, py::array::c_style>;
using Steps = py::array_t<std::int64_t, py::array::c_style>;

Doubles copy(const Matrix& m) {
  Doubles out({m.rows(), m.cols()});
  for (index i = 0; i < m.rows(); ++i) std::copy_n(m.row(i), m.cols(), out.mutable_data(i, 0));
  return out;
}

std::unique_ptr<GrowingNetwork> create(const Doubles& scales, const Doubles& targets, index depth,
                                       std::optional<double> branch, const Doubles& rates,
                                       double momentum, double decay, double gamma, double sigma,
                                       double tol, double floor, index max_neurons, bool follow_ntk,
                                       double loss_limit) {
  if (scales.ndim() != 1) throw py::value_error("scales must have shape (rank,)");
  if (targets.ndim() != 2 || targets.shape(1) != scales.shape(0))
    throw py::value_error("targets must have shape (outputs, rank)");
  if (rates.ndim() != 1) throw py::value_error("rates must have shape (steps,) or (1,)");
  if (depth < (branch ? 2 : 1))
    throw py::value_error("depth must be at least 1, and 2 with residual blocks");
  if (follow_ntk && (momentum != 0 || decay != 0))
    throw py::value_error("follow_ntk excludes momentum and decay");
  const GrowingNetwork::Data data{scales.data(), targets.data(), scales.shape(0), targets.shape(0)};
  const GrowingNetwork::Parameters parameters{
      depth,       {rates.data(), rates.data() + rates.size()},
      momentum,    decay,
      gamma,       sigma,
      tol,         floor,
      max_neurons, follow_ntk,
      loss_limit};
  if (branch) return std::make_unique<cpu::ResidualNetwork>(data, parameters, *branch);
  return std::make_unique<cpu::PlainNetwork>(data, parameters);
}

py::object advance(GrowingNetwork& network, const Steps& stops) {
  if (stops.ndim() != 1) throw py::value_error("stops must have one axis");
  const index count = stops.shape(0);
  if (count > 0 && network.steps() >= 0 && stops.at(count - 1) > network.steps())
    throw py::value_error("stops go beyond the " + std::to_string(network.steps()) + " rates");
  Doubles predictors({count, network.outputs(), network.rank()});
  index reached = 0;
  {
    const std::int64_t* steps = stops.data();
    double* out = predictors.mutable_data();
    py::gil_scoped_release release;
    reached = network.advance(steps, count, out);
  }
  return predictors[py::slice(0, reached, 1)].cast<py::object>();
}

index checked(index i, index first, index last, const char* name) {
  if (i < first || i > last)
    throw py::index_error(std::string(name) + " must be in " + std::to_string(first) + ".." +
                          std::to_string(last));
  return i;
}

// Rows (m, n) as the network keeps them.
Matrix rows(const Doubles& x, index n) {
  if (x.ndim() != 2 || x.shape(1) != n)
    throw py::value_error("x must have shape (m, " + std::to_string(n) + ")");
  Matrix m(x.shape(0), n);
  for (index i = 0; i < m.rows(); ++i) std::copy_n(x.data(i, 0), n, m.row(i));
  return m;
}

// Copies the parts of a state into a dict.
class Writer final : public cpu::StateVisitor {
public:
  void visit(const std::string& name, Matrix& m, index, index) override {
    state[name.c_str()] = copy(m);
  }
  void visit(const std::string& name, std::vector<std::int64_t>& numbers, index) override {
    state[name.c_str()] = Steps(static_cast<index>(numbers.size()), numbers.data());
  }
  void visit(const std::string& name, std::int64_t& number) override { scalar(name, number); }
  void visit(const std::string& name, double& number) override { scalar(name, number); }

  py::dict state;

private:
  template <class T> void scalar(const std::string& name, T number) {
    state[name.c_str()] = py::array_t<T>(std::vector<index>{}, &number);
  }
};

// Puts the parts of a state back.
class Reader final : public cpu::StateVisitor {
public:
  explicit Reader(const py::dict& state) : state_(state) {}

  void visit(const std::string& name, Matrix& m, index row_count, index cols) override {
    const auto values = part<double>(name, 2);
    if (values.shape(0) != row_count || (cols != ANY && values.shape(1) != cols)) refuse(name);
    m = rows(values, values.shape(1));
  }
  void visit(const std::string& name, std::vector<std::int64_t>& numbers, index count) override {
    const auto values = part<std::int64_t>(name, 1);
    for (index i = 0; i < values.size(); ++i)
      if (values.at(i) < 0 || values.at(i) >= count) refuse(name);
    numbers.assign(values.data(), values.data() + values.size());
  }
  void visit(const std::string& name, std::int64_t& number) override {
    number = *part<std::int64_t>(name, 0).data();
  }
  void visit(const std::string& name, double& number) override {
    number = *part<double>(name, 0).data();
  }

private:
  template <class T>
  py::array_t<T, py::array::c_style> part(const std::string& name, index axes) const {
    if (!state_.contains(name)) throw py::key_error("the state lacks " + name);
    const auto values = py::array_t<T, py::array::c_style>::ensure(state_[name.c_str()]);
    if (!values || values.ndim() != axes) refuse(name);
    return values;
  }
  [[noreturn]] static void refuse(const std::string& name) {
    throw py::value_error(name + " of the state does not fit: it belongs to another problem");
  }

  const py::dict& state_;
};

py::dict state(GrowingNetwork& network) {
  Writer writer;
  network.visit(writer);
  return writer.state;
}

void restore(GrowingNetwork& network, const py::dict& state) {
  Reader reader(state);
  network.visit(reader);
}

const char* status(const GrowingNetwork& network) {
  switch (network.status()) {
  case GrowingNetwork::Status::diverged:
    return "diverged";
  case GrowingNetwork::Status::full:
    return "full";
  default:
    return "running";
  }
}

// Arrays are changed in place: none of them may be converted.
index lazy_updates(const Doubles& sharpness, const Doubles& targets, const Steps& exponents,
                   const Doubles& coefficients, const Doubles& rates, double momentum, double decay,
                   double loss_limit, Doubles& learned, Doubles& velocity, Doubles& initial) {
  const index powers = exponents.size(), outputs = targets.shape(0), rank = sharpness.size();
  const auto has_shape = [&](const Doubles& x) {
    return x.ndim() == 3 && x.shape(0) == powers && x.shape(1) == outputs && x.shape(2) == rank;
  };
  if (targets.ndim() != 2 || targets.shape(1) != rank)
    throw py::value_error("targets must have shape (outputs, rank)");
  if (coefficients.size() != powers) throw py::value_error("one coefficient a power is needed");
  if (!has_shape(learned) || !has_shape(velocity))
    throw py::value_error("learned and velocity must have shape (powers, outputs, rank)");
  if (initial.size() != 2) throw py::value_error("initial must have shape (2,)");
  const cpu::LazyTraining training{powers,
                                   outputs,
                                   rank,
                                   sharpness.data(),
                                   targets.data(),
                                   exponents.data(),
                                   coefficients.data(),
                                   momentum,
                                   decay,
                                   loss_limit,
                                   learned.mutable_data(),
                                   velocity.mutable_data(),
                                   initial.mutable_data()};
  const double* steps = rates.data();
  const index count = rates.size();
  py::gil_scoped_release release;
  return cpu::lazy_updates(training, steps, count);
}

} // namespace

void register_growing(py::module_& m) {
  py::class_<GrowingNetwork>(
      m, "GrowingNetwork", "Infinitely wide deep linear network; see dmftcore.growing.interfaces.")
      .def(py::init(&create), py::kw_only(), py::arg("scales").noconvert(),
           py::arg("targets").noconvert(), py::arg("depth"), py::arg("branch"),
           py::arg("rates").noconvert(), py::arg("momentum"), py::arg("decay"), py::arg("gamma"),
           py::arg("sigma"), py::arg("tol"), py::arg("floor"), py::arg("max_neurons"),
           py::arg("follow_ntk"), py::arg("loss_limit"))
      .def("advance", &advance, py::arg("stops").noconvert(),
           "Go through increasing steps; the predictors (len(stops), outputs, rank) reached.")
      .def_property_readonly("step", &GrowingNetwork::step)
      .def_property_readonly("status", &status, "'running', 'diverged' or 'full'.")
      .def_property_readonly("multiply_adds", &GrowingNetwork::multiply_adds)
      .def_property_readonly("neurons",
                             [](const GrowingNetwork& n) {
                               std::vector<index> sizes;
                               for (index l = 0; l <= n.depth(); ++l) sizes.push_back(n.neurons(l));
                               return sizes;
                             })
      .def_property_readonly("initial_weight", &GrowingNetwork::initial_weight,
                             "c: what has become of an initial weight that was never met.")
      .def(
          "propagate",
          [](GrowingNetwork& n, index link, const Doubles& x) {
            checked(link, 0, n.depth() - 1, "link");
            return copy(n.propagate(link, rows(x, n.neurons(link))));
          },
          py::arg("link"), py::arg("x").noconvert(),
          "Vectors (m, neurons[l + 1]) of layer l + 1 from vectors (m, neurons[l]) of layer l.")
      .def(
          "forward_basis",
          [](const GrowingNetwork& n, index link) {
            return copy(n.forward_basis(checked(link, 0, n.depth() - 1, "link")));
          },
          py::arg("link"), "Orthonormal visited directions of W^l as rows.")
      .def(
          "forward_neurons",
          [](const GrowingNetwork& n, index link) {
            return n.forward_neurons(checked(link, 0, n.depth() - 1, "link"));
          },
          py::arg("link"), "For each visited direction of W^l its neuron in layer l + 1.")
      .def(
          "gradients",
          [](const GrowingNetwork& n, index layer) {
            return copy(n.gradients(checked(layer, 1, n.depth(), "layer")));
          },
          py::arg("layer"), "g^l, (outputs, neurons[l]).")
      .def("state", &state, "All that `advance` goes on from, part by part.")
      .def("restore", &restore, py::arg("state"),
           "Take the state of a network that was created alike.");
  m.def("lazy_updates", &lazy_updates, py::kw_only(), py::arg("sharpness").noconvert(),
        py::arg("targets").noconvert(), py::arg("exponents").noconvert(),
        py::arg("coefficients").noconvert(), py::arg("rates").noconvert(), py::arg("momentum"),
        py::arg("decay"), py::arg("loss_limit"), py::arg("learned").noconvert(),
        py::arg("velocity").noconvert(), py::arg("initial").noconvert());
}

} // namespace dmftcore
