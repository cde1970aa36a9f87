"""From networks that are ready to train to the solution that reports them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from dmftcore._simulate.options import Options
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.march import Diverged, March, Stopwatch, march
from dmftcore.memory import Plan
from dmftcore.observables import collapse, curves_of_runs, standard_error, training_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent, OnlineSGD

__all__ = ["Measured", "check_finite_depth", "check_trainable", "run"]


class KernelRecords(Protocol):
    """What is kept of the kernels of networks."""

    def fields(self) -> dict[str, Any]:
        """The kernel fields of a `Solution`, with `standard_errors`."""


def check_trainable(*, depth: int, gamma: float) -> None:
    """Refuse what no network of finite width can be.

    Raises
    ------
    ValueError
        For gamma = 0 and for infinite depth.
    """
    if gamma == 0:
        raise ValueError(
            "simulate needs gamma > 0: at gamma = 0 the weights of a network do not move; "
            "take a small value such as gamma=1e-2 for the lazy limit"
        )
    check_finite_depth(depth)


def check_finite_depth(depth: int) -> None:
    """Refuse infinite depth.

    Raises
    ------
    ValueError
        For it.
    """
    if depth == INFINITE:
        raise ValueError(
            "simulate needs a finite depth: a network of infinite depth cannot be built; pass "
            "e.g. depth=64, whose distance to the limit is of order 1 / depth"
        )


@dataclass(frozen=True)
class Measured:
    """What to make of the numbers that networks store at a step.

    Attributes
    ----------
    loss : callable
        Their training loss.
    curves : callable
        Curve fields of a `Solution` from those of n steps, with `standard_errors`.
    """

    loss: Callable[[FloatArray], float]
    curves: Callable[[FloatArray], dict[str, Any]]

    @classmethod
    def on_data(cls, data: Dataset, loss: str, shape: tuple[int, ...]) -> Measured:
        """Outputs of the given shape, of networks that all see one data set."""

        def curves(outputs: FloatArray) -> dict[str, Any]:
            return curves_of_runs(data, outputs.reshape(len(outputs), *shape), loss)

        return cls(training_loss(data, loss), curves)

    @classmethod
    def by_name(cls, names: Sequence[str], seeds: int) -> Measured:
        """Curves (seeds, names) of networks with data of their own, the training loss first."""

        def curves(measured: FloatArray) -> dict[str, Any]:
            by_name = measured.reshape(len(measured), seeds, len(names)).transpose(2, 1, 0)
            runs = {name: np.ascontiguousarray(c) for name, c in zip(names, by_name, strict=True)}
            errors = {name: standard_error(curve) for name, curve in runs.items() if seeds > 1}
            means = {name: curve.mean(axis=0) for name, curve in runs.items()}
            return {**means, "per_seed": runs, "standard_errors": errors}

        return cls(lambda measured: float(measured[:, 0].mean()), curves)


def run(
    networks: March,
    records: KernelRecords,
    measured: Measured,
    training: GradientDescent | OnlineSGD,
    options: Options,
    config: dict[str, Any],
    *,
    plan: Plan,
    watch: Stopwatch,
    **facts: Any,
) -> Solution:
    """Train `networks`, which store what is `measured` and leave their kernels in `records`.

    The facts go into the diagnostics.

    Raises
    ------
    DivergenceError
        With what was measured before.
    """

    def solution(schedule: Schedule, stored: FloatArray) -> Solution:
        diagnostics = {
            "engine": "simulate",
            **facts,
            "seeds": options.seeds,
            "device": options.device,
            "memory": plan.total,
            "wall_seconds": watch.seconds(),
        }
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        kernels, fields = records.fields(), measured.curves(stored)
        diagnostics |= collapse(kernels.get("order_parameters", {}))
        errors = {**fields.pop("standard_errors"), **kernels.pop("standard_errors")}
        return Solution(
            schedule.times,
            schedule.kernel_times,
            **fields,
            **kernels,
            standard_errors=errors,
            diagnostics=diagnostics,
            config=config,
        )

    try:
        stored = march(
            networks, options.schedule, measured.loss, options.progress, options.checkpoint
        )
    except Diverged as stop:
        raise DivergenceError(
            f"the training loss of a network diverged at step {stop.step}: lower lr "
            f"(now {training.rates.max():g})",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    return solution(options.schedule, stored)
