#include "cpu/pool.hpp"

#include <pthread.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>

namespace dmftcore::cpu {
namespace {

struct Loop {
  Task task;
  const void* context;
  index count;
  std::atomic<index> next;
  std::atomic<bool> failed;
  std::exception_ptr error;
};

thread_local bool inside_task = false;

void work(Loop& loop) {
  inside_task = true;
  for (index i; (i = loop.next.fetch_add(1, std::memory_order_relaxed)) < loop.count;) {
    try {
      loop.task(loop.context, i);
    } catch (...) {
      if (!loop.failed.exchange(true)) loop.error = std::current_exception();
    }
  }
  inside_task = false;
}

class Pool {
public:
  std::mutex owner; // held by the thread whose loop is running

  void run(Loop& loop, int helpers) {
    for (; workers_ < helpers; ++workers_) std::thread([this] { serve(); }).detach();
    {
      std::lock_guard<std::mutex> lock(mutex_);
      loop_ = &loop;
      seats_ = helpers;
    }
    wake_.notify_all();
    work(loop);
    // Nobody may join from here on; those who did are waited for.
    std::unique_lock<std::mutex> lock(mutex_);
    seats_ = 0;
    done_.wait(lock, [this] { return running_ == 0; });
  }

private:
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return seats_ > 0; });
      --seats_;
      ++running_;
      Loop& loop = *loop_;
      lock.unlock();
      work(loop);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  Loop* loop_ = nullptr;
  int seats_ = 0;
  int running_ = 0;
  int workers_ = 0;
};

// Never destroyed: its threads end with the process. A forked child has none of them, and perhaps
// a locked mutex, so it starts with a new pool.
std::atomic<Pool*>& pool() {
  static std::atomic<Pool*> instance{[] {
    pthread_atfork(nullptr, nullptr, [] { pool().store(new Pool); });
    return new Pool;
  }()};
  return instance;
}

int default_threads() {
  if (const char* text = std::getenv("DMFTCORE_NUM_THREADS")) {
    const int count = std::atoi(text);
    if (count > 0) return count;
  }
#ifdef __linux__
  cpu_set_t mask;
  if (sched_getaffinity(0, sizeof mask, &mask) == 0) return std::max(1, CPU_COUNT(&mask));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::atomic<int>& thread_count() {
  static std::atomic<int> count{default_threads()};
  return count;
}

} // namespace

int num_threads() { return thread_count().load(std::memory_order_relaxed); }

void set_num_threads(int count) { thread_count().store(count, std::memory_order_relaxed); }

void run_tasks(index count, Task task, const void* context) {
  const int threads = static_cast<int>(std::min<index>(num_threads(), count));
  if (threads > 1 && !inside_task) {
    Pool& shared = *pool().load();
    std::unique_lock<std::mutex> lock(shared.owner, std::try_to_lock);
    if (lock.owns_lock()) {
      Loop loop{task, context, count, {}, {}, {}};
      shared.run(loop, threads - 1);
      if (loop.error) std::rethrow_exception(loop.error);
      return;
    }
  }
  for (index i = 0; i < count; ++i) task(context, i);
}

} // namespace dmftcore::cpu
