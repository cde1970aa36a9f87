"""Nonlinear networks on a fixed data set, on sampled particles: sizes, memory, sampling errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._validate import FloatArray, integer
from dmftcore.activations import activation
from dmftcore.data import Dataset
from dmftcore.limits.architecture import Architecture
from dmftcore.limits.assembly import solved
from dmftcore.limits.mlp import MLP
from dmftcore.limits.residual import Residual
from dmftcore.march import SolveOptions, Stopwatch, resumed
from dmftcore.memory import Plan, library_with_room
from dmftcore.observables import curves_of_runs, standard_error
from dmftcore.sampled.blocks import Sampling
from dmftcore.sampled.ensemble import Ensemble
from dmftcore.solution import Layers, Solution
from dmftcore.training import GradientDescent

__all__ = [
    "DEFAULT_REPLICAS",
    "DEFAULT_SAMPLES",
    "FIELDS",
    "METHODS",
    "report_scatter",
    "solve_ensemble",
    "tolerance",
    "triangular",
]

KERNELS = ("H", "Phi", "G")
#: Responses times the correlation of the noise they answer to.
PRODUCTS = ("AG", "BPhi")
#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS = (*KERNELS, *PRODUCTS)
METHODS = ("ensemble",)

#: Particles of a replica, and replicas: the scatter of the replicas is the sampling error.
DEFAULT_SAMPLES = 2000
DEFAULT_REPLICAS = 8

#: Truncation of the bases. At 1e-3 it shows, far below 1e-6 it resolves but sampling noise.
DEFAULT_TOL = 1e-4
#: Below it, directions are made of the rounding noise of float32.
SMALLEST_TOL_FLOAT32 = 1e-6

#: Visited directions of a smooth network in units of the columns of a field, and at least: those
#: of a run of 200 steps.
SMOOTH_RANK = 20


def solve_ensemble(
    limit: MLP | Residual,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """March the theory of `limit`, of finite depth; see `dmftcore.solve`."""
    watch = Stopwatch()
    if limit.gamma == 0:
        raise ValueError(
            "method='ensemble' needs gamma > 0: leave method out for the exact limit gamma = 0"
        )
    sampling = _sampling(limit.architecture, training, options)
    schedule = resumed(
        options.schedule,
        options.checkpoint,
        config,
        training.lr,
        engine="ensemble",
        tol=sampling.tol,
        samples=sampling.size,
        replicas=sampling.runs,
    )
    options = replace(options, schedule=schedule)
    net, points = limit.architecture, data.coordinates
    if net.blocks == 0:
        points = triangular(points)
    plan = memory_plan(net, data, training, options, sampling, rank=points.shape[1])
    xp = library_with_room(
        options.device, plan, _REMEDIES, on_device=_ON_DEVICE, nested=options.nested
    )
    report = {
        "engine": "ensemble",
        "reason": "networks with activations are sampled",
        "device": options.device,
        "memory": plan.total,
    }
    if points.shape[1] == 0:
        raise ValueError(
            "the Gram matrix is zero: all points are the same, the origin, and have one output"
        )
    system = SampledNetworks(net, data, training, sampling, points, options.save, xp)
    result = solved(
        system,
        data,
        training,
        options,
        config,
        report=report,
        watch=watch,
        curves=curves_of_runs,
        activations=(net.activation, net.readout_activation),
    )
    report_scatter(result, sampling)
    if options.estimate_error:
        text = "a sampled theory carries standard errors, see stderr(name)"
        result.diagnostics["error_estimate"] = {"reason": text}
    return result


def triangular(points: FloatArray) -> FloatArray:
    """The same points (M, r), in coordinates of which point mu has only the first mu + 1.

    The march of one hidden layer spends most on products with them, half of which it saves.
    """
    factor = np.linalg.qr(points.T, mode="r")
    # What is left is never negative: the factor is that of Cholesky.
    signs = np.where(np.diagonal(factor) < 0, -1.0, 1.0)
    return np.ascontiguousarray((signs[:, None] * factor).T)


def _sampling(net: Architecture, training: GradientDescent, options: SolveOptions) -> Sampling:
    """How to sample; by default as the run that is gone on with."""
    return Sampling(
        size=integer("samples", options.held("samples", DEFAULT_SAMPLES), at_least=2),
        runs=int(options.held("replicas", DEFAULT_REPLICAS)),
        tol=tolerance(options),
        seed=options.seed,
        dtype=options.dtype,
        control_variates=_needs_control_variates(net, training),
    )


def tolerance(options: SolveOptions, default: float = DEFAULT_TOL) -> float:
    """Truncation of the bases.

    Raises
    ------
    ValueError
        If it would drop everything, or nothing but rounding.
    """
    tol = float(options.held("tol", default))
    if tol >= 1:
        raise ValueError(
            f"tol = {tol:g} would drop all of every field: tol is the part of its mean square that "
            f"may be dropped, by default {default:g}"
        )
    if options.dtype == "float32" and tol < SMALLEST_TOL_FLOAT32:
        raise ValueError(
            f"tol = {tol:g} is below the rounding noise of dtype='float32': take tol >= "
            f"{SMALLEST_TOL_FLOAT32:g}, or dtype='float64'"
        )
    return tol


def report_scatter(result: Solution, sampling: Sampling) -> None:
    """Add to the diagnostics how far replicas are apart, relative to the training loss."""
    if sampling.runs > 1:
        scatter = result.per_seed["train_loss"].std(axis=0, ddof=1)
        mean = np.maximum(result.train_loss, np.finfo(float).tiny)
        result.diagnostics["replica_scatter"] = float((scatter / mean).max(initial=0.0))


def _needs_control_variates(net: Architecture, training: GradientDescent) -> bool:
    """Whether the noise of the initial outputs would outlive the subtraction of f(0).

    Weight decay shrinks the network of the initial weights, whose outputs are noise of the order of
    1 / gamma, so that f(0) is too much. Control variates are the outputs of the shrunken network.
    At gamma = 1 they gain nothing, at gamma = 0.1 a factor of 3 to 25 in the standard error.
    """
    decays = training.weight_decay > 0 and net.gamma < 1
    return decays and net.block_layers == 1 and not net.is_linear


class SampledNetworks(Ensemble):
    """The ensemble of a data set; a `dmftcore.limits.assembly.NetworkMarch`.

    Parameters
    ----------
    net : Architecture
    data : Dataset
    training : GradientDescent
    sampling : Sampling
    points : (P + Q, r0) array
        Coordinates of the points.
    save : tuple of str
        Two-time kernels that will be asked for.
    xp : module
        Library of the particles, numpy or cupy.
    """

    def __init__(
        self,
        net: Architecture,
        data: Dataset,
        training: GradientDescent,
        sampling: Sampling,
        points: FloatArray,
        save: tuple[str, ...],
        xp: Any = np,
    ) -> None:
        targets = data.targets.reshape(data.n_train, -1)
        super().__init__(net, points, targets, training, sampling, two_time=bool(save), xp=xp)
        points_side, patterns = (len(points),), data.targets.shape
        self._sides = {
            "H": (points_side, points_side),
            "Phi": (points_side, points_side),
            "G": (patterns, patterns),
            "ntk": (patterns, patterns),
            "AG": (points_side, patterns),
            "BPhi": (patterns, points_side),
        }

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernel fields of a `Solution`, with their standard errors."""
        if not self.kernels.steps:
            return {}
        means, errors = {}, {}
        for name in (*KERNELS, "ntk"):
            first, second = self._sides[name]
            means[name], errors[name] = (
                values.reshape(*values.shape[:2], *first, *second)
                for values in self.kernels.equal_time(name)
            )
        (ntk,), (errors["ntk"],) = means.pop("ntk"), errors["ntk"]
        (sharpness,), (errors["sharpness"],) = self.kernels.equal_time("sharpness")
        two_time: dict[str, Layers] = {}
        for name in save:
            layers = self._between_times(name)
            if layers:
                two_time[name] = _numbered(kernel.mean(axis=0) for kernel in layers)
            if layers and self.sampling.runs > 1:
                field = name if name in PRODUCTS else f"{name}_two_time"
                errors[field] = np.stack([standard_error(kernel) for kernel in layers])
        return {
            "ntk": ntk,
            "sharpness": sharpness,
            "equal_time": {name: _numbered(mean) for name, mean in means.items()},
            "two_time": two_time,
            "standard_errors": errors if self.sampling.runs > 1 else {},
        }

    def _between_times(self, name: str) -> list[FloatArray]:
        """A two-time kernel of every layer, with its sides, in every run."""
        first, second = self._sides[name]
        return [
            kernel.reshape(len(kernel), kernel.shape[1], *first, kernel.shape[3], *second)
            for kernel in self.kernels.between_times(name)
        ]


