"""Learned features: the engine of a run, its memory, its error."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from dmftcore import spectral
from dmftcore._validate import FloatArray
from dmftcore.errors import AccuracyWarning, DivergenceError, StabilityWarning
from dmftcore.limits.feature_closed import ClosedMarch, FeatureFlow
from dmftcore.limits.feature_learning import KERNELS, FeatureMarch, check_training
from dmftcore.limits.scaling import FeatureLearning
from dmftcore.march import Diverged, SolveOptions, Stopwatch, follow, march, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.richardson import Tableau
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.spectral.arguments import Population
from dmftcore.spectrum import AnySpectrum
from dmftcore.training import GradientDescent, GradientFlow
from dmftcore.worth import LOSS_FLOOR

__all__ = ["FIELDS", "METHODS", "solve_feature_learning"]

#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS = KERNELS
METHODS = ("closed", "chain")

#: Wanted relative error of the loss of a flow, and how often its steps may be halved for it.
DEFAULT_TOL = 1e-6
HALVINGS = 7


def solve_feature_learning(
    limit: FeatureLearning,
    spectrum: AnySpectrum,
    training: GradientDescent | GradientFlow,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """March the theory of `limit`, or follow its flow; see `dmftcore.solve`."""
    population = Population.of(spectrum)
    if isinstance(training, GradientFlow):
        return _feature_flow(limit, population, options, config)
    watch = Stopwatch()
    check_training(training)
    if options.tol is not None:
        raise ValueError("tol: steps of a FeatureLearning are not truncated; leave it out")
    engine, reason = _engine(limit, population, training, options)
    if options.device == "cuda":
        reason += "; it runs on the CPU"
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr, engine=engine)
    plan = _memory_plan(limit, population, training, options, engine)
    check_memory(plan, _REMEDIES)
    edge = spectral.spectral_edge(spectrum, np.inf, limit.features)
    largest_rate = float(training.rates.max(initial=0.0))
    if largest_rate * edge > 2:
        warnings.warn(
            f"lr = {largest_rate:g} exceeds {2 / edge:.6g}, the largest stable rate at step 0",
            StabilityWarning,
            stacklevel=3,
        )
    system: FeatureMarch | ClosedMarch = (
        FeatureMarch(limit, population, training)
        if engine == "chain"
        else ClosedMarch(limit.gamma, population, training, len(schedule.kernel_times))
    )

    def solution(schedule: Schedule, losses: FloatArray) -> Solution:
        diagnostics = {
            "engine": engine,
            "reason": reason,
            "device": "cpu",
            "memory": plan.total,
            "stability_bound": 2 / edge,
            **system.worth(),
        }
        if options.estimate_error:
            diagnostics["error_estimate"] = {"reason": f"the engine {engine!r} truncates nothing"}
        diagnostics["wall_seconds"] = watch.seconds()
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        half = losses.reshape(-1) / 2
        return Solution(
            schedule.times,
            schedule.kernel_times,
            half,
            test_loss=half.copy(),
            **system.fields(options.save),
            diagnostics=diagnostics,
            config=config,
        )

    try:
        losses = march(
            system,
            schedule,
            lambda loss: float(loss[0, 0]) / 2,
            options.progress,
            options.checkpoint,
        )
    except Diverged as stop:
        raise DivergenceError(
            f"the loss grew at step {stop.step}, which no stable run does: lr = {largest_rate:g}, "
            f"where {2 / edge:.6g} is the largest stable rate at step 0; learned features lower "
            "it; lower lr",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    return solution(schedule, losses)


def _engine(
    limit: FeatureLearning,
    population: Population,
    training: GradientDescent,
    options: SolveOptions,
) -> tuple[str, str]:
    """The engine of a run of gradient descent, and why."""
    if np.isfinite(limit.features):
        if options.method == "closed":
            raise ValueError(
                "method='closed' is the dynamics of infinitely many features; use method='chain', "
                "or features=INFINITE"
            )
        return "chain", f"{limit.features:g} features: all two-time kernels matter"
    if options.method is not None:
        return options.method, "asked for"
    held = None if options.checkpoint is None else options.checkpoint.held("engine")
    if held in METHODS:
        return held, "the checkpoint holds a run of it"
    modes, steps = len(population.values), training.steps
    # Operations of a step: three passes over the matrix B, or over the rows of the kernels.
    if 6 * modes**2 <= 4 * modes * steps + 3 * steps**2:
        return "closed", f"a step costs the square of the {modes} modes alone, whatever its number"
    return "chain", f"{steps} steps are few for {modes} modes"


def _memory_plan(
    limit: FeatureLearning,
    population: Population,
    training: GradientDescent,
    options: SolveOptions,
    engine: str,
) -> Plan:
    """Memory of a run, by part."""
    slots, modes = len(options.schedule.kernel_times), len(population.values)
    if engine == "chain":
        state = FeatureMarch.count(limit, population, training.steps)
        # Dense matrices of the residual.
        state += 20 * min(training.steps + 1, 200) ** 2
    else:
        state = ClosedMarch.count(population, slots) + modes**2
    counts = {
        engine: state,
        "checkpoint": 0 if options.checkpoint is None else state,
        "curves": 6 * len(options.schedule.times),
        "kernels": 3 * len(KERNELS) * slots**2,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "chain": "use fewer steps, or a spectrum of fewer modes (PowerLaw.grouped)",
    "closed": "use a spectrum of fewer modes (PowerLaw.grouped)",
    "flow": "pass fewer times, or a spectrum of fewer modes (PowerLaw.grouped)",
    "checkpoint": "use fewer steps, or pass no checkpoint",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
}


# -- gradient flow ---------------------------------------------------------------------------------


def _feature_flow(
    limit: FeatureLearning, population: Population, options: SolveOptions, config: dict[str, Any]
) -> Solution:
    """The closed flow of infinitely many features, extrapolated in its step."""
    watch, gamma = Stopwatch(), limit.gamma
    if np.isfinite(limit.features):
        raise ValueError(
            "a GradientFlow of a FeatureLearning needs features=INFINITE; for finitely many use "
            "GradientDescent with a small lr, where tau = lr * step"
        )
    if options.method == "chain":
        raise ValueError("method='chain' marches in steps; a GradientFlow has method='closed'")
    if "C_w" in options.save:
        raise ValueError(
            "save='C_w': a GradientFlow has it at equal times only, without save; use "
            "GradientDescent for two times"
        )
    times, slots = options.schedule.times, options.schedule.kernel_times
    counts = {
        "flow": (2 * HALVINGS + 2) * len(times) * len(population.values),
        "kernels": 3 * len(KERNELS) * len(slots) ** 2,
    }
    plan = Plan({part: 8 * count for part, count in counts.items()})
    check_memory(plan, _REMEDIES)
    tol = DEFAULT_TOL if options.tol is None else options.tol

    def losses(v: FloatArray) -> FloatArray:
        found: FloatArray = v**2 @ population.values
        return found

    tableau, error, before = Tableau(symmetric=True), np.inf, np.empty(0)
    floor = max(LOSS_FLOOR * float(population.signal.sum()), 1e-300)
    for halving in range(HALVINGS + 1):
        flow = FeatureFlow(gamma, population, 2**halving)
        v = follow(flow, options.schedule, lambda now: float(losses(now)[0]) / 2, options.progress)
        tableau.add({"v": v[:, 0]})
        now = losses(tableau.best["v"])
        if halving:
            error = float(np.max(np.abs(now - before) / np.maximum(now, floor), initial=0.0))
        before = now
        if error <= tol:
            break
    if error > tol:
        warnings.warn(
            f"the estimated relative error of the loss, {error:.2g}, exceeds tol = {tol:g}",
            AccuracyWarning,
            stacklevel=4,
        )
    reason = "asked for" if options.method is not None else "the only one for a flow"
    if options.device == "cuda":
        reason += "; it runs on the CPU"
    at_kernels = np.searchsorted(times, slots)
    return Solution(
        times,
        slots,
        before / 2,
        test_loss=before / 2,
        **FeatureFlow.fields(gamma, population, tableau.best["v"][at_kernels], options.save),
        diagnostics={
            "engine": "closed",
            "reason": reason,
            "device": "cpu",
            "memory": plan.total,
            "levels": tableau.levels,
            "error_estimate": {"train_loss": error, "test_loss": error},
            "wall_seconds": watch.seconds(),
        },
        config=config,
    )
