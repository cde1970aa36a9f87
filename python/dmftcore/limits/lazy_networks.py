"""Nonlinear networks at gamma = 0: descent under a tangent kernel that is not learned.

As in the linear case (`dmftcore.limits.lazy`), to first order in what is learned every initial
weight is c(t) times its first value, by the rule of the optimiser, and

    f(t) = sum_{s<t} kap(t,s) K(c(t), c(s)) Delta(s) / P,

with the optimiser's memory kap and the tangent kernel K between random networks whose weights are
times c and times c' (`dmftcore.limits.initial`). Without weight decay c = 1. With it, K is
interpolated in both arguments between n Chebyshev nodes, K(c, c') = sum_ij l_i(c) K_ij l_j(c'),
so that n sums over the past are enough:

    f(t) = sum_ij l_i(c(t)) K_ij mu_j(t),       mu_j(t) = sum_{s<t} kap(t,s) l_j(c(s)) Delta(s) / P.

Each mu_j moves as a parameter, ``v <- m v + l_j Delta / P - lambda mu``, ``mu <- mu + lr v``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.limits.architecture import Architecture
from dmftcore.limits.assembly import solved
from dmftcore.limits.initial import InitialKernels, initial_kernels
from dmftcore.limits.mlp import MLP
from dmftcore.limits.residual import Residual
from dmftcore.losses import loss_function
from dmftcore.march import SolveOptions, Stopwatch, largest_loss, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import sharpness
from dmftcore.optimizer import OptimizerMemory
from dmftcore.solution import IntArray, Layers, Solution
from dmftcore.training import GradientDescent

__all__ = ["LazyNetworks", "solve_lazy_networks"]

#: Numbers of nodes that are tried, until the interpolated kernel is exact to this part of the
#: largest one at points between; and the part that the last of them may be off. Kernels of residual
#: relu networks have a kink at c = c'.
NODES = (4, 6, 9, 13, 18, 24, 32)
INTERPOLATION = 1e-9
LARGEST_INTERPOLATION = 1e-3
#: Where between, as parts of the range of c.
BETWEEN = np.array([0.97, 0.52, 0.13, 0.03])


class LazyNetworks:
    """The limit gamma = 0 of an `Architecture`; a `dmftcore.march.March`.

    Parameters
    ----------
    net : Architecture
        Of any gamma, taken to be 0.
    data : Dataset
    training : GradientDescent

    Raises
    ------
    ValueError
        If the kernel is not smooth in c where weight decay takes it.
    """

    def __init__(self, net: Architecture, data: Dataset, training: GradientDescent) -> None:
        self.step = 0
        self._net, self._data, self._training = net, data, training
        self._targets = data.targets.reshape(data.n_train, -1)
        self._loss = loss_function(training.loss)
        self._kept = OptimizerMemory(training).kept
        self._nodes, self._kernels, self._error = _interpolation(net, data, self._kept)
        self._train_kernels = np.ascontiguousarray(self._kernels[:, :, : data.n_train])
        #: mu_j and its velocity.
        self._learned = np.zeros((len(self._nodes.values), *self._targets.shape))
        self._velocity = np.zeros_like(self._learned)
        initial = self._loss.mean(np.zeros_like(self._targets), self._targets)
        self._loss_limit = largest_loss(float(initial))
        #: c at the stored steps.
        self._stored: list[float] = []

    @property
    def shape(self) -> tuple[int, int]:
        """Of the outputs of a step: P + Q points, K outputs."""
        return len(self._data.kernel), self._targets.shape[1]

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), P + Q, K); fewer if the loss diverges."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                if not self._train_until(stop):
                    break
                rows.append(self._outputs(self._kernels))
        return np.array(rows).reshape(-1, *self.shape)

    def store_kernels(self) -> None:
        """Keep c, which all kernels follow from."""
        self._stored.append(float(self._kept[self.step]))

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernel fields of a `Solution`, at the stored steps."""
        if not self._stored:
            return {}
        gram = self._data.kernel
        equal = {c: initial_kernels(self._net, gram, c) for c in set(self._stored)}
        by_step = [equal[c] for c in self._stored]
        train = slice(self._data.n_train)
        tangent = [k.tangent[train, train] for k in by_step]
        return {
            "ntk": self._of_outputs(np.array(tangent)),
            # Outputs do not mix: the tangent kernel of all of them has the same eigenvalues.
            "sharpness": np.array([sharpness(k[:, None, :, None]) for k in tangent]),
            "equal_time": {
                name: {
                    layer + 1: self._kernel(name, np.array([getter(k)[layer] for k in by_step]))
                    for layer in range(self._net.depth)
                }
                for name, getter in _KERNELS.items()
            },
            "two_time": self._two_time(save),
        }

    def _two_time(self, save: tuple[str, ...]) -> dict[str, Layers]:
        if not save:
            return {}
        # Steps of equal scales share their kernels.
        scales, where = np.unique(self._stored, return_inverse=True)
        kernels = initial_kernels(self._net, *_at_scales(self._data.kernel, scales))
        two_time: dict[str, Layers] = {name: {} for name in save}
        for name in save:
            for layer, values in enumerate(_KERNELS[name](kernels)):
                at_scales = _by_scales(values, len(scales))
                kernel = self._kernel(name, at_scales[where][:, where])
                sides = (kernel.ndim - 2) // 2
                two_time[name][layer + 1] = np.moveaxis(kernel, 1, 1 + sides)
        return two_time

    def _kernel(self, name: str, values: FloatArray) -> FloatArray:
        """A kernel of a `Solution` from values (..., P + Q, P + Q), of one output."""
        if name != "G":
            return values
        train = slice(self._data.n_train)
        return self._of_outputs(values[..., train, train])

    def _of_outputs(self, values: FloatArray) -> FloatArray:
        """(..., P[, K], P[, K]) from the (..., P, P) of every output."""
        if self._data.targets.ndim == 1:
            return values
        eye = np.eye(self._data.n_outputs)[:, None, :]
        return values[..., :, None, :, None] * eye

    def diagnostics(self) -> dict[str, Any]:
        """Scales between which the tangent kernel is interpolated, and its relative error."""
        return {"scale_nodes": len(self._nodes.values), "scale_error": self._error}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        return {
            "step": np.array(self.step),
            "nodes": self._nodes.values,
            "learned": self._learned.copy(),
            "velocity": self._velocity.copy(),
            "stored": np.array(self._stored),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem.

        Raises
        ------
        ValueError
            If more steps take weight decay where the saved run has no nodes.
        """
        if not np.array_equal(state["nodes"], self._nodes.values):
            raise ValueError(
                "checkpoint: with these steps weight decay and momentum take the initial weights "
                "to a range that the saved run does not cover; start it anew"
            )
        self.step = int(state["step"])
        self._learned = np.array(state["learned"])
        self._velocity = np.array(state["velocity"])
        self._stored = state["stored"].tolist()

    def _train_until(self, stop: int) -> bool:
        """Go to step `stop`, or to the first one whose loss has diverged."""
        while self.step < stop:
            outputs = self._outputs(self._train_kernels)
            if not self._is_finite(outputs):
                return False
            errors = self._loss.errors(outputs, self._targets) / len(self._targets)
            basis = self._nodes.basis(self._kept[self.step])
            self._velocity *= self._training.momentum
            self._velocity += np.multiply.outer(basis, errors)
            self._velocity -= self._training.weight_decay * self._learned
            self._learned += self._training.rates[self.step] * self._velocity
            self.step += 1
        return self._is_finite(self._outputs(self._train_kernels))

    def _is_finite(self, outputs: FloatArray) -> bool:
        return bool(self._loss.mean(outputs, self._targets) <= self._loss_limit)

    def _outputs(self, kernels: FloatArray) -> FloatArray:
        """f at the present step, (m, K), with kernels (n, n, m, P)."""
        basis = self._nodes.basis(self._kept[self.step])
        outputs: FloatArray = (np.tensordot(basis, kernels, 1) @ self._learned).sum(axis=0)
        return outputs


_KERNELS: dict[str, Callable[[InitialKernels], list[FloatArray]]] = {
    "H": lambda kernels: kernels.hidden,
    "Phi": lambda kernels: kernels.features,
    "G": lambda kernels: kernels.gradients,
}


class Nodes:
    """Chebyshev nodes between two scales, and the polynomials that interpolate between them."""

    def __init__(self, count: int, lowest: float, highest: float) -> None:
        angles = (2 * np.arange(count) + 1) * math.pi / (2 * count)
        self.values: FloatArray = lowest + (highest - lowest) * (1 + np.cos(angles)) / 2
        self._weights = (-1.0) ** np.arange(count) * np.sin(angles)

    def basis(self, c: float) -> FloatArray:
        """l_i(c), (n,), by the barycentric formula."""
        distances = c - self.values
        if np.any(distances == 0):
            return np.asarray(distances == 0, dtype=np.float64)
        terms = self._weights / distances
        basis: FloatArray = terms / terms.sum()
        return basis


def _at_scales(gram: FloatArray, scales: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Gram matrix and scale of every point at every one of n scales, (n m, n m) and (n m,)."""
    return np.tile(gram, (len(scales), len(scales))), np.repeat(scales, len(gram))


def _by_scales(kernel: FloatArray, count: int) -> FloatArray:
    """(n, n, m, m) from (n m, n m)."""
    return kernel.reshape(count, len(kernel) // count, count, -1).swapaxes(1, 2)


def _interpolation(
    net: Architecture, data: Dataset, kept: FloatArray
) -> tuple[Nodes, FloatArray, float]:
    """Nodes of c, the tangent kernels of all points with patterns there, and the error between.

    The kernels are (n, n, P + Q, P).

    Raises
    ------
    ValueError
        If the kernel is not smooth in c.
    """

    def tangent(scales: FloatArray) -> FloatArray:
        kernels = initial_kernels(net, *_at_scales(data.kernel, scales))
        return _by_scales(kernels.tangent, len(scales))[:, :, :, : data.n_train]

    if np.all(kept == 1):
        return Nodes(1, 1.0, 1.0), tangent(np.ones(1)), 0.0
    # Rounded, so that most longer runs have the nodes of shorter ones.
    lowest = math.floor(8 * kept.min()) / 8
    between = lowest + (1 - lowest) * BETWEEN
    exact = tangent(between)
    scale = np.abs(exact).max()
    for count in NODES:
        nodes = Nodes(count, lowest, 1.0)
        kernels = tangent(nodes.values)
        basis = np.array([nodes.basis(c) for c in between])
        found = np.einsum("ai,ijmn,bj->abmn", basis, kernels, basis, optimize=True)
        error = float(np.abs(found - exact).max() / scale)
        if error <= (INTERPOLATION if count < NODES[-1] else LARGEST_INTERPOLATION):
            return nodes, kernels, error
    raise ValueError(
        f"weight_decay: the tangent kernel of {net.activation!r} is not smooth in the scale of the "
        f"initial weights, which falls to {kept.min():.3g} of its first value (an interpolation "
        f"between {NODES[-1]} scales is off by {error:.1g}): lower momentum or "
        "weight_decay, or take a small gamma > 0"
    )


# -- the solve -------------------------------------------------------------------------------------


def solve_lazy_networks(
    limit: MLP | Residual,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """The limit gamma = 0 of `limit`, of finite depth; see `dmftcore.solve`.

    Raises
    ------
    ValueError
        For responses, which vanish.
    """
    watch = Stopwatch()
    responses = [name for name in options.save if name not in _KERNELS]
    if responses:
        raise ValueError(
            f"save={responses[0]!r}: at gamma = 0 nothing responds to what is learned, so that "
            f"{responses[0]} vanishes; save {', '.join(_KERNELS)}"
        )
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr, engine="lazy")
    options = replace(options, schedule=schedule)
    net = limit.architecture
    plan = memory_plan(net, data, training, options)
    check_memory(plan, _REMEDIES, nested=options.nested)
    report = {
        "engine": "lazy",
        "reason": "at gamma = 0 the tangent kernel is that of the initial network",
        "device": "cpu",
        "memory": plan.total,
    }
    system = LazyNetworks(net, data, training)
    return solved(system, data, training, options, config, report=report, watch=watch)


def memory_plan(
    net: Architecture, data: Dataset, training: GradientDescent, options: SolveOptions
) -> Plan:
    """Memory of a run, by part."""
    points, outputs = len(data.kernel), data.n_outputs
    slots = len(options.schedule.kernel_times)
    patterns = data.n_train * outputs
    nodes = 1 if training.weight_decay == 0 else NODES[-1]
    rows = {"H": points, "Phi": points, "G": patterns}
    scales = 1 if training.weight_decay == 0 else slots
    counts = {
        "tangent kernels": 2 * nodes**2 * points * data.n_train,
        "curves": 2 * len(options.schedule.times) * points * outputs,
        "kernels": slots * (net.depth * sum(n**2 for n in rows.values()) + 2 * patterns**2),
        "two-time kernels": sum(2 * net.depth * (slots * rows[name]) ** 2 for name in options.save)
        + (3 * net.depth * (scales * points) ** 2 if options.save else 0),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "tangent kernels": "take fewer points",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
