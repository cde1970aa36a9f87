"""A residual transformer through `solve`: the engine of a call, its memory, its errors."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

from dmftcore.chain.transformer import TransformerChain
from dmftcore.data import Dataset
from dmftcore.limits.assembly import solved
from dmftcore.limits.transformer import KERNELS, RESPONSES, Transformer, TransformerMarch
from dmftcore.march import SolveOptions, Stopwatch, resumed
from dmftcore.memory import Plan, library_with_room
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["METHODS", "check_transformer", "solve_transformer", "warn_of_still_attention"]

#: What `method` of `dmftcore.solve` may name.
METHODS = ("chain",)


def solve_transformer(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
    *,
    reason: str,
) -> Solution:
    """March the chain of a `limit` of finite depth; see `dmftcore.solve`."""
    watch = Stopwatch()
    check_transformer(limit, data, options)
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr, engine="chain")
    options = replace(options, schedule=schedule)
    plan = memory_plan(limit, data, training, options)
    xp = library_with_room(
        options.device, plan, _REMEDIES, on_device=_ON_DEVICE, nested=options.nested
    )
    system = TransformerMarch(limit, data, training, save=options.save, xp=xp)
    report = {
        "engine": "chain",
        "reason": reason,
        "device": options.device,
        "memory": plan.total,
    }
    result = solved(system, data, training, options, config, report=report, watch=watch)
    if options.estimate_error:
        text = "the engine 'chain' truncates nothing"
        result.diagnostics["error_estimate"] = {"reason": text}
    return result


def check_transformer(limit: Transformer, data: Dataset, options: SolveOptions) -> None:
    """Refuse what the chain cannot answer.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if limit.mlp_activation is not None:
        raise ValueError(
            f"mlp_activation = {limit.mlp_activation!r}: the chain has no MLP blocks; leave "
            "method='chain' and depth=INFINITE out"
        )
    for name, value in (("samples", options.samples), ("replicas", options.replicas)):
        if value is not None:
            raise ValueError(f"{name}: the two-time chain samples nothing; leave {name} out")
    if options.dtype != "float64":
        raise ValueError(
            f"dtype={options.dtype!r}: the two-time chain is solved in float64; leave dtype out"
        )
    if options.tol is not None:
        raise ValueError("tol: the two-time chain truncates nothing; leave tol out")
    if not data.kernel.any():
        raise ValueError("the tokens have a zero Gram matrix: nothing can be learned")
    warn_of_still_attention(limit)


def warn_of_still_attention(limit: Transformer) -> None:
    """Warn of queries and keys of infinitely many dimensions that cannot learn."""
    if limit.attention == "relu":
        warnings.warn(
            "attention='relu' with logits that start at zero: its slope is 0 there, and queries "
            "and keys never move",
            UserWarning,
            stacklevel=6,
        )


def memory_plan(
    limit: Transformer, data: Dataset, training: GradientDescent, options: SolveOptions
) -> Plan:
    """Memory of a run, by part."""
    depth, tokens, steps = int(limit.depth), len(data.kernel), training.steps
    sequences, positions = tokens // data.sequence_length, data.sequence_length
    attention = depth * sequences * positions**2
    slots = len(options.schedule.kernel_times)
    history = TransformerChain.count(depth, steps, tokens, decays=training.weight_decay > 0)
    equal = slots * (6 * depth + 2) * tokens**2
    counts = {
        # And all rows of a step, with temporaries.
        "chain": history + 30 * (depth + 1) * tokens**2 * (steps + 1),
        "attention": 2 * (steps + 1) * attention,
        # Lower triangles of the histories.
        "checkpoint": 0 if options.checkpoint is None else history // 2,
        "curves": 3 * len(options.schedule.times) * sequences * data.n_outputs,
        # As stored, and as they are handed out.
        "kernels": 2 * equal + 5 * slots * attention,
        "two-time kernels": 2
        * sum(name in KERNELS + RESPONSES for name in options.save)
        * (depth + 1)
        * (slots * tokens) ** 2,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: The parts of the plan that are on the device, if there is one.
_ON_DEVICE = {"chain", "attention"}

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "chain": "use fewer steps, or fewer tokens",
    "attention": "use fewer steps, or shorter sequences",
    "checkpoint": "use fewer steps, or pass no checkpoint",
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
    "two-time kernels": "save fewer fields, or pass fewer kernel_times",
}
