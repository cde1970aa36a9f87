"""Gradient flow of deep linear networks: gradient descent extrapolated to lr = 0, or integrated.

"richardson" runs gradient descent, which is Euler's method for the flow, at steps h, h/2, h/4, ...
and extrapolates every field to h = 0; its cost grows as tau times the sharpness. "stiff" integrates
the growing network with steps that the accuracy alone limits: a few hundred reach any time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import AccuracyWarning, DivergenceError, StabilityWarning
from dmftcore.growing.stiff import FlowNetwork
from dmftcore.limits.lazy import LazyMarch
from dmftcore.limits.linear import (
    KERNELS,
    DeepLinear,
    kernel_fields,
    linear_problem,
    solve_deep_linear,
    stability_bound,
)
from dmftcore.march import SolveOptions, Stopwatch, follow
from dmftcore.memory import Plan, check_memory
from dmftcore.modes import Modes
from dmftcore.observables import curves, sharpness, training_loss
from dmftcore.richardson import Fields, Tableau
from dmftcore.schedule import Schedule
from dmftcore.solution import IntArray, Layers, Solution, TimeArray
from dmftcore.training import GradientDescent, GradientFlow

__all__ = ["solve_linear_flow"]

#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS = KERNELS
METHODS = ("richardson", "stiff")

#: Wanted error of Delta, relative to its largest entry at the same time.
DEFAULT_TOL = 1e-6
#: Differences of outputs below this multiple of the largest target are rounding.
ROUNDING = 1e-13

#: Extrapolation: step times sharpness of the coarsest run, steps halved one after the other, and
#: how far the truncation of the growing networks stays below the tolerance.
COARSEST_STEP = 0.5
LEVELS = 9
TRUNCATION = 1e-2
ROUNDING_TOL = 1e-13
#: Times at which a pilot run looks at the sharpness, and how often it may be repeated.
PILOT_TIMES = 16
PILOTS = 20

#: Integration: tolerances of its steps, of the answer and of the run it is compared with, and the
#: smallest that rounding allows.
ANSWER, COMPARISON = 1 / 3, 3.0
SMALLEST_TOL = 1e-11
#: The tangent kernel of up to this many (output, mode) pairs is diagonalised at every step.
LARGEST_KERNEL = 1000
#: Up to this value of tau_max times the sharpness at tau = 0 extrapolation is the cheaper way.
SHORT_FLOW = 100.0


def solve_linear_flow(
    limit: DeepLinear,
    data: Dataset,
    _: GradientFlow,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Solve the gradient flow of `limit`; see `dmftcore.solve`."""
    watch = Stopwatch()
    if options.tol is None:
        options = replace(options, tol=DEFAULT_TOL)
    engine, reason = _engine(limit, data, options)
    plan = _memory_plan(limit, data, options, engine)
    check_memory(plan, _REMEDIES)
    solve = {"lazy": _closed_form, "richardson": _extrapolated, "stiff": _integrated}[engine]
    fields, worth = solve(limit, data, options)
    estimate = worth["error_estimate"]["relative"]
    if estimate > options.tol:
        warnings.warn(
            f"the estimated error of Delta, relative to its largest entry, is {estimate:.2g} and "
            f"exceeds tol = {options.tol:g}; {_ACCURACY[engine]}",
            AccuracyWarning,
            stacklevel=3,
        )
    diagnostics = {"engine": engine, "reason": reason, "memory": plan.total, "tol": options.tol}
    return Solution(
        options.schedule.times,
        options.schedule.kernel_times,
        **fields,
        diagnostics={**diagnostics, **worth, "wall_seconds": watch.seconds()},
        config=config,
    )


#: What to do where a method misses the tolerance.
_ACCURACY = {
    "richardson": "pass fewer or shorter times, a larger tol, or method='stiff'",
    "stiff": "pass a smaller tol",
}


