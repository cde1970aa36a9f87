// Memory for packed panels and intermediate matrices: aligned and not initialised.
#pragma once

#include "ops.hpp"

namespace dmftcore::cpu {

// Every thread keeps a few blocks for reuse: fresh pages cost as much as the packing itself.
void* acquire_scratch(std::size_t bytes, std::size_t& capacity);
void release_scratch(void* data, std::size_t capacity) noexcept;

template <class T> class Scratch {
public:
  explicit Scratch(index count)
      : data_(static_cast<T*>(
            acquire_scratch(static_cast<std::size_t>(count) * sizeof(T), capacity_))) {}
  ~Scratch() { release_scratch(data_, capacity_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() { return data_; }

private:
  std::size_t capacity_ = 0; // in bytes; before data_, which sets it
  T* data_;
};

} // namespace dmftcore::cpu
