#include "cpu/sweep.hpp"

#include <algorithm>
#include <cmath>

#include "cpu/pool.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {
namespace {

// A long history is cut into chunks of rows of about equal area. Every chunk scatters into its own
// copy of the result; the copies are added in order.
index chunk_count(index n) { return n < 1024 ? 1 : std::min<index>(n / 128, 64); }

index chunk_begin(index n, index chunk, index chunks) {
  if (chunk == chunks) return n;
  const double part = static_cast<double>(chunk) / static_cast<double>(chunks);
  return static_cast<index>(static_cast<double>(n) * std::sqrt(part)) / 8 * 8;
}

} // namespace

template <class T>
void over_rows(void (*kernel)(const Sweep<T>&, index begin, index end), const Sweep<T>& sweep,
               index n) {
  T* const y = sweep.y;
  if (y) std::fill(y, y + sweep.m * n, T(0));
  const index chunks = chunk_count(n);
  if (chunks == 1) {
    kernel(sweep, 0, n);
    return;
  }
  const auto columns = [&](index chunk) {
    return std::min(n, sweep.support.limit(chunk_begin(n, chunk + 1, chunks) - 1));
  };
  Scratch<T> copies(y ? chunks * sweep.m * n : 0);
  parallel_for(chunks, [&](index chunk) {
    Sweep<T> part = sweep;
    if (y) {
      part.y = copies.data() + chunk * sweep.m * n;
      for (index p = 0; p < sweep.m; ++p)
        std::fill(part.y + p * n, part.y + p * n + columns(chunk), T(0));
    }
    kernel(part, chunk_begin(n, chunk, chunks), chunk_begin(n, chunk + 1, chunks));
  });
  if (!y) return;
  for (index chunk = 0; chunk < chunks; ++chunk)
    for (index p = 0; p < sweep.m; ++p) {
      const T* const copy = copies.data() + (chunk * sweep.m + p) * n;
      for (index j = 0; j < columns(chunk); ++j) y[p * n + j] += copy[j];
    }
}

template void over_rows(void (*)(const Sweep<double>&, index, index), const Sweep<double>&, index);
template void over_rows(void (*)(const Sweep<float>&, index, index), const Sweep<float>&, index);

} // namespace dmftcore::cpu
