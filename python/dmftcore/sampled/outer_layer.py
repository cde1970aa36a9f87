"""Outer layers on particles: the weights of the inputs and of the readout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.sampled.particles import Particles, blend, enlarged
from dmftcore.training import GradientDescent

__all__ = ["OuterLayer"]


class OuterLayer:
    """Weights that are columns over particles, and learn.

    Attributes
    ----------
    columns : (runs, m, S) array
    velocity : array like `columns`, or None
        None without momentum.
    """

    def __init__(
        self, particles: Particles, count: int, stream: int, training: GradientDescent
    ) -> None:
        self.particles, self._training = particles, training
        none = np.zeros(particles.runs, dtype=np.int64)
        self.columns = particles.draw(none + count, stream, none)
        self.velocity = particles.xp.zeros_like(self.columns) if training.momentum else None

    @property
    def basis(self) -> tuple[Any, Any]:
        """The columns, as the operations take them."""
        return self.basis_of(self.columns)

    def basis_of(self, columns: Any) -> tuple[Any, Any]:
        """Other columns like these."""
        return columns, None

    def update(self, fields: Any, n: int, along: FloatArray, rate: float) -> None:
        """Heavy ball along ``sum_j along_j fields_j`` of the first n fields; along (runs, n, m)."""
        basis = (fields, np.full(len(fields), n))
        factors = np.zeros((len(fields), fields.shape[1], along.shape[2]))
        factors[:, :n] = along
        count, decay = along.shape[2], self._training.weight_decay
        if self.velocity is None:
            blend(
                count,
                basis,
                factors,
                base=self.columns,
                skip=1 - rate * decay,
                scale=rate,
                y=self.columns,
            )
            return
        momentum = self._training.momentum
        blend(count, basis, factors, base=self.velocity, skip=momentum, y=self.velocity)
        if decay:
            self.velocity -= decay * self.columns
        self.columns += rate * self.velocity

    def enlarge(self, size: int) -> None:
        """Go on in a larger set of unit sources."""
        self.columns = enlarged(self.columns, size)
        if self.velocity is not None:
            self.velocity = enlarged(self.velocity, size)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Weights and velocities."""
        parts = {"columns": _arrays.host_copy(self.columns)}
        if self.velocity is not None:
            parts["velocity"] = _arrays.host_copy(self.velocity)
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        xp = self.particles.xp
        self.columns = xp.array(state["columns"])
        self.velocity = xp.array(state["velocity"]) if "velocity" in state else None
