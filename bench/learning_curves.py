"""Learning curves of linear models to t = 1e6: this package against JAX, and against FFTs.

Gradient flow on P = 80 samples through N = 60 features, power-law data, 121 times from 0.1 to 1e6,
one core, float64. The competitors are the same contour method in jitted JAX and in numpy, on the
contours of this package, each used over all times that it can serve. Ours evaluates each curve
twice, for its error estimate, and the training loss on contours of its own; both are part of its
time, as is the plan of contours of everyone's. The error of each is its largest difference,
relative to the largest loss, from ours in other units of time, so that all contours are others.

One-pass SGD at all of its first 10^6 steps, or at 121 of them: ours takes each time by itself, or
interpolates from 18 in each octave. The competitor solves the Volterra equation by fast Fourier
transforms, and so computes all steps; its forcing and kernel come from matrix products over the
modes.

The compilation of the JAX program is recorded and not counted.
"""

from __future__ import annotations

import importlib
import os
import time

import numpy as np

import dmftcore as dc
from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core
from dmftcore.spectral import learning_curve, volterra
from dmftcore.spectral.contours import hyperbola

SAMPLES, FEATURES, NOISE_VARIANCE = 80.0, 60.0, 0.05
TIMES = np.geomspace(0.1, 1e6, 121)
MODES = (100, 500, 2000, 20_000)
#: Ratio of the times that a hyperbola serves.
REACH = 4.0
LR, BATCH, STEPS = 0.3, 4, 1_000_000


def spectrum(modes):
    return dc.PowerLaw(b=1.2, a=1.9, modes=modes)


# -- gradient flow -------------------------------------------------------------------------------


def flow(modes, times=TIMES):
    """Test and training loss, (2, n_times)."""
    curve = learning_curve(times, spectrum(modes), SAMPLES, FEATURES, NOISE_VARIANCE)
    return np.stack([curve.test, curve.train])


def flow_in_other_units(modes, unit=1.4):
    """The same from eigenvalues that are so many times larger, and times that are shorter."""
    given = spectrum(modes)
    scaled = dc.Spectrum(unit * given.values, given.target / unit)
    curve = learning_curve(TIMES / unit, scaled, SAMPLES, FEATURES, NOISE_VARIANCE)
    return np.stack([curve.test, curve.train])


def baseline(modes, times):
    """What the competitors are given, and the places of the times in what they return."""
    module = importlib.import_module("bench.baselines.learning_curves_jax")
    given = spectrum(modes)
    model = module.Model(
        given.values, given.values, given.values * given.target, SAMPLES, FEATURES, NOISE_VARIANCE
    )
    return module, model, *module.plan(times, hyperbola, REACH)


def numpy_flow(modes, times=TIMES):
    _, model, nodes, places = baseline(modes, times)
    module = importlib.import_module("bench.baselines.learning_curves_numpy")
    return module.run(model, nodes).reshape(2, -1)[:, places]


def jax_flow(modes, times=TIMES):
    """A compiled function, and the seconds that took."""
    module, model, nodes, _ = baseline(modes, times)
    begin = time.perf_counter()
    program = module.run.lower(model, nodes).compile()
    seconds = time.perf_counter() - begin

    def run():
        nodes, places = module.plan(times, hyperbola, REACH)
        return np.asarray(program(model, nodes)).reshape(2, -1)[:, places]

    return run, seconds


# -- one-pass SGD --------------------------------------------------------------------------------


def one_pass(steps, modes):
    return learning_curve(
        steps, spectrum(modes), np.inf, np.inf, NOISE_VARIANCE, "sgd", LR, batch=BATCH
    ).test


def by_transforms(last, modes):
    """The loss at all steps to `last`; powers of the decays are products of two tables."""
    given = spectrum(modes)
    decay = (1 - LR * given.values) ** 2
    width = int(np.sqrt(last)) + 1
    coarse = decay ** (width * np.arange(width + 1)[:, None])
    fine = (decay ** np.arange(width)[:, None]).T
    forcing, kernel = (
        ((coarse * weights) @ fine).ravel()[: last + 1]
        for weights in (given.values * given.target, LR**2 / BATCH * given.values**2)
    )
    return volterra(forcing + NOISE_VARIANCE, kernel)


# -- the benchmark -------------------------------------------------------------------------------


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    report = Report("learning_curves", packages=("jax", "jaxlib"))
    for modes in MODES:
        reference = flow_in_other_units(modes)
        program, seconds = jax_flow(modes)
        record = report.case(
            f"flow, {len(TIMES)} times to 1e6, modes={modes}",
            {
                "dmftcore": lambda modes=modes: flow(modes),
                "jax": program,
                "numpy": lambda modes=modes: numpy_flow(modes),
            },
            error=lambda found, r=reference: float(np.abs(found - r).max() / r.max()),
            rounds=5,
        )
        record["competitors"]["jax"]["compile_seconds"] = seconds
        report.note(f"jax compiled in {seconds:.1f} s")
    steps = np.unique(np.geomspace(1, STEPS, 121).round())
    modes = MODES[0]
    everything = by_transforms(STEPS, modes)
    for title, when in (
        (f"SGD, {len(steps)} steps to 1e6, modes={modes}", steps),
        (f"SGD, all steps to 1e6, modes={modes}", np.arange(STEPS + 1)),
    ):
        where = when.astype(int)
        report.case(
            title,
            {
                "dmftcore": lambda when=when: one_pass(when, modes),
                "fft": lambda where=where: by_transforms(STEPS, modes)[where],
            },
            error=lambda found, r=everything[where]: float(np.abs(found / r - 1).max()),
            rounds=3,
        )
    report.write()


if __name__ == "__main__":
    main()
