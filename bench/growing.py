"""The growing network: time, error and flop rate up to 1e7 steps, one thread.

The flop rate counts the multiply-adds of matrix-vector products and rank-one updates that were
executed, over the time of the whole solve. It is held against this machine's matrix-vector rate
in cache: the best that numpy's dgemv reaches on square matrices of 128 to 384 rows, doing
nothing else. The error is the largest relative one of the loss, against a run with a hundred
times smaller tolerance, while the loss exceeds 1e-16 of its start: below, the errors of the
outputs come near to rounding.
"""

import time
from itertools import pairwise

import numpy as np

import dmftcore as dc
from bench._harness import Report, restart_on_one_core


def exponential(points):
    """Kx[i,j] = exp(-(i-j)^2 / 4.5), y_i = cos(i)."""
    i = np.arange(points)
    return dc.Dataset(gram=np.exp(-((i[:, None] - i) ** 2) / 4.5), targets=np.cos(i))


def power_law(groups, largest):
    """Modes lam_k = k^-1.5 with target power k^-1.9, k <= largest, in log-spaced groups."""
    edges = np.unique(np.rint(np.geomspace(1, largest + 1, groups + 1)))
    lam, power = [], []
    for first, end in pairwise(edges):
        k = np.arange(first, end)
        power.append(np.sum(k**-1.9))
        lam.append(np.sum(k**-3.4) / power[-1])
    lam, power = np.array(lam), np.array(power)
    # Times the number of groups, so that lr / P Kx is lr lam.
    return dc.Dataset(gram=len(lam) * np.diag(lam), targets=np.sqrt(power))


EXPONENTIAL = exponential(6)
#: name, limit, data, lr, steps, tol, rounds
CASES = [
    ("gamma=1.5 L=3", dc.DeepLinear(3, gamma=1.5), EXPONENTIAL, 0.002, 10**4, 1e-8, 9),
    ("gamma=1.5 L=3", dc.DeepLinear(3, gamma=1.5), EXPONENTIAL, 0.002, 10**5, 1e-8, 5),
    ("gamma=1.5 L=3", dc.DeepLinear(3, gamma=1.5), EXPONENTIAL, 0.0005, 10**6, 1e-8, 3),
    ("gamma=1.5 L=3", dc.DeepLinear(3, gamma=1.5), EXPONENTIAL, 0.0005, 10**6, 1e-6, 3),
    ("gamma=1.5 L=3", dc.DeepLinear(3, gamma=1.5), EXPONENTIAL, 0.0005, 10**7, 1e-6, 1),
    ("gamma=10 L=3", dc.DeepLinear(3, gamma=10), EXPONENTIAL, 0.0002, 2 * 10**4, 1e-8, 5),
    ("gamma=10 L=4", dc.DeepLinear(4, gamma=10), EXPONENTIAL, 0.0001, 2 * 10**4, 1e-8, 5),
    ("power law L=2", dc.DeepLinear(2), power_law(60, 2_000_000), 0.02, 10**5, 1e-8, 3),
    ("power law L=2", dc.DeepLinear(2), power_law(60, 2_000_000), 0.02, 10**6, 1e-6, 1),
]


def in_cache_rate():
    """Best dgemv rate in flops per second, over sizes and both directions."""
    rng = np.random.default_rng(0)
    rates = []
    for n in (128, 192, 256, 320, 384):
        w, x, y = rng.normal(size=(n, n)), rng.normal(size=n), np.empty(n)
        for product in (
            lambda w=w, x=x, y=y: w.dot(x, out=y),
            lambda w=w, x=x, y=y: x.dot(w, out=y),
        ):
            calls = int(2e7 / n**2)
            times = []
            for _ in range(9):
                begin = time.process_time()
                for _ in range(calls):
                    product()
                times.append(time.process_time() - begin)
            rates.append(2 * n * n * calls / float(np.median(times)))
    return max(rates)


def main():
    restart_on_one_core()
    report = Report("growing")
    peak = in_cache_rate()
    print(f"matrix-vector products in cache: {peak / 1e9:.1f} GFLOP/s")
    for name, limit, data, lr, steps, tol, rounds in CASES:
        training = dc.GradientDescent(lr, steps)

        def solve(tol=tol, limit=limit, data=data, training=training):
            return dc.solve(limit, data, training, method="growing", tol=tol, kernel_times=[])

        finer = solve(tol / 100)

        def error(solution, finer=finer.train_loss):
            resolved = finer > 1e-16 * finer[0]
            return float(np.abs(solution.train_loss / finer - 1)[resolved].max())

        found = solve()
        record = report.case(
            f"{name} lr={lr:g} T={steps:g} tol={tol:g}",
            {"dmftcore": solve},
            error=error,
            flops=2 * found.diagnostics["multiply_adds"],
            rounds=rounds,
        )
        record["steps"], record["tol"] = steps, tol
        record["neurons"] = found.diagnostics["neurons"]
        record["in_cache_matrix_vector_gflops"] = peak / 1e9
        record["share_of_matrix_vector_rate"] = record["gflops"] * 1e9 / peak
        report.note(
            f"neurons {record['neurons']}, "
            f"{record['share_of_matrix_vector_rate']:.0%} of the matrix-vector rate"
        )
    report.write()
