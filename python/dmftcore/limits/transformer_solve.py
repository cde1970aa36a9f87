"""A residual transformer through `solve`: the engine of a call, its memory, its errors."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.chain.transformer import TransformerChain
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError, StabilityWarning
from dmftcore.limits.transformer import (
    FIELDS,
    Transformer,
    TransformerMarch,
    transformer_ntk,
)
from dmftcore.march import Diverged, SolveOptions, Stopwatch, march, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import curves, sharpness, training_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent
from dmftcore.worth import stability, unstable

__all__ = [
    "FIELDS",
    "METHODS",
    "check_transformer",
    "solve_transformer",
    "warn_of_still_attention",
]

#: What `method` of `dmftcore.solve` may name.
METHODS = ("chain",)


def solve_transformer(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """March the chain of a `limit` of finite depth; see `dmftcore.solve`."""
    watch = Stopwatch()
    check_transformer(limit, data, options)
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr, engine="chain")
    options = replace(options, schedule=schedule)
    plan = memory_plan(limit, data, training, options)
    xp: Any = np
    if options.device == "cuda":
        xp = _arrays.device_library()
        available = _arrays.device_memory(xp)
        check_memory(plan.of(_ON_DEVICE), _REMEDIES, available, nested=options.nested)
        check_memory(plan.of(plan.parts.keys() - _ON_DEVICE), _REMEDIES, nested=options.nested)
    else:
        check_memory(plan, _REMEDIES, nested=options.nested)
    system = TransformerMarch(limit, data, training, save=options.save, xp=xp)
    sequences = data.n_train + data.n_test

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        fields = curves(data, outputs.reshape(-1, sequences, data.n_outputs))
        diagnostics: dict[str, Any] = {
            "engine": "chain",
            "reason": "heads of infinitely many dimensions are all the same",
            "device": "cpu" if xp is np else "cuda",
            "memory": plan.total,
            "residual": system.residual(),
        }
        if options.estimate_error:
            diagnostics["error_estimate"] = {"reason": "the engine 'chain' truncates nothing"}
        result = Solution(
            schedule.times,
            schedule.kernel_times,
            **fields,
            **kernel_fields(system, limit, data),
            diagnostics=diagnostics,
            config=config,
        )
        if result.sharpness is not None and training.steps > 0:
            diagnostics["stability"] = stability(training, schedule.kernel_times, result.sharpness)
        diagnostics["wall_seconds"] = watch.seconds()
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        return result

    try:
        outputs = march(system, schedule, training_loss(data), options.progress, options.checkpoint)
    except Diverged as stop:
        raise DivergenceError(
            f"the training loss diverged at step {stop.step}: lower lr (now "
            f"{training.rates.max():g}); features and attention that grow lower the largest "
            "stable one",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    result = solution(schedule, outputs)
    if "stability" in result.diagnostics:
        warning = unstable(result.diagnostics["stability"], training)
        if warning is not None:
            warnings.warn(warning, StabilityWarning, stacklevel=3)
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


def kernel_fields(system: TransformerMarch, limit: Transformer, data: Dataset) -> dict[str, Any]:
    """What a march has stored at its kernel times, as fields of a `Solution`."""
    fields: dict[str, Any] = {
        "equal_time": system.equal_time(),
        "two_time": system.two_time(),
        "responses": system.responses(),
        "order_parameters": system.order_parameters(),
    }
    # Of several outputs only the gradients of their signal are known.
    if data.n_outputs == 1 and fields["equal_time"]:
        ntk = transformer_ntk(limit, data, fields["equal_time"])
        patterns = data.targets.shape
        fields["ntk"] = ntk.reshape(len(ntk), *patterns, *patterns)
        fields["sharpness"] = np.array([sharpness(kernel[:, None, :, None]) for kernel in ntk])
    return fields


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
        "two-time kernels": 2 * len(options.save) * (depth + 1) * (slots * tokens) ** 2,
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
