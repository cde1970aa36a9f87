// Recorded row operations as a Python class. Its documented user is dmftcore.recording.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <initializer_list>
#include <string>
#include <tuple>

#include "cpu/row_program.hpp"

namespace py = pybind11;

namespace dmftcore {
namespace {

using cpu::RowKind;
using cpu::RowOperation;
using cpu::StepRows;
using Doubles = py::array_t<double, py::array::c_style>;
using Place = std::tuple<index, index, index>;

struct Signature {
  const char* name;
  RowKind kind;
  std::size_t results, rows, arrays, factors;
};

constexpr Signature SIGNATURES[] = {
    {"causal", RowKind::causal, 1, 1, 1, 0},
    {"causal_transposed", RowKind::causal_transposed, 1, 1, 1, 0},
    {"causal_pair", RowKind::causal_pair, 2, 2, 1, 0},
    {"symmetric", RowKind::symmetric, 1, 1, 1, 0},
    {"low_rank", RowKind::low_rank, 1, 1, 2, 0},
    {"causal_batch", RowKind::causal_batch, 1, 1, 1, 0},
    {"causal_batch_transposed", RowKind::causal_batch_transposed, 1, 1, 1, 0},
    {"combine", RowKind::combine, 1, 2, 0, 2},
    {"scale", RowKind::scale, 1, 1, 0, 1},
    {"before", RowKind::before, 1, 1, 1, 0},
    {"now", RowKind::now, 1, 1, 0, 0},
    {"unit", RowKind::unit, 1, 0, 0, 0},
    {"by_row", RowKind::by_row, 1, 1, 1, 0},
    {"mix", RowKind::mix, 1, 1, 1, 0},
    {"columns", RowKind::columns, 1, 0, 1, 0},
    {"append", RowKind::append, 0, 1, 1, 0},
    {"append_batch", RowKind::append_batch, 0, 1, 1, 0},
    {"append_now", RowKind::append_now, 0, 1, 1, 0},
};

void require(bool condition, const std::string& text) {
  if (!condition) throw py::value_error(text);
}

// Whether two blocks of rows have no number in common, whatever their length.
bool apart(const StepRows& a, const StepRows& b) {
  return a.place + a.first + a.count <= b.place || b.place + b.first + b.count <= a.place;
}

class RowProgram {
public:
  RowProgram(index times, index per_step) : times_(times), per_step_(per_step) {
    require(per_step >= 1 && times >= per_step && times % per_step == 0,
            "times must be a multiple of per_step");
  }

  void add(const std::string& name, const std::vector<Place>& results,
           const std::vector<Place>& rows, const std::vector<Doubles>& arrays,
           const std::vector<double>& factors) {
    const auto* const found = std::find_if(std::begin(SIGNATURES), std::end(SIGNATURES),
                                           [&](const Signature& one) { return name == one.name; });
    require(found != std::end(SIGNATURES), "no operation " + name);
    require(results.size() == found->results && rows.size() == found->rows &&
                arrays.size() == found->arrays && factors.size() == found->factors,
            name + " takes other arguments");
    RowOperation op{};
    op.kind = found->kind;
    if (!results.empty()) op.y = at(results[0]);
    if (results.size() > 1) op.z = at(results[1]);
    if (!rows.empty()) op.x = at(rows[0]);
    if (rows.size() > 1) op.w = at(rows[1]);
    if (!factors.empty()) op.f = factors[0];
    if (factors.size() > 1) op.g = factors[1];
    check(op, arrays, name);
    for (const StepRows& read : {op.x, op.w})
      require(apart(op.y, read) && apart(op.z, read), name + ": a result overlaps what is read");
    require(apart(op.y, op.z), name + ": the results overlap");
    // Histories are written to; what is read alone may be read-only.
    if (!arrays.empty()) op.a = const_cast<double*>(arrays[0].data());
    if (arrays.size() > 1) op.b = const_cast<double*>(arrays[1].data());
    if (results.empty()) require(arrays[0].writeable(), name + ": the history is read-only");
    operations_.push_back(op);
    arrays_.insert(arrays_.end(), arrays.begin(), arrays.end());
  }