def _engine(limit: DeepLinear, data: Dataset, options: SolveOptions) -> tuple[str, str]:
    """The way to solve a flow, and why."""
    if options.method == "stiff" and limit.branch_scale is not None:
        raise ValueError(
            "method='stiff' integrates plain networks, and branch_scale makes residual blocks: "
            "use method='richardson'"
        )
    assert options.tol is not None
    if options.method == "richardson":
        return "richardson", "asked for"
    if limit.gamma == 0:
        return "lazy", "gamma = 0 has a closed form"
    if options.method == "stiff" and options.tol < SMALLEST_TOL:
        raise ValueError(
            f"tol = {options.tol:g} is beyond what rounding allows method='stiff': pass tol >= "
            f"{SMALLEST_TOL:g}, or use method='richardson'"
        )
    if options.method == "stiff":
        return "stiff", "asked for"
    if limit.branch_scale is not None:
        return "richardson", "the stiff integrator does not know residual blocks"
    if options.tol < SMALLEST_TOL:
        return "richardson", f"tol = {options.tol:g} is below {SMALLEST_TOL:g}"
    size = _kernel_size(data)
    if size > LARGEST_KERNEL:
        return "richardson", f"a tangent kernel of {size} rows is dear to diagonalise"
    extent = float(options.schedule.times[-1]) * _initial_sharpness(limit, data)
    if extent <= SHORT_FLOW:
        return "richardson", f"tau_max * sharpness = {extent:.3g} at the start: few steps"
    return "stiff", f"tau_max * sharpness = {extent:.3g} at the start: many steps of descent"


def _kernel_size(data: Dataset) -> int:
    """Largest number of (output, mode) pairs that the data can have."""
    rank = data.n_train if data.inputs is None else min(data.n_train, data.inputs.shape[1])
    return data.n_outputs * rank


def _initial_sharpness(limit: DeepLinear, data: Dataset) -> float:
    return 2 / stability_bound(limit, data, _AT_REST)


#: Training that says nothing but plain: no step is taken by it.
_AT_REST = GradientDescent(lr=1.0, steps=0)


# -- gamma = 0 -------------------------------------------------------------------------------------


