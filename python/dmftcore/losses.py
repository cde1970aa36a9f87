"""Loss functions: their mean over points, and the errors -d loss / d f that drive the training.

With outputs f and targets y of a point, and K outputs k,

    square    sum_k (y_k - f_k)^2 / 2            errors y - f
    logistic  log(1 + exp(-y f)), y = +-1, K = 1        y / (1 + exp(y f))
    softmax   log sum_k exp(f_k) - y . f, y one-hot     y - softmax(f)

Arrays of numpy or cupy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import FloatArray

__all__ = ["LOSSES", "Loss", "check_targets", "loss_function"]


@dataclass(frozen=True)
class Loss:
    """A loss function of outputs (..., P, K) and targets (P, K).

    Attributes
    ----------
    name : str
    of_points : callable
        Loss of every point, (..., P).
    errors : callable
        ``-d loss / d f``, (..., P, K).
    """

    name: str
    of_points: Callable[[Any, Any], Any]
    errors: Callable[[Any, Any], Any]

    def mean(self, outputs: Any, targets: Any) -> Any:
        """Mean over points, (...)."""
        return self.of_points(outputs, targets).sum(axis=-1) / len(targets)


def _logistic(outputs: Any, targets: Any) -> Any:
    return _arrays.namespace(outputs).logaddexp(-targets * outputs, 0).sum(axis=-1)


def _log_normaliser(outputs: Any) -> Any:
    """log sum_k exp(f_k), with the axis k kept."""
    largest = outputs.max(axis=-1, keepdims=True)
    xp = _arrays.namespace(outputs)
    return largest + xp.log(xp.exp(outputs - largest).sum(axis=-1, keepdims=True))


def _softmax(outputs: Any, targets: Any) -> Any:
    # Targets sum to one. Within the brackets the terms are of one sign: nothing cancels.
    return (targets * (_log_normaliser(outputs) - outputs)).sum(axis=-1)


def _softmax_errors(outputs: Any, targets: Any) -> Any:
    return targets - _arrays.namespace(outputs).exp(outputs - _log_normaliser(outputs))


_ALL = (
    Loss("square", lambda f, y: ((y - f) ** 2).sum(axis=-1) / 2, lambda f, y: y - f),
    Loss("logistic", _logistic, lambda f, y: y * _arrays.special(f).expit(-y * f)),
    Loss("softmax", _softmax, _softmax_errors),
)

LOSSES = tuple(one.name for one in _ALL)

_BY_NAME = {one.name: one for one in _ALL}


def loss_function(name: str) -> Loss:
    """The loss of the given name, one of `LOSSES`."""
    return _BY_NAME[name]


def check_targets(loss: str, **targets: FloatArray | None) -> None:
    """Refuse targets, (P,) or (P, K), that the loss gives no meaning to.

    Raises
    ------
    ValueError
        Naming the argument, and what the loss wants.
    """
    for name, values in targets.items():
        if values is None or loss == "square":
            continue
        if loss == "logistic":
            if values.ndim == 2 and values.shape[1] > 1:
                raise ValueError(
                    f"loss='logistic' has one output, but {name} has {values.shape[1]}: use "
                    "loss='softmax' with one-hot targets"
                )
            wrong = np.argwhere(np.abs(values) != 1)
            wanted = "+1 or -1"
        else:
            if values.ndim == 1 or values.shape[1] == 1:
                raise ValueError(
                    f"loss='softmax' needs {name} of shape (P, K) with K > 1 classes, found "
                    f"{values.shape}: for two classes use loss='logistic' with targets +1 and -1"
                )
            one_hot = np.isin(values, (0, 1)).all(axis=1) & (values.sum(axis=1) == 1)
            wrong = np.argwhere(~one_hot)
            wanted = "one-hot: 1 for its class, 0 for the others"
        if len(wrong):
            point = int(wrong[0, 0])
            raise ValueError(
                f"loss={loss!r}: each row of {name} must be {wanted}; row {point} is "
                f"{values[point].tolist()}"
            )