def _numbered(layers: Iterable[FloatArray]) -> Layers:
    return dict(enumerate(layers, start=1))


def memory_plan(
    net: Architecture,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    sampling: Sampling,
    *,
    rank: int,
) -> Plan:
    """Memory of a run, by part; that of the bases is estimated."""
    points, outputs, p = data.n_train + data.n_test, data.n_outputs, data.n_train
    patterns, slots = p * outputs, len(options.schedule.kernel_times)
    backward = patterns if options.save or outputs == 1 else p
    size, word = sampling.size, np.dtype(sampling.dtype).itemsize
    smooth = activation(net.activation).smooth and activation(net.readout_activation).smooth

    def visited(columns: int) -> int:
        most = min((training.steps + 1) * columns, size)
        return min(most, SMOOTH_RANK * columns + 100) if smooth else most

    interfaces = net.blocks * net.block_layers
    forward_rank, backward_rank = visited(points), visited(backward)
    # Two columns for every direction; half as much again is spare, and a copy as they grow.
    bases = 2 * interfaces * (forward_rank + backward_rank) * size * 2
    levels = net.depth * (2 + (net.block_layers - 1) + sampling.control_variates)
    fields = size * (levels * points + 3 * max(patterns if slots else 0, backward) + rank + outputs)
    matrices = interfaces * forward_rank * backward_rank * (2 if training.momentum else 1)
    kernels = net.depth * (2 * points**2 + patterns**2) + patterns**2
    vectors = size * (net.depth * points + points + patterns)
    vectors += 2 * interfaces * (forward_rank * points + backward_rank * patterns)
    held = 0 if options.checkpoint is None else 1
    counts = {
        "bases": sampling.runs * bases * word,
        "fields": sampling.runs * fields * word,
        "matrices": 8 * sampling.runs * matrices,
        "checkpoint": held * sampling.runs * (bases // 2 + fields) * word,
        "curves": 8 * 4 * (sampling.runs + 1) * len(options.schedule.times) * points * outputs,
        "kernels": 8 * (3 * slots + 2 * sampling.runs) * kernels,
        "two-time kernels": (8 * sampling.runs * slots * vectors if options.save else 0)
        + 8 * (sampling.runs + 2) * net.depth * len(options.save) * (slots * points) ** 2,
    }
    return Plan(counts)


#: The parts of the plan that are on the device, if there is one.
_ON_DEVICE = {"bases", "fields", "matrices"}

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "bases": "lower samples or replicas, raise tol, or use dtype='float32'",
    "fields": "lower samples or replicas, or use dtype='float32'",
    "matrices": "raise tol, or lower replicas",
    "checkpoint": "lower samples or replicas, or pass no checkpoint",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
