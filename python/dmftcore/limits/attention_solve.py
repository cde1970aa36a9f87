"""An attention layer through `solve`: the limit of a call, its memory, its errors."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.heads import AttentionMarch, AttentionProblem, Heads
from dmftcore.limits.attention import (
    GROUPS,
    AttentionCore,
    attention_problem,
    heads_at_start,
)
from dmftcore.march import Diverged, SolveOptions, Stopwatch, march, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import curves, square_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["FIELDS", "METHODS", "check_attention", "solve_attention"]

#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS: tuple[str, ...] = ()
METHODS = ("quadrature", "ensemble")

#: Heads of the average, and networks, that are drawn by default.
DEFAULT_HEADS = 2048
DEFAULT_NETWORKS = 8


def solve_attention(
    limit: AttentionCore,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """March the heads of `limit`; see `dmftcore.solve`."""
    watch = Stopwatch()
    check_attention(data, training)
    engine, reason = _engine(limit, options)
    if options.tol is not None:
        raise ValueError("tol: attention truncates nothing; leave tol out")
    groups, size = _ensemble(limit, options)
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr, engine=engine)
    options = replace(options, schedule=schedule)
    problem = attention_problem(limit, data)
    plan = memory_plan(limit, problem, options, groups, size)
    check_memory(plan, _REMEDIES, nested=options.nested)
    if options.device == "cuda":
        reason += "; it runs on the CPU"
    heads = heads_at_start(limit, problem, groups=groups, size=size, seed=options.seed)
    if limit.attention == "relu" and _is_still(heads):
        warnings.warn(
            "attention='relu' with scores that start at zero: its slope is 0 there, and queries "
            "and keys never move",
            UserWarning,
            stacklevel=3,
        )
    system = AttentionMarch(
        problem,
        heads,
        training,
        centred=limit.parameters is None,
        pooled=not limit.is_network,
    )
    targets = data.targets.reshape(-1, 1)

    def mean_loss(outputs: FloatArray) -> float:
        return float(square_loss(outputs[:, : data.n_train, None], targets).mean())

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        fields, errors = _curves(limit, data, outputs.reshape(-1, groups, problem.sequences))
        parameters = system.order_parameters()
        diagnostics: dict[str, Any] = {
            "engine": engine,
            "reason": reason,
            "device": "cpu",
            "memory": plan.total,
            "heads": list(heads.readout.shape[:2]),
            "rank": problem.rank,
        }
        if "S_var" in parameters:
            diagnostics["collapse"] = parameters["S_var"].mean(axis=(1, 2, 3)).tolist()
        if errors:
            largest = errors["outputs"].max(initial=0.0)
            diagnostics["monte_carlo"] = {
                "groups": groups,
                "heads_per_group": size,
                "largest_stderr_of_outputs": float(largest),
            }
        result = Solution(
            schedule.times,
            schedule.kernel_times,
            **fields,
            errors=data.targets - fields["outputs"],
            standard_errors=errors | system.standard_errors(),
            order_parameters=parameters,
            diagnostics=diagnostics,
            config=config,
        )
        if options.estimate_error:
            diagnostics["error_estimate"] = {
                "reason": "nothing is truncated"
                + ("; stderr has the errors of the average over heads" if errors else "")
            }
        diagnostics["wall_seconds"] = watch.seconds()
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        return result

    try:
        outputs = march(system, schedule, mean_loss, options.progress, options.checkpoint)
    except Diverged as stop:
        raise DivergenceError(
            f"the training loss diverged at step {stop.step}: lr = {training.rates.max():g} is "
            "too large for scores and values that grow; lower lr",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    return solution(schedule, outputs)


def check_attention(data: Dataset, training: GradientDescent) -> None:
    """Refuse what an attention layer does not know.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if data.n_outputs > 1 or data.targets.ndim > 1:
        raise ValueError(
            f"targets must have shape (P,): an attention layer has one output, found shape "
            f"{data.targets.shape}"
        )
    if not training.is_plain:
        raise ValueError("attention knows neither momentum nor weight_decay: leave them at 0")


