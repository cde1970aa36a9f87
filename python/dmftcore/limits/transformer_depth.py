"""A residual transformer of infinite depth, extrapolated from finite ones.

With ``depth_exponent = 1`` a block adds 1/L of what it adds to a stream of depth 1: the layers are
steps of size 1/L through a continuous depth, with errors c_1 / L + c_2 / L^2 + ..., which a
Richardson tableau (`dmftcore.richardson`) removes one after the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import AccuracyWarning
from dmftcore.limits.transformer import Transformer
from dmftcore.limits.transformer_solve import solve_transformer
from dmftcore.march import SolveOptions, Stopwatch
from dmftcore.observables import curves, sharpness
from dmftcore.richardson import Tableau
from dmftcore.solution import Layers, Solution
from dmftcore.training import GradientDescent

__all__ = ["solve_infinite_depth"]

#: Depths from which the limit is extrapolated: the first, whose layers are the nodes of the result,
#: and twice as much again and again, at least `LEAST` times and until the estimated error is small.
FIRST, LEAST, MOST = 4, 3, 6

#: Wanted error of the outputs, relative to the largest target.
DEFAULT_TOL = 1e-2

#: Kernels with a limit at fixed l/L. Those of p vanish: each block sends down 1/L of the whole.
KERNELS = ("H", "G", "O")


def solve_infinite_depth(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Extrapolate `limit` of depth INFINITE; see `dmftcore.solve`.

    Layers of its kernels are nodes at the depths l/L = 0, 1/4, ...
    """
    watch = Stopwatch()
    unknown = [name for name in options.save if name not in KERNELS]
    if unknown:
        raise ValueError(
            f"save={unknown[0]!r}: at depth=INFINITE single blocks do nothing, and only "
            f"{', '.join(KERNELS)} have a limit; pass a finite depth"
        )
    if options.checkpoint is not None:
        raise ValueError(
            "checkpoint: depth=INFINITE is extrapolated from several runs, which cannot be "
            "resumed; leave checkpoint out"
        )
    tol = DEFAULT_TOL if options.tol is None else options.tol
    scale = float(np.abs(data.targets).max()) or 1.0
    tableau, runs, error = Tableau(), list[dict[str, Any]](), np.inf
    while tableau.levels < LEAST or (error > tol and tableau.levels < MOST):
        depth = FIRST * 2**tableau.levels
        one = replace(options, tol=None, nested=bool(runs))
        try:
            run = solve_transformer(replace(limit, depth=depth), data, training, one, config)
        except MemoryError:
            if tableau.levels < LEAST:
                raise
            break
        runs.append(run.diagnostics | {"depth": depth})
        tableau.add(_at_nodes(run, depth // FIRST))
        if tableau.levels > 1:
            change = tableau.best[_OUTPUTS] - tableau.one_order_less[_OUTPUTS]
            error = float(np.abs(change).max(initial=0.0)) / scale
    if error > tol:
        warnings.warn(
            f"depth=INFINITE: the estimated error of the outputs, {error:.2g} of the largest "
            f"target, exceeds tol = {tol:g} with {runs[-1]['depth']} blocks",
            AccuracyWarning,
            stacklevel=3,
        )
    best: Any = tableau.best
    diagnostics: dict[str, Any] = {
        "engine": "chain",
        "reason": f"extrapolated from depths {', '.join(str(run['depth']) for run in runs)}",
        "device": runs[-1]["device"],
        "memory": max(run["memory"] for run in runs),
        "residual": max(run["residual"] for run in runs),
        "depth_nodes": (np.arange(FIRST + 1) / FIRST).tolist(),
        # Of the outputs, relative to the largest target.
        "depth_error": error,
    }
    if options.estimate_error:
        diagnostics["error_estimate"] = {"outputs": error * scale}
    fields = curves(data, best[_OUTPUTS])
    ntk = best.get(_NTK)
    points = data.n_train
    result = Solution(
        options.schedule.times,
        options.schedule.kernel_times,
        **fields,
        ntk=ntk,
        sharpness=None
        if ntk is None
        else np.array([sharpness(kernel.reshape(points, 1, points, 1)) for kernel in ntk]),
        equal_time=_layers(best, "equal_time"),
        two_time=_layers(best, "two_time"),
        order_parameters={name: best[of, name, _] for of, name, _ in best if of == _ORDER},
        diagnostics=diagnostics,
        config=config,
    )
    diagnostics["wall_seconds"] = watch.seconds()
    return result


_ORDER = "order_parameters"
_OUTPUTS, _NTK = ("curves", "outputs", 0), ("curves", "ntk", 0)


def _at_nodes(run: Solution, stride: int) -> dict[Hashable, FloatArray]:
    """The fields of a run of finite depth that have a limit, by (group, name, node)."""
    outputs = run.outputs
    if run.test_outputs is not None:
        outputs = np.concatenate([outputs, run.test_outputs], axis=1)
    found: dict[Hashable, FloatArray] = {_OUTPUTS: outputs.reshape(*outputs.shape[:2], -1)}
    if run.ntk is not None:
        found[_NTK] = run.ntk
    for group in ("equal_time", "two_time"):
        for name, layers in getattr(run, group).items():
            for layer, values in layers.items():
                if name in KERNELS and layer % stride == 0:
                    found[group, name, layer // stride] = values
    for name, values in run.order_parameters.items():
        found[_ORDER, name, 0] = values[:, ::stride]
    return found


def _layers(best: Any, group: str) -> dict[str, Layers]:
    found: dict[str, Layers] = {}
    for (of, name, node), values in best.items():
        if of == group:
            found.setdefault(name, {})[node] = values
    return found
