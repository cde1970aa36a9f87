"""What is kept of transformers: kernels among tokens, with their standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.records import two_time_kernel
from dmftcore._validate import FloatArray
from dmftcore.observables import standard_error
from dmftcore.solution import Layers

__all__ = ["TokenRecords"]


class TokenRecords:
    """Fields of the networks at the kernel times passed so far: means and standard errors.

    Parameters
    ----------
    save : sequence of str
        Kernels whose vectors are kept, for values between different times.
    """

    def __init__(self, save: tuple[str, ...]) -> None:
        self._save = save
        #: By name, one array for every kernel time: layers of kernels on the first axis.
        self._means: dict[str, list[FloatArray]] = {}
        self._errors: dict[str, list[FloatArray]] = {}
        #: Vectors (layers, B, M, W).
        self._vectors: dict[str, list[FloatArray]] = {}

    def store(self, vectors: Mapping[str, Sequence[Any]], values: Mapping[str, Any]) -> None:
        """Add one step.

        Parameters
        ----------
        vectors : mapping to sequences of (B, M, W) arrays
            By the name of their kernel, layer by layer.
        values : mapping to (B, ...) arrays
            Other fields of every network.
        """
        for name, layers in vectors.items():
            products = [_arrays.to_host(x @ x.swapaxes(1, 2) / x.shape[2]) for x in layers]
            self._add(name, np.stack(products, axis=1))
            if name in self._save:
                kept = np.stack([_arrays.to_host(x) for x in layers])
                self._vectors.setdefault(name, []).append(kept)
        for name, of_networks in values.items():
            self._add(name, _arrays.to_host(of_networks))

    def _add(self, name: str, of_networks: FloatArray) -> None:
        self._means.setdefault(name, []).append(of_networks.mean(axis=0))
        if len(of_networks) > 1:
            self._errors.setdefault(name, []).append(standard_error(of_networks))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What is stored so far."""
        return {
            f"{kind} {name}": np.stack(slots)
            for kind, stored in self._by_kind().items()
            for name, slots in stored.items()
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` of a run of the same networks has stored."""
        for key, slots in state.items():
            kind, _, name = key.partition(" ")
            self._by_kind()[kind][name] = list(slots)

    def _by_kind(self) -> dict[str, dict[str, list[FloatArray]]]:
        return {"mean": self._means, "error": self._errors, "vectors": self._vectors}

    def kernels(self, names: Sequence[str]) -> dict[str, Layers]:
        """Equal-time kernels, (n, M, M) by name and layer."""
        return {
            name: dict(enumerate(np.stack(self._means[name], axis=1)))
            for name in names
            if name in self._means
        }

    def two_time(self) -> dict[str, Layers]:
        """Kernels of which the vectors are kept, (n, M, n, M) by name and layer."""
        return {
            name: {
                layer: two_time_kernel(vectors, vectors.shape[2:3])[0]
                for layer, vectors in enumerate(np.stack(slots, axis=2))
            }
            for name, slots in self._vectors.items()
        }

    def means(self, names: Sequence[str]) -> dict[str, FloatArray]:
        """Other fields, (n, ...) by name."""
        return {name: np.stack(self._means[name]) for name in names if name in self._means}

    def errors(self, kernels: Sequence[str]) -> dict[str, FloatArray]:
        """Standard errors of all fields; those of `kernels` have the layer on their first axis."""
        return {
            name: np.stack(slots, axis=1 if name in kernels else 0)
            for name, slots in self._errors.items()
        }
