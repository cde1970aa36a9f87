r"""Learning curves in the time domain: the dynamical mean field theory of linear models.

Random samples and random features become two responses R1 and R3, T x T causal kernels, that hold
for themselves; correlations follow. With Theta(t, s) what the gradient of step s has moved by step
t, h_k = (1 + lambda_k Theta R3 R1)^{-1} and v_k = (1 + lambda_k R1 Theta R3)^{-1} for each mode,

.. math:: R_1 &= 1 - \frac{1}{P} \sum_k \mu_k (1 - h_k), \qquad
          R_3 = 1 - \frac{1}{N} \sum_k \mu_k (1 - v_k), \\
          C_0 &= \sigma^2 + \sum_k \lambda_k h_k \big[ w_k^2 + \mu_k \Theta C_3 \Theta^\top
                 + \tfrac{\mu_k \lambda_k}{P} \Theta R_3 C_1 R_3^\top \Theta^\top \big] h_k^\top,
                 \qquad C_1 = R_1 C_0 R_1^\top, \\
          C_3 &= \frac{1}{N} R_3 \sum_k \Big\{ \tfrac{\mu_k \lambda_k}{P} v_k C_1 v_k^\top
                 + \lambda_k^2 R_1 h_k \big[ w_k^2 + \mu_k \Theta C_3 \Theta^\top \big]
                 h_k^\top R_1^\top \Big\} R_3^\top.

C_0(t, t') is the test loss, and C_1 the training loss. With fresh samples in each step R1 = 1, and
C_1/P is the diagonal diag(C_0(t, t)) / B. Theta is strictly causal, so that all of it is one march
over the rows. Nothing here knows of resolvents or contours: any learning rates will do, and it is
the referee of the learning curves.

Source: Bordelon, Atanasov & Pehlevan, "A dynamical model of neural scaling laws" (2024).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmftcore import twotime
from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import Population

__all__ = ["TwoTimeLosses", "gradient_responses", "march"]


@dataclass(frozen=True)
class TwoTimeLosses:
    """Losses between all pairs of steps.

    Attributes
    ----------
    test, train : (T, T) arrays
        C_0 and C_1.
    """

    test: FloatArray
    train: FloatArray


def gradient_responses(rates: FloatArray, momentum: float = 0.0) -> FloatArray:
    r"""Theta(t, s), what the gradient of step s < t has moved by step t, (T, T) for T - 1 rates.

    .. math:: \Theta(t, s) = \sum_{r=s}^{t-1} \eta_r m^{r-s}
    """
    steps = np.arange(len(rates) + 1)
    lag = steps[:, None] - steps
    moves = np.append(rates, 0.0)[:, None] * np.where(lag >= 0, float(momentum) ** np.abs(lag), 0.0)
    return np.concatenate([np.zeros((1, len(steps))), np.cumsum(moves, axis=0)[:-1]])


def march(
    theta: FloatArray,
    population: Population,
    samples: float,
    features: float,
    noise_variance: float,
    batch: float | None = None,
) -> TwoTimeLosses:
    """Solve for the losses between all pairs of steps.

    Parameters
    ----------
    theta : (T, T) array
        Strictly causal: what the gradient of step s has moved by step t.
    population : Population
    samples, features : float
        P and N, or inf; `samples` does not matter with `batch`.
    noise_variance : float
    batch : float, optional
        Fresh samples per step; None trains on the same ones.

    Returns
    -------
    TwoTimeLosses
        With `batch`, train is the loss on the samples of the same step and so equals test on the
        diagonal; all of it is C_0.

    Notes
    -----
    4 M T^3 / 3 flops and 8 M T^2 bytes for M modes, twice as much with finite features.
    """
    online = batch is not None
    values, mu, target = population.values, population.multiplicities, population.target
    power, signal = population.power, population.signal
    n = len(theta)
    responses = _Responses(theta, population, np.inf if online else samples, features)
    h, v, r1, r3 = responses.h, responses.v, responses.r1, responses.r3
    c0, c1, c2, c3 = (np.zeros((n, n)) for _ in range(4))
    # Theta C_3 Theta^T, Theta R_3 (C_1/P) R_3^T Theta^T, the part of C_2 without C_1
    # and R_1, and C_1/P.
    from_features, from_samples, fitted, sampled = (np.zeros((n, n)) for _ in range(4))
    constant = np.zeros((len(values), n))  # h_k applied to 1

    for t in range(n):
        now = slice(0, t + 1)
        responses.next_row(t)
        row = np.ascontiguousarray(h[:, t, now])
        constant[:, t] = row.sum(axis=1)
        known = constant[:, now]
        _symmetric_row(from_features, t, _congruence_row(theta, c3, t))
        _symmetric_row(from_samples, t, _congruence_row(responses.through_features, sampled, t))
        by_features = mu[:, None] * twotime.rows_symmetric(row, from_features)
        by_samples = power[:, None] * twotime.rows_symmetric(row, from_samples)

        drive = values[:, None] * (by_features + by_samples)
        direct = (signal * constant[:, t]) @ known
        _symmetric_row(c0, t, noise_variance + direct + _over_modes(drive, h))
        _symmetric_row(c1, t, _congruence_row(r1, c0, t))
        if online:
            sampled[t, t] = c0[t, t] / batch
        else:
            _symmetric_row(sampled, t, c1[t, now] / samples)
        if np.isinf(features):
            continue
        squares = values**2
        direct = (squares * target * constant[:, t]) @ known
        _symmetric_row(fitted, t, direct + _over_modes(squares[:, None] * by_features, h))
        row = np.ascontiguousarray(v[:, t, now])
        drive = power[:, None] * twotime.rows_symmetric(row, sampled)
        _symmetric_row(c2, t, _over_modes(drive, v) + _congruence_row(r1, fitted, t))
        _symmetric_row(c3, t, _congruence_row(r3, c2, t) / features)
    return TwoTimeLosses(c0, c1)


class _Responses:
    """R1, R3 and the responses of the modes, row by row."""

    def __init__(
        self, theta: FloatArray, population: Population, samples: float, features: float
    ) -> None:
        n, modes = len(theta), len(population.values)
        self._theta, self._population = theta, population
        self._samples, self._features = samples, features
        self.h = np.zeros((modes, n, n))
        self.v = self.h if np.isinf(features) else np.zeros((modes, n, n))
        self.r1, self.r3 = np.eye(n), np.eye(n)
        self._r31 = np.eye(n)
        #: Theta R_3
        self.through_features = np.zeros((n, n))

    def next_row(self, t: int) -> None:
        """Row t, from those before."""
        now = slice(0, t + 1)
        past = np.ascontiguousarray(self._theta[t : t + 1, :t])
        self.through_features[t, :t] = twotime.rows_causal(past, self.r3)[0]
        self.r1[t, now] -= self._trace(self.h, t, twotime.rows_causal(past, self._r31)) / (
            self._samples
        )
        if np.isfinite(self._features):
            row = np.ascontiguousarray(self.r1[t : t + 1, now])
            moved = twotime.rows_causal(row, self.through_features)[:, :t]
            self.r3[t, now] -= self._trace(self.v, t, moved) / self._features
        row = np.ascontiguousarray(self.r3[t : t + 1, now])
        self._r31[t, now] = twotime.rows_causal(row, self.r1)[0]

    def _trace(self, family: FloatArray, t: int, row: FloatArray) -> FloatArray:
        """Row t of all (1 + lambda_k x)^{-1}, from row t of x; returns that of sum mu (1 - ...)."""
        scaled = np.multiply.outer(-self._population.values, row[0])
        family[:, t, :t] = twotime.rows_causal_batch(scaled, family)
        family[:, t, t] = 1
        return np.append(-(self._population.multiplicities @ family[:, t, :t]), 0.0)


def _congruence_row(r: FloatArray, c: FloatArray, t: int) -> FloatArray:
    """Row t of r c r^T, up to the diagonal."""
    row = np.ascontiguousarray(r[t : t + 1, : t + 1])
    return np.asarray(twotime.rows_congruence(row, c, r)[1][0])


def _over_modes(rows: FloatArray, family: FloatArray) -> FloatArray:
    """sum_k rows_k h_k^T."""
    return np.asarray(twotime.rows_causal_batch(rows, family, transposed=True).sum(axis=0))


def _symmetric_row(c: FloatArray, t: int, row: FloatArray) -> None:
    c[t, : t + 1] = row
    c[: t + 1, t] = row
