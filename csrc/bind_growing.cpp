// The growing network as a Python class; dmftcore.interfaces is its documented user.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cpu/growing.hpp"

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

GrowingNetwork create(const Doubles& scales, const Doubles& targets, index depth, double rate,
                      double gamma, double sigma, double tol, double floor, index max_neurons,
                      double ntk_rate, double loss_limit) {
  if (scales.ndim() != 1) throw py::value_error("scales must have shape (rank,)");
  if (targets.ndim() != 2 || targets.shape(1) != scales.shape(0))
    throw py::value_error("targets must have shape (outputs, rank)");
  if (depth < 1) throw py::value_error("depth must be at least 1");
  return {scales.data(),
          targets.data(),
          scales.shape(0),
          targets.shape(0),
          {depth, rate, gamma, sigma, tol, floor, max_neurons, ntk_rate, loss_limit}};
}

py::object advance(GrowingNetwork& network, const Steps& stops) {
  if (stops.ndim() != 1) throw py::value_error("stops must have one axis");
  const index count = stops.shape(0);
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

} // namespace

void register_growing(py::module_& m) {
  py::class_<GrowingNetwork>(m, "GrowingNetwork",
                             "Infinitely wide deep linear network; see dmftcore.interfaces.")
      .def(py::init(&create), py::kw_only(), py::arg("scales").noconvert(),
           py::arg("targets").noconvert(), py::arg("depth"), py::arg("rate"), py::arg("gamma"),
           py::arg("sigma"), py::arg("tol"), py::arg("floor"), py::arg("max_neurons"),
           py::arg("ntk_rate"), py::arg("loss_limit"))
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
      .def(
          "weights",
          [](const GrowingNetwork& n, index link) {
            return copy(n.weights(checked(link, 0, n.depth() - 1, "link")));
          },
          py::arg("link"), "W^l at the current step, (neurons[l + 1], neurons[l]).")
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
          "features",
          [](const GrowingNetwork& n, index layer) {
            return copy(n.features(checked(layer, 0, n.depth(), "layer")));
          },
          py::arg("layer"), "h^l contracted with the errors, (outputs, neurons[l]).")
      .def(
          "gradients",
          [](const GrowingNetwork& n, index layer) {
            return copy(n.gradients(checked(layer, 1, n.depth(), "layer")));
          },
          py::arg("layer"), "g^l, (outputs, neurons[l]).");
}

} // namespace dmftcore
