"""An attention layer through `solve`: the limit of a call, its memory, its errors."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.heads import AttentionMarch, AttentionProblem, Heads
from dmftcore.limits.assembly import solved
from dmftcore.limits.attention import (
    GROUPS,
    AttentionCore,
    attention_problem,
    heads_at_start,
)
from dmftcore.march import SolveOptions, Stopwatch, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import curves, curves_of_runs, standard_error
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["FIELDS", "METHODS", "check_attention", "solve_attention"]

#: What `save` and `method` of `dmftcore.solve` may name: patterns and scores of every head.
FIELDS = ("S_heads", "A_heads")
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
    check_attention(limit, data, training)
    engine, reason = _engine(limit, options)
    if options.tol is not None:
        raise ValueError("tol: attention truncates nothing; leave tol out")
    groups, size = _ensemble(limit, options)
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr, engine=engine)
    options = replace(options, schedule=schedule)
    problem = attention_problem(limit, data)
    plan = memory_plan(limit, problem, options, groups, size)
    xp: Any = np
    if options.device == "cuda":
        xp = _arrays.device_library()
        check_memory(plan.of(_ON_DEVICE), _REMEDIES, _arrays.device_memory(xp))
    check_memory(plan, _REMEDIES, nested=options.nested)
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
        save=options.save,
        xp=xp,
    )
    report = {
        "engine": engine,
        "reason": reason,
        "device": options.device,
        "memory": plan.total,
    }
    result = solved(
        system,
        data,
        training,
        options,
        config,
        report=report,
        watch=watch,
        curves=curves_of_runs if limit.is_network else curves_of_groups,
        stacklevel=5,
    )
    errors = result.standard_errors
    if "outputs" in errors:
        result.diagnostics["monte_carlo"] = {
            "groups": groups,
            "heads_per_group": size,
            "largest_stderr_of_outputs": float(errors["outputs"].max(initial=0.0)),
        }
    if options.estimate_error:
        text = "nothing is truncated"
        if errors:
            text += "; stderr has the errors of the average over heads"
        result.diagnostics["error_estimate"] = {"reason": text}
    return result


def check_attention(limit: AttentionCore, data: Dataset, training: GradientDescent) -> None:
    """Refuse what an attention layer does not know.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if limit.parameters is not None and limit.given_readout.shape[1] != data.n_outputs:
        raise ValueError(
            f"parameters['w'] of shape {limit.parameters['w'].shape} has "
            f"{limit.given_readout.shape[1]} outputs, but targets of shape {data.targets.shape} "
            f"have {data.n_outputs}: pass w (H, N), or (H, N, K) for targets (P, K)"
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


def curves_of_groups(data: Dataset, outputs: FloatArray, loss: str = "square") -> dict[str, Any]:
    """Curve fields of a `Solution` from outputs (n_times, G, P + Q, K) of groups of heads.

    The heads of all groups make one output, and the loss is that of this. Standard errors are those
    between groups, if there are several.
    """
    fields = curves(data, outputs.mean(axis=1), loss)
    if outputs.shape[1] > 1:
        by_group = curves(data, outputs.swapaxes(0, 1), loss)
        fields["standard_errors"] = {
            name: standard_error(values) for name, values in by_group.items() if name != "errors"
        }
    return fields


def memory_plan(
    limit: AttentionCore, problem: AttentionProblem, options: SolveOptions, groups: int, size: int
) -> Plan:
    """Memory of a run, by part."""
    tokens, rank = problem.tokens, problem.rank
    square = problem.sequences * problem.length**2
    finite = limit.key_dim != INFINITE
    keys = min(limit.key_dim, problem.keys) if finite else problem.keys
    values = min(limit.key_dim, problem.values) if finite else problem.values
    outputs, train = problem.outputs, problem.data.n_train * problem.length
    head = (tokens + outputs) * values + (square if problem.scale == 0 else 2 * tokens * keys)
    heads = groups * size * head
    slots = len(options.schedule.kernel_times)
    counts = {
        # As they start, and as the core takes them.
        "heads": 2 * heads,
        "checkpoint": 0 if options.checkpoint is None else heads,
        # Patterns of all heads; of a group scores, patterns and copies, and its values and keys
        # for the tangent kernel. On a device also what drives the tokens, and where it moves them.
        "patterns": groups * size * (square + (1 + outputs) * tokens)
        + size * ((5 + outputs) * square + 3 * outputs * tokens * (keys + values))
        + 2 * (outputs * train) ** 2
        + (4 * groups * size * tokens * keys if options.device == "cuda" else 0),
        "tokens": tokens * (tokens + 2 * rank),
        "curves": 6 * groups * len(options.schedule.times) * problem.sequences * outputs,
        "order parameters": 4
        * slots
        * (4 * square + tokens**2 + (outputs * problem.data.n_train) ** 2),
        "single heads": 2 * len(options.save) * slots * groups * size * square,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: The parts of the plan that are on the device, if there is one.
_ON_DEVICE = {"heads", "patterns", "tokens"}

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "heads": "pass fewer samples, or take fewer tokens",
    "checkpoint": "pass fewer samples, or no checkpoint",
    "patterns": "pass fewer samples, or take shorter sequences",
    "tokens": "take fewer tokens",
    "curves": "pass fewer times",
    "order parameters": "pass fewer kernel_times (kernel_times=[] stores none)",
    "single heads": "pass fewer kernel_times or samples, or save less",
}
