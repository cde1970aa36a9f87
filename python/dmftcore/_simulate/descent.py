"""Gradient descent on the weights of networks trained side by side, in place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.linalg import blas

from dmftcore import _arrays
from dmftcore.training import GradientDescent

__all__ = ["Descent", "Outer"]

#: A direction scale * left^T right for every network: left (S, K, m), right (S, K, n).
Outer: TypeAlias = tuple[float, Any, Any]


class Descent:
    """The rule ``v <- m v + d - lambda theta``, ``theta <- theta + lr v``, from v = 0.

    Parameters
    ----------
    training : GradientDescent
    parameters : sequence of (S, m, n) arrays
        All weights, of numpy or cupy; changed by `update`.
    """

    def __init__(self, training: GradientDescent, parameters: Sequence[Any]) -> None:
        self._rates = training.rates
        self._momentum, self._decay = training.momentum, training.weight_decay
        self._parameters = parameters
        #: v of every array of weights; not needed without momentum.
        self.velocities: list[Any] = []
        if training.momentum:
            xp = _arrays.namespace(parameters[0])
            self.velocities = [xp.zeros_like(weights) for weights in parameters]

    def update(self, step: int, directions: Sequence[Outer]) -> None:
        """Make update number `step` along the given descent directions."""
        lr = float(self._rates[step])
        if not self.velocities:
            for weights, (scale, left, right) in zip(self._parameters, directions, strict=True):
                if self._decay:
                    weights *= 1 - lr * self._decay
                _add_outer(weights, lr * scale, left, right)
            return
        for weights, velocity, (scale, left, right) in zip(
            self._parameters, self.velocities, directions, strict=True
        ):
            velocity *= self._momentum
            if self._decay:
                _add(velocity, -self._decay, weights)
            _add_outer(velocity, scale, left, right)
            _add(weights, lr, velocity)


def _add(targets: Any, scale: float, sources: Any) -> None:
    """targets += scale * sources, network by network: the temporary is that of one."""
    for target, source in zip(targets, sources, strict=True):
        target += scale * source


def _add_outer(matrices: Any, scale: float, left: Any, right: Any) -> None:
    """matrices += scale * left^T right for every network, in place."""
    if _arrays.namespace(matrices) is not np:
        for matrix, a, b in zip(matrices, left, right, strict=True):
            matrix += scale * (a.T @ b)
        return
    # This product of rank K is bound by memory traffic, and dgemm adds it in one pass. The
    # transposes are what the routine takes for Fortran order, so nothing is copied.
    for matrix, a, b in zip(matrices, left, right, strict=True):
        blas.dgemm(scale, b.T, a.T, beta=1.0, c=matrix.T, trans_b=True, overwrite_c=True)
