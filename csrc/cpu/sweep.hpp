// A history times few vectors, at the bandwidth of the memory.
#pragma once

#include "cpu/micro.hpp"

namespace dmftcore::cpu {

// From this number of vectors on the packed product is faster.
constexpr index MANY_VECTORS = 8;

// Runs `kernel` over the first n rows of sweep.a, on several threads where it pays. sweep.y, of n
// columns, is overwritten.
template <class T>
void over_rows(void (*kernel)(const Sweep<T>&, index begin, index end), const Sweep<T>& sweep,
               index n);

} // namespace dmftcore::cpu
