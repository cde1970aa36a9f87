"""Attention networks: our march of all heads against jitted JAX and numpy, one core, float64.

Softmax attention at alpha = 1, H heads of N = 32 keys, P sequences of S tokens in 16 dimensions,
outputs at all steps. All three start from the same heads and march the same equations, those of
their components of finite rank; the error of each is its largest difference from ours, and ours
from JAX, relative to the largest output. The compilation of the JAX program is recorded and not
counted. Ours draws the heads and checks the losses on the way; both are part of its time.
"""

from __future__ import annotations

import importlib
import os
import time

import numpy as np

import dmftcore as dc
from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core
from dmftcore.limits.attention import attention_problem, heads_at_start

DIMENSION, KEYS, GAMMA, LR = 16, 32, 1.0, 0.2
#: (heads, sequences, tokens of each, steps): each of them grows once.
CASES = (
    *((heads, 8, 8, 100) for heads in (8, 32, 128, 512)),
    *((64, sequences, 8, 100) for sequences in (4, 16, 64)),
    *((64, 8, length, 100) for length in (4, 8, 16, 32)),
    *((64, 8, 8, steps) for steps in (50, 200, 800)),
)
MODULE = "bench.baselines.attention_jax"


def problem(heads, sequences, length):
    """The limit and its data."""
    rng = np.random.default_rng(0)
    inputs = 1.5 * rng.normal(size=(sequences, length, DIMENSION))
    data = dc.Dataset(inputs=inputs, targets=np.sign(rng.normal(size=sequences)))
    return dc.AttentionCore(heads=heads, key_dim=KEYS, gamma=GAMMA), data


def ours(limit, data, steps):
    """Outputs f - f(0), (steps + 1, P), of one network."""
    solution = dc.solve(
        limit,
        data,
        dc.GradientDescent(LR, steps),
        samples=1,
        kernel_times=[],
        times=np.arange(steps + 1),
    )
    return data.targets - solution.errors


def baseline(limit, data):
    """The problem and the heads at the start, as the other programs take them."""
    known = attention_problem(limit, data)
    heads = heads_at_start(limit, known, groups=1, size=limit.heads, seed=0)
    parts = heads.query, heads.key, heads.value, heads.readout[:, :, 0]
    module = importlib.import_module(MODULE)
    given = module.Problem(known.rows, data.targets, limit.gamma, known.scale)
    return given, module.State(*(part[0] for part in parts))


def in_numpy(limit, data, steps):
    return importlib.import_module(MODULE).numpy_run(*baseline(limit, data), LR, steps)


def in_jax(limit, data, steps):
    """A compiled function, and the seconds that took."""
    module = importlib.import_module(MODULE)
    given, start = baseline(limit, data)
    begin = time.perf_counter()
    program = module.run.lower(given, start, LR, steps=steps).compile()
    return lambda: np.asarray(program(given, start, LR)), time.perf_counter() - begin


def case(report, heads, sequences, length, steps, seconds):
    limit, data = problem(heads, sequences, length)
    program, compiled = in_jax(limit, data, steps)
    by_jax, by_us = program(), ours(limit, data, steps)
    largest = np.abs(by_us).max()

    record = report.case(
        f"heads={heads} sequences={sequences} length={length} steps={steps}",
        {
            "dmftcore": lambda: ours(limit, data, steps),
            "jax": program,
            "numpy": lambda: in_numpy(limit, data, steps),
        },
        error=lambda found: float(
            np.abs(found - (by_jax if np.array_equal(found, by_us) else by_us)).max() / largest
        ),
        bound=1e-9,
        seconds=seconds,
    )
    record["competitors"]["jax"]["compile_seconds"] = compiled
    report.note(f"jax compiled in {compiled:.1f} s")


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    report = Report("attention", packages=("jax", "jaxlib"))
    for sizes in CASES:
        case(report, *sizes, seconds=2)
    report.write()


if __name__ == "__main__":
    main()