def _engine(limit: AttentionCore, options: SolveOptions) -> tuple[str, str]:
    """The engine of a run, and why."""
    if limit.parameters is not None:
        engine, reason = "quadrature", "the network is given"
    elif limit.is_deterministic:
        engine = "quadrature"
        reason = (
            "all heads are equal"
            if limit.initial_correlations is None
            else "initial_correlations are its nodes"
        )
    elif limit.is_network:
        engine, reason = "ensemble", "the weights of a network of finitely many heads are random"
    elif limit.key_dim == INFINITE:
        engine, reason = "ensemble", "the scores of a head are random at attention_exponent=1/2"
    else:
        engine, reason = "ensemble", f"the weights of a head of {limit.key_dim} keys are random"
    if options.method not in (None, engine):
        raise ValueError(
            f"method={options.method!r} does not fit this limit: {reason}; use method={engine!r}"
        )
    return engine, reason


def _ensemble(limit: AttentionCore, options: SolveOptions) -> tuple[int, int]:
    """Number of groups, and of heads in each."""
    if limit.is_deterministic:
        for name, given in (("samples", options.samples is not None), ("seed", options.seed != 0)):
            if given:
                raise ValueError(f"{name}: nothing is random in this limit; leave {name} out")
        nodes = limit.initial_correlations
        if limit.parameters is not None:
            return 1, int(limit.heads)
        return 1, 1 if nodes is None else len(nodes)
    if limit.is_network:
        return DEFAULT_NETWORKS if options.samples is None else options.samples, int(limit.heads)
    samples = DEFAULT_HEADS if options.samples is None else options.samples
    if samples % (2 * GROUPS):
        raise ValueError(
            f"samples must be a multiple of {2 * GROUPS}, {GROUPS} independent groups of "
            f"antithetic pairs of heads, not {samples}"
        )
    return GROUPS, samples // GROUPS


def _is_still(heads: Heads) -> bool:
    """Whether all scores are zero at the start."""
    if heads.score is not None:
        return not heads.score.any()
    assert heads.query is not None
    assert heads.key is not None
    return not (heads.query @ heads.key.swapaxes(-1, -2)).any()


def _curves(
    limit: AttentionCore, data: Dataset, outputs: FloatArray
) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """Curves from outputs (n_times, G, P + Q), and their standard errors between groups.

    Networks have losses of their own, of which the mean is taken. The heads of all groups make one
    output, and the loss is that of this.
    """
    by_group = curves(data, outputs.swapaxes(0, 1)[..., None])
    groups = outputs.shape[1]
    errors = {}
    if groups > 1:
        errors = {
            name: values.std(axis=0, ddof=1) / np.sqrt(groups) for name, values in by_group.items()
        }
    if limit.is_network:
        return {name: values.mean(axis=0) for name, values in by_group.items()}, errors
    return curves(data, outputs.mean(axis=1)[..., None]), errors


def memory_plan(
    limit: AttentionCore, problem: AttentionProblem, options: SolveOptions, groups: int, size: int
) -> Plan:
    """Memory of a run, by part."""
    tokens, rank = problem.tokens, problem.rank
    square = problem.sequences * problem.length**2
    finite = limit.key_dim != INFINITE
    keys = min(limit.key_dim, problem.keys) if finite else problem.keys
    values = min(limit.key_dim, problem.values) if finite else problem.values
    head = tokens * values + values + (square if problem.scale == 0 else 2 * tokens * keys)
    heads = groups * size * head
    slots = len(options.schedule.kernel_times)
    counts = {
        # As they start, and as the core takes them.
        "heads": 2 * heads,
        "checkpoint": 0 if options.checkpoint is None else heads,
        # Patterns of all heads; scores and patterns of a group, and what is made of them.
        "patterns": groups * size * (square + 2 * tokens) + 4 * size * square,
        "tokens": tokens * (tokens + 2 * rank),
        "curves": 6 * groups * len(options.schedule.times) * problem.sequences,
        "order parameters": 4 * slots * (4 * square + tokens**2),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "heads": "pass fewer samples, or take fewer tokens",
    "checkpoint": "pass fewer samples, or no checkpoint",
    "patterns": "pass fewer samples, or take shorter sequences",
    "tokens": "take fewer tokens",
    "curves": "pass fewer times",
    "order parameters": "pass fewer kernel_times (kernel_times=[] stores none)",
}
