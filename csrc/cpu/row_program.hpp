// A step of a causal march as a list of row operations, run for one step after the other. A device
// is given them one by one instead.
#pragma once

#include <vector>

#include "ops.hpp"

namespace dmftcore::cpu {

// Rows x (count, n) of a step at which n times are known, contiguous: those from number `first` on
// of the rows that begin at `place`. Places are multiples of the number of all times.
struct StepRows {
  index place, first, count;
};

// What an operation does with rows x, w, arrays a, b and factors f, g. K rows belong to a step; the
// last K of the n times are those of the step itself.
enum class RowKind : int {
  causal,                  // y = x a                                  a: (N, N) history
  causal_transposed,       // y = x a^T
  causal_pair,             // y = x a,  z = w a^T
  symmetric,               // y = x a for symmetric a
  low_rank,                // y = (x a) b^T                            a, b: (N, k)
  causal_batch,            // y_k = x_k a_k                            a: (count, N, N)
  causal_batch_transposed, // y_k = x_k a_k^T
  combine,                 // y = f x + g w
  scale,                   // y = f x
  before,                  // y_pj = a_j x_pj at earlier steps, 0 at this one          a: (N,)
  now,                     // y_pj = x_pj at this step, 0 at earlier ones
  unit,                    // y_pj = 1 at the time p of this step, 0 elsewhere
  by_row,                  // y_p = a_p x_p, or a_p x_0 where x is a single row        a: (count,)
  mix,                     // y = a x                                  a: (count of y, count of x)
  columns,                 // y_pj = a_jp                                              a: (N, count)
  append,                  // a gets the rows x at this step
  append_batch,            // a_k gets the row x_k at this step, K = 1
  append_now,              // a_jp = x_pj at this step                                 a: (N, count)
};

struct RowOperation {
  RowKind kind;
  StepRows y, z, x, w;
  double f, g;
  double *a, *b;
  index columns; // of a and b, where they are no histories
};

// Runs the operations at the steps begin <= t < end, when (t + 1) K times are known.
void run_rows(const std::vector<RowOperation>& operations, index times, index per_step,
              double* room, index begin, index end);

} // namespace dmftcore::cpu
