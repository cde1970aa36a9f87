"""Least squares for the constants of a precision law."""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from dmftcore._validate import FloatArray

__all__ = ["PARAMETERS", "Fit", "Found"]

#: Parameters of a fit, in the order of its covariance.
PARAMETERS = ("A", "alpha", "B", "beta", "E", "gamma_w", "gamma_a", "gamma_kv")

#: Residuals of log L beyond this count linearly in a fit (Huber 1964).
HUBER = 1e-3
#: Starts of a fit, all combinations, and how many of the best are followed to their end.
EXPONENT_STARTS = (0.2, 0.5, 1.0, 1.5)
GAMMA_STARTS = (0.5, 1.0, 2.0, 4.0)
FOLLOWED = 8
#: Logarithms of gamma_x stay within plus and minus this.
LARGEST_LOG_GAMMA = 20.0
#: Ratio of singular values of the scaled Jacobian below which a combination of parameters counts
#: as undetermined.
RANK_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Found:
    """What a fit has found.

    Attributes
    ----------
    constants : (8,) array
        In the order of `PARAMETERS`.
    residuals : (n,) array
        log L measured minus fitted.
    covariance : (8, 8) array
        Of the constants.
    """

    constants: FloatArray
    residuals: FloatArray
    covariance: FloatArray


