"""Kernels of an ensemble of particles, at the steps where they were stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.observables import standard_error
from dmftcore.sampled.particles import products

__all__ = ["StoredKernels", "pairs"]


class StoredKernels:
    """Kernels of an ensemble at the steps where they were stored.

    Those at equal times are means over the runs, with their standard errors; what two-time kernels
    are made of is kept for every run.

    Parameters
    ----------
    two_time : bool
        Whether to keep what two-time kernels need.
    """

    def __init__(self, two_time: bool) -> None:
        self.two_time = two_time
        #: By name, for every stored step: mean and standard error of every layer.
        self._equal: dict[str, list[FloatArray]] = {}
        #: By name and layer: fields, or coordinates along visited columns, of every stored step.
        self._histories: dict[str, list[list[Any]]] = {}

    @property
    def steps(self) -> int:
        """How many steps are stored."""
        return len(self._equal.get("ntk", ()))

    def append(self, kernels: Mapping[str, Sequence[FloatArray]]) -> None:
        """Add one step: name -> layers -> kernels (runs, ., .)."""
        for name, layers in kernels.items():
            values = np.array([[x.mean(axis=0), _error(x)] for x in layers])
            self._equal.setdefault(name, []).append(values)

    def keep(self, vectors: Mapping[str, Sequence[Any]]) -> None:
        """Add what two-time kernels need of one step: name -> layers -> columns (runs, ., .)."""
        for name, layers in vectors.items():
            histories = self._histories.setdefault(name, [[] for _ in layers])
            for history, x in zip(histories, layers, strict=True):
                history.append(_arrays.host_copy(x))

    def equal_time(self, name: str) -> tuple[FloatArray, FloatArray]:
        """Mean and standard error of "H", "Phi", "G", "ntk", "sharpness": (layers, n, ., .)."""
        values = np.stack(self._equal[name], axis=2)
        return values[:, 0], values[:, 1]

    def between_times(self, name: str) -> list[FloatArray]:
        """A two-time kernel of every layer, (runs, n, ., n, .).

        "H", "Phi", "G"; "AG" and "BPhi", responses times the correlations of what they answer to.
        """
        if name in ("AG", "BPhi"):
            partner = self._histories["G" if name == "AG" else "Phi"]
            return [pairs(x, y) for x, y in zip(self._histories[name], partner, strict=True)]
        inner = [] if name == "H" else [pairs(x, x) for x in self._histories[name]]
        outer = {"H": "h", "Phi": "psi", "G": "g"}[name]
        sampled = [_mean_products(columns) for columns in self._histories[outer]]
        # The readout sees the last state; the lowest gradient is that by the first one.
        return sampled + inner if name == "G" else inner + sampled

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that is stored."""
        parts = {f"equal.{name}": np.stack(values) for name, values in self._equal.items()}
        for name, layers in self._histories.items():
            for layer, history in enumerate(layers):
                parts |= {f"history.{name}.{layer}.{i}": x for i, x in enumerate(history)}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        self._equal, self._histories = {}, {}
        for key in state:
            kind, name, *rest = key.split(".")
            if kind == "equal":
                self._equal[name] = list(state[key])
            else:
                layers = self._histories.setdefault(name, [])
                layer, step = map(int, rest)
                # In the order in which `state` wrote them.
                while len(layers) <= layer:
                    layers.append([])
                assert len(layers[layer]) == step
                layers[layer].append(np.asarray(state[key]))


def _error(values: FloatArray) -> FloatArray:
    """Standard error of the mean over the runs, not a number if there is but one."""
    return standard_error(values) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def pairs(left: list[FloatArray], right: list[FloatArray]) -> FloatArray:
    """``left_t^T right_s`` of coordinates that were padded differently, (runs, n, ., n, .)."""
    size = max(x.shape[1] for x in (*left, *right))

    def side(parts: list[FloatArray]) -> FloatArray:
        stacked = [np.pad(x, ((0, 0), (0, size - x.shape[1]), (0, 0))) for x in parts]
        return np.concatenate(stacked, axis=2)

    product = side(left).swapaxes(1, 2) @ side(right)
    shape = (len(left), left[0].shape[2], len(right), right[0].shape[2])
    return product.reshape(-1, *shape)


def _mean_products(fields: list[Any]) -> FloatArray:
    """Inner products of fields at all stored steps, (runs, n, ., n, .)."""
    columns = np.concatenate(fields, axis=1)
    _, _, gram = products(columns, columns.shape[1], gram=True)
    n, width = len(fields), fields[0].shape[1]
    kernel: FloatArray = gram.reshape(-1, n, width, n, width)
    return kernel
