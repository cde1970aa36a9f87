#include "emulate/block.hpp"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>

namespace dmftcore::emulate {
namespace {

using State = Thread::State;

constexpr unsigned MOST_THREADS = 1024; // a block, on every GPU
constexpr unsigned char POISON = 0xff;  // as float or double: a NaN
#ifdef __SANITIZE_ADDRESS__
constexpr std::size_t GUARD = 0; // the sanitizer sees the first byte outside
#else
constexpr std::size_t GUARD = 4096;
#endif

Order chosen_order = Order::forward;
Block* running = nullptr;
const std::function<void()>* running_body = nullptr;
std::exception_ptr thrown;

[[noreturn]] void fail(const std::string& what, Site site) {
  throw std::runtime_error(what + " (" + site.file + ":" + std::to_string(site.line) + ")");
}

bool same(Site a, Site b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

void entry() {
  Thread& thread = *running->current;
  thread.fiber.entered();
  try {
    (*running_body)();
  } catch (...) {
    if (!thrown) thrown = std::current_exception();
  }
  thread.state = State::done;
  thread.fiber.exit();
}

void wait(State state, Site site) {
  Thread& thread = *running->current;
  thread.state = state;
  thread.site = site;
  thread.fiber.suspend();
}

// Threads begin .. end - 1 wait in `state`: all of them at one site, or none. True if all.
bool assembled(const std::vector<Thread>& threads, std::size_t begin, std::size_t end, State state,
               const char* barrier) {
  const Thread* first = nullptr;
  std::size_t waiting = 0;
  for (std::size_t i = begin; i < end; ++i) {
    const Thread& thread = threads[i];
    if (thread.state != state) continue;
    if (!first) first = &thread;
    if (!same(first->site, thread.site))
      fail(std::string(barrier) + " reached at line " + std::to_string(thread.site.line) +
               " and elsewhere",
           first->site);
    ++waiting;
  }
  if (waiting != 0 && waiting != end - begin)
    fail(std::string(barrier) + " not reached by every thread", first->site);
  return waiting != 0;
}

void release(std::vector<Thread>& threads, std::size_t begin, std::size_t end) {
  for (std::size_t i = begin; i < end; ++i) threads[i].state = State::ready;
}

// 0 .. count - 1 in the chosen order.
std::vector<std::size_t> turns(std::size_t count, std::mt19937& generator) {
  std::vector<std::size_t> order(count);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (chosen_order == Order::backward) std::reverse(order.begin(), order.end());
  if (chosen_order == Order::shuffled) std::shuffle(order.begin(), order.end(), generator);
  return order;
}

Dim3 position(std::size_t i, Dim3 in) {
  return {static_cast<unsigned>(i % in.x), static_cast<unsigned>(i / in.x % in.y),
          static_cast<unsigned>(i / in.x / in.y)};
}

// Runs the lanes of a warp to their next barrier. True if that is one of the warp, which is open
// then: the warp can go on.
bool advance(Block& block, std::size_t warp, std::mt19937& generator) {
  auto& threads = block.threads;
  const std::size_t begin = warp * WARP, end = begin + WARP;
  for (const std::size_t lane : turns(WARP, generator)) {
    Thread& thread = threads[begin + lane];
    if (thread.state != State::ready) continue;
    block.current = &thread;
    thread.fiber.resume();
    if (thrown) std::rethrow_exception(std::exchange(thrown, nullptr));
  }
  if (!assembled(threads, begin, end, State::at_warp_barrier, "__syncwarp")) return false;
  release(threads, begin, end);
  return true;
}

void run_block(Block& block, std::mt19937& generator) {
  auto& threads = block.threads;
  for (Thread& thread : threads) {
    thread.state = State::ready;
    thread.issued.clear();
    thread.committed.clear();
    thread.fiber.start(entry);
  }
  for (;;) {
    // Forward and backward, one warp gets as far ahead of the others as it can; shuffled, any does.
    std::vector<std::size_t> able = turns(threads.size() / WARP, generator);
    while (!able.empty()) {
      const std::size_t i = chosen_order == Order::shuffled ? generator() % able.size() : 0;
      if (!advance(block, able[i], generator)) able.erase(able.begin() + static_cast<long>(i));
    }
    if (!assembled(threads, 0, threads.size(), State::at_block_barrier, "__syncthreads")) return;
    release(threads, 0, threads.size());
  }
}

struct Free {
  void operator()(unsigned char* p) const { ::operator delete[](p, std::align_val_t{128}); }
};

bool untouched(const unsigned char* begin) {
  return std::all_of(begin, begin + GUARD, [](unsigned char c) { return c == POISON; });
}

} // namespace

void set_order(Order order) { chosen_order = order; }

Block& block() { return *running; }

void block_barrier(Site site) { wait(State::at_block_barrier, site); }

void warp_barrier(Site site) { wait(State::at_warp_barrier, site); }

void run(Dim3 grid, Dim3 dimensions, std::size_t shared_bytes, const std::function<void()>& body) {
  if (grid.count() == 0 || dimensions.count() == 0 || dimensions.count() > MOST_THREADS ||
      dimensions.count() % WARP != 0 || grid.x > INT32_MAX || grid.y > UINT16_MAX ||
      grid.z > UINT16_MAX)
    throw std::invalid_argument("invalid configuration of a kernel launch");
  if (shared_bytes > MOST_SHARED)
    throw std::invalid_argument("too much shared memory: " + std::to_string(shared_bytes));

  Block block{grid, dimensions, {}, {}, {}, nullptr, nullptr};
  block.threads = std::vector<Thread>(dimensions.count());
  block.exchanges = std::vector<Exchange>(dimensions.count() / WARP);
  for (unsigned i = 0; i < block.threads.size(); ++i) {
    block.threads[i].rank = i;
    block.threads[i].index = position(i, dimensions);
  }
  const std::size_t bytes = shared_bytes + 2 * GUARD;
  const std::unique_ptr<unsigned char[], Free> memory(
      static_cast<unsigned char*>(::operator new[](bytes, std::align_val_t{128})));
  block.shared = reinterpret_cast<char*>(memory.get()) + GUARD;
  std::mt19937 generator(1);
  running = &block;
  running_body = &body;
  try {
    for (std::size_t i : turns(grid.count(), generator)) {
      std::memset(memory.get(), POISON, bytes);
      block.index = position(i, grid);
      run_block(block, generator);
      if (!untouched(memory.get()) || !untouched(memory.get() + GUARD + shared_bytes))
        throw std::runtime_error("a block wrote outside of its shared memory");
    }
  } catch (...) {
    running = nullptr;
    throw;
  }
  running = nullptr;
}

} // namespace dmftcore::emulate
