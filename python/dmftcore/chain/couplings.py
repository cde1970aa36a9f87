"""How one weight matrix couples the rows of two times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.optimizer import OptimizerMemory
from dmftcore.recording import Rows
from dmftcore.training import GradientDescent

__all__ = ["Couplings", "Through"]

#: Rows (m, n) times a kernel.
Through: TypeAlias = Callable[[FloatArray], FloatArray]


class Couplings:
    """The two ways in which a weight matrix relates step t to step s, factors of kernels.

    With ``W(t) = c(t) W(0) + sum_{s<t} kap(t,s) d(s)``, its random part contributes the factor
    ``kept = init_scale^2 c(t) c(s)`` and what it has learned ``learned = kap(t,s) / P``, zero for
    s >= t. Without weight decay kept is the number init_scale^2.

    Parameters
    ----------
    training : GradientDescent
    points : float
        Number P of training points, or whatever else divides kap(t,s).
    init_scale : float
    outputs : int
        Number K of rows and columns of a step.
    xp : module
        Array library of the rows.
    """

    def __init__(
        self, training: GradientDescent, *, points: float, init_scale: float, outputs: int, xp: Any
    ) -> None:
        self._memory = OptimizerMemory(training)
        self._points, self._outputs, self._xp = points, outputs, xp
        self._s2 = init_scale**2
        #: init_scale c(t) at every step.
        self.scale = init_scale * self._memory.kept
        self._c = self._on_rows(self._memory.kept) if training.weight_decay else None
        self._plain = training.is_plain
        self._row_step = training.steps if training.is_plain else 0
        self._row = self._on_rows(self._memory.row(self._row_step) / points)

    @property
    def repeats(self) -> bool:
        """Whether rows are coupled alike at all steps, so that they can be recorded."""
        return self._plain and self.is_constant

    @property
    def is_constant(self) -> bool:
        """Whether kept is the same number at all times."""
        return self._c is None

    def kept(self, rows: FloatArray, step: int) -> FloatArray:
        """kept o rows, for rows (m, n) at `step`."""
        if self._c is None:
            return self._s2 * rows
        return float(self._s2 * self._memory.kept[step]) * rows * self._c[: rows.shape[1]]

    def learned(self, rows: FloatArray, step: int) -> FloatArray:
        """learned o rows, for rows (m, n) at `step`; zero from the columns of `step` on."""
        if isinstance(rows, Rows):
            return rows.program.before(rows, self._row)
        return self._add_learned(self._xp.zeros_like(rows), rows, step)

    def both(self, response: FloatArray, correlation: FloatArray, step: int) -> FloatArray:
        """``kept o A + learned o H`` for rows (m, n) of a response A and a correlation H."""
        if isinstance(correlation, Rows):
            return self.kept(response, step) + self.learned(correlation, step)
        return self._add_learned(self.kept(response, step), correlation, step)

    def through(self, kernel: Through, factor: float = 1.0) -> Through:
        """Products of rows with ``factor kept o K``, where `kernel` multiplies by K."""
        factor *= self._s2
        if self._c is None:
            return kernel if factor == 1 else lambda rows: factor * kernel(rows)
        weights = self._c

        def product(rows: FloatArray) -> FloatArray:
            c = weights[: rows.shape[1]]
            return factor * c * kernel(c * rows)

        return product

    def dense(self, steps: int) -> tuple[FloatArray, FloatArray]:
        """kept and learned as matrices over the rows of the first `steps` steps, in numpy."""
        c = np.repeat(self.scale[:steps], self._outputs)
        learned = np.zeros((steps, steps))
        if self._plain:
            learned[:, :-1] = self._memory.row(steps - 1)
            learned = np.tril(learned, -1)
        else:
            for step in range(steps):
                learned[step, :step] = self._memory.row(step)
        learned = (learned / self._points).repeat(self._outputs, 0).repeat(self._outputs, 1)
        return np.outer(c, c), learned

    def _add_learned(self, total: FloatArray, rows: FloatArray, step: int) -> FloatArray:
        if not self._plain and step != self._row_step:
            self._row_step = step
            self._row = self._on_rows(self._memory.row(step) / self._points)
        known = step * self._outputs
        total[:, :known] += rows[:, :known] * self._row[:known]
        return total

    def _on_rows(self, by_step: FloatArray) -> FloatArray:
        rows: FloatArray = self._xp.asarray(np.repeat(by_step, self._outputs))
        return rows
