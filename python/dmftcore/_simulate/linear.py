"""Deep linear networks of finite width, trained by gradient descent.

The networks of a run differ in their initial weights and are trained side by side; every array
carries them on a leading axis of length S. Points, outputs and gradients are rows: a feature
array is (S, points, N), a gradient array (S, K, N). The arrays of the networks are of numpy or of
cupy; what is handed out is on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.descent import Descent, Outer
from dmftcore._simulate.options import Options
from dmftcore._simulate.records import Records, curves
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.limits.linear import DeepLinear
from dmftcore.march import (
    DIVERGENCE_FACTOR,
    Diverged,
    Plan,
    Schedule,
    Stopwatch,
    check_memory,
    march,
)
from dmftcore.observables import square_loss
from dmftcore.solution import IntArray, Solution
from dmftcore.training import GradientDescent

__all__ = ["KERNELS", "Networks", "Weights", "factor", "initial_weights", "train"]

#: Two-time kernels that a simulation can store.
KERNELS = ("H", "G")

#: Eigenvalues of a Gram matrix below this multiple of the largest one, times its size, are zero.
RANK_TOLERANCE = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Weights:
    """Weights of S networks: W^0 (S, N, r), W^1..W^{L-1} (S, N, N) each, w (S, K, N)."""

    first: Any
    hidden: tuple[Any, ...]
    readout: Any

    @property
    def all(self) -> list[Any]:
        """W^0, ..., W^{L-1}, w."""
        return [self.first, *self.hidden, self.readout]


def initial_weights(
    limit: DeepLinear,
    *,
    width: int,
    rank: int,
    outputs: int,
    seeds: int,
    seed: int,
    device: str = "cpu",
) -> Weights:
    """Independent normal weights of standard deviation ``limit.init_scale``.

    Every layer of every network has a random stream of its own, keyed by (seed, network, layer),
    and is drawn on the host wherever the weights go.
    """
    shapes = [(width, rank), *[(width, width)] * (limit.depth - 1), (outputs, width)]
    layers = []
    for layer, shape in enumerate(shapes):
        weights = np.empty((seeds, *shape))
        for network in range(seeds):
            key = np.random.SeedSequence(seed, spawn_key=(network, layer))
            generator = np.random.Generator(np.random.Philox(key))
            generator.standard_normal(out=weights[network])
        weights *= limit.init_scale
        layers.append(_placed(weights, device))
    return Weights(layers[0], tuple(layers[1:-1]), layers[-1])


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


def _placed(array: FloatArray, device: str) -> Any:
    return _arrays.to_device(array) if device == "cuda" else array


class Networks:
    """Networks at one step of their training; a `dmftcore.march.March`.

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
        self.step = 0
        self.weights = weights
        self._xp = _arrays.namespace(weights.first)
        self.points = self._xp.asarray(points)
        self._records = records
        self._branch = limit.branch_factor
        self._gamma = limit.gamma
        self._descent = Descent(training, weights.all)
        self._targets = self._xp.asarray(data.targets.reshape(data.n_train, -1))
        self._eye = self._xp.asarray(np.tile(np.eye(data.n_outputs), (len(weights.first), 1, 1)))
        self._start = self._evaluate()
        self._outputs = self._xp.zeros_like(self._start)
        self._largest_loss = DIVERGENCE_FACTOR * max(float(self._losses().max()), 1e-300)

    @property
    def shape(self) -> tuple[int, ...]:
        """(S, P + Q, K), the shape of the outputs."""
        shape: tuple[int, ...] = self._outputs.shape
        return shape

    @property
    def width(self) -> int:
        """Number N of neurons per hidden layer."""
        return int(self.weights.first.shape[1])

    def features(self, rows: Any) -> Iterator[Any]:
        """h^1, ..., h^L (S, m, N) of the given rows, (m, r) or (S, m, r)."""
        h = rows @ self.weights.first.swapaxes(1, 2)
        yield h
        for matrix in self.weights.hidden:
            h = self._block(h, matrix.swapaxes(1, 2))
            yield h

    def _block(self, rows: Any, matrix: Any) -> Any:
        """Rows through a hidden layer, in either direction."""
        through = rows @ matrix / math.sqrt(self.width)
        return through if self._branch is None else rows + self._branch * through

    def advance(self, stops: IntArray) -> FloatArray:
        """Train through the given steps; outputs (len(stops), S, P + Q, K), fewer if diverged."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops:
                if not self._train_until(stop):
                    break
                rows.append(_arrays.to_host(self._outputs))
        return np.array(rows).reshape(-1, *self._outputs.shape)

    def store_kernels(self) -> None:
        """Keep the kernels of the current step."""
        self._records.store(self.features(self.points), self.gradients)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        arrays = {
            **{f"weights.{i}": x for i, x in enumerate(self.weights.all)},
            **{f"velocity.{i}": x for i, x in enumerate(self._descent.velocities)},
        }
        return {
            "step": np.array(self.step),
            **{name: np.array(_arrays.to_host(x)) for name, x in arrays.items()},
            **{f"records.{name}": x for name, x in self._records.state().items()},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        for kind, arrays in (("weights", self.weights.all), ("velocity", self._descent.velocities)):
            for i, array in enumerate(arrays):
                array[...] = self._xp.asarray(state[f"{kind}.{i}"])
        self._outputs = self._evaluate() - self._start
        prefix = "records."
        self._records.restore(
            {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        )

    def _train_until(self, stop: int) -> bool:
        """Train up to step `stop`, or to the first step at which a network has diverged."""
        while self.step < stop:
            self._update()
            if not (self._losses() <= self._largest_loss).all():
                return False
        return True

    def _evaluate(self) -> Any:
        """Backward pass: the gradients g^1..g^L (S, K, N), and from g^1 the outputs f."""
        gradients = [self.weights.readout]
        for matrix in reversed(self.weights.hidden):
            gradients.insert(0, self._block(gradients[0], matrix))
        self.gradients = gradients
        on_inputs = gradients[0] @ self.weights.first
        scale = self._gamma * self.width
        return self.points @ on_inputs.swapaxes(1, 2) / scale

    def _losses(self) -> Any:
        """Training loss of every network."""
        errors = self._targets - self._outputs[:, : len(self._targets)]
        return (errors**2).sum(axis=(-2, -1)) / (2 * len(self._targets))

    def _update(self) -> None:
        # The gradient of the loss by W^l is the sum over patterns and outputs of
        # Delta_{mu k} g^{l+1}_k (h^l_mu)^T, up to a constant. In a linear network g does not depend
        # on the pattern and h^l is linear in the input, so the sum over patterns may be taken
        # first, on the inputs: h^l of the K rows Delta^T X. The gradient, and so the network, is
        # the same, for 6 N^2 K operations per layer and step in place of 6 N^2 P.
        errors = self._targets - self._outputs[:, : len(self._targets)]
        weighted = errors.swapaxes(1, 2) @ self.points[: len(self._targets)]
        # All of them before the first update: they belong to the current weights.
        features = list(self.features(weighted))
        scale = self._gamma / len(self._targets)
        inner = scale / math.sqrt(self.width) * (1.0 if self._branch is None else self._branch)
        directions: list[Outer] = [(scale, self.gradients[0], weighted)]
        directions += [
            (inner, g, h) for g, h in zip(self.gradients[1:], features[:-1], strict=True)
        ]
        # Last, because the readout is the gradient g^L of the weights below it.
        directions.append((scale, self._eye, features[-1]))
        self._descent.update(self.step, directions)
        self.step += 1
        self._outputs = self._evaluate() - self._start


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
    targets = data.targets.reshape(data.n_train, -1)

    def mean_loss(outputs: FloatArray) -> float:
        return float(square_loss(outputs[:, : data.n_train], targets).mean())

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        diagnostics = {
            "engine": "simulate",
            "width": options.width,
            "seeds": options.seeds,
            "device": options.device,
            "memory": plan.total,
            "wall_seconds": watch.seconds(),
        }
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
        outputs = march(networks, options.schedule, mean_loss, options.progress)
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
    counts = {
        "weights": seeds * weights * (2 if training.momentum else 1),
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
    "curves": "pass fewer times or lower seeds",
    "kernels": "pass fewer kernel_times",
    "work": "lower width or seeds, or take fewer points",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
