"""Infinite depth, extrapolated from finite ones.

Residual blocks whose scale falls with their number L are steps through a continuous depth
0 <= tau <= 1: layers at equal tau = l / L agree up to c_1 / L + c_2 / L^2 + ..., errors which a
Richardson tableau (`dmftcore.richardson`) removes one after the other.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import AccuracyWarning, DivergenceError, StabilityWarning
from dmftcore.limits.assembly import report_stability, warn_of_instability
from dmftcore.march import SolveOptions, Stopwatch
from dmftcore.observables import curves, curves_of_runs, standard_error
from dmftcore.richardson import Tableau
from dmftcore.solution import Layers, Solution
from dmftcore.training import GradientDescent

__all__ = ["Depths", "solve_infinite_depth"]

#: Solves a limit at a given depth.
AtDepth: TypeAlias = Callable[[int, SolveOptions], Solution]

#: Standard errors of the outputs within which an estimated error may be noise.
NOISE = 4.0


@dataclass(frozen=True)
class Depths:
    """From which depths a limit is extrapolated, and what has one.

    Attributes
    ----------
    first : int
        Lowest depth, whose layers are the nodes of the result; the next ones are twice as much
        again and again.
    least, most : int
        Number of depths; more than `least` until the estimated error is small.
    tol : float
        Wanted error of the outputs, relative to the largest target.
    kernels : tuple of str
        Kernels with a limit at fixed tau.
    bottom : int
        Number of the layer at tau = 0.
    """

    first: int
    least: int
    most: int
    tol: float
    kernels: tuple[str, ...]
    bottom: int = 0


def solve_infinite_depth(
    at_depth: AtDepth,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
    depths: Depths,
) -> Solution:
    """The limit of infinite depth of what `at_depth` solves; see `dmftcore.solve`.

    Layers of its kernels are nodes at tau = 0, 1 / first, ..., 1. The runs of a sampled theory are
    extrapolated one by one, and are independent of each other: the scatter of the results is the
    standard error, whatever a run draws alike at all depths. That of kernels is the one of
    independent depths, sqrt(sum_i w_i^2 e_i^2) with the weights w_i of the tableau, which is no
    smaller where they fluctuate together.

    Raises
    ------
    ValueError
        For kernels without a limit, and for a checkpoint.
    DivergenceError
        If training diverges at one of the depths.

    Warns
    -----
    AccuracyWarning
        If the estimated error exceeds `tol`, and is not noise.
    StabilityWarning
        As `dmftcore.solve`.
    """
    watch = Stopwatch()
    options = options.known(depths.kernels)
    unknown = [name for name in options.save if name not in depths.kernels]
    if unknown:
        raise ValueError(
            f"save={unknown[0]!r}: at depth=INFINITE single blocks do nothing, and only "
            f"{', '.join(depths.kernels)} have a limit; pass a finite depth"
        )
    if options.checkpoint is not None:
        raise ValueError(
            "checkpoint: depth=INFINITE is extrapolated from several runs, which cannot be "
            "resumed; leave checkpoint out"
        )
    tableau = Tableau()
    used = [depths.first * 2**level for level in range(depths.least)]
    # The deepest first, which may not fit.
    deepest = _run(at_depth, used[-1], options)
    runs = [_run(at_depth, depth, options, nested=True) for depth in used[:-1]] + [deepest]
    for run in runs:
        tableau.add(_at_nodes(run, depths, level=tableau.levels))
    scale = float(np.abs(data.targets).max()) or 1.0
    error, noise = _error(tableau, runs)
    while error > depths.tol * scale and len(runs) < depths.most:
        depth = 2 * used[-1]
        try:
            run = _run(at_depth, depth, options, nested=True)
        except MemoryError:
            break
        used.append(depth)
        runs.append(run)
        tableau.add(_at_nodes(run, depths, level=tableau.levels))
        error, noise = _error(tableau, runs)
    if error > max(depths.tol * scale, NOISE * noise):
        warnings.warn(
            f"depth=INFINITE: the estimated error of the outputs, {error / scale:.2g} of the "
            f"largest target, exceeds {depths.tol:g} with {used[-1]} blocks",
            AccuracyWarning,
            stacklevel=4,
        )
    result = _solution(tableau, runs, data, training, options, config)
    result.diagnostics.update(
        engine=deepest.diagnostics["engine"],
        reason=f"extrapolated from depths {', '.join(map(str, used))}",
        device=deepest.diagnostics["device"],
        memory=max(run.diagnostics["memory"] for run in runs),
        depth_nodes=(np.arange(depths.first + 1) / depths.first).tolist(),
        # Of the outputs, relative to the largest target: what the last order has changed.
        depth_error=error / scale,
        finite_depths=[
            {"depth": depth, **run.diagnostics} for depth, run in zip(used, runs, strict=True)
        ],
    )
    if options.estimate_error:
        result.diagnostics["error_estimate"] = {"outputs": error}
    warn_of_instability(result, training, stacklevel=5)
    result.diagnostics["wall_seconds"] = watch.seconds()
    return result


def _run(at_depth: AtDepth, depth: int, options: SolveOptions, *, nested: bool = False) -> Solution:
    """One finite depth. Its stability is that of the limit, of which the user is told once."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)
            return at_depth(depth, replace(options, nested=nested or options.nested))
    except DivergenceError as error:
        raise DivergenceError(
            f"depth=INFINITE is extrapolated from finite depths: at depth = {depth} {error}",
            step=error.step,
        ) from None


