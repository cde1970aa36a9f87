"""Residual transformers: this package against the same march in jitted JAX.

Random sequences, softmax attention, branches of 1/L, outputs at all T times, one core, float64.
Both programs append the rows of a step, one for each of the M tokens, to every two-time kernel;
how time and memory grow with T, with the tokens and with the depth is what is measured. The error
of each is its largest difference from the other in an output. Ours evaluates the equations once
more to report their residual, and this is part of its time.

The compilation of the JAX program is recorded and not counted. Peak memory is that of a process
which runs one competitor once, compilation included, beyond what its imports take.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time

import numpy as np

import dmftcore as dc
from bench._alone import alone, report_alone
from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core

MODULE = "bench.transformer"

GAMMA, LR, SEQUENCES, DIMENSION = 1.5, 0.05, 2, 16
#: Number T of times, positions S of both sequences and depth L -> rounds, and stages of the JAX
#: program, each of which takes seconds to compile.
SIZES = {
    (25, 4, 4): (9, 2),
    (50, 4, 4): (5, 3),
    (100, 4, 4): (1, 4),
    (50, 8, 4): (1, 3),
    (50, 4, 8): (1, 3),
}


def sequences(positions):
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(SEQUENCES, positions, DIMENSION))
    return dc.Dataset(inputs=inputs, targets=generator.normal(size=SEQUENCES))


# -- the competitors: outputs (T, P) at t = 0..T-1 ----------------------------------------------


def march(times, positions, depth):
    solution = dc.solve(
        dc.Transformer(depth, gamma=GAMMA),
        sequences(positions),
        dc.GradientDescent(LR, times - 1),
        method="chain",
        kernel_times=[],
        times=np.arange(times),
    )
    return solution.outputs


def jax_march(times, positions, depth, stages):
    """A compiled function, and facts about it."""
    module = importlib.import_module("bench.baselines.transformer_jax")
    data = sequences(positions)
    constants = module.Constants(
        data.kernel,
        data.targets,
        rate=LR * GAMMA / SEQUENCES,
        gamma=GAMMA,
        beta=1 / depth,
        kappa=float(depth),
    )
    sizes = tuple(math.ceil(times * stage / stages) for stage in range(1, stages + 1))
    begin = time.perf_counter()
    program = module.run.lower(constants, depth=depth, positions=positions, sizes=sizes).compile()
    facts = {"compile_seconds": time.perf_counter() - begin}
    memory = program.memory_analysis()
    facts["array_megabytes"] = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20
    return lambda: np.asarray(program(constants)), facts


#: What a process of its own runs.
ALONE = {
    "dmftcore": march,
    "jax": lambda *size: jax_march(*size, SIZES[size][1])[0](),
}


# -- the benchmark ------------------------------------------------------------------------------


def side_by_side(report, size, rounds, stages):
    """Both programs on one problem."""
    program, facts = jax_march(*size, stages)
    outputs = {}

    def keeping(name, run):
        def keep():
            outputs[name] = run()

        return keep

    times, positions, depth = size
    record = report.case(
        f"T={times} M={SEQUENCES * positions} L={depth}",
        {
            "dmftcore": keeping("dmftcore", lambda: march(*size)),
            "jax": keeping("jax", program),
        },
        rounds=rounds,
    )
    ours, others = outputs.values()
    found = record["competitors"]
    found["jax"] |= facts
    for name, entry in found.items():
        entry["error"] = float(np.abs(ours - others).max())
        entry["peak_megabytes"] = alone(MODULE, name, *size)["peak_megabytes"]
        report.note(f"{name} {entry}")


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    report = Report("transformer")
    for size, settings in SIZES.items():
        side_by_side(report, size, *settings)
    path = report.write()
    # The versions that matter here, beside those of every report.
    written = json.loads(path.read_text())
    written["machine"] |= {
        name: importlib.import_module(name).__version__ for name in ("jax", "jaxlib")
    }
    path.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    name, *size = sys.argv[1:]
    if name != "dmftcore":
        importlib.import_module("bench.baselines")
    report_alone(lambda: ALONE[name](*map(int, size)))
