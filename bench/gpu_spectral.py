"""kappa(z) and the two-point functions of random matrices on a GPU, against its FP64 rate.

A pair is one z and one mode. On the way to kappa each is summed over some seven times, at 20 FP64
instructions; the floor is their time at the rate of independent multiply-adds, which a kernel
that does nothing else reaches in the same run (products on tensor cores are faster, but these sums
have none). Populations and z lie on the device. The error of kappa is the largest relative one of
z = kappa R1 R3, with sums in extended precision, for four of the z; that of two-point functions is
the largest relative deviation from the processor in a corner of the grid. Beside them the processor
with all its cores, and the same path in JAX on the device, while they keep up.
"""

from dataclasses import dataclass

import numpy as np

from bench._gpu import Jax, Script
from bench._harness import Report
from dmftcore import _arrays, _core

SAMPLES, FEATURES, NOISE = 800.0, 600.0, 0.1
#: z and modes of kappa; what matters most comes first.
KAPPA = (
    *((count, modes) for modes in (600, 100_000) for count in (256, 10_000)),
    *((256, 1_000_000), (100_000, 600), (100_000, 100_000), (10_000, 1_000_000)),
    *((24, 1_000_000), (100_000, 1_000_000)),
)
#: n1 = n2 and modes of two-point functions.
TWO_POINT = ((256, 100_000), (2048, 600), (256, 1_000_000), (2048, 100_000))
#: Pairs of z and mode that the processor, and JAX, are asked for.
PROCESSOR, IN_JAX = 3e8, 3e9

#: FP64 instructions of a pair in one sum, of which kappa takes about so many.
INSTRUCTIONS, PATH_SUMS = 20, 7

#: Eight chains a thread: an instruction need not wait for the one before it.
MULTIPLY_ADDS = """
extern "C" __global__ void multiply_adds(double* to, int steps) {
  double sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = threadIdx.x + i;
  for (int step = 0; step < steps; ++step)
    for (int i = 0; i < 8; ++i) sums[i] = fma(sums[i], 0.999, 0.001);
  double total = 0;
  for (int i = 0; i < 8; ++i) total += sums[i];
  to[blockIdx.x * blockDim.x + threadIdx.x] = total;
}
"""


def instruction_rate(gpu, blocks=4096, threads=256, steps=4096):
    """FP64 multiply-adds a second."""
    kernel = gpu.xp.RawKernel(MULTIPLY_ADDS, "multiply_adds")
    to = gpu.xp.empty(blocks * threads)
    arguments = (blocks,), (threads,), (to, np.int32(steps))
    gpu.seconds(lambda: kernel(*arguments), 1)
    return (
        blocks
        * threads
        * steps
        * 8
        / min(gpu.seconds(lambda: kernel(*arguments), 3) for _ in range(3))
    )


