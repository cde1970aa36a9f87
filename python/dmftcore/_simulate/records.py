"""What is kept of the networks of a run: fields of a `Solution`, with their standard errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays, observables
from dmftcore._simulate.options import Options
from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.limits.linear import DeepLinear
from dmftcore.observables import sharpness, tangent_kernel
from dmftcore.solution import Layers

__all__ = ["Records", "curves", "standard_error"]


class Records:
    """Kernels of the networks at the kernel times passed so far: means and standard errors."""

    def __init__(self, limit: DeepLinear, data: Dataset, options: Options) -> None:
        depth = limit.depth
        self._branch = limit.branch_factor
        self._width = options.width
        self._n_train = data.n_train
        self._kernel = data.kernel
        self._with_error = options.seeds > 1
        self._count = 0
        slots = len(options.schedule.kernel_times)
        points, outputs = len(data.kernel), data.n_outputs
        layers = range(1, depth + 1)
        patterns = data.targets.shape
        self._equal: dict[str, Layers] = {
            "H": {layer: np.empty((slots, points, points)) for layer in layers},
            "G": {layer: np.empty((slots, outputs, outputs)) for layer in layers},
        }
        self._means = {
            "ntk": np.empty((slots, *patterns, *patterns)),
            "sharpness": np.empty(slots),
        }
        # Those of kernels have the layer on their first axis.
        self._errors: dict[str, FloatArray] = {}
        if self._with_error:
            self._errors = {name: np.empty_like(mean) for name, mean in self._means.items()}
            for name, kernels in self._equal.items():
                self._errors[name] = np.empty((depth, *kernels[1].shape))
        # Vectors at all kernel times: two-time kernels are their products, taken at the end.
        rows = {"H": points, "G": outputs}
        self._vectors: dict[str, Layers] = {
            name: {
                layer: np.empty((options.seeds, slots, rows[name], options.width))
                for layer in layers
            }
            for name in options.save
        }

    def store(self, features: Iterable[Any], gradients: list[Any]) -> None:
        """Add one step: features of all points and gradients, layer by layer.

        Arrays of numpy or cupy; what is stored is on the host.
        """
        patterns = slice(self._n_train)
        h_side = [self._kernel[None, patterns, patterns]]
        for layer, h in enumerate(features, start=1):
            h_side.append(self._store_layer("H", layer, h)[:, patterns, patterns])
        g_side = [self._store_layer("G", layer, g) for layer, g in enumerate(gradients, start=1)]
        g_side.append(np.eye(gradients[0].shape[1])[None])
        self._store_tangent(tangent_kernel(h_side, g_side, self._branch))
        self._count += 1

    def _store_layer(self, name: str, layer: int, vectors: Any) -> FloatArray:
        """Store kernel `name` of one layer; its values (S, rows, rows) in every network."""
        products: FloatArray = _arrays.to_host(vectors @ vectors.swapaxes(1, 2) / self._width)
        self._equal[name][layer][self._count] = products.mean(axis=0)
        if self._with_error:
            self._errors[name][layer - 1, self._count] = standard_error(products)
        if name in self._vectors:
            self._vectors[name][layer][:, self._count] = _arrays.to_host(vectors)
        return products

    def _store_tangent(self, tangent: FloatArray) -> None:
        """Store the tangent kernels (S, P, K, P, K) and their sharpness."""
        largest = np.array([sharpness(kernel) for kernel in tangent])
        for name, values in (("ntk", tangent), ("sharpness", largest)):
            mean = self._means[name][self._count]
            self._means[name][self._count] = values.mean(axis=0).reshape(mean.shape)
            if self._with_error:
                self._errors[name][self._count] = standard_error(values).reshape(mean.shape)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What is stored so far."""
        stored = {name: values[: self._count].copy() for name, values in self._by_slot().items()}
        return {"count": np.array(self._count), **stored}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` of a run of the same networks has stored."""
        self._count = int(state["count"])
        for name, values in self._by_slot().items():
            values[: self._count] = state[name]

    def _by_slot(self) -> dict[str, FloatArray]:
        """Views of all storage, one kernel time after the other on the first axis."""
        views = {f"mean.{name}": mean for name, mean in self._means.items()}
        for name, error in self._errors.items():
            views[f"error.{name}"] = error.swapaxes(0, 1) if name in self._equal else error
        for name, layers in self._equal.items():
            views |= {f"mean.{name}.{layer}": values for layer, values in layers.items()}
        for name, layers in self._vectors.items():
            views |= {
                f"vectors.{name}.{layer}": values.swapaxes(0, 1) for layer, values in layers.items()
            }
        return views

    def fields(self) -> dict[str, Any]:
        """The kernel fields of a `Solution`."""
        count = self._count
        return {
            **{name: mean[:count] for name, mean in self._means.items()},
            "equal_time": {
                name: {layer: values[:count] for layer, values in layers.items()}
                for name, layers in self._equal.items()
            },
            "two_time": {
                name: {
                    layer: two_time_kernel(values[:, :count]) for layer, values in layers.items()
                }
                for name, layers in self._vectors.items()
            },
            "standard_errors": {
                name: error[:, :count] if name in self._equal else error[:count]
                for name, error in self._errors.items()
            },
        }


def standard_error(values: FloatArray) -> FloatArray:
    """Standard error of the mean over the first axis."""
    error: FloatArray = np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
    return error


def two_time_kernel(vectors: FloatArray) -> FloatArray:
    """Mean over networks of the products of vectors (S, times, rows, N)."""
    seeds, times, rows, width = vectors.shape
    total = np.zeros((times * rows, times * rows))
    for network in vectors.reshape(seeds, times * rows, width):
        total += network @ network.T
    total /= seeds * width
    return total.reshape(times, rows, times, rows)


def curves(data: Dataset, outputs: FloatArray, loss: str = "square") -> dict[str, Any]:
    """Curve fields of a `Solution` from outputs (n_times, S, P + Q, K)."""
    per_seed = observables.curves(data, outputs.swapaxes(0, 1), loss)
    errors = per_seed.pop("errors")
    means: dict[str, Any] = {name: values.mean(axis=0) for name, values in per_seed.items()}
    several = outputs.shape[1] > 1
    return {
        **means,
        "errors": errors.mean(axis=0),
        "per_seed": per_seed,
        "standard_errors": {
            name: standard_error(values) for name, values in per_seed.items() if several
        },
    }
