"""kappa(z) of random matrices: throughput and error, one thread, against pure JAX.

A pair is one z and one mode; each is summed over some seven times on the way to kappa. The error is
the largest relative one of z = kappa R1 R3, with sums in extended precision, over 16 of the z.
"""

import numpy as np

from bench._harness import Report, restart_on_one_core

CASES = [("power law", 256, 100_000), ("power law", 4096, 600)]
SAMPLES, FEATURES = 800.0, 600.0


def main():
    restart_on_one_core()
    from bench.baselines.spectral_jax import kappa as in_jax
    from dmftcore import _core

    report = Report("spectral")
    rng = np.random.default_rng(0)
    for name, count, modes in CASES:
        lam = np.arange(1, modes + 1.0) ** -1.2
        mu = np.full(modes, 2000 / modes)
        z = 10 ** rng.uniform(-4, 1, count) * np.exp(1j * rng.uniform(0, 3.1, count))

        def error(kappa, lam=lam, mu=mu, z=z):
            some = slice(None, None, max(1, len(z) // 16))
            kappa, at = np.asarray(kappa)[some], z[some]
            terms = (lam * mu).astype(np.longdouble) / (lam + kappa.astype(np.clongdouble)[:, None])
            df = terms.sum(1)
            found = kappa * (1 - df / SAMPLES) * (1 - df / FEATURES)
            return float(np.max(np.abs(found / at - 1)))

        record = report.case(
            f"{name}, {count} z, {modes} modes",
            {
                "dmftcore": lambda lam=lam, mu=mu, z=z: _core.spectral_kappa(
                    z, lam, mu, SAMPLES, FEATURES
                ),
                "jax": lambda lam=lam, mu=mu, z=z: np.asarray(
                    in_jax(z, lam, lam * mu, SAMPLES, FEATURES)
                ),
            },
            error=error,
            bound=1e-10,
            rounds=3,
        )
        pairs = count * modes
        seconds = record["competitors"]["dmftcore"]["cpu_seconds"]
        record["pairs_per_second"] = pairs / seconds
        report.note(f"{pairs / seconds / 1e9:.2f}e9 pairs of z and mode a second")
    report.write()
