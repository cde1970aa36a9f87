"""The result: losses over time, with what they are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmftcore._validate import FloatArray

__all__ = ["LearningCurve", "judged"]

#: The weights of a hyperbola are up to 15 times the sum in size, and those of a double integral
#: up to the square of that.
ROUNDING = 256 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True, eq=False)
class LearningCurve:
    """Losses L over time, label noise included.

    Attributes
    ----------
    times : (n_times,) array
        Times of gradient flow, numbers of steps otherwise.
    test, train : (n_times,) arrays
        Loss on fresh data and on the training data; in one-pass SGD and with samples = inf the
        training data are fresh.
    error_estimate, train_error_estimate : (n_times,) arrays
        Absolute errors of both, from a second evaluation on other contours.
    engine : str
        How the losses were computed, and why so.
    test_two_time, train_two_time : (n_times, n_times) arrays or None
        ``v(t) . Sigma v(t') + sigma^2`` and ``r(t) . r(t') / P`` for errors v and residuals r.
    forcing, kernel : (n_times,) arrays or None
        Of one-pass SGD, F(t) and K(t): ``L(t) = F(t) + sum_{s<t} K(t-1-s) L(s)``.
    """

    times: FloatArray
    test: FloatArray
    train: FloatArray
    error_estimate: FloatArray
    train_error_estimate: FloatArray
    engine: str
    test_two_time: FloatArray | None = None
    train_two_time: FloatArray | None = None
    forcing: FloatArray | None = None
    kernel: FloatArray | None = None


def judged(evaluations: FloatArray, scale: float) -> tuple[FloatArray, FloatArray]:
    """Curves, and their errors, from two evaluations on different contours, (2, ...).

    What both lose to rounding, and may lose alike, is added in units of `scale`, the loss at the
    start.
    """
    curve, again = evaluations
    return curve, np.abs(curve - again) + ROUNDING * scale
