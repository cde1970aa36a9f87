"""The two-time chain: growth of time with the number of steps and of points.

The competitor runs the same march with numpy in place of the row operations: dense products with
the leading block of each history, whose kernels it therefore keeps in both triangles. The error
is the largest one of the loss, relative to its start, against the growing network at tol 1e-12.
"""

import time
from unittest import mock

import numpy as np

import dmftcore as dc
from bench._harness import Report
from dmftcore import twotime
from dmftcore.chain import HiddenChain


def _rows_symmetric(x, c):
    # The march writes lower triangles: the last two columns may still lack their upper part.
    n = x.shape[1]
    for column in range(max(n - 2, 0), n):
        c[:column, column] = c[column, :column]
    return x @ c[:n, :n]


NUMPY = {
    "rows_causal": lambda x, a: x @ a[: x.shape[1], : x.shape[1]],
    "rows_causal_transposed": lambda x, a: x @ a[: x.shape[1], : x.shape[1]].T,
    "rows_causal_pair": lambda x, w, a: (
        x @ a[: x.shape[1], : x.shape[1]],
        w @ a[: x.shape[1], : x.shape[1]].T,
    ),
    "rows_symmetric": _rows_symmetric,
    "rows_low_rank": lambda x, u, v: (x @ u[: x.shape[1]]) @ v[: x.shape[1]].T,
}


def problem(points, dimensions=40):
    """Gaussian inputs and labels of both signs."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(points, dimensions))
    return dc.Dataset(inputs=x, targets=np.sign(x @ rng.normal(size=dimensions)))


def chain(data, steps, lr):
    return dc.solve(
        dc.DeepLinear(2), data, dc.GradientDescent(lr, steps), method="chain", kernel_times=[]
    )


def numpy_chain(data, steps, lr):
    one_by_one = mock.patch.object(HiddenChain, "repeats", False)
    with mock.patch.multiple(twotime, **NUMPY), one_by_one:
        return chain(data, steps, lr)


def against_growing(data, steps, lr):
    growing = dc.solve(
        dc.DeepLinear(2),
        data,
        dc.GradientDescent(lr, steps),
        method="growing",
        tol=1e-12,
        kernel_times=[],
    )
    reference = growing.train_loss

    def error(solution):
        return float(np.abs(solution.train_loss - reference).max() / reference[0])

    return error


def main():
    report = Report("chain")
    data, lr = problem(100), 0.02
    for steps in (250, 500, 1000, 2000, 3000):
        competitors = {"dmftcore": lambda s=steps: chain(data, s, lr)}
        if steps <= 2000:
            competitors["numpy rows"] = lambda s=steps: numpy_chain(data, s, lr)
        record = report.case(
            f"T={steps} P=100",
            competitors,
            error=against_growing(data, steps, lr),
            rounds=5 if steps <= 1000 else 1,
        )
        record["steps"], record["points"] = steps, data.n_train
    for points in (10, 100, 1000, 5000):
        data = problem(points)
        loops = []

        def loop(data=data, loops=loops):
            # From the first report on: without what is done once.
            stamps = []
            result = dc.solve(
                dc.DeepLinear(2),
                data,
                dc.GradientDescent(lr, 1000),
                method="chain",
                kernel_times=[],
                progress=lambda *_: stamps.append(time.perf_counter()),
            )
            loops.append(stamps[-1] - stamps[0])
            return result

        record = report.case(
            f"T=1000 P={points} D=40",
            {"dmftcore": loop},
            error=against_growing(data, 1000, lr),
            rounds=3,
        )
        record["steps"], record["points"] = 1000, points
        record["loop_wall_seconds"] = float(np.median(loops))
        report.note(f"loop {record['loop_wall_seconds'] * 1e3:.4g} ms")
    report.write()
