"""What an answer is worth: the edge of stability, and the error of truncation."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.solution import Solution, TimeArray
from dmftcore.training import GradientDescent

__all__ = ["stability", "truncation_error", "unstable"]

#: Losses below this part of the one at step 0 are rounding; errors are taken relative to no less.
LOSS_FLOOR = float(np.finfo(np.float64).eps)


def stability(training: GradientDescent, steps: TimeArray, sharpness: FloatArray) -> dict[str, Any]:
    """Where a run is beyond the edge of stability.

    Gradient descent damps a perturbation in a direction of sharpness s while
    ``lr (s + weight_decay) < 2 (1 + momentum)``; beyond, it amplifies any, rounding included.

    Parameters
    ----------
    training : GradientDescent
        With at least one update.
    steps : (n,) int array
        Where the sharpness is known; not empty.
    sharpness : (n,) array

    Returns
    -------
    dict
        ``quantity``, the left-hand side above in words, and ``bound``, the right-hand side;
        ``largest``, the largest value of the former, and ``largest_at``, its step; ``unstable``,
        the first and the last of `steps` beyond the edge, or None; ``stable_until``, the last of
        `steps` before the first of these, or None.
    """
    # The rate of the update that follows; after the last step, that of the one before.
    rates = training.rates[np.minimum(steps, training.steps - 1)]
    bound, decay = 2 * (1 + training.momentum), training.weight_decay
    found = rates * (sharpness + decay)
    beyond = np.flatnonzero(found > bound)
    first = beyond[0] if beyond.size else len(steps)
    return {
        "quantity": "lr * (sharpness + weight_decay)" if decay else "lr * sharpness",
        "bound": bound,
        "largest": float(found.max()),
        "largest_at": int(steps[found.argmax()]),
        "unstable": [int(steps[first]), int(steps[beyond[-1]])] if beyond.size else None,
        "stable_until": int(steps[first - 1]) if first > 0 else None,
    }


def unstable(report: dict[str, Any], training: GradientDescent) -> str | None:
    """What to know about a run that went beyond the edge of stability; None if it did not."""
    if report["unstable"] is None:
        return None
    first, last = report["unstable"]
    where = f"at step {first}" if first == last else f"from step {first} to step {last}"
    until = report["stable_until"]
    trusted = "no digits are sure" if until is None else f"digits are sure up to step {until} only"
    bound = f"2 (1 + momentum) = {report['bound']:g}" if training.momentum else "2"
    return (
        f"edge of stability: {report['quantity']} exceeds {bound} {where}, at most "
        f"{report['largest']:.4g} at step {report['largest_at']}. There gradient descent amplifies "
        f"rounding and truncation, whatever tol: {trusted} (estimate_error=True tells how many). "
        f"For more, take lr below about "
        f"{np.max(training.lr) * report['bound'] / report['largest']:.3g}"
    )


def truncation_error(solution: Solution, reference: Solution) -> dict[str, Any]:
    """How far a run is from one with another tolerance, at the same `times`.

    Returns
    -------
    dict
        ``outputs``, the largest absolute difference of an output, and ``train_loss``, the largest
        relative one of the training loss; ``outputs_by_time``, the former at every step; and for
        a run beyond the edge of stability ``before_edge`` and ``after_edge``, both for each part.
    """
    by_time = _largest_by_time(solution.outputs - reference.outputs)
    if solution.test_outputs is not None and reference.test_outputs is not None:
        on_test = _largest_by_time(solution.test_outputs - reference.test_outputs)
        by_time = np.maximum(by_time, on_test)
    floor = LOSS_FLOOR * reference.train_loss.max(initial=1e-300)
    difference = np.abs(solution.train_loss - reference.train_loss)
    relative = difference / np.maximum(reference.train_loss, floor)

    def largest(chosen: Any) -> dict[str, float]:
        return {
            "outputs": float(by_time[chosen].max(initial=0.0)),
            "train_loss": float(relative[chosen].max(initial=0.0)),
        }

    report: dict[str, Any] = {**largest(slice(None)), "outputs_by_time": by_time.tolist()}
    edge = solution.diagnostics.get("stability")
    if edge is not None and edge["unstable"] is not None:
        # The edge was crossed between two steps at which the sharpness is known.
        until = -1 if edge["stable_until"] is None else edge["stable_until"]
        report["before_edge"] = largest(solution.times <= until)
        report["after_edge"] = largest(solution.times > until)
    return report


def _largest_by_time(differences: FloatArray) -> FloatArray:
    rest = tuple(range(1, differences.ndim))
    largest: FloatArray = np.abs(differences).max(axis=rest, initial=0.0)
    return largest
