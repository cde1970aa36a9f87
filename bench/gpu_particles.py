"""Particles on a GPU: operations against full products by cupy and the bandwidth, and marches.

An operation reads k directions of S particles, half of them of each of two bases, and P fields;
its floor is its bytes at the rate of a copy within the device, measured in the same run, or its
flops at that of cuBLAS. The products are those of an interface with their Gram matrix; the
expansion adds to a field and applies tanh. The error is that of the last field, against twice the
working precision, relative to its largest element.

The march is `solve(MLP(3, "tanh"), ..., method="ensemble")` on P points, on the GPU and, while it
keeps up, on all cores of the processor. Its error is the standard error of the last loss between
the replicas, relative to the first loss.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np

import dmftcore as dc
from bench import _exact
from bench._gpu import Script, random, rounding
from bench._harness import Report
from bench._record import Target
from dmftcore.sampled.particles import CounterNormals, blend, products

#: S, k, P, dtype; what matters most comes first: a run may end before the last.
SIZES = (
    *((1_000_000, k, p, "float64") for k in (256, 64) for p in (16, 4)),
    *((100_000, k, p, "float64") for k in (256, 64) for p in (16, 4)),
    (1_000_000, 256, 16, "float32"),
    *((10_000, k, p, "float64") for k in (256, 64) for p in (16, 4)),
)
OPERATIONS = ("products", "expansion", "normals")
TARGET = Target(0.7)

#: S, steps and P of the marches.
MARCHES = ((100_000, 200, 4), (1_000_000, 200, 4), (10_000, 200, 4), (100_000, 100, 16))
REPLICAS, LR = 2, 0.2
#: The most particles that the processor is asked for.
PROCESSOR = 100_000


@dataclass(frozen=True)
class Case:
    operation: str
    particles: int
    k: int
    p: int
    dtype: str

    @property
    def title(self):
        dtype = "" if self.dtype == "float64" else f" {self.dtype}"
        return f"{self.operation} S={self.particles} k={self.k} P={self.p}{dtype}"

    @property
    def traffic(self):
        """Bytes of the directions and fields, read or written once."""
        columns = {
            "products": self.k + self.p,
            "expansion": self.k + 3 * self.p,
            "normals": self.p,
        }[self.operation]
        return columns * self.particles * int(self.dtype[-2:]) // 8

    @property
    def flops(self):
        per_column = {"products": self.k + self.p, "expansion": self.k, "normals": 0}
        return 2 * self.particles * self.p * per_column[self.operation]

    @property
    def target(self):
        """Where the directions are far larger than the cache, and bound by the memory."""
        large = self.particles >= 1_000_000 and self.dtype == "float64"
        return TARGET if large and self.operation != "normals" else None


def cases():
    return [Case(operation, *size) for size in SIZES for operation in OPERATIONS]


def memory(case):
    """Bytes of the arrays, and of some 16 for the exact row."""
    columns = case.k + 5 * case.p
    exact = 16 * 8 * min(_exact.CHUNK, case.k * case.particles)
    return columns * case.particles * int(case.dtype[-2:]) // 8 + exact


def competitors(xp, case):
    """Ours and full products; the error of a result."""
    s, k, p, dtype = case.particles, case.k, case.p, case.dtype
    x = random(xp, 1, p, s, dtype=dtype)
    if case.operation == "normals":
        normals, rng = CounterNormals(0), xp.random.default_rng(0)

        def fill():
            normals.fill(x[0], 0, 0, 0)
            return x[0]

        def deviation(result):
            """Of the second moment, in units of 1: 6 standard errors are allowed."""
            return abs(float((result.astype("float64") ** 2).mean()) - 1)

        draw = partial(rng.standard_normal, (p, s), dtype=xp.dtype(dtype))
        return {"dmftcore": fill, "cupy standard_normal": draw}, deviation
    half = k // 2
    directions = random(xp, k, s, dtype=dtype, seed=1)
    bases = (directions[None, :half], None), (directions[None, half:], None)
    if case.operation == "products":

        def full():
            return x[0] @ directions.T / s, x[0] @ x[0].T / s

        def row(result):
            if len(result) == 2:
                return result[0][-1]
            return xp.concatenate([part[0, :, -1] for part in result[:2]])

        exact = _exact.product(xp, _exact.pair(x[0, -1] / s), directions.T)
        ours = {"dmftcore": lambda: products(x, p, *bases, gram=True), "cupy x @ [a b].T": full}
        return ours, lambda result: _exact.Row(xp)._relative(row(result), exact)
    factors = random(xp, k, p, seed=2) / k**0.5
    c, d = factors[None, :half].copy(), factors[None, half:].copy()
    narrow = factors.T.astype(dtype)
    y, value = xp.empty_like(x), xp.empty_like(x)

    def expansion():
        blend(p, bases[0], c, bases[1], d, base=x, activation="tanh", y=y, value=value)
        return y[0], value[0]

    def full_expansion():
        y = narrow @ directions
        y += x[0]
        return y, xp.tanh(y)

    exact = _exact.product(xp, _exact.pair(factors[:, -1].astype(dtype)), directions)
    exact = _exact.add(_exact.pair(x[0, -1]), exact)
    ours = {"dmftcore": expansion, "cupy c @ [a b]": full_expansion}
    return ours, lambda result: _exact.Row(xp)._relative(result[0][-1], exact)


def bound(case):
    """What the error may be."""
    if case.operation == "normals":
        return 6 * (2 / (case.p * case.particles)) ** 0.5
    # Means of S products of independent numbers are of order S^-1/2.
    terms = case.particles if case.operation == "products" else case.k
    return rounding(1, case.dtype) * terms


def march(particles, steps, p, device):
    """The march; refuses one that ran elsewhere than it was told to."""
    rng = np.random.default_rng(p)
    data = dc.Dataset(inputs=rng.normal(size=(p, p)), targets=rng.choice([-1.0, 1.0], size=p))
    solution = dc.solve(
        dc.MLP(3, "tanh"),
        data,
        dc.GradientDescent(LR, steps),
        method="ensemble",
        kernel_times=[],
        samples=particles,
        replicas=REPLICAS,
        device=device,
    )
    if solution.diagnostics["device"] != device:
        raise RuntimeError(f"the march ran on {solution.diagnostics['device']}, not on {device}")
    return solution


def marches(particles, steps, p):
    """Who marches."""
    running = {"dmftcore, GPU": partial(march, particles, steps, p, "cuda")}
    if particles <= PROCESSOR:
        running["dmftcore, processor"] = partial(march, particles, steps, p, "cpu")
    return running


def march_title(particles, steps, p):
    return f"march S={particles} T={steps} P={p}"


def march_memory(particles, p):
    """Bytes: of two interfaces with four arrays of some 20 P + 100 columns, which grow."""
    return 8 * REPLICAS * particles * 2 * 4 * 2 * (20 * p + 100)


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [case for case in cases() if script.wants(case.title)]
    long = [size for size in MARCHES if script.wants(march_title(*size))]
    if script.options.dry_run:
        for case in chosen:
            needed = memory(case) / 2**30
            print(f"{case.title:40} {case.traffic / 1e9:10.4g} GB, {needed:8.3g} GiB on the device")
        for size in long:
            needed = march_memory(size[0], size[2]) / 2**30
            print(f"{march_title(*size)}: {needed:.3g} GiB")
        return
    gpu = script.gpu()
    report = Report("gpu_particles", gpu)
    # A march that matters first, and the others at the end.
    for size in long[:1]:
        measure_march(script, report, gpu, *size)
    for case in chosen:
        measure(script, report, gpu, case)
    for size in long[1:]:
        measure_march(script, report, gpu, *size)
    script.finish(report)


def measure(script, report, gpu, case):
    if refusal := script.refusal(gpu, memory(case)):
        report.leave_out(case.title, refusal)
        return
    running, error = competitors(gpu.xp, case)
    record = report.case(
        case.title,
        running,
        error=error,
        flops=case.flops,
        traffic=case.traffic,
        floor=gpu.floor(traffic=case.traffic, flops=case.flops, dtype=case.dtype),
        bound=bound(case),
        target=case.target,
        seconds=0.3,
    )
    record["in_cache"] = case.traffic < gpu.l2_bytes


def measure_march(script, report, gpu, particles, steps, p):
    title = march_title(particles, steps, p)
    if refusal := script.refusal(gpu, march_memory(particles, p)):
        report.leave_out(title, refusal)
        return
    record = report.case(
        title,
        marches(particles, steps, p),
        error=lambda found: float(found.stderr("train_loss")[-1] / found.train_loss[0]),
        bound=0.1,
        rounds=1,
    )
    record["steps"] = steps
    ours = record["competitors"]["dmftcore, GPU"].get("device_seconds", 0)
    if ours:
        record["steps_per_s"] = steps / ours
        report.note(f"{record['steps_per_s']:.4g} steps/s")
