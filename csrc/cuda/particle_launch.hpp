// Which variant of a kernel on particles runs.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <type_traits>

#include "cuda/particles.cuh"

namespace dmftcore::cuda {

// Whether all columns of S particles of these arrays start at a multiple of 16 bytes.
template <class T> bool in_packets(index particles, std::initializer_list<const T*> arrays) {
  bool aligned = particles * index(sizeof(T)) % 16 == 0;
  for (const T* array : arrays) aligned &= reinterpret_cast<std::uintptr_t>(array) % 16 == 0;
  return aligned;
}

// run(first, GROUPS, ALIGNED) for groups of fields from `first` on, the latter two as constants:
// the fewest groups that hold the fields, 8 at most.
template <class Run> void for_fields(index n, bool aligned, const Run& run) {
  const auto with = [&](index first, auto groups) {
    if (aligned)
      run(first, groups, std::true_type());
    else
      run(first, groups, std::false_type());
  };
  for (index first = 0; first < n; first += 8 * FIELDS) {
    const index left = n - first;
    if (left <= FIELDS)
      with(first, std::integral_constant<int, 1>());
    else if (left <= 2 * FIELDS)
      with(first, std::integral_constant<int, 2>());
    else if (left <= 4 * FIELDS)
      with(first, std::integral_constant<int, 4>());
    else
      with(first, std::integral_constant<int, 8>());
  }
}

} // namespace dmftcore::cuda
