"""Deep linear networks on random data: the engine of a run, its memory, its error."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.optimize

from dmftcore._validate import FloatArray
from dmftcore.chain import ContinuumChain, HiddenChain, ResidualChain
from dmftcore.chain.continuum import NODES
from dmftcore.errors import DivergenceError, StabilityWarning
from dmftcore.growing.random_data import RandomNetwork
from dmftcore.limits.proportional import FIELDS, RESPONSES, ProportionalLinear, ProportionalMarch
from dmftcore.march import Diverged, SolveOptions, Stopwatch, march, resumed
from dmftcore.memory import Plan, library_with_room
from dmftcore.random_data import RandomData
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent, OnlineSGD
from dmftcore.worth import LOSS_FLOOR

__all__ = ["FIELDS", "METHODS", "solve_proportional"]

#: What `method` of `dmftcore.solve` may name.
METHODS = ("growing", "chain")

#: Steps up to which the chain, which truncates nothing, is the cheaper engine or nearly so.
SHORT_RUN = 400
#: Tolerance of the growing network, and by how much that of the run it is compared with differs.
DEFAULT_TOL = 1e-6
TOL_RATIO = 100
#: Below it, directions are made of rounding noise.
ROUNDING_TOL = 1e-13
#: By how much the learning rate of the chain differs in the run it is compared with.
OTHER_ROUNDING = 4 * float(np.finfo(np.float64).eps)


def solve_proportional(
    limit: ProportionalLinear,
    _: None,
    training: GradientDescent | OnlineSGD,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """March the theory of `limit`; see `dmftcore.solve`."""
    watch = Stopwatch()
    if isinstance(training, OnlineSGD) and training.batch is not None:
        raise ValueError(
            "batch: sample_ratio sets the samples of a step, sample_ratio * D; leave batch out"
        )
    engine, reason = _engine(limit, training, options)
    if options.tol is not None and engine == "chain":
        raise ValueError("tol: the two-time chain truncates nothing; leave tol out")
    tol = float(options.held("tol", DEFAULT_TOL)) if engine == "growing" else None
    in_force = {"engine": engine} if tol is None else {"engine": engine, "tol": tol}
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr, **in_force)
    options = replace(options, schedule=schedule, tol=tol)
    plan = memory_plan(limit, training, options, engine)
    device = options.device if engine == "chain" else "cpu"
    if device != options.device:
        reason += "; it runs on the CPU"
    xp = library_with_room(device, plan, _REMEDIES, on_device=_ON_DEVICE, nested=options.nested)
    bound = stability_bound(limit, training)
    if np.any(training.rates > bound):
        warnings.warn(
            f"lr = {training.rates.max():g} exceeds {bound:.6g}, the largest stable rate at step "
            "0 of a wide network that does not learn features",
            StabilityWarning,
            stacklevel=3,
        )
    system = _system(limit, training, options, xp)

    def solution(schedule: Schedule, curves: FloatArray) -> Solution:
        population, train, overlap = curves.reshape(-1, 3).T
        diagnostics = {
            "engine": engine,
            "reason": reason,
            "device": device,
            "memory": plan.total,
            "stability_bound": bound,
            **system.worth(),
        }
        result = Solution(
            schedule.times,
            schedule.kernel_times,
            train / 2,
            test_loss=population / 2,
            overlap=overlap.copy(),
            **system.fields(options.save),
            diagnostics=diagnostics,
            config=config,
        )
        diagnostics["wall_seconds"] = watch.seconds()
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        return result

    try:
        curves = march(
            system, schedule, lambda now: float(now[1]) / 2, options.progress, options.checkpoint
        )
    except Diverged as stop:
        settled = isinstance(system, RandomNetwork) or system.chain.settled
        what = "the training loss" if settled else "the flow in depth"
        remedy = "lower lr"
        within = engine == "chain" and bool(np.all(training.rates <= bound))
        if within and _obstacle(limit, training, options) is None:
            remedy += (
                ", or try method='growing': where learning is unstable for a while, rounding grows "
                "with it, and the growing network starts from less of it"
            )
        raise DivergenceError(
            f"{what} diverged at step {stop.step}: lr = {training.rates.max():g}, where the "
            f"largest stable rate without feature learning is {bound:.6g}; {remedy}",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    result = solution(schedule, curves)
    if options.estimate_error:
        error = _error_estimate(limit, training, options, config, result)
        result.diagnostics["error_estimate"] = error
    return result


def _engine(
    limit: ProportionalLinear, training: GradientDescent | OnlineSGD, options: SolveOptions
) -> tuple[str, str]:
    """The engine of a run, and why."""
    obstacle = _obstacle(limit, training, options)
    if options.method == "growing" and obstacle is not None:
        raise ValueError(f"method='growing' has no {obstacle}; use method='chain'")
    if options.method is not None:
        return options.method, "asked for"
    if obstacle is not None:
        return "chain", f"the growing network has no {obstacle}"
    held = None if options.checkpoint is None else options.checkpoint.held("engine")
    if held in METHODS:
        return held, "the checkpoint holds a run of it"
    if options.tol is not None:
        return "growing", "a tol was given"
    if training.steps <= SHORT_RUN:
        return "chain", f"{training.steps} steps are few, and it truncates nothing"
    return (
        "growing",
        f"no responses were asked for, and the cost of the chain is cubic in the {training.steps} "
        "steps",
    )


def _obstacle(
    limit: ProportionalLinear, training: GradientDescent | OnlineSGD, options: SolveOptions
) -> str | None:
    """What keeps the growing network from a run, if anything does."""
    if isinstance(training, OnlineSGD):
        return "fresh samples: each step visits a new direction (OnlineSGD)"
    if limit.branch_scale is not None:
        return "residual blocks on random data (branch_scale)"
    return next((f"responses (save={name!r})" for name in RESPONSES if name in options.save), None)


def _system(
    limit: ProportionalLinear,
    training: GradientDescent | OnlineSGD,
    options: SolveOptions,
    xp: Any,
) -> ProportionalMarch | RandomNetwork:
    if options.tol is None:
        return ProportionalMarch(limit, training, with_responses="A" in options.save, xp=xp)
    assert not isinstance(training, OnlineSGD)
    return RandomNetwork(
        limit.population(),
        training,
        depth=limit.depth,
        init_scale=limit.init_scale,
        tol=options.tol,
        two_time=bool(options.save),
    )


def _error_estimate(
    limit: ProportionalLinear,
    training: GradientDescent | OnlineSGD,
    options: SolveOptions,
    config: dict[str, Any],
    result: Solution,
) -> dict[str, Any]:
    """How far `result` is from a run of the same engine with another error.

    The growing network has another tolerance there. The chain, which truncates nothing, has
    another rounding, since its learning rate is a few units in the last place larger: where
    learning is unstable, rounding grows with everything else.
    """
    if len(result.times) == 0:
        return {"reason": "no times are stored"}
    report: dict[str, Any]
    if options.tol is None:
        tol, engine = None, "chain"
        training = replace(training, lr=training.lr * (1 + OTHER_ROUNDING))
        report, other_run = {"reference_lr": training.lr}, "a learning rate next to this one"
    else:
        finer = options.tol / TOL_RATIO
        tol, engine = finer if finer >= ROUNDING_TOL else options.tol * TOL_RATIO, "growing"
        report, other_run = {"reference_tol": tol}, f"tol = {tol:g}"
    other = replace(
        options,
        schedule=replace(options.schedule, kernel_times=np.empty(0, dtype=np.int64)),
        save=(),
        tol=tol,
        method=engine,
        estimate_error=False,
        nested=True,
        checkpoint=None if options.checkpoint is None else options.checkpoint.beside("reference"),
    )
    try:
        with warnings.catch_warnings():
            # The other run is as unstable as this one.
            warnings.simplefilter("ignore", StabilityWarning)
            reference = solve_proportional(limit, None, training, other, config)
    except (DivergenceError, MemoryError) as error:
        return {**report, "reason": f"the run at {other_run} failed: {error}"}
    for name in ("test_loss", "train_loss"):
        exact = getattr(reference, name)
        floor = np.maximum(exact, LOSS_FLOOR * exact.max())
        report[name] = float(np.max(np.abs(getattr(result, name) - exact) / floor))
    return {**report, "wall_seconds": reference.diagnostics["wall_seconds"]}


def stability_bound(limit: ProportionalLinear, training: GradientDescent | OnlineSGD) -> float:
    """Learning rate above which a wide network that does not learn features diverges.

    With full batches, along a direction of curvature k the heavy ball is stable for
    ``lr < 2 (1 + momentum) / (k + weight_decay)``. The largest curvature belongs to the upper edge
    of the spectrum of the sample covariance, the minimum over ``z > max lambda`` of
    ``z (1 + (1/alpha) sum_k w_k lambda_k / (z - lambda_k))`` (Silverstein & Choi 1995). With fresh
    samples the noise of the batches diverges first, where
    ``(1/alpha) sum_k w_k x_k / (2 - x_k) = 1``, x_k = lr times the curvature of mode k.
    """
    modes, alpha = limit.modes, limit.sample_ratio
    values, weights = modes.values, modes.weights
    top = float(values.max())
    if isinstance(training, OnlineSGD):

        def excess(x: float) -> float:
            steps = x * values / top
            return float(np.sum(weights * steps / (2 - steps))) / alpha - 1

        return float(scipy.optimize.brentq(excess, 0, 2 * (1 - 1e-15))) / (
            limit.initial_curvature * top
        )

    def outside(log_distance: float) -> float:
        z = top * (1 + math.exp(log_distance))
        return z * (1 + float(np.sum(weights * values / (z - values))) / alpha)

    edge = scipy.optimize.minimize_scalar(outside, bounds=(-30, 30), method="bounded").fun
    curvature = limit.initial_curvature * float(edge)
    return 2 * (1 + training.momentum) / (curvature + training.weight_decay)


def memory_plan(
    limit: ProportionalLinear,
    training: GradientDescent | OnlineSGD,
    options: SolveOptions,
    engine: str,
) -> Plan:
    """Memory of a run, by part."""
    steps, slots = training.steps, len(options.schedule.kernel_times)
    if engine == "growing":
        # How large the network will be shows as it grows; it stops a run that gets too large.
        kernels = (2 * limit.depth + 3) * slots**2 if options.save else 0
        counts = {"curves": 6 * len(options.schedule.times), "kernels": 2 * kernels}
        return Plan({part: 8 * count for part, count in counts.items()})
    if limit.branch_scale is None:
        chain, layers = HiddenChain.count(limit.depth, steps, 1), limit.depth
    elif limit.branch_factor is None:
        chain, layers = ContinuumChain.count(steps, 1), NODES
    else:
        chain, layers = ResidualChain.count(limit.depth, steps, 1), limit.depth
    data = RandomData.count(len(limit.modes.values), steps, on_device=options.device == "cuda")
    held = 0 if options.checkpoint is None else 1
    counts = {
        "chain": chain,
        **data,
        "checkpoint": held * (chain // 2 + data["data"]),
        "curves": 6 * len(options.schedule.times),
        # The last layer, and every layer's response, by row; what is made of them.
        "kernels": slots * (steps + 1) * (1 + layers * ("A" in options.save))
        + 4 * (2 * layers + 3) * slots**2,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: The parts of the plan that are on the device, if there is one.
_ON_DEVICE = {"chain", "data", "modes"}

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "chain": "use fewer steps",
    "data": "use fewer steps",
    "modes": "use fewer steps, or a spectrum of fewer modes",
    "quadrature": "use fewer steps, or a spectrum of fewer modes",
    "checkpoint": "use fewer steps, or pass no checkpoint",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
}
