#pragma once

#include "ops.hpp"

namespace dmftcore::cpu {

// The resolvent of one n x n matrix with leading dimension lda; r is written up to its causal
// limit only.
template <class T>
void resolvent_causal(index n, index block, const T* a, index lda, T* r, index ldr);

} // namespace dmftcore::cpu
