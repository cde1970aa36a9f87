// Heads of attention trained together; the documented user is dmftcore.heads.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "cpu/attention.hpp"

namespace py = pybind11;

namespace dmftcore {
namespace {

using Doubles = py::array_t<double, py::array::c_style>;
using Maybe = std::optional<Doubles>;

cpu::Attention attention_of(const std::string& name) {
  if (name == "softmax") return cpu::Attention::softmax;
  if (name == "linear") return cpu::Attention::linear;
  if (name == "exp") return cpu::Attention::exp;
  if (name == "relu") return cpu::Attention::relu;
  throw py::value_error("attention must be softmax, linear, exp or relu, not " + name);
}

void expect(const Doubles& x, const std::vector<index>& shape, const char* name) {
  bool fits = x.ndim() == static_cast<index>(shape.size());
  for (std::size_t i = 0; fits && i < shape.size(); ++i)
    fits = x.shape(static_cast<index>(i)) == shape[i];
  if (!fits) throw py::value_error(std::string(name) + " does not have the shape it should");
}

// A problem and its heads as arrays, which must outlive it.
struct Arguments {
  cpu::AttentionProblem problem;
  cpu::AttentionHeads heads;

  Arguments(const std::string& attention, bool causal, index sequences, index length,
            const Maybe& kernel, const Maybe& tokens, const Doubles& targets, double gamma,
            double scale, Maybe& query, Maybe& key, Maybe& score, Doubles& value, Doubles& readout,
            const Doubles& weight, const Doubles& centre) {
    if (targets.ndim() != 2 || targets.shape(0) > sequences || targets.shape(0) < 1 ||
        targets.shape(1) < 1)
      throw py::value_error("targets must have shape (train, K), 1 <= train <= sequences");
    if (length < 1) throw py::value_error("length must be at least 1");
    if (kernel.has_value() == tokens.has_value())
      throw py::value_error("give either kernel or tokens");
    if ((scale == 0) != score.has_value() || (scale == 0) == query.has_value() ||
        query.has_value() != key.has_value())
      throw py::value_error("give query and key, or score and a scale of 0");
    const index all = sequences * length, train = targets.shape(0), outputs = targets.shape(1);
    index rank = 0;
    if (kernel) expect(*kernel, {all, train * length}, "kernel");
    if (tokens) {
      rank = tokens->ndim() == 2 ? tokens->shape(1) : 0;
      expect(*tokens, {all, rank}, "tokens");
    }
    if (value.ndim() != 4) throw py::value_error("value must have four axes");
    const index chunks = value.shape(0), values = value.shape(2), lanes = value.shape(3);
    if (lanes != 1 && lanes != cpu::ATTENTION_LANES)
      throw py::value_error("a chunk has 1 head or " + std::to_string(cpu::ATTENTION_LANES));
    expect(value, {chunks, all, values, lanes}, "value");
    expect(readout, {chunks, outputs, values, lanes}, "readout");
    expect(weight, {chunks, lanes}, "weight");
    index keys = 0;
    if (query) {
      keys = query->ndim() == 4 ? query->shape(2) : 0;
      if (keys < 1) throw py::value_error("query must have four axes, and a component");
      expect(*query, {chunks, all, keys, lanes}, "query");
      expect(*key, {chunks, all, keys, lanes}, "key");
    }
    if (score) expect(*score, {chunks, sequences, length, length, lanes}, "score");
    const index groups = centre.ndim() == 3 ? centre.shape(0) : 0;
    expect(centre, {groups, sequences, outputs}, "centre");
    if (groups < 1 || chunks % groups != 0)
      throw py::value_error("chunks must be a multiple of the groups of centre");
    problem = {sequences,
               train,
               length,
               outputs,
               attention_of(attention),
               causal,
               kernel ? kernel->data() : nullptr,
               tokens ? tokens->data() : nullptr,
               rank,
               targets.data(),
               gamma,
               scale};
    heads = {groups,
             chunks,
             lanes,
             keys,
             values,
             query ? query->mutable_data() : nullptr,
             key ? key->mutable_data() : nullptr,
             score ? score->mutable_data() : nullptr,
             value.mutable_data(),
             readout.mutable_data(),
             weight.data(),
             centre.data()};
  }
};

py::tuple run(const std::string& attention, bool causal, index sequences, index length,
              const Maybe& kernel, const Maybe& tokens, const Doubles& targets, double gamma,
              double scale, Maybe query, Maybe key, Maybe score, Doubles value, Doubles readout,
              const Doubles& weight, const Doubles& centre, const Doubles& rates,
              double loss_limit) {
  const Arguments a(attention, causal, sequences, length, kernel, tokens, targets, gamma, scale,
                    query, key, score, value, readout, weight, centre);
  if (rates.ndim() != 1) throw py::value_error("rates must have one axis");
  const index count = rates.shape(0);
  Doubles outputs({count + 1, a.heads.groups, sequences, a.problem.outputs});
  cpu::AttentionReached reached{};
  {
    const double* const each = rates.data();
    double* const to = outputs.mutable_data();
    py::gil_scoped_release release;
    reached = cpu::attention_run(a.problem, a.heads, each, count, loss_limit, to);
  }
  return py::make_tuple(outputs[py::slice(0, reached.updates + 1, 1)], reached.finished);
}

py::tuple patterns(const std::string& attention, bool causal, index sequences, index length,
                   const Maybe& kernel, const Maybe& tokens, const Doubles& targets, double gamma,
                   double scale, Maybe query, Maybe key, Maybe score, Doubles value,
                   Doubles readout, const Doubles& weight, const Doubles& centre) {
  const Arguments a(attention, causal, sequences, length, kernel, tokens, targets, gamma, scale,
                    query, key, score, value, readout, weight, centre);
  const std::vector<index> shape{a.heads.chunks, sequences, length, length, a.heads.lanes};
  Doubles scores(shape), patterns(shape);
  {
    double *const first = scores.mutable_data(), *const second = patterns.mutable_data();
    py::gil_scoped_release release;
    cpu::attention_patterns(a.problem, a.heads, first, second);
  }
  return py::make_tuple(scores, patterns);
}

template <class Function, class... More>
void define(py::module_& m, const char* name, Function function, const char* text, More... more) {
  // The state is changed in place: nothing may be converted.
  m.def(name, function, text, py::kw_only(), py::arg("attention"), py::arg("causal"),
        py::arg("sequences"), py::arg("length"), py::arg("kernel").noconvert(),
        py::arg("tokens").noconvert(), py::arg("targets").noconvert(), py::arg("gamma"),
        py::arg("scale"), py::arg("query").noconvert(), py::arg("key").noconvert(),
        py::arg("score").noconvert(), py::arg("value").noconvert(), py::arg("readout").noconvert(),
        py::arg("weight").noconvert(), py::arg("centre").noconvert(), more...);
}

} // namespace

void register_attention(py::module_& m) {
  define(m, "attention_run", &run,
         "Outputs (updates + 1, groups, sequences, K), and whether all updates were made; see "
         "cpu/attention.hpp.",
         py::arg("rates").noconvert(), py::arg("loss_limit"));
  define(m, "attention_patterns", &patterns,
         "Scores and patterns (chunks, sequences, length, length, lanes).");
}

} // namespace dmftcore
