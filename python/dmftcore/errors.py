"""Exceptions that callers may want to catch by name."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dmftcore.solution import Solution

__all__ = ["AccuracyWarning", "CudaError", "DivergenceError", "StabilityWarning"]


class CudaError(RuntimeError):
    """A CUDA call failed, or a CUDA device is needed and none is usable."""


class DivergenceError(ArithmeticError):
    """The training dynamics left the finite numbers.

    Attributes
    ----------
    step : int
        First step whose loss is not finite, or exceeds 1e8 times the loss at step 0; in the theory
        of a `FeatureLearning`, that before it.
    partial : Solution or None
        Everything up to the last stored step before `step`.
    """

    def __init__(self, message: str, *, step: int, partial: Solution | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.partial = partial

    def __reduce__(self) -> tuple[Any, ...]:
        # By default an exception is pickled by its positional arguments alone.
        return partial(DivergenceError, step=self.step, partial=self.partial), self.args


class AccuracyWarning(UserWarning):
    """The estimated error of a result exceeds the tolerance that was asked for."""


class StabilityWarning(UserWarning):
    """The learning rate exceeds 2 / sharpness: gradient descent amplifies perturbations."""