@dataclass(frozen=True)
class Population:
    """A power law, on the host and on the device."""

    lam: np.ndarray
    mu: np.ndarray

    @classmethod
    def of(cls, modes):
        return cls(np.arange(1, modes + 1.0) ** -1.2, np.full(modes, 2000 / modes))

    def error(self, z):
        """Of kappa at four of the z."""
        some = slice(None, None, max(1, len(z) // 4))
        power = (self.lam * self.mu).astype(np.longdouble)

        def of(kappa):
            found = np.asarray(kappa.get() if hasattr(kappa, "get") else kappa)[some]
            worst = 0.0
            for one, at in zip(found.astype(np.clongdouble), z[some], strict=True):
                df = (power / (self.lam + one)).sum()
                z_found = one * (1 - df / SAMPLES) * (1 - df / FEATURES)
                worst = max(worst, float(abs(z_found / at - 1)))
            return worst

        return of


def parameters(count):
    rng = np.random.default_rng(count)
    return 10 ** rng.uniform(-4, 1, count) * np.exp(1j * rng.uniform(0, 3.1, count))


def core_of(z):
    """The core where z is."""
    return _arrays.parameters(z=z)[0]


def kappa_title(count, modes):
    return f"kappa z={count} modes={modes}"


def two_point_title(count, modes):
    return f"two_point n={count} modes={modes}"


def kappa_case(script, report, gpu, jax, rate, count, modes):
    population, z = Population.of(modes), parameters(count)
    lam, mu, there = map(gpu.xp.asarray, (population.lam, population.mu, z))
    core = core_of(there)
    competitors = {
        "dmftcore": lambda: core.spectral_kappa(there, lam, mu, SAMPLES, FEATURES),
    }
    pairs = count * modes
    if pairs <= PROCESSOR:
        competitors["dmftcore, processor"] = lambda: _core.spectral_kappa(
            z, population.lam, population.mu, SAMPLES, FEATURES
        )
    if pairs <= IN_JAX and not jax.reason:
        from bench.baselines import spectral_jax

        # Few, large steps: a device takes microseconds for each.
        spectral_jax.TILE = max(128, min(modes, (1 << 25) // count))
        competitors["jax"] = jax.competitor(
            lambda z, lam, power: spectral_jax.kappa(z, lam, power, SAMPLES, FEATURES),
            there,
            lam,
            lam * mu,
        )
    record = report.case(
        kappa_title(count, modes),
        competitors,
        error=population.error(z),
        bound=1e-10,
        floor=PATH_SUMS * INSTRUCTIONS * pairs / rate,
        seconds=1.0,
    )
    rates(report, record, pairs)


def two_point_case(script, report, gpu, rate, count, modes):
    population = Population.of(modes)
    z = parameters(2 * count)
    lam, mu = population.lam, population.mu
    target = lam * np.cos(np.arange(modes)) ** 2
    weights = np.stack([mu * lam, mu, lam * target, target])
    core = core_of(gpu.xp.asarray(z))
    on_device = gpu.xp.asarray(lam), gpu.xp.asarray(weights)
    kappa = core.spectral_kappa(
        gpu.xp.asarray(z), on_device[0], gpu.xp.asarray(mu), SAMPLES, FEATURES
    )
    here = np.asarray(gpu.xp.asnumpy(kappa))
    df = np.array([(mu * lam / (lam + one)).sum() for one in here])
    one = np.stack([here, 1 - df / SAMPLES, 1 - df / FEATURES])[:, None]
    sides = [np.ascontiguousarray(side) for side in (one[..., :count], one[..., count:])]
    corner = [np.ascontiguousarray(side[..., :4]) for side in sides]
    expected = _core.spectral_two_point(*corner, lam, weights, SAMPLES, FEATURES, NOISE)[0]

    def error(found):
        test = gpu.xp.asnumpy(found[0])[:, :4, :4]
        return float(np.abs(test / expected - 1).max())

    there = [gpu.xp.asarray(side) for side in sides]
    competitors = {
        "dmftcore": lambda: core.spectral_two_point(*there, *on_device, SAMPLES, FEATURES, NOISE)
    }
    if 2 * count * modes <= PROCESSOR:
        competitors["dmftcore, processor"] = lambda: _core.spectral_two_point(
            *sides, lam, weights, SAMPLES, FEATURES, NOISE
        )
    # Two kinds of sums for each line of the grid, and five numbers for each of its points.
    pairs = 2 * 2 * count * modes
    record = report.case(
        two_point_title(count, modes),
        competitors,
        error=error,
        bound=1e-8,
        floor=max(INSTRUCTIONS * pairs / rate, 2 * 16 * count**2 / gpu.bandwidth),
        seconds=0.5,
    )
    rates(report, record, pairs)


def rates(report, record, pairs):
    seconds = record["competitors"]["dmftcore"].get("device_seconds", 0)
    if seconds:
        record["pairs_per_second"] = pairs / seconds
        report.note(f"{pairs / seconds / 1e9:.3g}e9 pairs of z and mode a second")


def cases():
    """(title, function of script, report, gpu, jax and rate, bytes on the device)"""
    for count, modes in KAPPA:
        yield (
            kappa_title(count, modes),
            lambda s, r, g, j, rate, c=count, m=modes: kappa_case(s, r, g, j, rate, c, m),
            64 * (count + modes) + (16 << 25 if count * modes <= IN_JAX else 0),
        )
    for count, modes in TWO_POINT:
        yield (
            two_point_title(count, modes),
            lambda s, r, g, j, rate, c=count, m=modes: two_point_case(s, r, g, rate, c, m),
            64 * (count**2 + count + modes),
        )


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [case for case in cases() if script.wants(case[0])]
    if script.options.dry_run:
        for title, _, needed in chosen:
            print(f"{title:40} {needed / 2**30:8.3g} GiB on the device")
        return
    gpu = script.gpu()
    report = Report("gpu_spectral", gpu)
    rate, jax = instruction_rate(gpu), Jax()
    print(f"{'':40} {2 * rate / 1e12:.1f} TFLOP/s of FP64 multiply-adds")
    for title, measure, needed in chosen:
        if refusal := script.refusal(gpu, needed):
            report.leave_out(title, refusal)
            continue
        measure(script, report, gpu, jax, rate)
        report.cases[-1]["multiply_adds_per_s"] = rate
    script.finish(report)
