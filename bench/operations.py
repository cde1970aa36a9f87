"""Operations on two-time kernels against what numpy and BLAS offer, one thread, float64."""

import numpy as np
import scipy.linalg

from bench import _blas
from bench._harness import Report, restart_on_one_core
from dmftcore import _core, twotime

N = 2048


def kernels(n, *batch):
    """A causal kernel, strictly causal kernel with a tame resolvent, causal, symmetric, dense."""
    rng = np.random.default_rng(0)
    a, b, d = (rng.standard_normal((*batch, n, n)) for _ in range(3))
    strict = np.tril(a, -1) / (2 * np.sqrt(n))
    return np.tril(a), strict, np.tril(b), b + np.swapaxes(b, -1, -2), d


def by_trmm(a, b, width):
    """Causal product from BLAS: block columns of the result by dtrmm."""
    n = len(a)
    c = np.zeros((n, n))
    for j in range(0, n, width):
        column = c[j:, j : j + width]
        column[:] = b[j:, j : j + width]
        _blas.triangular("dtrmm", a[j:, j:], column)
    return c


def by_trsm(a, b):
    x = b.copy()
    _blas.triangular("dtrsm", a, x, unit=True)
    return x


class Rows:
    """Largest relative error in a few rows, in extended precision."""

    def __init__(self, n):
        self.rows = np.random.default_rng(1).choice(n, min(4, n), replace=False)

    def product(self, *factors):
        exact = factors[0][self.rows].astype(np.longdouble)
        for factor in factors[1:]:
            exact = exact @ factor
        return lambda result: self._relative(result[self.rows] - exact, exact)

    def equation(self, a, b):
        """Residual of x = b + a x."""

        def residual(x):
            right = b[self.rows] + a[self.rows].astype(np.longdouble) @ x
            return self._relative(x[self.rows] - right, right)

        return residual

    @staticmethod
    def _relative(difference, scale):
        return float(np.abs(difference).max() / np.abs(scale).max())


def whole_matrices(report, n):
    a, strict, b, c, d = kernels(n)
    rows = Rows(n)
    lower = np.eye(n) - strict
    report.case(
        f"causal_matmul n={n}",
        {
            "dmftcore": lambda: twotime.causal_matmul(a, b),
            "numpy a @ b": lambda: a @ b,
        }
        | {f"dtrmm, columns {w}": lambda w=w: by_trmm(a, b, w) for w in (128, 256, 512)},
        error=rows.product(a, b),
        flops=n**3 / 3,
    )
    report.case(
        f"congruence n={n}",
        {
            "dmftcore": lambda: twotime.congruence(a, c),
            "numpy r @ c @ r.T": lambda: a @ c @ a.T,
        },
        error=rows.product(a, c, a.T),
        flops=n**3,
    )
    report.case(
        f"resolvent n={n}",
        {
            "dmftcore": lambda: twotime.resolvent(strict),
            "numpy inv": lambda: np.linalg.inv(lower),
            "dtrtri": lambda: scipy.linalg.lapack.dtrtri(lower.T, lower=0, unitdiag=1)[0].T,
        },
        error=rows.equation(strict, np.eye(n)),
        flops=n**3 / 3,
    )
    report.case(
        f"causal_solve n={n}",
        {
            "dmftcore": lambda: twotime.causal_solve(strict, b),
            "solve_triangular": lambda: scipy.linalg.solve_triangular(
                lower, b, lower=True, unit_diagonal=True, check_finite=False
            ),
            "dtrsm": lambda: by_trsm(lower, b),
        },
        error=rows.equation(strict, b),
        flops=n**3 / 3,
    )
    report.case(
        f"causal_solve dense n={n}",
        {
            "dmftcore": lambda: twotime.causal_solve(strict, d, dense=True),
            "solve_triangular": lambda: scipy.linalg.solve_triangular(
                lower, d, lower=True, unit_diagonal=True, check_finite=False
            ),
            "dtrsm": lambda: by_trsm(lower, d),
        },
        error=rows.equation(strict, d),
        flops=n**3,
    )


