r"""Resolvents M_k = (1 + lambda_k K)^{-1} of one causal kernel, row by row.

Row t of M_k solves ``m (1 + lambda_k K) = 1_t``, and products with M_k^T solve
``(1 + lambda_k K) z = y``: substitutions that need K, which all k have in common, and of M_k the
diagonal blocks M_JJ = (1 + lambda_k K_JJ)^{-1} alone:

    m_J = - lambda_k ( sum_{I > J} m_I K_IJ ) M_JJ        from the last block to the first
    z_J = M_JJ ( y_J - lambda_k sum_{I < J} K_JI z_I )    from the first block to the last

The sums are products of matrices, modes times times, and K is read once for all modes. The flops
are those of the products with whole M_k, n^2 for each mode and product, and the memory is n times
the length of a block for each mode, not n^2. In a single block the M_k are whole.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dmftcore import twotime
from dmftcore._validate import FloatArray
from dmftcore.recording import Rows

__all__ = ["Resolvents"]


class Resolvents:
    """Rows of all M_k, as the rows of K become known.

    Parameters
    ----------
    kernel : (N, N) array
        History of the strictly causal K.
    length : int
        Length of a diagonal block.
    xp : module
        Array library of the history.
    """

    def __init__(self, kernel: FloatArray, length: int, *, xp: Any = np) -> None:
        self._kernel, self._length, self._xp = kernel, length, xp
        #: -lambda_k, (modes, 1).
        self._minus = xp.zeros((0, 1))
        #: M_JJ of all modes, (modes, length, length), of one J after the other.
        self._blocks: list[FloatArray] = []

    def start(self, values: FloatArray, steps: int) -> None:
        """Go over to other lambda_k, (modes,), where the rows of `steps` steps are known."""
        self._minus = self._xp.asarray(-values[:, None])
        self._blocks = []
        for step in range(steps):
            self._append_to_block(step)

    def append(self, step: int) -> FloatArray:
        """Rows of all M_k at `step`, (modes, step + 1), from the rows of K up to it."""
        own = self._append_to_block(step)
        if len(self._blocks) == 1:
            return own
        begin = step + 1 - own.shape[1]
        rows: FloatArray = self._xp.empty((len(own), step + 1))
        rows[:, begin:] = own
        for block in reversed(self._blocks[:-1]):
            end, begin = begin, begin - self._length
            x = rows[:, end:] @ self._kernel[end : step + 1, begin:end]
            x *= self._minus
            rows[:, begin:end] = twotime.rows_causal_batch(x, block)
        return rows

    def record(self, k: Rows) -> Any:
        """What `append` does, for a row of K that is being recorded, in a single block."""
        if not self._blocks:
            self._blocks.append(np.zeros((len(self._minus), *self._kernel.shape)))
        (block,), record = self._blocks, k.program
        minus = self._minus[:, 0]
        # Nothing is later than itself: K and the block have a zero at the present step.
        driven: Any = record.by_row(minus, k)
        earlier: Any = twotime.rows_causal_batch(driven, block)
        rows: Any = earlier + record.by_row(np.ones(len(minus)), record.unit(1))
        record.append(block, rows)
        return rows

    def times_transposed(self, rows: FloatArray) -> FloatArray:
        """Products of a row for each mode, (modes, n), with M_k^T of the n known steps."""
        if len(self._blocks) == 1:
            return twotime.rows_causal_batch(rows, self._blocks[0], transposed=True)
        products: FloatArray = self._xp.empty(rows.shape)
        n, begin = rows.shape[1], 0
        for block in self._blocks:
            end = min(begin + self._length, n)
            y = products[:, :begin] @ self._kernel[begin:end, :begin].T
            y *= self._minus
            y += rows[:, begin:end]
            products[:, begin:end] = twotime.rows_causal_batch(y, block, transposed=True)
            begin = end
        return products

    def _append_to_block(self, step: int) -> FloatArray:
        """What the rows at `step` have in their diagonal block, appended to it."""
        i = step % self._length
        if i == 0:
            size = min(self._length, len(self._kernel) - step)
            self._blocks.append(self._xp.zeros((len(self._minus), size, size)))
        block = self._blocks[-1]
        rows: FloatArray = self._xp.empty((len(block), i + 1))
        rows[:, :i] = twotime.rows_causal_batch(
            self._minus * self._kernel[step, step - i : step], block
        )
        rows[:, i] = 1.0
        block[:, i, : i + 1] = rows
        return rows
