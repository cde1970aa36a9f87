// cp.async at the last legal moment: the target is NaN from the issue on, and holds the data when
// the thread that issued the copy has waited for its group.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "emulate/block.hpp"

namespace dmftcore::emulate {

inline void copy_async(void* to, const void* from, std::size_t bytes, bool valid) {
  if (bytes != 4 && bytes != 8 && bytes != 16)
    throw std::invalid_argument("cp.async of a size that does not exist");
  const auto misaligned = [bytes](const void* p) {
    return reinterpret_cast<std::uintptr_t>(p) % bytes != 0;
  };
  if (misaligned(to) || misaligned(from)) throw std::runtime_error("cp.async: misaligned address");
  std::memset(to, 0xff, bytes);
  block().current->issued.push_back({to, from, bytes, valid});
}

inline void copy_async_commit() {
  Thread& thread = *block().current;
  thread.committed.push_back(std::exchange(thread.issued, {}));
}

// All groups but the `open` latest have landed.
inline void copy_async_wait(std::size_t open) {
  auto& committed = block().current->committed;
  for (; committed.size() > open; committed.pop_front())
    for (const Copy& copy : committed.front()) {
      if (copy.valid)
        std::memcpy(copy.to, copy.from, copy.bytes);
      else
        std::memset(copy.to, 0, copy.bytes);
    }
}

} // namespace dmftcore::emulate
