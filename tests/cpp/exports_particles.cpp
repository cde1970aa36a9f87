// The operations on particles for the test process, with the arguments that their binding has.
#include <cstdint>

#include "exports.hpp"

#define EXPORT_PARTICLES(T, NAME)                                                                  \
  EXPORT const char* particle_products_##NAME(                                                     \
      Size runs, Size particles, Size n, const T* a, Size capacity_a, const Size* used_a,          \
      const T* b, Size capacity_b, const Size* used_b, const T* x, Size capacity_x,                \
      const T* reference, double* c, double* d, double* gram) {                                    \
    return guarded([&] {                                                                           \
      cuda::particle_products<T>(nullptr, {runs,                                                   \
                                           particles,                                              \
                                           n,                                                      \
                                           {a, capacity_a, used_a},                                \
                                           {b, capacity_b, used_b},                                \
                                           {x, capacity_x, nullptr},                               \
                                           reference,                                              \
                                           c,                                                      \
                                           d,                                                      \
                                           gram});                                                 \
    });                                                                                            \
  }                                                                                                \
  EXPORT const char* particle_expansion_##NAME(                                                    \
      Size runs, Size particles, Size n, const T* a, Size capacity_a, const Size* used_a,          \
      const T* b, Size capacity_b, const Size* used_b, const double* c, const double* d,           \
      double skip, double scale, const T* base, Size capacity_base, const T* field,                \
      Size capacity_field, Size repeat, Size activation, T* u, T* y, T* value) {                   \
    return guarded([&] {                                                                           \
      cuda::particle_expansion<T>(nullptr, {runs,                                                  \
                                            particles,                                             \
                                            n,                                                     \
                                            {a, capacity_a, used_a},                               \
                                            {b, capacity_b, used_b},                               \
                                            c,                                                     \
                                            d,                                                     \
                                            skip,                                                  \
                                            scale,                                                 \
                                            {base, capacity_base, nullptr},                        \
                                            {field, capacity_field, nullptr},                      \
                                            repeat,                                                \
                                            dmftcore::Activation(activation),                      \
                                            u,                                                     \
                                            y,                                                     \
                                            value});                                               \
    });                                                                                            \
  }                                                                                                \
  EXPORT const char* normals_##NAME(std::uint64_t seed, Size run, Size stream, Size column,        \
                                    Size count, Size particles, T* x) {                            \
    return guarded([&] {                                                                           \
      cuda::normals(nullptr,                                                                       \
                    {seed, std::uint32_t(run), std::uint32_t(stream), std::uint32_t(column)},      \
                    count, particles, x);                                                          \
    });                                                                                            \
  }

EXPORT_PARTICLES(double, float64)
EXPORT_PARTICLES(float, float32)
