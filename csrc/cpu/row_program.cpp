#include "cpu/row_program.hpp"

#include <algorithm>

namespace dmftcore::cpu {
namespace {

struct Step {
  index times, known, first; // N, n, and the number of times of earlier steps
  double* room;

  double* rows(const StepRows& r) const { return room + r.place * times + r.first * known; }
};

void elementwise(const RowOperation& op, const Step& step) {
  const index n = step.known, first = step.first;
  double* const y = step.rows(op.y);
  const double* const x = step.rows(op.x);
  switch (op.kind) {
  case RowKind::combine: {
    const double* const w = step.rows(op.w);
    for (index i = 0; i < op.y.count * n; ++i) y[i] = op.f * x[i] + op.g * w[i];
    return;
  }
  case RowKind::scale:
    for (index i = 0; i < op.y.count * n; ++i) y[i] = op.f * x[i];
    return;
  case RowKind::before:
    for (index p = 0; p < op.y.count; ++p) {
      for (index j = 0; j < first; ++j) y[p * n + j] = op.a[j] * x[p * n + j];
      std::fill(y + p * n + first, y + (p + 1) * n, 0.0);
    }
    return;
  case RowKind::now:
    for (index p = 0; p < op.y.count; ++p) {
      std::fill(y + p * n, y + p * n + first, 0.0);
      std::copy(x + p * n + first, x + (p + 1) * n, y + p * n + first);
    }
    return;
  case RowKind::unit:
    std::fill(y, y + op.y.count * n, 0.0);
    for (index p = 0; p < op.y.count; ++p) y[p * n + first + p] = 1.0;
    return;
  case RowKind::by_row:
    for (index p = 0; p < op.y.count; ++p) {
      const double* const row = op.x.count == 1 ? x : x + p * n;
      for (index j = 0; j < n; ++j) y[p * n + j] = op.a[p] * row[j];
    }
    return;
  case RowKind::mix:
    std::fill(y, y + op.y.count * n, 0.0);
    for (index p = 0; p < op.y.count; ++p)
      for (index q = 0; q < op.x.count; ++q) {
        const double factor = op.a[p * op.x.count + q];
        for (index j = 0; j < n; ++j) y[p * n + j] += factor * x[q * n + j];
      }
    return;
  case RowKind::columns:
    for (index p = 0; p < op.y.count; ++p)
      for (index j = 0; j < n; ++j) y[p * n + j] = op.a[j * op.columns + p];
    return;
  default:
    return;
  }
}

void append(const RowOperation& op, const Step& step) {
  const index n = step.known, first = step.first, size = step.times;
  const double* const x = step.rows(op.x);
  for (index p = 0; p < op.x.count; ++p)
    if (op.kind == RowKind::append)
      std::copy(x + p * n, x + (p + 1) * n, op.a + (first + p) * size);
    else if (op.kind == RowKind::append_batch)
      std::copy(x + p * n, x + (p + 1) * n, op.a + (p * size + first) * size);
    else
      for (index j = first; j < n; ++j) op.a[j * op.columns + p] = x[p * n + j];
}

void run(const RowOperation& op, const Step& step) {
  const index m = op.x.count, n = step.known, size = step.times;
  double* const y = step.rows(op.y);
  const double* const x = step.rows(op.x);
  switch (op.kind) {
  case RowKind::causal:
    return rows_causal<double>(m, n, x, op.a, size, y);
  case RowKind::causal_transposed:
    return rows_causal_transposed<double>(m, n, x, op.a, size, y);
  case RowKind::causal_pair:
    return rows_causal_pair<double>(m, n, x, step.rows(op.w), op.a, size, y, step.rows(op.z));
  case RowKind::symmetric:
    return rows_symmetric<double>(m, n, x, op.a, size, y);
  case RowKind::low_rank:
    return rows_low_rank<double>(m, n, op.columns, x, op.a, op.b, y);
  case RowKind::causal_batch:
  case RowKind::causal_batch_transposed:
    return rows_causal_batch<double>(m, n, op.kind == RowKind::causal_batch_transposed, x, op.a,
                                     size, y);
  case RowKind::append:
  case RowKind::append_batch:
  case RowKind::append_now:
    return append(op, step);
  default:
    return elementwise(op, step);
  }
}

} // namespace

void run_rows(const std::vector<RowOperation>& operations, index times, index per_step,
              double* room, index begin, index end) {
  for (index t = begin; t < end; ++t) {
    const Step step{times, (t + 1) * per_step, t * per_step, room};
    for (const RowOperation& op : operations) run(op, step);
  }
}

} // namespace dmftcore::cpu
