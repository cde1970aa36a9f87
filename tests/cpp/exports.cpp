// The operations on two-time kernels for the test process.
#include "exports.hpp"

// Read by planted faults (planted.hpp) alone.
extern "C" {
__attribute__((visibility("default"))) int planted = 0;
}

EXPORT void set_order(Size order) {
  dmftcore::emulate::set_order(static_cast<dmftcore::emulate::Order>(order));
}

#define EXPORT_OPERATIONS(T, NAME)                                                                 \
  EXPORT const char* causal_matmul_##NAME(Size batch, Size n, Size block, Size transposed,         \
                                          const T* a, const T* b, T* c) {                          \
    return guarded([&] {                                                                           \
      cuda::causal_matmul<T>(nullptr, batch, n, block,                                             \
                             static_cast<dmftcore::Transposed>(transposed), a, b, c);              \
    });                                                                                            \
  }                                                                                                \
  EXPORT const char* causal_solve_##NAME(Size batch, Size n, Size block, const T* a, const T* b,   \
                                         T* x) {                                                   \
    return guarded([&] { cuda::causal_solve<T>(nullptr, batch, n, block, a, b, x); });             \
  }                                                                                                \
  EXPORT const char* causal_solve_dense_##NAME(Size batch, Size n, Size m, Size block, const T* a, \
                                               const T* b, T* x) {                                 \
    return guarded([&] { cuda::causal_solve_dense<T>(nullptr, batch, n, m, block, a, b, x); });    \
  }                                                                                                \
  EXPORT const char* resolvent_##NAME(Size batch, Size n, Size block, const T* a, T* r) {          \
    return guarded([&] { cuda::resolvent<T>(nullptr, batch, n, block, a, r); });                   \
  }                                                                                                \
  EXPORT const char* congruence_##NAME(Size batch, Size n, Size block, const T* r, const T* c,     \
                                       T* s) {                                                     \
    return guarded([&] { cuda::congruence<T>(nullptr, batch, n, block, r, c, s); });               \
  }                                                                                                \
  EXPORT const char* causal_apply_##NAME(Size batch, Size n, Size m, Size block, Size strict,      \
                                         Size transposed, const T* k, const T* g, T* y) {          \
    return guarded([&] {                                                                           \
      cuda::causal_apply<T>(nullptr, batch, n, m, block, strict != 0, transposed != 0, k, g, y);   \
    });                                                                                            \
  }

EXPORT_OPERATIONS(double, float64)
EXPORT_OPERATIONS(float, float32)

#define EXPORT_ROWS(T, NAME)                                                                       \
  EXPORT const char* rows_causal_##NAME(Size m, Size n, const T* x, const T* a, Size ld, T* y) {   \
    return guarded([&] { cuda::rows_causal<T>(nullptr, m, n, x, a, ld, y); });                     \
  }                                                                                                \
  EXPORT const char* rows_causal_transposed_##NAME(Size m, Size n, const T* x, const T* a,         \
                                                   Size ld, T* y) {                                \
    return guarded([&] { cuda::rows_causal_transposed<T>(nullptr, m, n, x, a, ld, y); });          \
  }                                                                                                \
  EXPORT const char* rows_causal_pair_##NAME(Size m, Size n, const T* x, const T* w, const T* a,   \
                                             Size ld, T* y, T* z) {                                \
    return guarded([&] { cuda::rows_causal_pair<T>(nullptr, m, n, x, w, a, ld, y, z); });          \
  }                                                                                                \
  EXPORT const char* rows_symmetric_##NAME(Size m, Size n, const T* x, const T* c, Size ld,        \
                                           T* y) {                                                 \
    return guarded([&] { cuda::rows_symmetric<T>(nullptr, m, n, x, c, ld, y); });                  \
  }                                                                                                \
  EXPORT const char* rows_congruence_##NAME(Size m, Size n, const T* x, const T* c, Size ldc,      \
                                            const T* r, Size ldr, T* y, T* z) {                    \
    return guarded([&] { cuda::rows_congruence<T>(nullptr, m, n, x, c, ldc, r, ldr, y, z); });     \
  }                                                                                                \
  EXPORT const char* rows_low_rank_##NAME(Size m, Size n, Size k, const T* x, const T* u,          \
                                          const T* v, T* y) {                                      \
    return guarded([&] { cuda::rows_low_rank<T>(nullptr, m, n, k, x, u, v, y); });                 \
  }                                                                                                \
  EXPORT const char* rows_causal_batch_##NAME(Size batch, Size n, Size transposed, const T* x,     \
                                              const T* a, Size ld, T* y) {                         \
    return guarded(                                                                                \
        [&] { cuda::rows_causal_batch<T>(nullptr, batch, n, transposed != 0, x, a, ld, y); });     \
  }

EXPORT_ROWS(double, float64)
EXPORT_ROWS(float, float32)
