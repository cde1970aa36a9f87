"""The ensemble march of nonlinear networks: against JAX, and against networks of finite width.

Points are Gaussian in 10 dimensions with labels +-1, gamma = 1, square loss, lr T = 10, one core,
float64. What is compared is the training loss at the end, and every competitor samples: its error
is the relative standard error of that loss, from the scatter of its runs. The time to reach a
standard error of 1e-3, by more runs, is the measured time times the square of (error / 1e-3);
`at_equal_error` has it for each, and its ratio to ours. The scatter of n runs knows a standard
error to 1 / sqrt(2 (n - 1)) only: where algorithm and particles are the same, as in JAX, the
ratio of the times is the sharper figure.

"STRONG JAX" is the same algorithm with as many particles, jitted, its compilation not counted; its
particles are drawn by chance, where ours are quasi-random. Of one hidden layer they are but an
input: "STRONG JAX, quasi-random sources" is given columns of our sequence, whose making is not
counted, and what is left of its ratio at equal error is that of the engines.
"networks" are networks of finite width from `dmftcore.simulate`; their loss differs from the limit
by a bias of order 1 / width besides, which more runs do not remove: `deviation` is their relative
difference from ours. "naive" is the published iteration over whole trajectories, of one hidden
layer, with damped kernels and Picard sweeps.

Operations on particles are held against a floor: the bytes of their arguments at the rate of
copying arrays of as many bytes, measured in the same run. So are activations, which have one array
to read and one to write; "jax" is one jitted program for the function, or for its derivative.
"""

from __future__ import annotations

import cProfile
import importlib
import itertools
import os
import pstats
import time
from dataclasses import dataclass
from functools import partial

import numpy as np

import dmftcore as dc
from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core
from dmftcore import _core
from dmftcore.activations import activation
from dmftcore.limits.ensemble_solve import triangular
from dmftcore.sampled.particles import CounterNormals, blend, products
from dmftcore.sampled.quasi import WORDS, quasi_normals

STRONG, STRONG_QUASI = "STRONG JAX", "STRONG JAX, quasi-random sources"
TIME, TOL, REPLICAS, GOAL = 10.0, 1e-4, 8, 1e-3


@dataclass(frozen=True)
class Case:
    """A network, and how it is sampled."""

    activation: str
    depth: int
    points: int
    steps: int
    particles: int  # of each of REPLICAS runs
    width: int
    networks: int
    rounds: int = 1

    @property
    def title(self):
        return (
            f"{self.activation} L={self.depth} P={self.points} T={self.steps} "
            f"S={REPLICAS}x{self.particles}"
        )

    @property
    def data(self):
        rng = np.random.default_rng(0)
        inputs = rng.normal(size=(self.points, 10))
        return dc.Dataset(inputs=inputs, targets=rng.choice([-1.0, 1.0], self.points))

    @property
    def limit(self):
        return dc.MLP(self.depth, self.activation)

    @property
    def training(self):
        return dc.GradientDescent(TIME / self.steps, self.steps)


CASES = (
    Case("tanh", 1, 5, 1000, 2000, 1000, 8, 3),
    Case("relu", 1, 5, 1000, 2000, 1000, 8, 3),
    Case("tanh", 1, 10, 50, 12_500, 4000, 8, 3),
    Case("relu", 1, 3, 50, 125_000, 10_000, 8, 3),
    Case("tanh", 3, 5, 50, 2000, 500, 4, 3),
    Case("relu", 3, 3, 50, 1000, 500, 4, 3),
    Case("tanh", 3, 5, 1000, 500, 300, 4),
)

#: Of the published iteration, and its runs.
NAIVE_RUNS = 3
SMALL = Case("relu", 1, 5, 30, 125, 100, 4)


# -- the competitors: losses at the end of all runs ---------------------------------------------


def march(case):
    solution = dc.solve(
        case.limit,
        case.data,
        case.training,
        method="ensemble",
        samples=case.particles,
        replicas=REPLICAS,
        tol=TOL,
        kernel_times=[],
        times=[case.steps],
    )
    return solution.per_seed["train_loss"][:, -1]


def networks(case):
    solution = dc.simulate(
        case.limit,
        case.data,
        case.training,
        width=case.width,
        seeds=case.networks,
        times=[case.steps],
    )
    outputs = solution.per_seed["outputs"][:, -1, : case.points]
    return _losses(outputs, case.data)


