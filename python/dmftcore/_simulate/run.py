"""From networks on a fixed data set, ready to train, to the solution that reports them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

from dmftcore._simulate.networks import TrainedNetworks
from dmftcore._simulate.options import Options
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.march import Diverged, Stopwatch, march
from dmftcore.memory import Plan
from dmftcore.observables import collapse, curves_of_runs, training_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["check_trainable", "run"]


class Measured(Protocol):
    """What the networks of a run have stored."""

    def fields(self) -> dict[str, Any]:
        """Fields of a `Solution` at the kernel times, among them standard errors."""


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
    if depth == INFINITE:
        raise ValueError(
            "simulate needs a finite depth: a network of infinite depth cannot be built; pass "
            "e.g. depth=64, whose distance to the limit is of order 1 / depth"
        )


def run(
    networks: TrainedNetworks,
    records: Measured,
    data: Dataset,
    training: GradientDescent,
    options: Options,
    config: dict[str, Any],
    *,
    plan: Plan,
    watch: Stopwatch,
    report: Mapping[str, Any] = MappingProxyType({}),
) -> Solution:
    """Train `networks`; the kernels are those that they have left in `records`.

    What else there is to tell of the networks, in the diagnostics, is in `report`.

    Raises
    ------
    DivergenceError
        With what was measured before.
    """
    loss = training_loss(data, training.loss)

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        diagnostics = {
            "engine": "simulate",
            "width": options.width,
            "seeds": options.seeds,
            "device": options.device,
            "memory": plan.total,
            "wall_seconds": watch.seconds(),
            **report,
        }
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        kernels = records.fields()
        diagnostics |= collapse(kernels.get("order_parameters", {}))
        measured = outputs.reshape(len(schedule.times), *networks.shape)
        fields = curves_of_runs(data, measured, training.loss)
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
        outputs = march(networks, options.schedule, loss, options.progress, options.checkpoint)
    except Diverged as stop:
        raise DivergenceError(
            f"the training loss of a network diverged at step {stop.step}: lower lr "
            f"(now {training.rates.max():g})",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    return solution(options.schedule, outputs)
