#include "cpu/quasi_normals.hpp"

#include <algorithm>
#include <cmath>

#include "cpu/pool.hpp"

namespace dmftcore::cpu {
namespace {

// Particles of a piece: a power of 2.
constexpr index PIECE = 1024;

// The inverse of the normal distribution function: Wichura, "Algorithm AS 241: the percentage
// points of the normal distribution" (1988), to 1e-16; not for u or 1 - u below e^-25.
constexpr double CENTRE = 0.425;

double centre(double q) {
  const double r = CENTRE * CENTRE - q * q;
  const double above =
      (((((((2.5090809287301226727e3 * r + 3.3430575583588128105e4) * r + 6.7265770927008700853e4) *
               r +
           4.5921953931549871457e4) *
              r +
          1.3731693765509461125e4) *
             r +
         1.9715909503065514427e3) *
            r +
        1.3314166789178437745e2) *
           r +
       3.3871328727963666080);
  const double below =
      (((((((5.2264952788528545610e3 * r + 2.8729085735721942674e4) * r + 3.9307895800092710610e4) *
               r +
           2.1213794301586595867e4) *
              r +
          5.3941960214247511077e3) *
             r +
         6.8718700749205790830e2) *
            r +
        4.2313330701600911252e1) *
           r +
       1.0);
  return q * above / below;
}

double tail(double q) {
  const double r = std::sqrt(-std::log(0.5 - std::abs(q))) - 1.6;
  const double above = (((((((7.74545014278341407640e-4 * r + 2.27238449892691845833e-2) * r +
                             2.41780725177450611770e-1) *
                                r +
                            1.27045825245236838258) *
                               r +
                           3.64784832476320460504) *
                              r +
                          5.76949722146069140550) *
                             r +
                         4.63033784615654529590) *
                            r +
                        1.42343711074968357734);
  const double below = (((((((1.05075007164441684324e-9 * r + 5.47593808499534494600e-4) * r +
                             1.51986665636164571966e-2) *
                                r +
                            1.48103976427480074590e-1) *
                               r +
                           6.89767334985100004550e-1) *
                              r +
                          1.67638483018380384940) *
                             r +
                         2.05319162663775882187) *
                            r +
                        1.0);
  return std::copysign(above / below, q);
}

} // namespace

template <class T>
void quasi_normals(const std::uint32_t* numbers, std::uint32_t shift, index particles, T* x) {
  const index pieces = (particles + PIECE - 1) / PIECE;
  parallel_for(pieces, [&](index task) {
    const index begin = task * PIECE, count = std::min(PIECE, particles - begin);
    std::uint32_t points[PIECE];
    points[0] = shift;
    for (index bit = 0; begin >> bit; ++bit)
      if (begin >> bit & 1) points[0] ^= numbers[bit];
    for (index known = 1, bit = 0; known < count; known *= 2, ++bit)
      for (index p = 0; p < known; ++p) points[known + p] = points[p] ^ numbers[bit];
    double q[PIECE], result[PIECE];
    for (index p = 0; p < count; ++p) {
      q[p] = (static_cast<double>(points[p]) + 0.5) * 0x1p-32 - 0.5;
      result[p] = centre(q[p]);
    }
    for (index p = 0; p < count; ++p) {
      if (std::abs(q[p]) > CENTRE) result[p] = tail(q[p]);
      x[begin + p] = static_cast<T>(result[p]);
    }
  });
}

template void quasi_normals(const std::uint32_t*, std::uint32_t, index, double*);
template void quasi_normals(const std::uint32_t*, std::uint32_t, index, float*);

} // namespace dmftcore::cpu
