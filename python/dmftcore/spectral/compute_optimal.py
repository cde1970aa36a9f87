"""The best model size at a given compute."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.optimize

from dmftcore._validate import FloatArray, real_array
from dmftcore.errors import AccuracyWarning
from dmftcore.spectral.arguments import Population
from dmftcore.spectral.learning import learning_curve
from dmftcore.spectrum import AnySpectrum

__all__ = ["ComputeOptimal", "compute_optimal"]

#: Sizes of the scan for each factor e of the budget, and how far it reaches, at first and at most:
#: N from 1 / reach on, and times from 1 / (reach lambda_max) on.
PER_E_FOLD = 1.0
REACHES = (1.0, 10.0, 100.0)
#: Accuracy of log N; the loss, at its minimum, is wrong by the square of this.
LOG_ACCURACY = 1e-6


@dataclass(frozen=True)
class ComputeOptimal:
    """The compute-optimal frontier; floats for one budget, else arrays of its shape.

    Attributes
    ----------
    features : float or array
        Number N of features, a real number.
    times : float or array
        Training time t = budget / N.
    loss : float or array
        Population loss L(t, N) there.
    """

    features: Any
    times: Any
    loss: Any


def compute_optimal(budget: npt.ArrayLike, spectrum: AnySpectrum) -> ComputeOptimal:
    r"""Number of random features with the lowest loss at the compute :math:`C = N t`.

    Random features are trained by gradient flow on the population for a time t. With
    ``lambda_k = k^-b`` and ``lambda_k target_k = k^-a`` (`PowerLaw`) and large C,

    .. math:: N \sim C^{1/(1+b)}, \quad L \sim C^{-(a-1)/(1+b)} \qquad (a - 1 < b, \text{hard})

    where the loss of finite time balances that of finite size, and

    .. math:: N \sim C^{(a-b)/a}, \quad L \sim C^{-(a-1)/a} \qquad (a - 1 > b, \text{easy})

    where the transient :math:`N^{-1} t^{-(1-1/b)}` of finite size outlasts its floor.

    Parameters
    ----------
    budget : array of any shape
        C > 0.
    spectrum : Spectrum or PowerLaw
        Eigenvalues > 0 with multiplicities, and the target. It should reach far beyond the modes
        that N features and the time t resolve, k = N and t^(1/b).

    Returns
    -------
    ComputeOptimal

    Raises
    ------
    TypeError, ValueError
        For budgets that are no positive numbers; if the loss has no minimum at an N between 1/100
        and 100 lambda_max C, or falls below its accuracy, about 1e-13 of the first: the budget is
        too small for a choice, or the spectrum too short.

    Notes
    -----
    A scan of log N that all budgets share, widened until no minimum is at its edge, then Brent's
    method. Some tens of milliseconds a budget, whatever its size.

    Source: Bordelon, Atanasov & Pehlevan, "A dynamical model of neural scaling laws" (2024,
    arXiv:2402.01092).
    """
    given = np.asarray(budget)
    budgets = real_array("budget", given.reshape(-1), 1)
    if np.any(budgets <= 0):
        raise ValueError(f"budget must be > 0, found {budgets.min():g}")
    fastest = float(Population.of(spectrum).values.max())
    log_sizes = np.empty(len(budgets))
    losses = np.empty(len(budgets))
    left = np.arange(len(budgets))
    for reach in REACHES:
        grid, table = _scan(budgets[left], spectrum, fastest, reach)
        best = np.argmin(table, axis=0)
        # Beyond its own largest size a budget has no entry.
        last = np.isfinite(table).sum(axis=0) - 1
        inside = (best > 0) & (best < last)
        for place in np.flatnonzero(inside):
            index, at = left[place], best[place]
            log_sizes[index], losses[index] = _refine(
                float(budgets[index]), spectrum, float(grid[at - 1]), float(grid[at + 1])
            )
        left = left[~inside]
        if left.size == 0:
            break
    else:
        raise ValueError(
            f"budget = {budgets[left[0]]:g}: the loss has no minimum at an N between 1/100 and "
            f"{100 * fastest * budgets[left[0]]:g}; pass a larger budget, or a spectrum of more "
            "modes"
        )
    sizes = np.exp(log_sizes)
    return ComputeOptimal(
        *(found.reshape(given.shape)[()] for found in (sizes, budgets / sizes, losses))
    )


def _scan(
    budgets: FloatArray, spectrum: AnySpectrum, fastest: float, reach: float
) -> tuple[FloatArray, FloatArray]:
    """log N on a grid, and losses (sizes, budgets), infinite where the time would be too short."""
    largest = np.log(reach * fastest * budgets)
    count = max(math.ceil(PER_E_FOLD * (largest.max() + math.log(reach))), 3)
    grid = np.linspace(-math.log(reach), largest.max(), count + 1)
    table = np.full((len(grid), len(budgets)), np.inf)
    for row, log_size in zip(table, grid.tolist(), strict=True):
        within = log_size <= largest + 1e-9
        if within.any():
            size = math.exp(log_size)
            row[within] = _losses(budgets[within], spectrum, size)
    return grid, table


def _losses(budgets: FloatArray, spectrum: AnySpectrum, size: float) -> FloatArray:
    """L(budget / size, size)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        curve = learning_curve(budgets / size, spectrum, np.inf, size)
    lost = np.flatnonzero(curve.test <= curve.error_estimate)
    if lost.size:
        raise ValueError(
            f"budget = {budgets[lost[0]]:g}: the loss of {size:g} features decays to nothing, "
            f"below its accuracy of {curve.error_estimate[lost[0]]:.1g}; pass a smaller budget, or "
            "a spectrum of more modes"
        )
    return curve.test


def _refine(budget: float, spectrum: AnySpectrum, low: float, high: float) -> tuple[float, float]:
    """log N and the loss at the minimum between two log N."""

    def log_loss(log_size: float) -> float:
        size = math.exp(log_size)
        return math.log(_losses(np.array([budget]), spectrum, size)[0])

    found = scipy.optimize.minimize_scalar(
        log_loss, bounds=(low, high), method="bounded", options={"xatol": LOG_ACCURACY}
    )
    return float(found.x), math.exp(found.fun)
