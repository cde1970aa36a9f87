"""What is kept of networks of attention: kernels among tokens, heads, and standard errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.records import two_time_fields, two_time_kernel
from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.observables import sharpness, standard_error
from dmftcore.solution import Layers

__all__ = ["TokenRecords"]


class TokenRecords:
    """Fields of the networks at the kernel times passed so far: means and standard errors.

    Parameters
    ----------
    data : Dataset
    save : sequence of str
        Kernels whose vectors are kept, for values between different times, and "S_heads" and
        "A_heads" for patterns and scores of every head.
    """

    def __init__(self, data: Dataset, save: tuple[str, ...]) -> None:
        self._data, self._save = data, save
        #: By name, one array for every kernel time: layers of kernels on the first axis.
        self._means: dict[str, list[FloatArray]] = {}
        self._errors: dict[str, list[FloatArray]] = {}
        #: Vectors (layers, B, M, W).
        self._vectors: dict[str, list[FloatArray]] = {}
        self._heads: dict[str, list[FloatArray]] = {}
        #: Names of kernels.
        self._kernels: list[str] = []

    def store(
        self,
        vectors: Mapping[str, Sequence[Any]],
        values: Mapping[str, Any],
        heads: Mapping[str, Any],
    ) -> None:
        """Add one step.

        Parameters
        ----------
        vectors : mapping to sequences of (B, M, W) arrays
            By the name of their kernel, layer by layer.
        values : mapping to (B, ...) arrays
            Order parameters of every network and, as "ntk", its tangent kernel (P, K, P, K).
        heads : mapping to (B, [layers,] H, P + Q, S, S) arrays
            S and A of every head.
        """
        self._kernels = list(vectors)
        for name, layers in vectors.items():
            products = [_arrays.to_host(x @ x.swapaxes(1, 2) / x.shape[2]) for x in layers]
            self._add(name, np.stack(products, axis=1))
            if name in self._save:
                kept = np.stack([_arrays.to_host(x) for x in layers])
                self._vectors.setdefault(name, []).append(kept)
        for name, of_networks in values.items():
            found = _arrays.to_host(of_networks)
            self._add(name, found)
            if name == "ntk":
                self._add("sharpness", np.array([sharpness(kernel) for kernel in found]))
        for name, of_heads in heads.items():
            axis = of_heads.ndim - 4
            self._add(f"{name}_mean", _arrays.to_host(of_heads.mean(axis=axis)))
            self._add(f"{name}_var", _arrays.to_host(of_heads.var(axis=axis)))
            if f"{name}_heads" in self._save:
                # Networks beside their heads.
                kept = np.moveaxis(_arrays.to_host(of_heads), 0, axis - 1)
                self._heads.setdefault(f"{name}_heads", []).append(kept)

    def _add(self, name: str, of_networks: FloatArray) -> None:
        self._means.setdefault(name, []).append(of_networks.mean(axis=0))
        if len(of_networks) > 1:
            self._errors.setdefault(name, []).append(standard_error(of_networks))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What is stored so far."""
        stored = {
            f"{kind} {name}": np.stack(slots)
            for kind, stored in self._by_kind().items()
            for name, slots in stored.items()
        }
        return {"kernels": np.array(self._kernels, dtype=np.str_), **stored}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` of a run of the same networks has stored."""
        self._kernels = state["kernels"].tolist()
        for key, slots in state.items():
            kind, _, name = key.partition(" ")
            if name:
                self._by_kind()[kind][name] = list(slots)

    def _by_kind(self) -> dict[str, dict[str, list[FloatArray]]]:
        return {
            "mean": self._means,
            "error": self._errors,
            "vectors": self._vectors,
            "heads": self._heads,
        }

    def fields(self) -> dict[str, Any]:
        """The kernel fields of a `Solution`; errors of kernels have the layer on axis 0."""
        means, errors, heads = (
            {name: np.stack(slots) for name, slots in stored.items()}
            for stored in (self._means, self._errors, self._heads)
        )
        targets = self._data.targets.shape
        for of in (means, errors):
            for name, sides in (("ntk", targets), ("Z_mean", targets[1:])):
                if name in of:
                    of[name] = of[name].reshape(-1, *sides, *sides)
            # Layers first.
            of |= {name: of[name].swapaxes(0, 1) for name in self._kernels if name in of}
        two_time, two_time_errors = self._two_time()
        return {
            "equal_time": {name: dict(enumerate(means.pop(name))) for name in self._kernels},
            "two_time": two_time,
            "ntk": means.pop("ntk", None),
            "sharpness": means.pop("sharpness", None),
            "order_parameters": means | heads,
            "standard_errors": errors | two_time_errors,
        }

    def _two_time(self) -> tuple[dict[str, Layers], dict[str, FloatArray]]:
        """Kernels of which the vectors are kept, (n, M, n, M) by name and layer, and errors."""
        return two_time_fields(
            {
                name: {
                    layer: two_time_kernel(vectors, vectors.shape[2:3])
                    for layer, vectors in enumerate(np.stack(slots, axis=2))
                }
                for name, slots in self._vectors.items()
            }
        )