#: Names of fields in the tableau: group, name, and node if they have layers.
_ORDER = "order_parameters"
_OUTPUTS, _NTK, _SHARPNESS = (("curves", name, 0) for name in ("outputs", "ntk", "sharpness"))


def _error(tableau: Tableau, runs: list[Solution]) -> tuple[float, float]:
    """What the last order has changed in the outputs, at most, and its largest standard error."""
    change = tableau.best[_OUTPUTS] - tableau.one_order_less[_OUTPUTS]
    noise: FloatArray = np.zeros(1)
    if runs[0].per_seed:
        if change.shape[1] > 1:
            noise = standard_error(change.swapaxes(0, 1))
        change = change.mean(axis=1)
    return float(np.abs(change).max(initial=0.0)), float(noise.max(initial=0.0))


def _at_nodes(run: Solution, depths: Depths, level: int) -> dict[Hashable, FloatArray]:
    """The fields of a run that have a limit; outputs (n_times[, runs], P + Q, K)."""
    stride = 2**level
    found: dict[Hashable, FloatArray] = {_OUTPUTS: _outputs(run)}
    for key, values in ((_NTK, run.ntk), (_SHARPNESS, run.sharpness)):
        if values is not None:
            found[key] = values
    for group in ("equal_time", "two_time"):
        for name, layers in getattr(run, group).items():
            for layer, values in layers.items():
                node, between = divmod(layer - depths.bottom, stride)
                if name in depths.kernels and not between:
                    found[group, name, node] = values
    for name, values in run.order_parameters.items():
        found[_ORDER, name, 0] = values[:, ::stride]
    return found


def _outputs(run: Solution) -> FloatArray:
    """Outputs (n_times[, runs], P + Q, K) of a run."""
    of: Mapping[str, Any] = run.per_seed or vars(run)
    sides = [of["outputs"], of.get("test_outputs")]
    # Curves of several runs have them on the first axis.
    points = 2 if run.per_seed else 1
    found: FloatArray = np.concatenate(
        [side.reshape(*side.shape[: points + 1], -1) for side in sides if side is not None],
        axis=points,
    )
    return found.swapaxes(0, 1) if run.per_seed else found


def _solution(
    tableau: Tableau,
    runs: list[Solution],
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    best: Any = tableau.best
    measure = curves_of_runs if runs[0].per_seed else curves
    measured = measure(data, best[_OUTPUTS], training.loss)
    errors = measured.pop("standard_errors", {})
    equal = _layers(best, "equal_time")
    result = Solution(
        options.schedule.times,
        options.schedule.kernel_times,
        **measured,
        ntk=best.get(_NTK),
        sharpness=best.get(_SHARPNESS),
        equal_time=equal,
        two_time=_layers(best, "two_time"),
        order_parameters={name: best[of, name, _] for of, name, _ in best if of == _ORDER},
        standard_errors=errors | _kernel_errors(tableau.weights, runs, equal),
        config=config,
    )
    report_stability(result, training)
    return result


def _layers(best: Mapping[Any, FloatArray], group: str) -> dict[str, Layers]:
    found: dict[str, Layers] = {}
    for (of, name, node), values in best.items():
        if of == group:
            found.setdefault(name, {})[node] = values
    return found


def _kernel_errors(
    weights: FloatArray, runs: list[Solution], kernels: Collection[str]
) -> dict[str, FloatArray]:
    """Standard errors of what is not a curve, from those of the runs, as if independent.

    Of the kernels at equal times those in `kernels` have a limit.
    """
    found: dict[str, FloatArray] = {}
    of_blocks = runs[0].equal_time.keys() - kernels
    for name in runs[0].standard_errors.keys() - runs[0].per_seed.keys() - of_blocks:
        squares = np.zeros_like(runs[0].standard_errors[name])
        for level, (weight, run) in enumerate(zip(weights, runs, strict=True)):
            errors = run.standard_errors[name]
            # Those of kernels have layers on the first axis, order parameters behind the times.
            if name.removesuffix("_two_time") in run.equal_time:
                errors = errors[:: 2**level]
            elif name in run.order_parameters:
                errors = errors[:, :: 2**level]
            squares += (weight * errors) ** 2
        found[name] = np.sqrt(squares)
    return found
