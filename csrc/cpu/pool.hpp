// One pool of threads for all kernels.
//
// A loop over independent tasks is all there is. A kernel cuts its work in the same way for any
// number of threads, so that results do not depend on it. A loop started inside a task, or while
// another Python thread has the pool, runs on the calling thread.
#pragma once

#include "ops.hpp"

namespace dmftcore::cpu {

using Task = void (*)(const void* context, index task);
void run_tasks(index count, Task task, const void* context);

// body(0), ..., body(count - 1), in any order and on any thread; rethrows what a body throws.
template <class Body> void parallel_for(index count, const Body& body) {
  run_tasks(
      count, [](const void* context, index task) { (*static_cast<const Body*>(context))(task); },
      &body);
}

} // namespace dmftcore::cpu
