"""Deep linear networks of finite width, trained on a fixed data set by gradient descent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._simulate.networks import LinearNetworks, Weights, initial_weights
from dmftcore._simulate.options import Options
from dmftcore._simulate.records import Records, Sides, products
from dmftcore._simulate.run import Measured, check_trainable, run
from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.limits.linear import DeepLinear
from dmftcore.march import Stopwatch, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import tangent_kernel
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["KERNELS", "Networks", "Weights", "factor", "initial_weights", "sides", "train"]

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
    # A coordinate there is even where all of the points are the origin.
    kept[-1] = True
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
        self._inputs_gram = data.kernel[None, : data.n_train, : data.n_train]
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
        vectors = {
            "H": dict(enumerate(self.features(self.points), start=1)),
            "G": dict(enumerate(self.gradients, start=1)),
        }
        kernels = products(vectors)
        train = slice(len(self._targets))
        features = [h[:, train, train] for h in kernels["H"].values()]
        gradients = [*kernels["G"].values(), np.eye(self._targets.shape[1])[None]]
        tangent = tangent_kernel([self._inputs_gram, *features], gradients, self._branch)
        self._records.store(vectors, kernels, tangent)

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


def sides(limit: DeepLinear, data: Dataset) -> Sides:
    """What the kernels of the networks are between: points, and outputs."""
    layers = range(1, limit.depth + 1)
    rows = {"H": len(data.kernel), "G": data.n_outputs}
    return {name: dict.fromkeys(layers, (rows[name],)) for name in KERNELS}


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
    records = Records(sides(limit, data), data, options)
    networks = Networks(limit, data, training, weights, points, records)
    measured = Measured.on_data(data, training.loss, networks.shape)
    return run(
        networks, records, measured, training, options, config,
        plan=plan, watch=watch, width=options.width,
    )  # fmt: skip


def _check_limit(limit: DeepLinear) -> None:
    check_trainable(depth=limit.depth, gamma=limit.gamma)
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
            # The products of one network beside their mean and sum of squares.
            depth * seeds * slots * width * count + (2 * depth + 3) * (slots * count) ** 2
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
