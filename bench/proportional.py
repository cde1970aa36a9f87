"""Deep linear networks on random data: this package against the same march in jitted JAX.

L = 2, nu = 0.5, alpha = 2, gamma = 1, label noise 0.3, eigenvalues k^-1/2, both losses and the
overlap at all T times, one core, float64. Both programs append a row of every two-time kernel a
step, and both take Gauss points in the place of modes where these are more than the times; how time
and memory grow with T and with the number of modes is what is measured. "jax, all modes" is the
same JAX program without Gauss points, as most would write it. The error of each is its largest
difference from ours, and ours from "jax", relative to the first training loss. Ours evaluates the
equations once more to report their residual, and this is part of its time.

What a call costs once, however short the run, is part of its time: ours records its step, plans its
memory and checks the equations, in some milliseconds, which shows in the shortest runs. The
compilation of the JAX program, in seconds, is recorded and not counted. Peak memory is that of a
process which runs one competitor once, compilation included, beyond what its imports take. Longer
runs are ours alone, once, and the longest is extrapolated from them.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import time

import numpy as np

import dmftcore as dc
from bench._alone import alone, extrapolated, report_alone
from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core
from dmftcore.quadrature import GaussRules

MODULE = "bench.proportional"

DEPTH, LR = 2, 0.1
WIDTH_RATIO, SAMPLE_RATIO, GAMMA, NOISE = 0.5, 2.0, 1.0, 0.3
#: Numbers T of times and of modes -> rounds, and stages of the JAX program. With T = 400 and 100
#: modes it is the faster the more stages it has, up to 10 at least; each takes seconds to compile.
SIZES = {
    (50, 1): (25, 2),
    (100, 1): (21, 3),
    (200, 1): (9, 3),
    (400, 1): (5, 4),
    (1000, 1): (1, 6),
    (200, 100): (5, 6),
    (500, 100): (1, 10),
    (200, 2000): (1, 6),
}
ALL_MODES = "jax, all modes"
#: Numbers T of times with one mode, without the competitor: run once, and extrapolated.
LONGEST, EXTRAPOLATED = 2000, 3000


def spectrum(modes):
    return dc.Spectrum(
        np.arange(1, modes + 1) ** -0.5, np.ones(modes), weights=np.full(modes, 1 / modes)
    )


# -- the competitors: test loss, training loss and overlap (T, 3) at t = 0..T-1 -----------------


def march(times, modes):
    solution = dc.solve(
        dc.ProportionalLinear(
            DEPTH, WIDTH_RATIO, SAMPLE_RATIO, gamma=GAMMA, noise=NOISE, spectrum=spectrum(modes)
        ),
        None,
        dc.GradientDescent(LR, times - 1),
        method="chain",
        kernel_times=[],
        times=np.arange(times),
    )
    return np.stack([solution.test_loss, solution.train_loss, solution.overlap], axis=1)


def jax_march(times, modes, stages, all_modes=False):
    """A compiled function, and facts about it."""
    module = importlib.import_module("bench.baselines.proportional_jax")
    given = spectrum(modes)
    # Sums over modes are of polynomials of the degree 2 times + 1 at most.
    points = modes if all_modes else min(modes, times + 1)
    rules = (
        GaussRules(given.values, weights, points).rule(points)
        for weights in (given.weights, given.weights * given.target)
    )
    constants = module.Constants(
        *(part for rule in rules for part in rule),
        alpha=SAMPLE_RATIO,
        nu=WIDTH_RATIO,
        kap=GAMMA * math.sqrt(WIDTH_RATIO),
        noise2=NOISE**2,
        lr=LR,
    )
    sizes = tuple(math.ceil(times * stage / stages) for stage in range(1, stages + 1))
    begin = time.perf_counter()
    program = module.run.lower(constants, depth=DEPTH, sizes=sizes).compile()
    facts = {"compile_seconds": time.perf_counter() - begin}
    memory = program.memory_analysis()
    facts["array_megabytes"] = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20
    return lambda: np.asarray(program(constants)) * (0.5, 0.5, 1.0), facts


def timed_march(times, modes):
    """What one run of ours took."""
    march(10, modes)
    wall, cpu = time.perf_counter(), time.process_time()
    march(times, modes)
    return {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}


#: What a process of its own runs; a dictionary that is returned is recorded.
ALONE = {
    "dmftcore": timed_march,
    "jax": lambda times, modes: jax_march(times, modes, SIZES[times, modes][1])[0](),
    ALL_MODES: lambda times, modes: jax_march(times, modes, SIZES[times, modes][1], True)[0](),
}


# -- the benchmark ------------------------------------------------------------------------------


def side_by_side(report, times, modes, rounds, stages):
    """All programs on one problem; what ours took in a process of its own."""
    compiled = {"jax": jax_march(times, modes, stages)}
    if modes > times + 1:
        compiled[ALL_MODES] = jax_march(times, modes, stages, all_modes=True)
    curves = {}

    def keeping(name, run):
        def keep():
            curves[name] = run()

        return keep

    record = report.case(
        title(times, modes),
        {"dmftcore": keeping("dmftcore", lambda: march(times, modes))}
        | {name: keeping(name, program) for name, (program, _) in compiled.items()},
        rounds=rounds,
    )
    ours = curves["dmftcore"]
    found = record["competitors"]
    for name, (_, facts) in compiled.items():
        found[name] |= facts
    runs = {name: alone(MODULE, name, times, modes) for name in found}
    for name, entry in found.items():
        other = curves["jax" if name == "dmftcore" else name]
        entry["error"] = float(np.abs(ours - other).max() / ours[0, 1])
        entry["peak_megabytes"] = runs[name]["peak_megabytes"]
        report.note(f"{name} {entry}")
    return runs["dmftcore"]


def ours_alone(report, times, entry):
    """Record one run of ours with one mode, or what follows for it from others."""
    case = {"title": title(times, 1), "rounds": 1, "calls": 1}
    report.cases.append(case | {"competitors": {"dmftcore": entry | {"ratio": 1.0}}})
    report.note(f"{title(times, 1)} dmftcore {entry}")


def title(times, modes):
    return f"T={times} modes={modes}"


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    report = Report("proportional", packages=("jax", "jaxlib"))
    runs = {}
    for (times, modes), settings in SIZES.items():
        run = side_by_side(report, times, modes, *settings)
        if modes == 1:
            runs[times] = run
    runs[LONGEST] = alone(MODULE, "dmftcore", LONGEST, 1)
    ours_alone(report, LONGEST, runs[LONGEST])
    ours_alone(report, EXTRAPOLATED, extrapolated(runs, EXTRAPOLATED))
    report.write()


if __name__ == "__main__":
    name, times, modes = sys.argv[1:]
    if name != "dmftcore":
        importlib.import_module("bench.baselines")
    report_alone(lambda: ALONE[name](int(times), int(modes)))
