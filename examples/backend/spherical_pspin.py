"""Glassy dynamics: a two-time solver in numpy, and the lines that put dmftcore under it.

The spherical mixed p-spin model, f(q) = lam q^p + (1 - lam) q^p2, in Langevin dynamics at the
temperature T from equilibrium at 1/b (b = 0: from a random state). Its correlation C and response R
obey (Cugliandolo and Kurchan 1993)

    S(t,u) = f''(C(t,u)) R(t,u),   D(t,u) = f'(C(t,u))
    dC(t,s)/dt = -z(t) C(t,s) + int_0^t S(t,u) C(u,s) du
                 + int_0^s D(t,u) R(s,u) du + b D(t,0) C(s,0)
    dR(t,s)/dt = -z(t) R(t,s) + int_s^t S(t,u) R(u,s) du
    z(t)       = T + int_0^t (S(t,u) C(t,u) + D(t,u) R(t,u)) du + b D(t,0) C(t,0)

on a uniform grid, with trapezoids and an implicit step. All the time goes into products of a row
with the histories of C and R. `Dense` is numpy; `Causal` is dmftcore.twotime, which reads half of
each history, since the other half is zero or known by symmetry. Prints that the numbers agree, and
the ratio of the times.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from dmftcore import twotime


class Dense:
    """New rows x (1, n) times the n known rows of a history."""

    def symmetric(x, c):
        n = x.shape[1]
        return x @ c[:n, :n]

    def causal(x, r):
        n = x.shape[1]
        return x @ r[:n, :n]

    def causal_transposed(x, r):
        n = x.shape[1]
        return x @ r[:n, :n].T


class Causal:
    symmetric = twotime.rows_symmetric
    causal = twotime.rows_causal
    causal_transposed = twotime.rows_causal_transposed


@dataclass(frozen=True)
class Model:
    p: int = 3
    p2: int = 4
    lam: float = 1.0
    temperature: float = 0.5
    b: float = 0.0

    def f(self, q, derivative=0):
        def power(p):
            factor = float(np.prod(np.arange(p, p - derivative, -1)))
            return factor * q ** (p - derivative)

        if self.lam == 1:
            return power(self.p)
        return self.lam * power(self.p) + (1 - self.lam) * power(self.p2)


@dataclass(frozen=True)
class Dynamics:
    energy: np.ndarray
    z: np.ndarray
    c: np.ndarray
    r: np.ndarray


def solve(model, h, steps, algebra=Causal, tol=1e-13):
    """March `steps` steps of size h; energies, multipliers z, and the kernels C, R (n, n)."""
    n = steps + 1
    c, r = np.zeros((n, n)), np.zeros((n, n))
    energy, z = np.empty(n), np.empty(n)
    before_c = before_r = slope_c = slope_r = np.empty(0)
    for i in range(n):
        # The predictor: the row before, moved along its slope. C(t,t) = R(t+,t) = 1.
        row_c, row_r = (
            np.append(before_c + h * slope_c, 1.0),
            np.append(before_r + h * slope_r, 1.0),
        )
        change = np.inf
        while change > tol:
            z[i], new_c, new_r = slopes(model, h, row_c, row_r, c, r, algebra)
            next_c = before_c + h / 2 * (slope_c + new_c[:i])
            next_r = before_r + h / 2 * (slope_r + new_r[:i])
            moved = np.abs([next_c - row_c[:i], next_r - row_r[:i]])
            change = moved.max(initial=0.0)
            row_c[:i], row_r[:i] = next_c, next_r
        c[i, : i + 1] = c[: i + 1, i] = before_c = row_c
        r[i, : i + 1] = before_r = row_r
        z[i], slope_c, slope_r = slopes(model, h, row_c, row_r, c, r, algebra)
        weights = trapezoid(h, i)
        energy[i] = -np.sum(weights * model.f(row_c, 1) * row_r) - model.b * model.f(row_c[0])
    return Dynamics(energy, z, c, r)


def trapezoid(h, i):
    """Weights on the times 0..i; of a single time there is no integral."""
    weights = np.full(i + 1, h if i else 0.0)
    weights[[0, -1]] /= 2
    return weights


def slopes(model, h, row_c, row_r, c, r, algebra):
    """z(t_i) and the time derivatives of C(t_i, s), R(t_i, s) for s = t_0..t_i, as seen from t > s.

    The rows are trial values, the histories hold the times before.
    """
    i = len(row_c) - 1
    s, d = model.f(row_c, 2) * row_r, model.f(row_c, 1)
    weights = trapezoid(h, i)
    start = model.b * d[0]
    z = model.temperature + weights @ (s * row_c + d * row_r) + start * row_c[0]

    # Whole sums over the history, then the half weights of their ends and the term of the new row.
    through_c = weights[i] * s[i] * row_c
    through_r, response = np.zeros(i + 1), np.zeros(i + 1)
    if i:
        weighted = (weights * s)[None, :i]
        through_c[:i] += algebra.symmetric(weighted, c)[0]
        through_c[i] += weighted[0] @ row_c[:i]
        through_r[:i] = h * algebra.causal_transposed(np.ascontiguousarray(d[None, :i]), r)[0]
        through_r[i] = h * (d @ row_r)
        through_r[:i] -= h / 2 * (d[:i] + d[0] * r[:i, 0])
        through_r[i] -= h / 2 * (d[i] + d[0] * row_r[0])
        through_r[0] = 0.0
        response[:i] = h * algebra.causal(np.ascontiguousarray(s[None, :i]), r)[0]
        response[:i] += h * s[i] * row_r[:i] - h / 2 * (s[:i] + s[i] * row_r[:i])
    first = np.append(c[:i, 0], row_c[0])
    return z, -z * row_c + through_c + through_r + start * first, -z * row_r + response


@dataclass(frozen=True)
class Extrapolated:
    energy: float
    z: float
    c: np.ndarray
    r: np.ndarray


def extrapolated(model, h, steps, algebra=Causal):
    """The last time and the kernels on the grid h, from h, h/2, h/4: errors in h^2 and h^4 gone."""
    runs = [solve(model, h / 2**k, steps * 2**k, algebra) for k in range(3)]
    weights = (1 / 45, -20 / 45, 64 / 45)

    def limit(value):
        return sum(
            w * value(run, 2**k) for k, (w, run) in enumerate(zip(weights, runs, strict=True))
        )

    return Extrapolated(
        limit(lambda run, k: run.energy[-1]),
        limit(lambda run, k: run.z[-1]),
        limit(lambda run, k: run.c[::k, ::k]),
        limit(lambda run, k: run.r[::k, ::k]),
    )


STEPS, STEP_SIZE = 1000, 0.02


def main() -> dict[str, float]:
    model = Model(p=3, temperature=0.5)
    results, seconds = {}, {}
    for algebra in (Dense, Causal):
        began = time.perf_counter()
        results[algebra] = solve(model, STEP_SIZE, STEPS, algebra, tol=1e-12)
        seconds[algebra] = time.perf_counter() - began
    dense, causal = results[Dense], results[Causal]
    found = {
        "dense - causal, energy": float(np.abs(dense.energy - causal.energy).max()),
        "dense - causal, C": float(np.abs(dense.c - causal.c).max()),
        "C(t,0) - R(t,0)": float(np.abs(causal.c[:, 0] - causal.r[:, 0]).max()),
        "z - (T - p e)": float(np.abs(causal.z - (0.5 - 3 * causal.energy)).max()),
    }
    for name, difference in found.items():
        print(f"{name}: {difference:.1e}")
    print(f"e({STEPS * STEP_SIZE:g}) = {causal.energy[-1]:.6f}")
    print(f"{STEPS} steps: dense {seconds[Dense]:.2f} s, causal {seconds[Causal]:.2f} s")
    print(f"ratio of the times: {seconds[Dense] / seconds[Causal]:.1f}")
    return found


if __name__ == "__main__":
    main()
