"""Deep linear networks of finite width, trained on a fixed data set by gradient descent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._simulate.networks import LinearNetworks, Weights, initial_weights
from dmftcore._simulate.options import Options
from dmftcore._simulate.records import Records, curves
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.limits.linear import DeepLinear
from dmftcore.march import Diverged, Stopwatch, march, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import training_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["KERNELS", "Networks", "Weights", "factor", "initial_weights", "train"]

#: Two-time kernels that a simulation can store.
KERNELS = ("H", "G")

#: Eigenvalues of a Gram matrix below this multiple of the largest one, times its size, are zero.
RANK_TOLERANCE = float(np.finfo(np.float64).eps)


def factor(data: Dataset) -> FloatArray:
    """Rows x / sqrt(D) of all P + Q points, or other rows (P + Q, r) with the same Gram matrix.

    The first layer meets the data only through W^0 X^T. For W^0 with iid Gaussian entries its law
    depends on X X^T alone, so that r, the rank of a given Gram matrix, may stand in for D.
    """
    if data.points is not None:
        return data.points
    values, vectors = np.linalg.eigh(data.kernel)
    kept = values > RANK_TOLERANCE * len(values) * values[-1]
    rows: FloatArray = vectors[:, kept] * np.sqrt(values[kept])
    return rows


class Networks(LinearNetworks):
    """Networks on a fixed data set.

    Parameters
    ----------
    limit, data, training
        As in `simulate`.
    weights : Weights
        Initial weights, overwritten by the training.
    points : (P + Q, r) array
        Rows of the data, as given by `factor`.
    records : Records
        Receives the kernels.
    """

    def __init__(
        self,
        limit: DeepLinear,
        data: Dataset,
        training: GradientDescent,
        weights: Weights,
        points: FloatArray,
        records: Records,
    ) -> None:
        super().__init__(limit.branch_factor, training, weights, data.n_outputs, records)
        self.points = self._xp.asarray(points)
        self._records = records
        self._gamma = limit.gamma
        self._targets = self._xp.asarray(data.targets.reshape(data.n_train, -1))
        self._initial_outputs = 0.0
        self._refresh()
        self._initial_outputs = self._outputs
        self._start()

    @property
    def measured(self) -> Any:
        """Outputs f - f(0), (S, P + Q, K)."""
        return self._outputs

    def store_kernels(self) -> None:
        """Keep the kernels of the current step."""
        self._records.store(self.features(self.points), self.gradients)

    def _refresh(self) -> None:
        self.gradients = self._gradients()
        on_inputs = self.gradients[0] @ self.weights.first
        scale = self._gamma * self.width
        self._outputs = self.points @ on_inputs.swapaxes(1, 2) / scale - self._initial_outputs

    def _losses(self) -> Any:
        errors = self._targets - self._outputs[:, : len(self._targets)]
        return (errors**2).sum(axis=(-2, -1)) / (2 * len(self._targets))

    def _update(self) -> None:
        errors = self._targets - self._outputs[:, : len(self._targets)]
        weighted = errors.swapaxes(1, 2) @ self.points[: len(self._targets)]
        self._descend(weighted, self.gradients, self._gamma / len(self._targets))


def train(
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    options: Options,
    config: dict[str, Any],
) -> Solution:
    """Train `options.seeds` networks; see `dmftcore.simulate`."""
    _check_limit(limit)
    watch = Stopwatch()
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr)
    options = replace(options, schedule=schedule)
    points = factor(data)
    plan = memory_plan(limit, data, training, options, rank=points.shape[1])
    check_memory(plan, _REMEDIES)
    weights = initial_weights(
        limit,
        width=options.width,
        rank=points.shape[1],
        outputs=data.n_outputs,
        seeds=options.seeds,
        seed=options.seed,
        device=options.device,
    )
    records = Records(limit, data, options)
    networks = Networks(limit, data, training, weights, points, records)
    loss = training_loss(data)

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        diagnostics = {
            "engine": "simulate",
            "width": options.width,
            "seeds": options.seeds,
            "device": options.device,
            "memory": plan.total,
            "wall_seconds": watch.seconds(),
        }
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        kernels = records.fields()
        fields = curves(data, outputs.reshape(len(schedule.times), *networks.shape))
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


def _check_limit(limit: DeepLinear) -> None:
    if limit.gamma == 0:
        raise ValueError(
            "simulate needs gamma > 0: at gamma = 0 the weights of a network do not move; "
            "take a small value such as gamma=1e-2 for the lazy limit"
        )
    if limit.depth == INFINITE:
        raise ValueError(
            "simulate needs a finite depth: a network of infinite depth cannot be built; pass "
            "e.g. depth=64, whose distance to the limit is of order 1 / depth"
        )
    if limit.readout != "gd":
        raise ValueError(
            f"simulate trains by gradient descent, which is readout='gd', not {limit.readout!r}"
        )


def memory_plan(
    limit: DeepLinear, data: Dataset, training: GradientDescent, options: Options, *, rank: int
) -> Plan:
    """Memory of a run, by part."""
    seeds, width, depth = options.seeds, options.width, limit.depth
    points, outputs = len(data.kernel), data.n_outputs
    slots = len(options.schedule.kernel_times)
    tangent = (data.n_train * outputs) ** 2
    rows = {"H": points, "G": outputs}
    saved = [rows[name] for name in options.save]
    weights = width * (rank + outputs) + (depth - 1) * width**2
    # The velocities, if there are any.
    weights *= seeds * (2 if training.momentum else 1)
    counts = {
        "weights": weights,
        "checkpoint": 0 if options.checkpoint is None else weights,
        # Outputs of every network, twice while they are put together, and the temporaries of the
        # losses; mean outputs, errors and standard errors.
        "curves": 3 * (seeds + 1) * len(options.schedule.times) * points * outputs,
        "kernels": 2 * slots * (depth * (points**2 + outputs**2) + tangent),
        # Features of one layer and the next; kernels of all networks, and their tangent kernel with
        # a summand.
        "work": seeds * (2 * width * points + depth * points**2 + 2 * tangent),
        "two-time kernels": sum(
            # The products of one network beside their sum.
            depth * seeds * slots * width * count + (depth + 1) * (slots * count) ** 2
            for count in saved
        ),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "weights": "lower width or seeds",
    "checkpoint": "lower width or seeds, or pass no checkpoint",
    "curves": "pass fewer times or lower seeds",
    "kernels": "pass fewer kernel_times",
    "work": "lower width or seeds, or take fewer points",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
