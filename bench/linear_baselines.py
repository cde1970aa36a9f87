"""Deep linear networks against pure JAX: the published iteration, and the strongest JAX code.

L = 5, P = 20 Gaussian points in D = 40 dimensions with labels of both signs, gamma = 1.5,
lr = 0.025, all outputs at all T times, one core, float64. The error is the largest one of
Delta = y - f against this package's growing network at tol = 1e-13, which agrees with its chain,
another algorithm, to `reference_gap`.

The published iteration (NAIVE) solves the equations of readout="ntk", to 1e-8, and so do we where
it is the competitor. It is timed once, in a process of its own, and extrapolated to T = 1000 from
the two longest runs. The jitted ones (STRONG: growing network and chain) get their compilation for
free: it is recorded, and not counted. Peak memory is that of a process which runs one competitor
once, compilation included, beyond what its imports take.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from itertools import pairwise
from statistics import median

import numpy as np

import dmftcore as dc
from bench._alone import alone, extrapolated, report_alone
from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core
from bench.growing import in_cache_rate
from dmftcore.growing.interfaces import GrowingNetwork
from dmftcore.modes import LinearProblem

MODULE = "bench.linear_baselines"

DEPTH, GAMMA, LR, POINTS, DIMENSIONS = 5, 1.5, 0.025, 20, 40
#: Truncation of both growing networks, and of the reference.
TOL, FINEST = 1e-8, 1e-13
NAIVE_TIMES, EXTRAPOLATED_TIMES = (25, 50, 75), (1000,)
#: Numbers T of times, and rounds of the growing networks and of the chains.
STRONG_TIMES = ((100, 21, 9), (1000, 9, 1), (10_000, 5, 0))
#: Stages of the JAX chain: the fastest number that was found.
CHAIN_STAGES = {100: 4, 1000: 8}

INPUTS = np.random.default_rng(0).normal(size=(POINTS, DIMENSIONS))
TARGETS = np.repeat([1.0, -1.0], POINTS // 2)
DATA = dc.Dataset(inputs=INPUTS, targets=TARGETS)
GRAM = INPUTS @ INPUTS.T / DIMENSIONS


# -- the competitors: errors (T, P) at t = 0..T-1 -----------------------------------------------


def growing(times, *, tol=TOL, readout="gd"):
    return dc.solve(
        dc.DeepLinear(DEPTH, gamma=GAMMA, readout=readout),
        DATA,
        dc.GradientDescent(LR, times - 1),
        method="growing",
        tol=tol,
        kernel_times=[],
        times=np.arange(times),
    ).errors


def chain(times):
    return dc.solve(
        dc.DeepLinear(DEPTH, gamma=GAMMA),
        DATA,
        dc.GradientDescent(LR, times - 1),
        method="chain",
        kernel_times=[],
        times=np.arange(times),
    ).errors


def jax_growing(times):
    """A compiled function, and facts about it."""
    module = importlib.import_module("bench.baselines.growing_jax")
    numbers = {"lr": LR, "gamma": GAMMA, "tol": TOL}
    fixed = {"depth": DEPTH, "steps": times}
    fixed["stages"] = module.plan(GRAM, TARGETS, **fixed, **numbers)
    return _compiled(module.run, numbers, fixed)


def jax_chain(times):
    """A compiled function, and facts about it."""
    module = importlib.import_module("bench.baselines.chain_jax")
    count = CHAIN_STAGES[times]
    sizes = tuple(math.ceil(times * stage / count) for stage in range(1, count + 1))
    return _compiled(module.run, {"lr": LR, "gamma": GAMMA}, {"depth": DEPTH, "sizes": sizes})


def _compiled(run, numbers, fixed):
    begin = time.perf_counter()
    program = run.lower(GRAM, TARGETS, **numbers, **fixed).compile()
    facts = {"compile_seconds": time.perf_counter() - begin}
    memory = program.memory_analysis()
    facts["array_megabytes"] = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20
    return lambda: np.asarray(program(GRAM, TARGETS, **numbers)), facts


def naive(times):
    """What one run of the published iteration took and found."""
    solve = importlib.import_module("bench.baselines.naive").solve
    options = {"depth": DEPTH, "lr": LR, "gamma": GAMMA, "steps": times}
    solve(GRAM, TARGETS, **options, largest=1)
    wall, cpu = time.perf_counter(), time.process_time()
    errors, iterations = solve(GRAM, TARGETS, **options)
    errors = np.asarray(errors)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    reference = growing(times, tol=FINEST, readout="ntk")
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "error": float(np.abs(errors - reference).max()),
        "iterations": iterations,
    }


# -- memory, in processes of their own ----------------------------------------------------------

#: What such a process runs; a dictionary that is returned is recorded.
ALONE = {
    "dmftcore": growing,
    "dmftcore chain": chain,
    "jax growing": lambda times: jax_growing(times)[0](),
    "jax chain": lambda times: jax_chain(times)[0](),
    "naive": naive,
}


def run_alone(name, times):
    """Run one competitor, and print what is to be recorded."""
    if not name.startswith("dmftcore"):
        importlib.import_module("bench.baselines")
    report_alone(lambda: ALONE[name](times))


# -- the benchmark ------------------------------------------------------------------------------


def against(reference):
    return lambda found: float(np.abs(found - reference).max())


def against_naive(report):
    """Ours with the readout of the published iteration, and that iteration."""
    runs = {}
    for times in (*NAIVE_TIMES, *EXTRAPOLATED_TIMES):
        reference = growing(times, tol=FINEST, readout="ntk")
        record = report.case(
            f"T={times} readout=ntk",
            {"dmftcore": lambda times=times: growing(times, readout="ntk")},
            error=against(reference),
        )
        ours = record["competitors"]["dmftcore"]
        ours |= alone(MODULE, "dmftcore", times)
        if times in NAIVE_TIMES:
            entry = runs[times] = alone(MODULE, "naive", times)
        else:
            entry = extrapolated(runs, times)
        entry["ratio"] = entry["cpu_seconds"] / ours["cpu_seconds"]
        record["competitors"]["naive"] = entry
        print(f"{'':34} naive {entry}", flush=True)


def against_strong(report, peak):
    """Ours and jitted JAX: growing networks, and chains as far as they go."""
    for times, rounds, chain_rounds in STRONG_TIMES:
        error = against(growing(times, tol=FINEST))
        network, facts = jax_growing(times)
        record = report.case(
            f"T={times}",
            {"dmftcore": lambda times=times: growing(times), "jax growing": network},
            error=error,
            rounds=rounds,
        )
        found = record["competitors"]
        found["jax growing"] |= facts
        if chain_rounds:
            program, facts = jax_chain(times)
            chains = report.case(
                f"T={times} chains",
                {"dmftcore chain": lambda times=times: chain(times), "jax chain": program},
                error=error,
                rounds=chain_rounds,
            )
            report.cases.remove(chains)
            found |= chains["competitors"]
            found["jax chain"] |= facts
            record["reference_gap"] = found["dmftcore chain"]["error"]
        for name, entry in found.items():
            entry["ratio"] = entry["cpu_seconds"] / found["dmftcore"]["cpu_seconds"]
            entry |= alone(MODULE, name, times)
        record["strong"] = min(
            (name for name in found if name.startswith("jax")),
            key=lambda name: found[name]["cpu_seconds"],
        )
        record["profile"] = profile(found, times, peak)
        print(f"{'':34} {record['strong']}: {found[record['strong']]['ratio']:.2f} x ours")
        print(f"{'':34} {record['profile']}", flush=True)


def profile(found, times, peak):
    """What bounds our growing network: work outside its compiled loop, and the rate of the loop."""
    problem = LinearProblem(
        DATA,
        depth=DEPTH,
        gamma=GAMMA,
        init_scale=1.0,
        branch=None,
        training=dc.GradientDescent(LR, times - 1),
        follow_ntk=False,
        loss_limit=math.inf,
    )
    seconds = []
    for _ in range(9):
        begin = time.process_time()
        network = GrowingNetwork(problem, TOL)
        network.advance(np.arange(times))
        seconds.append(time.process_time() - begin)
    loop = median(seconds)
    weights = sum(a * b for a, b in pairwise((POINTS, *network.neurons)))
    flops = 2 * network.multiply_adds
    return {
        "neurons": network.neurons,
        "kilobytes_of_weights": 8 * weights / 1024,
        "loop_cpu_seconds": loop,
        "microseconds_per_step": loop / times * 1e6,
        "share_outside_the_loop": 1 - loop / found["dmftcore"]["cpu_seconds"],
        "loop_gflops": flops / loop / 1e9,
        "jax_growing_gflops": flops / found["jax growing"]["cpu_seconds"] / 1e9,
        "in_cache_matrix_vector_gflops": peak / 1e9,
        # With the last numbers of neurons: weights are read twice a step, and read and written once
        # in eight.
        "gbytes_per_s_of_weights": (2 + 2 / 8) * 8 * weights * times / loop / 1e9,
    }


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    report = Report("linear_baselines", packages=("jax", "jaxlib"))
    against_strong(report, in_cache_rate())
    against_naive(report)
    report.write()


if __name__ == "__main__":
    run_alone(sys.argv[1], int(sys.argv[2]))