def jax_march(case):
    """Compiled functions by name, and facts about them."""
    jax = importlib.import_module("jax")
    module = importlib.import_module("bench.baselines.ensemble_jax")
    points, targets = case.data.coordinates, case.data.targets
    options = {"activation": case.activation, "steps": case.steps, "size": case.particles}
    numbers = {"lr": TIME / case.steps, "gamma": 1.0}
    keys = [(key,) for key in jax.random.split(jax.random.PRNGKey(0), REPLICAS)]
    programs, facts = {}, {}

    def add(name, function, inputs, outputs, **static):
        program, facts[name] = _compiled(function, points, targets, *inputs[0], **static, **numbers)
        programs[name] = lambda: _losses(
            np.stack([outputs(program(points, targets, *one, **numbers)) for one in inputs]),
            case.data,
        )

    if case.depth == 1:
        points = triangular(points)
        add(STRONG, module.two_layer_by_chance, keys, lambda f: f[-1], **options)
        columns = quasi_columns(points.shape[1] + 1, options.pop("size"))
        matched = [np.asarray(module.made_matched(rows)) for rows in columns]
        given = [(tuple(rows[:-1]), rows[-1]) for rows in matched]
        add(STRONG_QUASI, module.two_layer, given, lambda f: f[-1], **options)
    else:
        options["depth"] = case.depth
        numbers["tol"] = TOL
        stages = module.plan(points, targets, *keys[0], **options, **numbers)
        add(STRONG, module.march, keys, lambda result: result[0][-1], stages=stages, **options)
    return programs, facts


def quasi_columns(count, size):
    """Columns of every run, (REPLICAS, count, size)."""
    words = np.random.default_rng(1).integers(2**32, size=(REPLICAS, count, WORDS), dtype=np.uint32)
    columns = np.empty((REPLICAS, count, size))
    for run, dimension in np.ndindex(REPLICAS, count):
        quasi_normals(columns[run, dimension], dimension, words[run, dimension])
    return columns


def naive(case):
    jax = importlib.import_module("jax")
    module = importlib.import_module("bench.baselines.ensemble_naive")
    gram = case.data.coordinates @ case.data.coordinates.T
    options = {
        "activation": case.activation,
        "lr": TIME / case.steps,
        "gamma": 1.0,
        "times": case.steps + 1,
        "samples": case.particles,
    }
    keys = jax.random.split(jax.random.PRNGKey(0), NAIVE_RUNS)
    outputs = [module.two_layer(gram, case.data.targets, key, **options) for key in keys]
    return _losses(np.stack([np.asarray(one)[-1] for one in outputs]), case.data)


def _losses(outputs, data):
    return ((data.targets - outputs) ** 2).mean(axis=1) / 2


def _compiled(run, *arguments, **options):
    begin = time.perf_counter()
    program = run.lower(*arguments, **options).compile()
    return program, {"compile_seconds": time.perf_counter() - begin}


def standard_error(losses):
    """Relative, of the mean over the runs."""
    return float(losses.std(ddof=1) / np.sqrt(len(losses)) / losses.mean())


# -- the benchmark ------------------------------------------------------------------------------


def compare(report, case, competitors, facts):
    """Time competitors, and what each would need for the same error."""
    found = {}

    def remembered(name, run):
        found[name] = run()
        return found[name]

    record = report.case(
        case.title,
        {name: partial(remembered, name, run) for name, run in competitors.items()},
        error=standard_error,
        rounds=case.rounds,
    )
    mean = found["dmftcore"].mean()
    record["loss"] = float(mean)
    record["at_equal_error"] = at_equal_error(record["competitors"])
    for name, entry in record["competitors"].items():
        entry |= facts.get(name, {})
        entry["deviation"] = float(found[name].mean() / mean - 1)
    report.note(f"at equal error: {record['at_equal_error']}")
    return record


def at_equal_error(entries):
    """Seconds to a standard error of GOAL, and their ratio to ours, of each competitor."""
    seconds = {
        name: entry["cpu_seconds"] * (entry["error"] / GOAL) ** 2 for name, entry in entries.items()
    }
    ours = next(iter(seconds.values()))
    return {name: {"cpu_seconds": value, "ratio": value / ours} for name, value in seconds.items()}


def against(report, case):
    """Ours, the same in JAX, and networks of finite width."""
    programs, facts = jax_march(case)
    competitors = {
        "dmftcore": partial(march, case),
        **programs,
        f"networks {case.networks} x N={case.width}": partial(networks, case),
    }
    record = compare(report, case, competitors, facts)
    record["profile"] = profile(case)
    report.note(f"{record['profile']}")


