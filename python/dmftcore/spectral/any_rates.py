r"""One-pass SGD with any learning rates, and its losses between two times.

Between the steps s and t the error shrinks by a product of factors 1 - eta_r x along an eigenvector
of S = F^T Lambda F, of eigenvalue x, and each step adds noise in proportion to the loss. Written
as integrals over the resolvents of `Problem.residual_and_noise`, both g and h are carried by the
nodes of a contour around the spectrum,

.. math:: L(t) = \frac{1}{2\pi i} \oint c_t(z) dz, \qquad
          c_{t+1} = (1 + \eta_t z)^2 c_t + \frac{\eta_t^2}{B} L(t) \, h(z), \qquad c_0 = g,

as if each node were a mode of its own; and L(s, t) for s <= t is the integral of c_s times the
factors of the steps between. Nothing is approximated but the integral, by an ellipse whose number
of nodes grows as the square root of the number of steps.
"""

from __future__ import annotations

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import ComplexArray
from dmftcore.spectral.contours import Contour, ellipses
from dmftcore.spectral.curve import LearningCurve, judged
from dmftcore.spectral.problem import Problem

__all__ = ["any_rates", "two_time_losses"]


def any_rates(
    problem: Problem, rates: FloatArray, times: FloatArray, batch: float
) -> LearningCurve:
    """SGD with a learning rate of its own for each step, (steps,), without tables."""
    contours = _contours(problem, rates, times)
    with np.errstate(over="ignore", invalid="ignore"):
        evaluations = np.stack(
            [_march(problem, contour, rates, times, batch, False)[0] for contour in contours]
        )
    if not np.isfinite(evaluations).all():
        raise ValueError(
            f"batch = {batch:g} makes the noise of SGD grow without bound; take more samples a "
            "step, or smaller rates"
        )
    loss, error = judged(evaluations, problem.initial_loss)
    nodes = sum(len(contour.z) for contour in contours)
    engine = f"all steps, each with its rate, at {nodes} nodes of ellipses"
    return LearningCurve(times, loss, loss, error, error, engine)


def two_time_losses(
    problem: Problem, rates: FloatArray, times: FloatArray, batch: float
) -> FloatArray:
    """Losses between pairs of steps, (n_times, n_times), with a rate for each step."""
    contour, _ = _contours(problem, rates, times)
    return _march(problem, contour, rates, times, batch, True)[1]


def _contours(problem: Problem, rates: FloatArray, times: FloatArray) -> tuple[Contour, Contour]:
    """Ellipses on which no product of factors of consecutive steps grows large."""
    steps = rates[: int(times.max())]

    def growth(z: ComplexArray) -> float:
        most = 0.0
        for node in z.tolist():
            grown = np.append(0, np.cumsum(np.log(np.abs(1 + steps * node))))
            most = max(most, float((grown - np.minimum.accumulate(grown)).max()))
        return float(np.exp(2 * most))

    return ellipses(problem.edge, growth)


def _march(
    problem: Problem,
    contour: Contour,
    rates: FloatArray,
    times: FloatArray,
    batch: float,
    two_time: bool,
) -> tuple[FloatArray, FloatArray]:
    """The loss at the times, and on request between them."""
    g, h = problem.residual_and_noise(contour.z)
    carried, noise = 2 * contour.dz * g, 2 / batch * contour.dz * h
    steps, places = np.unique(times.astype(np.intp), return_inverse=True)
    losses, table = np.empty(len(steps)), np.empty((len(steps), len(steps)))
    # What was carried at each step asked for, times the factors of the steps since.
    rows = np.empty((len(steps) if two_time else 0, len(carried)), np.complex128)
    step = 0
    for i, wanted in enumerate(steps.tolist()):
        for rate in rates[step:wanted].tolist():
            change = rate * contour.z
            loss = carried.sum().real
            # Added to what is there: the rounding of a factor would be the same in each step.
            carried = carried + (change * (2 + change) * carried + rate**2 * loss * noise)
            if two_time:
                rows[:i] += change * rows[:i]
        step = wanted
        losses[i] = carried.sum().real
        if two_time:
            rows[i] = carried
            table[i, : i + 1] = table[: i + 1, i] = rows[: i + 1].sum(axis=1).real
    return losses[places], table[np.ix_(places, places)]
