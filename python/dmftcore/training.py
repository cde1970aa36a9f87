"""The training noun: which dynamics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dmftcore._validate import FloatArray, integer, non_negative, one_of, positive, real_array
from dmftcore.losses import LOSSES

__all__ = ["GradientDescent", "GradientFlow", "OnlineSGD", "Training"]


@dataclass(frozen=True, eq=False)
class GradientDescent:
    """Full-batch gradient descent in discrete time, with momentum and weight decay.

    Every parameter moves by ``v <- momentum v - gamma^2 N grad(loss) - weight_decay theta``,
    ``theta <- theta + lr v``, from ``v = 0``, with the mean of the loss over the P points: the
    mean-field scaling in which the width N drops out.

    Parameters
    ----------
    lr : float or (steps,) array
        Learning rate eta > 0; an array is a schedule, one rate for each update.
    steps : int
        Number of updates; states are numbered t = 0..steps.
    loss : {"square", "logistic", "softmax"}
        Loss of a point: ``(y - f)^2 / 2`` summed over outputs; ``log(1 + exp(-y f))`` with targets
        +1 and -1; cross-entropy ``log sum_k exp(f_k) - y . f`` with one-hot targets. A theory that
        knows the square loss only refuses the others.
    weight_decay : float
        Coefficient lambda >= 0.
    momentum : float
        Coefficient m of the velocity (heavy ball), 0 <= m < 1.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and for rates that are not as many as steps.
    """

    lr: float | FloatArray
    steps: int
    loss: str = "square"
    weight_decay: float = 0.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        steps = integer("steps", self.steps, at_least=0)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "lr", _rates(self.lr, steps))
        object.__setattr__(self, "loss", one_of("loss", self.loss, LOSSES))
        object.__setattr__(self, "weight_decay", non_negative("weight_decay", self.weight_decay))
        object.__setattr__(self, "momentum", non_negative("momentum", self.momentum))
        if self.momentum >= 1:
            raise ValueError(f"momentum must be below 1, not {self.momentum!r}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GradientDescent):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def rates(self) -> FloatArray:
        """Learning rate of every update, (steps,); not writeable."""
        return np.broadcast_to(self.lr, (self.steps,))

    @property
    def is_plain(self) -> bool:
        """Whether the parameters forget all but their state: no momentum, no weight decay."""
        return self.momentum == 0 and self.weight_decay == 0

    def _key(self) -> tuple[Any, ...]:
        lr = self.lr.tobytes() if isinstance(self.lr, np.ndarray) else self.lr
        return lr, self.steps, self.loss, self.weight_decay, self.momentum


@dataclass(frozen=True, eq=False)
class GradientFlow:
    """Gradient flow: gradient descent with a learning rate that tends to zero.

    Time is ``tau = lr * step``. Every parameter moves by
    ``d theta / d tau = -gamma^2 N grad(loss)``, with the loss of `GradientDescent`.

    Parameters
    ----------
    times : (n,) array
        Increasing times tau >= 0 at which the state is wanted; training starts at tau = 0.

    Raises
    ------
    TypeError, ValueError
        For times that are negative or do not increase.
    """

    times: Any

    def __post_init__(self) -> None:
        times = real_array("times", self.times, 1)
        if times[0] < 0 or np.any(np.diff(times) <= 0):
            raise ValueError(f"times must be >= 0 and increase strictly, found {self.times!r}")
        object.__setattr__(self, "times", times)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GradientFlow):
            return NotImplemented
        return bool(np.array_equal(self.times, other.times))

    def __hash__(self) -> int:
        return hash(self.times.tobytes())


@dataclass(frozen=True, eq=False)
class OnlineSGD:
    """One-pass stochastic gradient descent: every step sees a fresh batch of samples.

    Otherwise the rule of `GradientDescent`, without momentum and weight decay.

    Parameters
    ----------
    lr : float or (steps,) array
        Learning rate eta > 0; an array is a schedule, one rate for each update.
    steps : int
        Number of updates; states are numbered t = 0..steps.
    batch : int, optional
        Samples in a batch. None leaves it to the limit: ``sample_ratio * D`` in
        `ProportionalLinear`.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and for rates that are not as many as steps.
    """

    lr: float | FloatArray
    steps: int
    batch: int | None = None

    def __post_init__(self) -> None:
        steps = integer("steps", self.steps, at_least=0)
        object.__setattr__(self, "steps", steps)
        object.__setattr__(self, "lr", _rates(self.lr, steps))
        if self.batch is not None:
            object.__setattr__(self, "batch", integer("batch", self.batch, at_least=1))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, OnlineSGD):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    @property
    def descent(self) -> GradientDescent:
        """The same updates, whatever samples they see."""
        return GradientDescent(self.lr, self.steps)

    @property
    def rates(self) -> FloatArray:
        """Learning rate of every update, (steps,); not writeable."""
        return self.descent.rates

    def _key(self) -> tuple[Any, ...]:
        lr = self.lr.tobytes() if isinstance(self.lr, np.ndarray) else self.lr
        return lr, self.steps, self.batch


#: What `solve` can be asked for.
Training: TypeAlias = GradientDescent | GradientFlow | OnlineSGD


def _rates(lr: Any, steps: int) -> float | FloatArray:
    if np.ndim(lr) == 0:
        return positive("lr", lr)
    rates = real_array("lr", lr, 1)
    if len(rates) != steps:
        raise ValueError(
            f"lr as a schedule must hold one rate for each of the {steps} updates, "
            f"found {len(rates)}"
        )
    if np.any(rates <= 0):
        raise ValueError(f"lr must be > 0, found {rates.min():g} at update {rates.argmin()}")
    return rates
