// kappa(z): a warp follows the paths (spectral_path.hpp) of SLOTS parameters at a time. Lanes sum
// over the modes for all of them; then lane q takes the step of slot q. A slot that has arrived
// goes on with the next parameter that is its own, so that none waits for another.
#include <algorithm>

#include "cuda/spectral_sums.cuh"
#include "spectral_path.hpp"

namespace dmftcore::cuda {
namespace {

using namespace spectral;

constexpr int WARPS = 4; // of a block

struct Problem {
  index nz;
  Modes modes; // with the weights of spectral::Model, and those of the trace, mu lam
  double samples, features;
  const complex* z;
  complex* kappa;
};

// D and the trace, of all lanes.
__device__ __forceinline__ void totals_of(const Problem& p, const double* mu, int lane,
                                          double& dimension, double& trace) {
  Modes modes = p.modes;
  double totals[SLOTS][SUMS];
  sum_over_modes(modes, lane, totals, [&](index k, double lam, int q, double (&sums)[SUMS]) {
    if (q == 0) {
      sums[0] += mu[k];
      sums[1] += mu[k] * lam;
    }
  });
  dimension = totals[0][0];
  trace = totals[0][1];
}

__global__ void __launch_bounds__(WARPS* WARP) follow_paths(const Problem p) {
  const int lane = static_cast<int>(threadIdx.x) % WARP;
  const index warp = index(blockIdx.x) * WARPS + static_cast<int>(threadIdx.x) / WARP;
  const index slots = index(gridDim.x) * WARPS * SLOTS;
  const double* const mu = p.modes.weights[0];

  Model model;
  double trace = 0;
  totals_of(p, mu, lane, model.dimension, trace);
  model.p = 1 / p.samples, model.n = 1 / p.features;
  model.few = model.dimension <= p.samples && model.dimension <= p.features;

  Path path{};
  int sums_left = 0;
  index next = lane < SLOTS ? warp * SLOTS + lane : p.nz;
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
    sum_over_modes(p.modes, lane, totals, [&](index k, double lam, int q, double (&sums)[SUMS]) {
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
    p.kappa[path.place] = state == State::solved ? path.next : complex(NAN, NAN);
    start();
  }
}

} // namespace

void spectral_kappa(Stream stream, index nz, index m, const double* lam, const double* mu,
                    double samples, double features, const complex* z, complex* kappa) {
  if (nz == 0) return;
  const index blocks = std::min((nz + WARPS * SLOTS - 1) / (WARPS * SLOTS), MOST_BLOCKS);
  launch(follow_paths, static_cast<unsigned>(blocks), WARPS * WARP, 0, stream,
         Problem{nz, {m, lam, {mu, nullptr}}, samples, features, z, kappa});
}

} // namespace dmftcore::cuda
