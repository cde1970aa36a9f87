"""kappa(z) of random matrices: throughput and error, one thread, against pure JAX and numpy.

A pair is one z and one mode; each is summed over some six times on the way to kappa, with 12 flops
and a division. All programs take the same Newton path; numpy counts its sums, and jitted JAX takes
as many for every z as the slowest. The error is the largest relative one of z = kappa R1 R3, with
sums in extended precision, over 16 of the z.
"""

import os
import time

import numpy as np

from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core

#: Numbers of z and of modes.
CASES = (
    *((256, modes) for modes in (1000, 10_000, 100_000)),
    *((count, 600) for count in (256, 1024, 4096)),
)
SAMPLES, FEATURES = 800.0, 600.0
#: Of a pair and sum, the division not counted.
FLOPS = 12


def dgemm_rate(n=1024, rounds=7):
    """The best rate of a product of matrices in flops a second: what the vector units give."""
    a = np.random.default_rng(0).standard_normal((n, n))
    out = np.empty_like(a)
    best = np.inf
    for _ in range(rounds):
        begin = time.process_time()
        np.matmul(a, a, out=out)
        best = min(best, time.process_time() - begin)
    return 2 * n**3 / best


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    from bench.baselines.spectral_jax import kappa as in_jax
    from bench.baselines.spectral_numpy import kappa as in_numpy
    from dmftcore import _core

    report = Report("spectral", packages=("jax", "jaxlib"))
    rng = np.random.default_rng(0)
    peak = dgemm_rate()
    for count, modes in CASES:
        lam = np.arange(1, modes + 1.0) ** -1.2
        mu = np.full(modes, 2000 / modes)
        power = lam * mu
        z = 10 ** rng.uniform(-4, 1, count) * np.exp(1j * rng.uniform(0, 3.1, count))

        def error(kappa, lam=lam, mu=mu, z=z):
            some = slice(None, None, max(1, len(z) // 16))
            kappa, at = np.asarray(kappa)[some], z[some]
            terms = (lam * mu).astype(np.longdouble) / (lam + kappa.astype(np.clongdouble)[:, None])
            df = terms.sum(1)
            found = kappa * (1 - df / SAMPLES) * (1 - df / FEATURES)
            return float(np.max(np.abs(found / at - 1)))

        sums = in_numpy(z, lam, power, SAMPLES, FEATURES)[1]
        record = report.case(
            f"kappa z={count} modes={modes}",
            {
                "dmftcore": lambda lam=lam, mu=mu, z=z: _core.spectral_kappa(
                    z, lam, mu, SAMPLES, FEATURES
                ),
                "jax": lambda lam=lam, power=power, z=z: np.asarray(
                    in_jax(z, lam, power, SAMPLES, FEATURES)
                ),
                "numpy": lambda lam=lam, power=power, z=z: in_numpy(
                    z, lam, power, SAMPLES, FEATURES
                )[0],
            },
            error=error,
            bound=1e-10,
            flops=FLOPS * sums * modes,
            seconds=6,
        )
        seconds = record["competitors"]["dmftcore"]["cpu_seconds"]
        record["pairs_per_second"] = count * modes / seconds
        record["sums_per_z"] = sums / count
        record["share_of_dgemm_rate"] = record["gflops"] * 1e9 / peak
        report.note(
            f"{sums / count:.1f} sums for each z, {record['pairs_per_second'] / 1e9:.2f}e9 pairs a "
            f"second, {record['share_of_dgemm_rate']:.0%} of dgemm"
        )
    report.write()
