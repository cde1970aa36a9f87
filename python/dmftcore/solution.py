"""The one result type: what a theory predicts, or what an experiment measured."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from dmftcore._optional import optional_import
from dmftcore._validate import FloatArray

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

__all__ = ["Solution"]

IntArray: TypeAlias = npt.NDArray[np.int64]
#: Step numbers, or times tau of a gradient flow.
TimeArray: TypeAlias = IntArray | FloatArray
#: A field of every layer: layer number -> array.
Layers: TypeAlias = dict[int, FloatArray]

#: What the two sides of a kernel or response count, besides time. Where the gradients of patterns
#: differ, an output is one of a pattern.
SIDES = {
    "H": ("point", "point"),
    "Phi": ("point", "point"),
    "G": ("output", "output"),
    "A": ("point", "output"),
    "B": ("output", "pattern"),
    "AG": ("point", "output"),
    "BPhi": ("output", "point"),
}

#: Kernels of a transformer alone; with one of these all kernels and responses are among tokens.
OF_TOKENS = ("O", "P_k", "P_q", "P_v")

#: Kernels and responses of random data and of their features: one layer and no sides.
OF_DATA = ("Cp", "CD", "Cv", "RD", "C0", "C_w", "C_u")

#: How the fields that are dictionaries are named in a file: prefixes, and suffixes of kernels.
_SEED, _ERROR, _ORDER = "per_seed_", "stderr_", "order_parameter_"
_PREFIXES = {_SEED: "per_seed", _ERROR: "standard_errors", _ORDER: "order_parameters"}
_SUFFIXES = {"_two_time": "two_time", "_response": "responses", "": "equal_time"}


@dataclass
class Solution:
    """Result of `solve` or `simulate`; fields that do not exist for a theory are None or empty.

    P training points, Q test points, K outputs. The output axis, written [K], is present when
    the targets have one.

    Attributes
    ----------
    times : (n_times,) int array
        Steps t at which curves are stored; step t is the state before update t. For a
        `GradientFlow` these and all other times are the float ``tau = lr * t``.
    kernel_times : (n_kernel_times,) int array
        Steps of the equal-time kernels, the tangent kernel and the two-time kernels.
    train_loss, test_loss : (n_times,) arrays
        Mean over points of ``sum_k (y - f)^2 / 2``; on random data the expected one, for the test
        loss without the noise of the labels, except for `RandomFeatures`.
    outputs, test_outputs : (n_times, P[, K]) and (n_times, Q[, K]) arrays
        Network outputs f.
    errors : (n_times, P[, K]) array
        ``-d loss / d f``; for the square loss y - f.
    ntk : (n_kernel_times, P[, K], P[, K]) array
        Tangent kernel on the training points.
    sharpness : (n_kernel_times,) array
        ``lambda_max(ntk) / P``; gradient descent is locally stable while lr * sharpness < 2.
    equal_time, two_time, responses : dict of dict
        Kernels and responses by name and layer; read them with `kernel` and `response`.
    per_seed : dict
        Curves of every trained network (`simulate`), or replica of a sampled theory, on the first
        axis.
    standard_errors : dict
        Read them with `stderr`.
    overlap : (n_times,) array
        Of predictor and target, ``beta . beta* / D``, on random data.
    order_parameters : dict
        Of attention, at `kernel_times`: means and variances over heads of the patterns S and the
        scores A, "S_mean", "S_var", "A_mean", "A_var" (n_kernel_times, P + Q, S, S), of a
        `Transformer` with an axis of its blocks after the first; of an `AttentionCore` the overlaps
        "V_mean" (n_kernel_times, M, M) of the values of all M tokens, and "Z_mean"
        (n_kernel_times[, K, K]) of the read-outs. Where they were saved, the numbers of every head,
        "S_heads" and "A_heads" (n_kernel_times, groups, heads, P + Q, S, S), of a `Transformer`
        with the blocks before the groups: networks, replicas, or groups of the heads of one
        average. Heads count alike, but those of `head_weights`, which are in their order.
    diagnostics : dict
        Engine and why it was chosen, residual or error estimates, stability, ranks, memory, wall
        time.
    config : dict
        The nouns and options of the call, and the versions it ran with.
    """

    times: TimeArray
    kernel_times: TimeArray
    train_loss: FloatArray
    #: Typed so that they need no check where they are known to exist: on a fixed data set.
    outputs: Any = None
    errors: Any = None
    test_loss: FloatArray | None = None
    test_outputs: FloatArray | None = None
    ntk: FloatArray | None = None
    sharpness: FloatArray | None = None
    equal_time: dict[str, Layers] = field(default_factory=dict)
    two_time: dict[str, Layers] = field(default_factory=dict)
    responses: dict[str, Layers] = field(default_factory=dict)
    per_seed: dict[str, FloatArray] = field(default_factory=dict)
    standard_errors: dict[str, FloatArray] = field(default_factory=dict)
    overlap: FloatArray | None = None
    order_parameters: dict[str, FloatArray] = field(default_factory=dict)
    diagnostics: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    # -- kernels and responses ---------------------------------------------------------------

    def kernel(
        self, name: str, layer: int | None = None, t: float | None = None, s: float | None = None
    ) -> FloatArray:
        """Two-time kernel, or its value at given steps.

        Parameters
        ----------
        name : str
            "H" (hidden states, P + Q points a side), "G" (gradients, K outputs a side), "AG"
            (points and outputs) or "BPhi" (outputs and points). Networks with activations also have
            "Phi" (what the weights of a layer act on, in the last one the readout), and their
            gradients are those of training patterns, P[, K] a side. On random data H (of the
            features of the mean gradient) and G have times only, and so have the kernels without
            layers "Cp" (population error), "CD" (training error) and "Cv" (mean gradient). Random
            and learned features have "C0" (population error with its noise), random ones "CD", and
            learned ones, per neuron, "C_w" (readout) and "C_u" (gradient). Those of a transformer,
            "H", "G", "O", "P_k", "P_q", "P_v", have (P + Q) S tokens on both sides; with K > 1
            outputs gradients are those of the signal, the sum of all outputs with their errors as
            weights.
        layer : int, optional
            Layer number, from 1 on; "BPhi", a transformer and nodes of infinite depth from 0 on.
            None stacks all layers on a first axis.
        t, s : int, optional
            Steps (times tau of a flow), both members of `kernel_times`. With neither, the result
            is the full kernel (times, P, times, P); with one, that side is fixed; with both it
            is (P, P), or a number on random data.

        Raises
        ------
        KeyError
            For an unknown name or layer, a step that was not stored, or unequal steps of a
            kernel whose two-time values were not saved; the text says how to get it.
        """
        if t is not None and s is not None and name in self.equal_time and self._equal(t, s):
            layers = self.equal_time[name]
            index: tuple[Any, ...] = (self._kernel_index(t),)
        elif name in self.two_time:
            layers = self.two_time[name]
            first = slice(None) if t is None else self._kernel_index(t)
            second = slice(None) if s is None else self._kernel_index(s)
            sides = (slice(None),) if next(iter(layers.values())).ndim > 2 else ()
            index = (first, *sides, second)
        elif name in self.equal_time:
            raise KeyError(
                f"the two-time kernel {name!r} was not saved: pass save=({name!r},) to solve, "
                f"or ask for equal times with t == s"
            )
        else:
            raise KeyError(f"no kernel named {name!r}; there are {self._names(self.equal_time)}")
        if layer is None and name in OF_DATA:
            layer = 0
        if layer is None:
            return np.stack([values[index] for values in layers.values()])
        chosen: FloatArray = _layer(name, layers, layer)[index]
        return chosen

    def response(self, name: str, layer: int | None = None) -> FloatArray:
        """Response `name` over (times, ., times, .) at `kernel_times`; layers as in `kernel`.

        Raises
        ------
        KeyError
            For an unknown name or layer, or a response that was not saved.
        """
        if name not in self.responses:
            raise KeyError(
                f"the response {name!r} was not saved (saved: {self._names(self.responses)}): "
                f"pass save=({name!r},) to solve"
            )
        layers = self.responses[name]
        if layer is None and name in OF_DATA:
            layer = 0
        if layer is None:
            return np.stack(list(layers.values()))
        return _layer(name, layers, layer)

    def stderr(self, name: str) -> FloatArray:
        """Standard error of the mean of a measured or sampled field.

        Those of kernels have the layer on their first axis: of "H", "Phi" and "G" at equal times,
        and if they were saved at two times as "H_two_time" and so on; of "AG" and "BPhi" at two
        times.

        Raises
        ------
        KeyError
            If the field carries none: it is deterministic, or comes from a single seed.
        """
        if name not in self.standard_errors:
            raise KeyError(
                f"no standard error for {name!r} (there are {self._names(self.standard_errors)}): "
                "deterministic theories have none, simulations need seeds >= 2 and sampled "
                "theories replicas >= 2"
            )
        return self.standard_errors[name]

    @property
    def in_flow_time(self) -> bool:
        """Whether times are those of a gradient flow, tau, and not step numbers."""
        return self.times.dtype.kind == "f"

    def _equal(self, times: npt.ArrayLike, time: float) -> Any:
        """Where `times` are `time`, up to rounding: those of a flow come out of arithmetic."""
        rounding = 1e-9 * abs(time) if self.in_flow_time else 0
        return np.abs(np.subtract(times, time)) <= rounding

    def _kernel_index(self, time: float) -> int:
        found = np.flatnonzero(self._equal(self.kernel_times, time))
        if found.size == 0:
            what = "time" if self.in_flow_time else "step"
            raise KeyError(
                f"kernels at {what} {time} were not stored: pass kernel_times=[..., {time}]"
            )
        return int(found[0])

    @staticmethod
    def _names(fields: dict[str, Any]) -> str:
        return ", ".join(sorted(fields)) or "none"

    # -- storage and pictures ----------------------------------------------------------------

    def to_xarray(self) -> xarray.Dataset:
        """All fields as an `xarray.Dataset` with named axes.

        Axes: time (curves); t, s (kernels); pattern (P), test_pattern (Q), point (P + Q),
        output (K), layer_<name>, seed. The second side of a kernel carries a trailing underscore.

        Raises
        ------
        ImportError
            If xarray is not installed.
        """
        xr = optional_import("xarray", extra="io", purpose="Solution.to_xarray")
        axes = self._axes()
        variables = {
            name: (axes[name], getattr(self, name))
            for name in axes
            if getattr(self, name) is not None
        }
        for name, values in self.per_seed.items():
            variables[_SEED + name] = (("seed", *axes[name]), values)
        kernel_axes = {
            name: (f"layer_{name}", "t", *itertools.chain(*self._sides(name, layers, times=1)))
            for name, layers in self.equal_time.items()
        }
        for name, layers in self.two_time.items():
            first, second = self._sides(name, layers, times=2)
            field_name = f"{name}_two_time" if name in self.equal_time else name
            kernel_axes[field_name] = (f"layer_{name}_two_time", "t", *first, "s", *second)
        # Their axes have no names in common: those of each are its own.
        order_axes = {
            name: tuple(f"{name}_axis{axis}" for axis in range(values.ndim))
            for name, values in self.order_parameters.items()
        }
        for name, values in self.order_parameters.items():
            variables[_ORDER + name] = (order_axes[name], values)
        for name, values in self.standard_errors.items():
            variables[_ERROR + name] = ((axes | kernel_axes | order_axes)[name], values)
        coordinates: dict[str, Any] = {"time": self.times, "t": self.kernel_times}
        for suffix, group in _SUFFIXES.items():
            for name, layers in getattr(self, group).items():
                first, second = self._sides(name, layers, times=2 if suffix else 1)
                times = ("t", *first, "s", *second) if suffix else ("t", *first, *second)
                layer = f"layer_{name}{suffix}"
                variables[name + suffix] = ((layer, *times), np.stack(list(layers.values())))
                coordinates[layer] = list(layers)
                if suffix:
                    coordinates["s"] = self.kernel_times
        table: xarray.Dataset = xr.Dataset(
            variables,
            coordinates,
            {"config": json.dumps(self.config), "diagnostics": json.dumps(self.diagnostics)},
        )
        return table

    def _axes(self) -> dict[str, tuple[str, ...]]:
        """Names of the axes of the fields that are single arrays."""
        output = ("output",) if np.ndim(self.outputs) == 3 else ()
        return {
            "train_loss": ("time",),
            "test_loss": ("time",),
            "outputs": ("time", "pattern", *output),
            "test_outputs": ("time", "test_pattern", *output),
            "errors": ("time", "pattern", *output),
            "ntk": ("t", "pattern", *output, "pattern_", *(f"{k}_" for k in output)),
            "sharpness": ("t",),
            "overlap": ("time",),
        }

    def _sides(
        self, name: str, layers: Layers, times: int
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the axes of both sides of a kernel or response, besides its `times` axes."""
        if next(iter(layers.values())).ndim == times:
            return (), ()
        if any(name in self.equal_time for name in OF_TOKENS):
            return ("token",), ("token_",)
        first, second = (self._side(count) for count in SIDES[name])
        return first, tuple(f"{axis}_" if axis in first else axis for axis in second)

    def _side(self, count: str) -> tuple[str, ...]:
        """Names of the axes of one side of a kernel that counts points, patterns or outputs."""
        # In networks with activations, which alone have Phi, gradients differ between patterns.
        if count == "output" and ("Phi" in self.equal_time or "Phi" in self.two_time):
            return ("pattern", *(("output",) if np.ndim(self.outputs) == 3 else ()))
        return (count,)

    @classmethod
    def from_xarray(cls, dataset: xarray.Dataset) -> Solution:
        """Inverse of `to_xarray`."""
        fields: dict[str, Any] = {
            "times": dataset["time"].values,
            "kernel_times": dataset["t"].values,
            "config": json.loads(dataset.attrs["config"]),
            "diagnostics": json.loads(dataset.attrs["diagnostics"]),
        }
        for key, variable in dataset.data_vars.items():
            name, values = str(key), variable.values
            prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
            if prefix is not None:
                fields.setdefault(_PREFIXES[prefix], {})[name.removeprefix(prefix)] = values
            elif f"layer_{name}" in dataset.coords:
                suffix = next(suffix for suffix in _SUFFIXES if name.endswith(suffix))
                numbers = dataset[f"layer_{name}"].values
                fields.setdefault(_SUFFIXES[suffix], {})[name.removesuffix(suffix)] = {
                    int(n): layer for n, layer in zip(numbers, values, strict=True)
                }
            else:
                fields[name] = values
        return cls(**fields)

    def save(self, path: str | os.PathLike[str], group: str | None = None) -> None:
        """Write a netCDF-4 file.

        Parameters
        ----------
        path : path
            Replaced if it exists, unless `group` is given.
        group : str, optional
            Write into this group, in place of what it held, and keep the rest of the file.

        Raises
        ------
        ImportError
            If xarray, h5netcdf or h5py is not installed.
        """
        optional_import("h5netcdf", extra="io", purpose="Solution.save")
        storage = optional_import("h5py", extra="io", purpose="Solution.save")
        dataset, path = self.to_xarray(), Path(path)
        encoding = {
            name: {"zlib": True, "complevel": 2, "shuffle": True}
            for name, variable in dataset.data_vars.items()
            if variable.ndim > 0
        }
        # Written beside and renamed: an interrupted write leaves an older result whole.
        draft = path.with_name(path.name + ".part")
        mode: Literal["w", "a"] = "w"
        if group is not None and path.exists():
            mode = "a"
            shutil.copyfile(path, draft)
            with storage.File(draft, "a") as file:
                if group in file:
                    del file[group]
        try:
            dataset.to_netcdf(draft, mode=mode, group=group, engine="h5netcdf", encoding=encoding)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str], group: str | None = None) -> Solution:
        """Read what `save` wrote.

        Raises
        ------
        ImportError
            If xarray or h5netcdf is not installed.
        """
        xr = optional_import("xarray", extra="io", purpose="Solution.load")
        optional_import("h5netcdf", extra="io", purpose="Solution.load")
        with xr.open_dataset(path, group=group, engine="h5netcdf") as dataset:
            return cls.from_xarray(dataset.load())

    def plot(self) -> Figure:
        """Losses, sharpness and kernels in one figure (needs the extra ``plot``)."""
        from dmftcore.plotting import plot_solutions

        return plot_solutions({self.diagnostics.get("engine", "solution"): self})


def _layer(name: str, layers: Layers, layer: int) -> FloatArray:
    if layer not in layers:
        raise KeyError(f"{name!r} has no layer {layer}; there are {', '.join(map(str, layers))}")
    return layers[layer]
