// The execution of a kernel on the host: blocks one after the other, the threads of a block as
// fibers that run from barrier to barrier in a chosen order.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <vector>

#include "emulate/fiber.hpp"

namespace dmftcore::emulate {

struct Dim3 {
  unsigned x, y, z;
  constexpr Dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  constexpr std::size_t count() const { return std::size_t{1} * x * y * z; }
};

// In which order the blocks of a grid run, and the threads of a block between two barriers. A
// kernel without races gives the same bits in each; shuffled is a new permutation at each barrier,
// from a fixed seed.
enum class Order { forward, backward, shuffled };
void set_order(Order order);

// Where in the source a thread waits.
struct Site {
  const char* file;
  int line;

  // As a default argument: the place of the call.
  static constexpr Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// A cp.async that has been issued; it lands when its group is waited for.
struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  bool valid; // else zeros
};

struct Thread {
  enum class State { ready, at_block_barrier, at_warp_barrier, done };

  Fiber fiber;
  Dim3 index;
  unsigned rank;
  State state;
  Site site;
  std::vector<Copy> issued;
  std::deque<std::vector<Copy>> committed;
};

constexpr unsigned WARP = 32;

// Bytes of shared memory a block can have on sm_90.
constexpr std::size_t MOST_SHARED = 227 * 1024;

// What the lanes of a warp show each other between two warp barriers.
struct Exchange {
  double lanes[WARP][12];
};

// The block that runs, and its thread that runs.
struct Block {
  Dim3 grid, dimensions, index;
  std::vector<Thread> threads;
  std::vector<Exchange> exchanges; // one a warp
  Thread* current;
  char* shared;
};
Block& block();

// Waits for the other threads of the block or warp. All of them must come to the same site.
void block_barrier(Site site);
void warp_barrier(Site site);

// Runs body on every thread of the grid. Shared memory is all NaN before each block; writing
// outside of it is an error, as is everything that body throws.
void run(Dim3 grid, Dim3 dimensions, std::size_t shared_bytes, const std::function<void()>& body);

} // namespace dmftcore::emulate
