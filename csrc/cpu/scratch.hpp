// Memory for packed panels and intermediate matrices: aligned and not initialised.
#pragma once

#include <sys/mman.h>

#include <cstdlib>
#include <new>

#include "ops.hpp"

namespace dmftcore::cpu {

template <class T> class Scratch {
public:
  explicit Scratch(index count) {
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    const std::size_t alignment = bytes < HUGE ? LINE : HUGE_PAGE;
    const std::size_t whole = (bytes / alignment + 1) * alignment;
    data_ = static_cast<T*>(std::aligned_alloc(alignment, whole));
    if (!data_) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (bytes >= HUGE) madvise(data_, whole, MADV_HUGEPAGE);
#endif
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() { return data_; }

private:
  static constexpr std::size_t LINE = 64;
  static constexpr std::size_t HUGE_PAGE = std::size_t(1) << 21;
  static constexpr std::size_t HUGE = 2 * HUGE_PAGE; // from here on huge pages spare page faults
  T* data_;
};

} // namespace dmftcore::cpu