def _closed_form(
    limit: DeepLinear, data: Dataset, options: SolveOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    network = LazyFlow(limit, data)
    fields = curves(data, follow(network, options.schedule, training_loss(data), options.progress))
    fields |= kernel_fields(network, limit, data, len(options.schedule.kernel_times), options.save)
    return fields, {"error_estimate": {"absolute": 0.0, "relative": 0.0}}


class LazyFlow(LazyMarch):
    """The branch gamma = 0 in continuous time: ``Delta'(tau) = exp(-tau c Kx / P) y'``.

    With ``c = limit.initial_tangent_scale``, by a kernel that does not move.
    """

    def __init__(self, limit: DeepLinear, data: Dataset) -> None:
        super().__init__(linear_problem(limit, data, _AT_REST), limit.branch_scale)
        self._rates = limit.initial_tangent_scale * self._modes.scales**2 / data.n_train
        self._time = 0.0

    def flow(self, time: float, accepted: Callable[[], None]) -> None:
        """Move to the time tau, at once."""
        self._time = time

    def outputs(self) -> FloatArray:
        """Outputs (P + Q, K) at the time reached."""
        learned = -np.expm1(-self._time * self._rates) * self._modes.targets
        outputs: FloatArray = self._modes.outputs(learned[None] / self._modes.scales)[0]
        return outputs


# -- the stiff integrator --------------------------------------------------------------------------


def _integrated(
    limit: DeepLinear, data: Dataset, options: SolveOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    assert options.tol is not None
    modes = Modes.of(data)
    outputs, network = _integrate(modes, limit, options, ANSWER * options.tol)
    rough = replace(options, schedule=replace(options.schedule, kernel_times=np.array([])))
    comparison, _ = _integrate(modes, limit, rough, COMPARISON * options.tol)
    fields = curves(data, outputs)
    fields |= kernel_fields(network, limit, data, len(options.schedule.kernel_times), options.save)
    worth = {
        "error_estimate": _distance(data, outputs, comparison),
        "neurons": network.neurons,
        "steps": network.steps,
        "rejected": network.rejected,
    }
    return fields, worth


def _integrate(
    modes: Modes, limit: DeepLinear, options: SolveOptions, tol: float
) -> tuple[FloatArray, FlowNetwork]:
    """Outputs (n_times, P + Q, K), and the network with its kernels."""
    network = FlowNetwork(
        modes,
        depth=limit.depth,
        gamma=limit.gamma,
        init_scale=limit.init_scale,
        tol=tol,
        two_time=bool(options.save),
    )
    loss = training_loss(modes.data)
    return follow(network, options.schedule, loss, options.progress), network


# -- Richardson extrapolation ----------------------------------------------------------------------


def _extrapolated(
    limit: DeepLinear, data: Dataset, options: SolveOptions
) -> tuple[dict[str, Any], dict[str, Any]]:
    assert options.tol is not None
    coarsest = _coarsest_step(limit, data, options)
    tableau = Tableau()
    best: Fields = {}
    worth: dict[str, Any] = {}
    for level in range(LEVELS):
        descent, stops = _descent(options.schedule.times, coarsest, 2**level)
        run = _run(limit, data, options, descent, stops)
        tableau.add(_flat(data, run))
        if level == 0:
            before = tableau.best
            continue
        estimate = _distance(data, tableau.best["outputs"], before["outputs"])
        before = tableau.best
        # What rounding and truncation leave is magnified from level to level: keep the best.
        if not worth or estimate["relative"] < worth["error_estimate"]["relative"]:
            best = tableau.best
            worth = {
                "error_estimate": estimate,
                "levels": level + 1,
                "coarsest_step": coarsest,
                "steps": descent.steps,
            }
        if estimate["relative"] <= options.tol:
            break
    return _solution_fields(data, best), worth


def _coarsest_step(limit: DeepLinear, data: Dataset, options: SolveOptions) -> float:
    """A step that stays below 1 / sharpness along the flow, as found by pilot runs."""
    times = options.schedule.times
    chosen = np.unique(np.linspace(0, len(times) - 1, PILOT_TIMES).round().astype(np.int64))
    at = Schedule(len(times), times, times[chosen])
    pilot = replace(options, save=(), progress=None, schedule=at)
    step = COARSEST_STEP / _initial_sharpness(limit, data)
    for _ in range(PILOTS):
        descent, stops = _descent(pilot.schedule.times, step, 1)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StabilityWarning)
                found = _run(limit, data, pilot, descent, stops).sharpness
        except DivergenceError:
            step /= 4
            continue
        assert found is not None
        if step * found.max() < 2 * COARSEST_STEP:
            return step
        step = COARSEST_STEP / float(found.max())
    raise ValueError(
        f"no step of gradient descent was found that follows the flow up to tau = {times[-1]:g}: "
        "pass shorter times, or method='stiff'"
    )


def _descent(times: TimeArray, step: float, refinement: int) -> tuple[GradientDescent, IntArray]:
    """Gradient descent through `times`, and its steps there.

    Between two times it goes in equal steps of at most ``step / refinement``, so that every
    refinement divides all of the steps.
    """
    lengths = np.diff(times, prepend=0.0)
    counts = np.ceil(lengths / step).astype(np.int64) * refinement
    rates = np.repeat(lengths / np.maximum(counts, 1), counts)
    steps = len(rates)
    return GradientDescent(lr=rates if steps else step, steps=steps), np.cumsum(counts)


def _run(
    limit: DeepLinear,
    data: Dataset,
    options: SolveOptions,
    descent: GradientDescent,
    stops: IntArray,
) -> Solution:
    """Gradient descent with everything stored that the flow wants, at its steps `stops`."""
    assert options.tol is not None
    progress = options.progress

    def report(step: int, loss: float) -> None:
        if progress is not None:
            progress(int(np.searchsorted(stops, step, side="right")), loss)

    with_kernels = np.isin(options.schedule.times, options.schedule.kernel_times)
    inner = SolveOptions(
        schedule=Schedule.of(descent.steps, stops, stops[with_kernels]),
        save=options.save,
        tol=max(TRUNCATION * options.tol, ROUNDING_TOL),
        method=None,
        device=options.device,
        progress=report,
        nested=True,
    )
    return solve_deep_linear(limit, data, descent, inner, {})


def _flat(data: Dataset, run: Solution) -> Fields:
    """The fields of a run that are extrapolated; all others follow from them."""
    both = [f for f in (run.outputs, run.test_outputs) if f is not None]
    points = [f.reshape(len(f), -1, data.n_outputs) for f in both]
    fields: dict[Any, FloatArray] = {"outputs": np.concatenate(points, axis=1)}
    if run.ntk is not None:
        fields["ntk"] = run.ntk
    for group in ("equal_time", "two_time"):
        for name, layers in getattr(run, group).items():
            fields |= {(group, name, layer): kernel for layer, kernel in layers.items()}
    return fields


def _solution_fields(data: Dataset, fields: Fields) -> dict[str, Any]:
    """Fields of a `Solution` from those that `_flat` names."""
    found: dict[str, Any] = curves(data, fields["outputs"])
    groups: dict[str, dict[str, Layers]] = {"equal_time": {}, "two_time": {}}
    for key, kernel in fields.items():
        if isinstance(key, tuple):
            group, name, layer = key
            groups[group].setdefault(name, {})[layer] = kernel
    if "ntk" in fields:
        size = data.n_train, data.n_outputs
        found["ntk"] = fields["ntk"]
        found["sharpness"] = np.array([sharpness(k.reshape(*size, *size)) for k in fields["ntk"]])
    return {**found, **groups}


# -- what the answer is worth and needs ------------------------------------------------------------


def _distance(data: Dataset, outputs: FloatArray, others: FloatArray) -> dict[str, float]:
    """Largest difference of training outputs, absolute and relative to max |Delta| of each time.

    Relative differences do not count rounding, which is all that is left where Delta has decayed.
    """
    train = slice(data.n_train)
    targets = data.targets.reshape(data.n_train, -1)
    difference = np.abs(outputs - others)[:, train].max(axis=(1, 2))
    largest = np.abs(targets - outputs[:, train]).max(axis=(1, 2))
    known = np.maximum(difference - ROUNDING * np.abs(targets).max(), 0)
    relative = np.divide(known, largest, out=np.zeros_like(known), where=known > 0)
    return {"absolute": float(difference.max()), "relative": float(relative.max())}


def _memory_plan(limit: DeepLinear, data: Dataset, options: SolveOptions, engine: str) -> Plan:
    """Memory of a run, by part."""
    points, outputs = data.n_train + data.n_test, data.n_outputs
    # The lazy limit has no layers at infinite depth.
    depth = 0 if limit.depth == INFINITE else limit.depth
    slots = len(options.schedule.kernel_times)
    # A row of the tableau, the next one, and a run.
    copies = 2 * LEVELS + 1 if engine == "richardson" else 2
    saved = {"H": points * points, "G": outputs**2}
    kernels = slots * (depth + 1) * points**2 + 2 * slots * (data.n_train * outputs) ** 2
    counts = {
        "curves": copies * len(options.schedule.times) * points * outputs,
        "kernels": copies * kernels,
        "two-time kernels": copies * slots**2 * depth * sum(saved[n] for n in options.save),
        "tangent kernel": 4 * _kernel_size(data) ** 2 if engine == "stiff" else 0,
        "data": 4 * points**2,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
    "tangent kernel": "use method='richardson'",
    "data": "take fewer points",
}
