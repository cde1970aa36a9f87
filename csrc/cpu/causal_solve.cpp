// X = (1 - A)^-1 B by panels of rows, X_p = (1 - A_pp)^-1 (B_p + sum_{q<p} A_pq X_q): as soon as
// X_q is known, A_pq X_q is added to all later p.
#include <algorithm>

#include "cpu/batch.hpp"
#include "cpu/product.hpp"
#include "cpu/resolvent.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {
namespace {

// Row i of b and x has the columns j < shape.limit(i).
template <class T>
void solve(index n, index m, index block, const T* a, const T* b, T* x, Support shape) {
  const index panel = std::max(block, PRODUCT_DEPTH / block * block);
  Scratch<T> inverse(panel > block ? panel * panel : 0);
  for (index p = 0; p < n; p += panel) {
    const index rows = std::min(panel, n - p), next = p + rows;
    const Support here{shape.block, shape.reach + p};
    const index columns = std::min(m, here.limit(rows - 1));
    // In these columns x already holds b and the sum over the panels so far; beyond, the sum is b.
    const index started = p == 0 ? 0 : std::min(columns, shape.limit(p - 1));

    if (rows > block) {
      resolvent_causal(rows, block, a + p * n + p, n, inverse.data(), rows);
      const auto multiply = [&](index first, index end, const T* sum) {
        const Support part{here.block, here.reach - first};
        product<T>(rows, end - first, rows, {inverse.data(), rows, {block, block}},
                   {sum + p * m + first, m, part}, {x + p * m + first, m, part});
      };
      multiply(0, started, x); // in place
      multiply(started, columns, b);
    } else {
      for (index i = p; i < next; ++i)
        std::copy(b + i * m + started, b + i * m + columns, x + i * m + started);
    }

    const auto add_to_later = [&](index first, index end, const T* sum) {
      const Support part{here.block, here.reach - first};
      product<T>(n - next, end - first, rows, {a + next * n + p, n, ALL},
                 {x + p * m + first, m, part},
                 {x + next * m + first, m, ALL, sum + next * m + first, m});
    };
    add_to_later(0, started, x);
    add_to_later(started, columns, b);
  }
}

} // namespace

template <class T>
void causal_solve(index batch, index n, index block, const T* a, const T* b, T* x) {
  const Support causal{block, block};
  over_batch(batch, n * n * n / 6, [&](index item) {
    const index offset = item * n * n;
    solve(n, n, block, a + offset, b + offset, x + offset, causal);
    clear_beyond(n, n, x + offset, n, causal);
  });
}

template <class T>
void causal_solve_dense(index batch, index n, index m, index block, const T* a, const T* b, T* x) {
  over_batch(batch, n * n * m / 2, [&](index item) {
    solve(n, m, block, a + item * n * n, b + item * n * m, x + item * n * m, ALL);
  });
}

template void causal_solve(index, index, index, const double*, const double*, double*);
template void causal_solve(index, index, index, const float*, const float*, float*);
template void causal_solve_dense(index, index, index, index, const double*, const double*, double*);
template void causal_solve_dense(index, index, index, index, const float*, const float*, float*);

} // namespace dmftcore::cpu
