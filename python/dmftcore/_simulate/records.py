"""What is kept of the networks of a run: fields of a `Solution`, with their standard errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.options import Options
from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.observables import sharpness, standard_error
from dmftcore.solution import Layers

__all__ = [
    "Records",
    "Sides",
    "VectorRecords",
    "Vectors",
    "products",
    "two_time_fields",
    "two_time_kernel",
]

#: What one side of every kernel counts: name -> layer -> shape.
Sides: TypeAlias = Mapping[str, Mapping[int, tuple[int, ...]]]

#: Rows of every network, (S, rows, N), of numpy or cupy: name -> layer -> rows.
Vectors: TypeAlias = Mapping[str, Mapping[int, Any]]


class _Slots(ABC):
    """Storage with a slot for each kernel time, of which so many are filled."""

    _count = 0

    @abstractmethod
    def _by_slot(self) -> dict[str, FloatArray]:
        """Views of all storage, one kernel time after the other on the first axis."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What is stored so far."""
        stored = {name: values[: self._count].copy() for name, values in self._by_slot().items()}
        return {"count": np.array(self._count), **stored}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` of a run of the same networks has stored."""
        self._count = int(state["count"])
        for name, values in self._by_slot().items():
            values[: self._count] = state[name]


class Records(_Slots):
    """Kernels of the networks at the kernel times passed so far: means and standard errors.

    Parameters
    ----------
    sides : mapping of mappings
        Which kernels there are, and their sides.
    data : Dataset
    options : Options
    """

    def __init__(self, sides: Sides, data: Dataset, options: Options) -> None:
        self._sides = sides
        slots = len(options.schedule.kernel_times)
        patterns = data.targets.shape
        self._equal: dict[str, Layers] = {
            name: {layer: np.empty((slots, *side, *side)) for layer, side in layers.items()}
            for name, layers in sides.items()
        }
        self._means = {
            "ntk": np.empty((slots, *patterns, *patterns)),
            "sharpness": np.empty(slots),
        }
        self._errors: dict[str, FloatArray] = {}
        self._kernel_errors: dict[str, Layers] = {}
        if options.seeds > 1:
            self._errors = {name: np.empty_like(mean) for name, mean in self._means.items()}
            self._kernel_errors = {
                name: {layer: np.empty_like(kernel) for layer, kernel in kernels.items()}
                for name, kernels in self._equal.items()
            }
        # Vectors at all kernel times: two-time kernels are their products, taken at the end.
        self._vectors: dict[str, Layers] = {
            name: {
                layer: np.empty((options.seeds, slots, int(np.prod(side)), options.width))
                for layer, side in sides[name].items()
            }
            for name in options.save
        }

    def store(self, vectors: Vectors, kernels: Vectors, tangent: FloatArray) -> None:
        """Add one step.

        Parameters
        ----------
        vectors : mapping of mappings
            Rows of every kernel by name and layer.
        kernels : mapping of mappings
            Their `products`.
        tangent : (S, P, K, P, K) array
            Tangent kernels.
        """
        for name, layers in kernels.items():
            for layer, values in layers.items():
                kernel = self._equal[name][layer][self._count]
                kernel[...] = values.mean(axis=0).reshape(kernel.shape)
                if self._kernel_errors:
                    error = standard_error(values).reshape(kernel.shape)
                    self._kernel_errors[name][layer][self._count] = error
        for name, stored in self._vectors.items():
            for layer, values in vectors[name].items():
                stored[layer][:, self._count] = _arrays.to_host(values)
        self._store_tangent(tangent)
        self._count += 1

    def _store_tangent(self, tangent: FloatArray) -> None:
        largest = np.array([sharpness(kernel) for kernel in tangent])
        for name, values in (("ntk", tangent), ("sharpness", largest)):
            mean = self._means[name][self._count]
            self._means[name][self._count] = values.mean(axis=0).reshape(mean.shape)
            if self._errors:
                self._errors[name][self._count] = standard_error(values).reshape(mean.shape)

    def _by_slot(self) -> dict[str, FloatArray]:
        """See `_Slots`."""
        views = {f"mean.{name}": mean for name, mean in self._means.items()}
        views |= {f"error.{name}": error for name, error in self._errors.items()}
        for kind, kernels in (("mean", self._equal), ("error", self._kernel_errors)):
            for name, layers in kernels.items():
                views |= {f"{kind}.{name}.{layer}": values for layer, values in layers.items()}
        for name, layers in self._vectors.items():
            views |= {
                f"vectors.{name}.{layer}": values.swapaxes(0, 1) for layer, values in layers.items()
            }
        return views

    def fields(self) -> dict[str, Any]:
        """The kernel fields of a `Solution`; errors of kernels have the layer on axis 0."""
        done = slice(self._count)
        two_time, errors = two_time_fields(
            {
                name: {
                    layer: two_time_kernel(values[:, done], self._sides[name][layer])
                    for layer, values in stored.items()
                }
                for name, stored in self._vectors.items()
            }
        )
        return {
            **{name: mean[done] for name, mean in self._means.items()},
            "equal_time": {
                name: {layer: values[done] for layer, values in layers.items()}
                for name, layers in self._equal.items()
            },
            "two_time": two_time,
            "standard_errors": {
                **errors,
                **{name: error[done] for name, error in self._errors.items()},
                **{
                    name: np.stack([values[done] for values in layers.values()])
                    for name, layers in self._kernel_errors.items()
                },
            },
        }


def products(vectors: Vectors) -> dict[str, dict[int, FloatArray]]:
    """Mean products over the neurons of every network, (S, rows, rows), on the host."""
    return {
        name: {
            layer: _arrays.to_host(rows @ rows.swapaxes(1, 2) / rows.shape[2])
            for layer, rows in layers.items()
        }
        for name, layers in vectors.items()
    }


def two_time_kernel(
    vectors: FloatArray, side: tuple[int, ...]
) -> tuple[FloatArray, FloatArray | None]:
    """Products over the neurons of vectors (S, times, rows, N), and their standard error.

    Parameters
    ----------
    vectors : (S, times, rows, N) array
    side : tuple of int
        What the rows count, with their number as its product.

    Returns
    -------
    mean, error : (times, *side, times, *side) arrays
        The mean over networks; the error is None for one network.
    """
    seeds, times, rows, width = vectors.shape
    shape = (times, *side, times, *side)
    mean = np.zeros((times * rows, times * rows))
    squares = np.zeros_like(mean) if seeds > 1 else None
    for count, network in enumerate(vectors.reshape(seeds, times * rows, width), start=1):
        # The mean of the networks so far, and the sum of squares about it.
        deviation = network @ network.T / width - mean
        mean += deviation / count
        if squares is not None:
            squares += deviation**2 * ((count - 1) / count)
    if squares is None:
        return mean.reshape(shape), None
    return mean.reshape(shape), np.sqrt(squares / ((seeds - 1) * seeds)).reshape(shape)


def two_time_fields(
    found: Mapping[str, Mapping[int, tuple[FloatArray, FloatArray | None]]],
) -> tuple[dict[str, Layers], dict[str, FloatArray]]:
    """Means by name and layer, and errors by name with the layer on axis 0.

    Parameters
    ----------
    found : mapping of mappings
        Name -> layer -> what `two_time_kernel` returns.
    """
    means: dict[str, Layers] = {}
    errors: dict[str, FloatArray] = {}
    for name, layers in found.items():
        means[name] = {layer: mean for layer, (mean, _) in layers.items()}
        scatter = [error for _, error in layers.values() if error is not None]
        if scatter:
            errors[f"{name}_two_time"] = np.stack(scatter)
    return means, errors


class VectorRecords(_Slots):
    """Kernels of vectors at the kernel times passed so far: means and standard errors.

    Every kernel is the mean product of the entries of two vectors of a network.

    Parameters
    ----------
    lengths : mapping of mappings
        Name -> layer -> length of the vectors; what has no layers has the layer 0.
    options : Options
    """

    def __init__(self, lengths: Mapping[str, Mapping[int, int]], options: Options) -> None:
        slots, seeds = len(options.schedule.kernel_times), options.seeds
        self._squares: dict[str, Layers] = {
            name: {layer: np.empty((slots, seeds)) for layer in layers}
            for name, layers in lengths.items()
        }
        # Vectors at all kernel times: two-time kernels are their products, taken at the end.
        self._vectors: dict[str, Layers] = {
            name: {
                layer: np.empty((slots, seeds, 1, length))
                for layer, length in lengths[name].items()
            }
            for name in options.save
        }

    def store(self, vectors: Mapping[str, Mapping[int, Any]]) -> None:
        """Add one step: vectors (S, 1, length) by name and layer, of numpy or cupy."""
        for name, layers in vectors.items():
            for layer, vector in layers.items():
                squares = (vector**2).mean(axis=(1, 2))
                self._squares[name][layer][self._count] = _arrays.to_host(squares)
                if name in self._vectors:
                    self._vectors[name][layer][self._count] = _arrays.to_host(vector)
        self._count += 1

    def _by_slot(self) -> dict[str, FloatArray]:
        """See `_Slots`."""
        groups = {"squares": self._squares, "vectors": self._vectors}
        return {
            f"{group}.{name}.{layer}": values
            for group, fields in groups.items()
            for name, layers in fields.items()
            for layer, values in layers.items()
        }

    def fields(self) -> dict[str, Any]:
        """The kernel fields of a `Solution`."""
        done = slice(self._count)
        squares = {
            name: {layer: values[done] for layer, values in layers.items()}
            for name, layers in self._squares.items()
        }
        several = all(v.shape[1] > 1 for layers in squares.values() for v in layers.values())
        two_time, errors = two_time_fields(
            {
                name: {
                    layer: two_time_kernel(values[done].swapaxes(0, 1), ())
                    for layer, values in layers.items()
                }
                for name, layers in self._vectors.items()
            }
        )
        return {
            "equal_time": {
                name: {layer: values.mean(axis=1) for layer, values in layers.items()}
                for name, layers in squares.items()
            },
            "two_time": two_time,
            "standard_errors": {
                **errors,
                **{
                    name: np.stack([standard_error(values.T) for values in layers.values()])
                    for name, layers in squares.items()
                    if several
                },
            },
        }
