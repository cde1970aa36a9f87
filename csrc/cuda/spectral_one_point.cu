// kappa(z): a team of warps follows the paths (spectral_path.hpp) of SLOTS parameters at a time. It
// sums over the modes for all of them; then lane q takes the step of slot q, in each of its warps.
// A slot that has arrived goes on with the next parameter that is its own, so that none waits for
// another.
#include "cuda/spectral_sums.cuh"
#include "spectral_path.hpp"

namespace dmftcore::cuda {
namespace {

using namespace spectral;

// Parameters from which on a team has more slots, so that an H200 has a team for each
// multiprocessor and then no more of them than it needs.
constexpr index FOR_TWO_SLOTS = 256, FOR_FOUR_SLOTS = 1024;

struct Problem {
  index nz;
  Modes modes; // with the weights of spectral::Model, and those of the trace, mu lam
  double samples, features;
  const double *samples_at, *features_at; // where they are, if they are not known here
  const complex* z;
  complex* kappa;
};

// D and the trace.
template <int TEAM>
__device__ __forceinline__ void totals_of(const Problem& p, const double* mu,
                                          const Place<TEAM>& place, double& dimension,
                                          double& trace) {
  double totals[1][SUMS];
  sum_over_modes(p.modes, place, totals, [&](index k, double lam, int, double (&sums)[SUMS]) {
    sums[0] += mu[k];
    sums[1] += mu[k] * lam;
  });
  dimension = totals[0][0];
  trace = totals[0][1];
}

template <int TEAM, int SLOTS>
__global__ void __launch_bounds__(BLOCK<TEAM>) follow_paths(const Problem p) {
  const Place<TEAM> place;
  const int lane = place.lane;
  const index slots = place.teams * SLOTS;
  const double* const mu = p.modes.weights[0];

  const double samples = p.samples_at ? *p.samples_at : p.samples;
  const double features = p.features_at ? *p.features_at : p.features;
  Model model;
  double trace = 0;
  totals_of(p, mu, place, model.dimension, trace);
  model.p = 1 / samples, model.n = 1 / features;
  model.few = model.dimension <= samples && model.dimension <= features;

  Path path{};
  int sums_left = 0;
  index next = lane < SLOTS ? place.team * SLOTS + lane : p.nz;
  // The next parameter of this slot, where there is one.
  const auto start = [&] {
    path.place = next < p.nz ? next : -1;
    if (path.place < 0) return;
    path = Path(next, p.z[next], abs(p.z[next]) + trace * (model.p + model.n));
    sums_left = MOST_SUMS;
    next += slots;
  };
  path.place = -1;
  start();

  for (;;) {
    double re[SLOTS], squared[SLOTS];
    bool active[SLOTS], any = false;
    DMFTCORE_UNROLL
    for (int q = 0; q < SLOTS; ++q) {
      re[q] = __shfl_sync(WHOLE_WARP, path.next.re, q);
      const double im = __shfl_sync(WHOLE_WARP, path.next.im, q);
      squared[q] = im * im;
      active[q] = __shfl_sync(WHOLE_WARP, int(path.place >= 0), q) != 0;
      any = any || active[q];
    }
    if (!any) return;

    double totals[SLOTS][SUMS], own[SUMS] = {};
    sum_over_modes(p.modes, place, totals, [&](index k, double lam, int q, double (&sums)[SUMS]) {
      if (!active[q]) return;
      const double weight = model.few ? mu[k] : mu[k] * lam;
      const double a = re[q] + lam, inverse = 1 / (a * a + squared[q]);
      const double once = weight * inverse, twice = once * inverse;
      sums[0] += once;
      sums[1] += a * once;
      sums[2] += twice;
      sums[3] += a * twice;
    });
    take_own(lane, totals, own);
    if (path.place < 0) continue;
    const double b = path.next.im;
    const State state =
        step(path, {own[1], -b * own[0]}, {own[0] - 2 * b * b * own[2], -2 * b * own[3]}, model);
    if (state == State::running && --sums_left > 0) continue;
    // NaN marks what was not found.
    if (place.warp == 0)
      p.kappa[path.place] = state == State::solved ? path.next : complex(NAN, NAN);
    start();
  }
}

template <int TEAM, int SLOTS> void follow(Stream stream, const Problem& p) {
  launch(follow_paths<TEAM, SLOTS>, blocks_of<TEAM>((p.nz + SLOTS - 1) / SLOTS), BLOCK<TEAM>,
         team_shared_bytes<TEAM, SLOTS>(), stream, p);
}

void follow(Stream stream, const Problem& p) {
  if (p.nz == 0) return;
  if (p.modes.count < MANY_MODES)
    follow<1, 4>(stream, p);
  else if (p.nz < FOR_TWO_SLOTS)
    follow<LARGE_TEAM, 1>(stream, p);
  else if (p.nz < FOR_FOUR_SLOTS)
    follow<LARGE_TEAM, 2>(stream, p);
  else
    follow<LARGE_TEAM, 4>(stream, p);
}

} // namespace

void spectral_kappa(Stream stream, index nz, index m, const double* lam, const double* mu,
                    double samples, double features, const complex* z, complex* kappa) {
  follow(stream, {nz, {m, lam, {mu, nullptr}}, samples, features, nullptr, nullptr, z, kappa});
}

void spectral_kappa_of(Stream stream, index nz, index m, const double* lam, const double* mu,
                       const double* samples, const double* features, const complex* z,
                       complex* kappa) {
  follow(stream, {nz, {m, lam, {mu, nullptr}}, 0, 0, samples, features, z, kappa});
}

} // namespace dmftcore::cuda
