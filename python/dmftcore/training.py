"""The training noun: which dynamics."""

from __future__ import annotations

from dataclasses import dataclass

from dmftcore._validate import integer, positive

__all__ = ["GradientDescent"]


@dataclass(frozen=True)
class GradientDescent:
    """Full-batch gradient descent on the square loss, in discrete time.

    Every parameter moves by ``theta <- theta - lr gamma^2 N grad(loss)`` with
    ``loss = (1/2P) sum |y - f|^2``: the mean-field scaling in which the width N drops out.

    Parameters
    ----------
    lr : float
        Learning rate eta > 0.
    steps : int
        Number of updates; states are numbered t = 0..steps.
    """

    lr: float
    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", positive("lr", self.lr))
        object.__setattr__(self, "steps", integer("steps", self.steps, at_least=0))