def functions_of_time(report, n):
    _, strict, _, _, d = kernels(n)
    for m in (1, 8, 64):
        g = d[:, :m].copy()
        report.case(
            f"causal_apply n={n} m={m}",
            {
                "dmftcore": lambda g=g: twotime.causal_apply(strict, g),
                "numpy k @ g": lambda g=g: strict @ g,
            },
            error=Rows(n).product(strict, g),
            flops=n * n * m,
            traffic=4 * n * n,
            rounds=21,
        )


def small_matrices(report, n, batch):
    a, strict, b, c, _ = kernels(n, batch)
    identity = np.eye(n)
    title = f"batch={batch} n={n}"
    report.case(
        f"causal_matmul {title}",
        {"dmftcore": lambda: twotime.causal_matmul(a, b), "numpy a @ b": lambda: a @ b},
    )
    report.case(
        f"resolvent {title}",
        {
            "dmftcore": lambda: twotime.resolvent(strict),
            "numpy inv": lambda: np.linalg.inv(identity - strict),
        },
    )
    report.case(
        f"congruence {title}",
        {
            "dmftcore": lambda: twotime.congruence(a, c),
            "numpy r @ c @ r.T": lambda: a @ c @ np.swapaxes(a, -1, -2),
        },
    )


def new_rows(report, n, m):
    """One step of a march: m rows against a history of n times."""
    a, _, _, c, d = kernels(n)
    x, w = d[:m].copy(), d[m : 2 * m].copy()
    u, v = a[:, :16].copy(), c[:, :16].copy()
    calls = max(1, int(4e7 / (m * n * n + 1e5)))
    half = 4 * n * n
    # The elements of a history, read once in order: what the memory gives to one thread.
    stream = np.ones(n * n // 2)
    for title, competitors, exact, traffic in (
        (
            "rows_causal",
            {
                "dmftcore": lambda: twotime.rows_causal(x, a),
                "numpy x @ a": lambda: x @ a,
            },
            (x, a),
            half,
        ),
        (
            "rows_causal",
            {
                "dmftcore": lambda: twotime.rows_causal(x, a),
                "read n^2/2 (ddot)": lambda: stream @ stream,
            },
            None,
            half,
        ),
        (
            "rows_causal_transposed",
            {
                "dmftcore": lambda: twotime.rows_causal_transposed(x, a),
                "numpy x @ a.T": lambda: x @ a.T,
            },
            (x, a.T),
            half,
        ),
        (
            "rows_causal_pair",
            {
                "dmftcore": lambda: twotime.rows_causal_pair(x, w, a),
                "numpy x @ a, w @ a.T": lambda: (x @ a, w @ a.T),
            },
            None,
            half,
        ),
        (
            "rows_symmetric",
            {"dmftcore": lambda: twotime.rows_symmetric(x, c), "numpy x @ c": lambda: x @ c},
            (x, c),
            half,
        ),
        (
            "rows_congruence",
            {
                "dmftcore": lambda: twotime.rows_congruence(x, c, a),
                "numpy y = x @ c, y @ r.T": lambda: (y := x @ c, y @ a.T),
            },
            None,
            2 * half,
        ),
        (
            "rows_low_rank k=16",
            {
                "dmftcore": lambda: twotime.rows_low_rank(x, u, v),
                "numpy x @ u @ v.T": lambda: x @ u @ v.T,
            },
            (x, u, v.T),
            2 * 8 * 16 * n,
        ),
    ):
        report.case(
            f"{title} n={n} m={m}",
            competitors,
            error=Rows(m).product(*exact) if exact else None,
            traffic=traffic,
            rounds=15,
            calls=calls,
        )


def main():
    restart_on_one_core()
    _core.set_num_threads(1)
    report = Report("operations")
    for n in (256, 512, 1024, N):
        whole_matrices(report, n)
    functions_of_time(report, N)
    for n, batch in ((16, 4000), (64, 400), (200, 30)):
        small_matrices(report, n, batch)
    for n, m in ((100, 1), (1000, 1), (4000, 1), (1000, 4), (2000, 64)):
        new_rows(report, n, m)
    report.write()


if __name__ == "__main__":
    main()