def profile(case):
    """Shares of the operations in our time, and of what surrounds them."""
    profiler = cProfile.Profile(time.process_time)
    profiler.runcall(march, case)
    stats = pstats.Stats(profiler)
    shares = {}
    for (_, _, function), (_, _, seconds, *_) in stats.stats.items():
        if "dmftcore._core" in function:
            shares[function.split(".")[-1].rstrip(">")] = seconds / stats.total_tt
    return shares | {"rest": 1 - sum(shares.values())}


def copy_rate(count):
    """Bytes a second, read and written, of copies of so many bytes."""
    source = np.ones(max(1, count // 8))
    target = np.empty_like(source)
    times = []
    for _ in range(9):
        begin = time.process_time()
        for _ in range(calls := max(1, int(2e7 / source.nbytes))):
            np.copyto(target, source)
        times.append((time.process_time() - begin) / calls)
    return 2 * source.nbytes / float(np.median(times))


def operations(report, size, rank=100, columns=5):
    """One interface in one direction, and random numbers, against their floors."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1, rank // 2, size))
    x, y = rng.normal(size=(2, 1, columns, size))
    used = np.array([rank // 2])
    c, d = rng.normal(size=(2, 1, rank // 2, columns))
    read = a.nbytes + b.nbytes + x.nbytes
    name = f"k={rank} n={columns} S={size}"
    flops = 2 * size * rank * columns
    report.case(
        f"particle_products {name}",
        {
            "dmftcore": lambda: products(x, columns, (a, used), (b, used), gram=True),
            "numpy": lambda: (a[0] @ x[0].T, b[0] @ x[0].T, x[0] @ x[0].T),
        },
        flops=flops + 2 * size * columns**2,
        traffic=read,
        floor=read / copy_rate(read),
    )
    report.case(
        f"particle_expansion {name}",
        {
            "dmftcore": lambda: blend(columns, (a, used), c, (b, used), d, y=y),
            "numpy": lambda: c[0].T @ a[0] + d[0].T @ b[0],
        },
        flops=flops,
        traffic=read,
        floor=read / copy_rate(read),
    )
    out, source, generator = np.empty((columns, size)), CounterNormals(0), np.random.default_rng(0)
    report.case(
        f"normals {columns} x {size}",
        {
            "dmftcore": lambda: source.fill(out, 0, 0, 0),
            "numpy": lambda: generator.standard_normal(out=out),
        },
        traffic=out.nbytes,
        floor=out.nbytes / copy_rate(out.nbytes),
    )


def activations(report, size=20_000, columns=5):
    """Values and slopes of fields, in both precisions: ours as the last part of an expansion."""
    jax = importlib.import_module("jax")
    functions = {
        "tanh": jax.numpy.tanh,
        "erf": jax.scipy.special.erf,
        "gelu": partial(jax.nn.gelu, approximate=False),
        "softplus": jax.nn.softplus,
    }
    for (name, function), dtype in itertools.product(functions.items(), ("float64", "float32")):
        h = np.random.default_rng(0).normal(size=(1, columns, size)).astype(dtype)
        out, device = np.empty_like(h), jax.device_put(h)
        one, ones = np.ones((1, 1, size), dtype), np.ones((1, 1, columns))
        value = jax.jit(function)
        slope = jax.jit(lambda x, f=function: jax.jvp(f, (x,), (jax.numpy.ones_like(x),))[1])
        exact = activation(name)
        traffic = 2 * h.nbytes
        options = {"traffic": traffic, "floor": traffic / copy_rate(traffic), "calls": 10}
        title = f"{columns} x {size} {dtype}"
        report.case(
            f"{name} {title}",
            {
                "dmftcore": partial(blend, columns, base=h, value=out, activation=name),
                "numpy": partial(exact.value, h),
                "jax": lambda run=value, x=device: run(x).block_until_ready(),
            },
            **options,
        )
        report.case(
            f"{name}' {title}",
            {
                "dmftcore": partial(
                    blend, columns, (one, None), ones, field=h, y=out, activation=name
                ),
                "numpy": partial(exact.slope, h),
                "jax": lambda run=slope, x=device: run(x).block_until_ready(),
            },
            **options,
        )


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    importlib.import_module("bench.baselines")
    _core.set_num_threads(1)
    report = Report("ensemble")
    for size in (2000, 200_000):
        operations(report, size)
    activations(report)
    competitors = {"dmftcore": partial(march, SMALL), "naive": partial(naive, SMALL)}
    compare(report, SMALL, competitors, {})
    for case in CASES:
        against(report, case)
        # Who is stopped has what was done.
        report.save()
    report.write()