  void run(Doubles& room, index begin, index end) const {
    require(room.ndim() == 1 && room.size() >= places_ * times_, "the room is too small");
    require(0 <= begin && begin <= end && end * per_step_ <= times_, "no such steps");
    double* const data = room.mutable_data();
    py::gil_scoped_release nogil;
    cpu::run_rows(operations_, times_, per_step_, data, begin, end);
  }

private:
  StepRows at(const Place& place) {
    const auto [where, first, count] = place;
    require(where >= 0 && first >= 0 && count >= 1, "rows must have a place and be one at least");
    places_ = std::max(places_, where + first + count);
    return {where, first, count};
  }

  void check(RowOperation& op, const std::vector<Doubles>& arrays, const std::string& name) const {
    const index m = op.x.count;
    const auto shaped = [&](std::size_t i, std::initializer_list<index> shape) {
      require(arrays[i].ndim() == static_cast<index>(shape.size()) &&
                  std::equal(shape.begin(), shape.end(), arrays[i].shape()),
              name + ": an array has another shape");
    };
    bool fits = op.y.count == m;
    switch (op.kind) {
    case RowKind::causal_pair:
      fits = fits && op.w.count == m && op.z.count == m;
      shaped(0, {times_, times_});
      break;
    case RowKind::causal:
    case RowKind::causal_transposed:
    case RowKind::symmetric:
      shaped(0, {times_, times_});
      break;
    case RowKind::low_rank:
      require(arrays[0].ndim() == 2, name + ": a must be (N, k)");
      op.columns = arrays[0].shape(1);
      shaped(0, {times_, op.columns});
      shaped(1, {times_, op.columns});
      break;
    case RowKind::causal_batch:
    case RowKind::causal_batch_transposed:
      shaped(0, {m, times_, times_});
      break;
    case RowKind::combine:
      fits = fits && op.w.count == m;
      break;
    case RowKind::scale:
    case RowKind::now:
      break;
    case RowKind::before:
      require(arrays[0].ndim() == 1 && arrays[0].size() >= times_ - per_step_,
              name + ": a number is needed for every earlier time");
      break;
    case RowKind::unit:
      fits = op.y.count <= per_step_;
      break;
    case RowKind::by_row:
      fits = m == 1 || fits;
      shaped(0, {op.y.count});
      break;
    case RowKind::mix:
      fits = true;
      shaped(0, {op.y.count, m});
      break;
    case RowKind::columns:
      fits = true;
      op.columns = op.y.count;
      shaped(0, {times_, op.columns});
      break;
    case RowKind::append:
      fits = m == per_step_;
      shaped(0, {times_, times_});
      break;
    case RowKind::append_batch:
      fits = per_step_ == 1;
      shaped(0, {m, times_, times_});
      break;
    case RowKind::append_now:
      fits = true;
      op.columns = m;
      shaped(0, {times_, m});
      break;
    }
    require(fits, name + ": the numbers of rows do not fit");
  }

  index times_, per_step_, places_ = 0;
  std::vector<RowOperation> operations_;
  std::vector<Doubles> arrays_; // kept alive
};

} // namespace

void register_row_program(py::module_& m) {
  py::class_<RowProgram>(m, "RowProgram")
      .def(py::init<index, index>(), py::arg("times"), py::arg("per_step"))
      .def("add", &RowProgram::add, py::arg("name"), py::arg("results"), py::arg("rows"),
           py::arg("arrays").noconvert(), py::arg("factors"))
      .def("run", &RowProgram::run, py::arg("room").noconvert(), py::arg("begin"), py::arg("end"));
}

} // namespace dmftcore
