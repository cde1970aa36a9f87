#include "cpu/scratch.hpp"

#include <sys/mman.h>

#include <cstdlib>
#include <new>
#include <utility>

namespace dmftcore::cpu {
namespace {

constexpr std::size_t LINE = 64;
constexpr std::size_t HUGE_PAGE = std::size_t(1) << 21;
constexpr std::size_t HUGE = 2 * HUGE_PAGE;    // from here on huge pages spare page faults
constexpr std::size_t LARGEST_KEPT = 4 * HUGE; // 16 MiB

struct Block {
  void* data = nullptr;
  std::size_t capacity = 0;
};

// As many as an operation holds at a time.
struct Kept {
  Block blocks[4];
  ~Kept() {
    for (const Block& block : blocks) std::free(block.data);
  }
};
thread_local Kept kept;

void* allocate(std::size_t bytes, std::size_t& capacity) {
  const std::size_t alignment = bytes < HUGE ? LINE : HUGE_PAGE;
  capacity = (bytes / alignment + 1) * alignment;
  void* const data = std::aligned_alloc(alignment, capacity);
  if (!data) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (bytes >= HUGE) madvise(data, capacity, MADV_HUGEPAGE);
#endif
  return data;
}

} // namespace

void* acquire_scratch(std::size_t bytes, std::size_t& capacity) {
  Block* best = nullptr; // the smallest that is large enough
  for (Block& block : kept.blocks)
    if (block.data && block.capacity >= bytes && (!best || block.capacity < best->capacity))
      best = &block;
  if (!best) return allocate(bytes, capacity);
  capacity = best->capacity;
  return std::exchange(*best, Block{}).data;
}

void release_scratch(void* data, std::size_t capacity) noexcept {
  Block released{data, capacity};
  // The largest blocks are kept, as they cost most.
  if (capacity <= LARGEST_KEPT)
    for (Block& block : kept.blocks)
      if (block.capacity < released.capacity) std::swap(block, released);
  std::free(released.data);
}

} // namespace dmftcore::cpu
