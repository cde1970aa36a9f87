"""What an optimiser remembers: parameters as sums over past descent directions.

Momentum, weight decay and learning-rate schedules are linear, and the same for every parameter:

    theta(t) = c(t) theta(0) + sum_{s<t} kap(t,s) d(s),        d = -gamma^2 N grad(loss),

with scalars c and kap that depend on the training alone. Plain gradient descent has c = 1 and
kap(t,s) = lr(s).
"""

from __future__ import annotations

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.training import GradientDescent

__all__ = ["OptimizerMemory"]


class OptimizerMemory:
    """The scalars c(t) and kap(t,s) of a training.

    Attributes
    ----------
    kept : (steps + 1,) array
        c(t), the part of the initial parameters that is left.
    """

    def __init__(self, training: GradientDescent) -> None:
        self._training = training
        self.kept = self._kept()
        self._restart()

    def row(self, step: int) -> FloatArray:
        """kap(step, s) for s = 0..step-1, (step,); O(step) when steps are asked for in order."""
        if self._training.is_plain:
            return self._training.rates[:step]
        if step < self._step:
            self._restart()
        m, decay = self._training.momentum, self._training.weight_decay
        while self._step < step:
            now = slice(self._step + 1)
            # A unit impulse d enters the velocity at its step; the velocity moves the parameter.
            self._velocity[self._step] = 1.0
            self._velocity[: self._step] *= m
            self._velocity[: self._step] -= decay * self._moved[: self._step]
            self._moved[now] += self._training.rates[self._step] * self._velocity[now]
            self._step += 1
        return self._moved[:step].copy()

    def _restart(self) -> None:
        self._step = 0
        #: Parameter and velocity, at step `_step`, after a unit impulse at each earlier step.
        self._moved = np.zeros(self._training.steps)
        self._velocity = np.zeros(self._training.steps)

    def _kept(self) -> FloatArray:
        kept, velocity = np.ones(self._training.steps + 1), 0.0
        for step, rate in enumerate(self._training.rates.tolist()):
            velocity = self._training.momentum * velocity
            velocity -= self._training.weight_decay * kept[step]
            kept[step + 1] = kept[step] + rate * velocity
        return kept
