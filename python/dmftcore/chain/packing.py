"""Causal histories as they are saved: rows up to their last columns, one after the other."""

from __future__ import annotations

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import FloatArray

__all__ = ["packed", "unpack"]


def packed(history: FloatArray, steps: int, rows: int) -> FloatArray:
    """The first `steps` steps, of `rows` rows each, of a history (N, N), in numpy."""
    known = _arrays.to_host(history[: steps * rows, : steps * rows])
    by_step = [known[t * rows : (t + 1) * rows, : (t + 1) * rows].ravel() for t in range(steps)]
    return np.concatenate([np.empty(0), *by_step])


def unpack(history: FloatArray, saved: FloatArray, steps: int, rows: int) -> None:
    """Put what `packed` has made back into a history."""
    known, begin = np.zeros((steps * rows, steps * rows)), 0
    for t in range(steps):
        now = known[t * rows : (t + 1) * rows, : (t + 1) * rows]
        now[...] = saved[begin : begin + now.size].reshape(now.shape)
        begin += now.size
    history[: len(known), : len(known)] = _arrays.namespace(history).asarray(known)