class Fit:
    """Least squares in theta = (log a, alpha, log b, beta, log E, log gamma_x).

    a and b are the terms of size and data at the mean of log N and log D, which makes their
    correlation with the exponents small.

    Parameters
    ----------
    log_sizes, log_tokens, log_losses : (n,) arrays
    bits : (3, n) array
    free : (8,) array of bool
        Which parameters are fitted.
    """

    def __init__(
        self,
        log_sizes: FloatArray,
        log_tokens: FloatArray,
        bits: FloatArray,
        log_losses: FloatArray,
        free: npt.NDArray[np.bool_],
    ) -> None:
        self._mean_size, self._mean_tokens = log_sizes.mean(), log_tokens.mean()
        self._sizes = log_sizes - self._mean_size
        self._tokens = log_tokens - self._mean_tokens
        self._bits, self._losses, self._free = bits, log_losses, free

    def result(self) -> Found:
        """The best of the fits from the best starts."""
        starts = sorted(self._starts(), key=lambda start: start[0])[:FOLLOWED]
        fits = [self._descend(theta) for _, theta in starts]
        theta = self._whole(min(fits, key=lambda found: float(found.cost)).x)
        residuals = -self._residuals(theta)
        return Found(self._constants(theta), residuals, self._covariance(theta, residuals))

    def _starts(self) -> Any:
        """(cost, theta) on a grid of exponents and gammas, A, B and E by linear least squares."""
        losses = np.exp(self._losses)
        for alpha, beta, gamma in itertools.product(EXPONENT_STARTS, EXPONENT_STARTS, GAMMA_STARTS):
            log_gammas = np.where(self._free[5:], np.log(gamma), 0.0)
            terms = np.stack(
                [
                    np.exp(-alpha * (self._sizes + self._log_kept(log_gammas).sum(0))),
                    np.exp(-beta * self._tokens),
                    np.ones_like(losses),
                ],
                axis=1,
            )
            found, cost = scipy.optimize.nnls(terms / losses[:, None], np.ones_like(losses))
            # A term that is left out starts small.
            a, b, e = np.log(np.maximum(found, 1e-3 * losses.min()))
            yield float(cost), np.array([a, alpha, b, beta, e, *log_gammas])

    def _descend(self, theta: FloatArray) -> Any:
        bounds = np.where(np.arange(len(PARAMETERS)) < 5, np.inf, LARGEST_LOG_GAMMA)[self._free]
        return scipy.optimize.least_squares(
            lambda x: self._residuals(self._whole(x)),
            theta[self._free],
            jac=lambda x: self._jacobian(self._whole(x))[:, self._free],
            loss="huber",
            f_scale=HUBER,
            x_scale="jac",
            xtol=1e-14,
            ftol=1e-14,
            gtol=1e-14,
            max_nfev=400,
            bounds=(-bounds, bounds),
        )

    def _whole(self, x: FloatArray) -> FloatArray:
        theta = np.zeros(len(PARAMETERS))
        theta[self._free] = x
        return theta

    def _log_kept(self, log_gammas: FloatArray) -> FloatArray:
        """log(1 - exp(-P/gamma)) of every precision, (3, n)."""
        kept: FloatArray = np.log(-np.expm1(-self._bits / np.exp(log_gammas)[:, None]))
        return kept

    def _terms(self, theta: FloatArray) -> FloatArray:
        """Logarithms of the three terms of the law, (3, n)."""
        a, alpha, b, beta, e = theta[:5]
        effective = self._sizes + self._log_kept(theta[5:]).sum(0)
        return np.stack(
            [a - alpha * effective, b - beta * self._tokens, np.full_like(effective, e)]
        )

    def _residuals(self, theta: FloatArray) -> FloatArray:
        found: FloatArray = np.logaddexp.reduce(self._terms(theta)) - self._losses
        return found

    def _jacobian(self, theta: FloatArray) -> FloatArray:
        """Derivatives of `_residuals`, (n, 8)."""
        terms = self._terms(theta)
        of_size, of_data, of_rest = np.exp(terms - np.logaddexp.reduce(terms))
        log_kept = self._log_kept(theta[5:])
        scaled = self._bits / np.exp(theta[5:])[:, None]
        # d log(1 - e^-x) / d log gamma = -x / (e^x - 1).
        with np.errstate(over="ignore", invalid="ignore"):
            slope = np.where(np.isinf(scaled), 0.0, -scaled / np.expm1(scaled))
        columns = [
            of_size,
            -of_size * (self._sizes + log_kept.sum(0)),
            of_data,
            -of_data * self._tokens,
            of_rest,
            *(-theta[1] * of_size * slope),
        ]
        return np.stack(columns, axis=1)

    def _constants(self, theta: FloatArray) -> FloatArray:
        a, alpha, b, beta, e, *log_gammas = theta.tolist()
        sizes, tokens = a + alpha * self._mean_size, b + beta * self._mean_tokens
        logs = np.array([sizes, np.nan, tokens, np.nan, e, *log_gammas])
        constants: FloatArray = np.exp(logs)
        constants[[1, 3]] = alpha, beta
        return constants

    def _covariance(self, theta: FloatArray, residuals: FloatArray) -> FloatArray:
        jacobian = self._jacobian(theta)[:, self._free]
        scale = np.linalg.norm(jacobian, axis=0)
        scale[scale == 0] = 1
        _, singular, right = np.linalg.svd(jacobian / scale, full_matrices=False)
        if singular[-1] < RANK_TOLERANCE * singular[0]:
            weights = dict(zip(np.array(PARAMETERS)[self._free], np.abs(right[-1]), strict=True))
            names = sorted(weights, key=lambda name: -weights[name])[:2]
            warnings.warn(
                f"the runs do not determine all parameters: {' and '.join(names)} can be traded "
                "for each other; vary N, D and the bits more",
                stacklevel=4,
            )
        inverse = (right.T / np.maximum(singular, np.finfo(float).tiny)) / scale[:, None]
        runs, fitted = jacobian.shape
        variance = residuals @ residuals / (runs - fitted) if runs > fitted else np.nan
        of_theta = np.zeros((len(theta), len(theta)))
        of_theta[np.ix_(self._free, self._free)] = variance * inverse @ inverse.T
        np.fill_diagonal(of_theta, np.where(self._free, np.diag(of_theta), np.inf))
        return self._in_constants(theta, of_theta)

    def _in_constants(self, theta: FloatArray, of_theta: FloatArray) -> FloatArray:
        """The covariance of the constants themselves, to first order."""
        to_logs = np.eye(len(theta))
        to_logs[0, 1], to_logs[2, 3] = self._mean_size, self._mean_tokens
        # Exponents are fitted as they are, the others as logarithms.
        slopes = self._constants(theta)
        slopes[[1, 3]] = 1
        # Infinite variances stand alone; the rest is a congruence.
        fixed = ~self._free
        finite = np.where(np.isinf(of_theta), 0.0, of_theta)
        step = slopes[:, None] * to_logs
        covariance: FloatArray = step @ finite @ step.T
        covariance[fixed, fixed] = np.inf
        return covariance
