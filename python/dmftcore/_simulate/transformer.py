"""Residual transformers of finite width, trained in the space of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.attention import network_shape
from dmftcore._simulate.blocks import AttentionBlock, Block, MLPBlock
from dmftcore._simulate.descent import Descent, Outer
from dmftcore._simulate.linear import factor
from dmftcore._simulate.networks import placed
from dmftcore._simulate.options import Options
from dmftcore._simulate.token_records import TokenRecords
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.limits.transformer import KERNELS, Transformer, transformer_ntk
from dmftcore.losses import loss_function
from dmftcore.march import Diverged, Stopwatch, largest_loss, march, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import curves_of_runs, sharpness
from dmftcore.schedule import Schedule
from dmftcore.solution import IntArray, Solution
from dmftcore.training import GradientDescent

__all__ = ["KERNELS", "TransformerNetworks", "initial_weights", "train"]

#: Weights of an attention block, and of an MLP block.
ATTENTION_WEIGHTS = ("W_K", "W_Q", "W_V", "W_O")
MLP_WEIGHTS = ("W_1", "W_2")

ORDER_PARAMETERS = ("S_mean", "S_var", "A_mean", "A_var")


def initial_weights(
    limit: Transformer, *, width: int, rank: int, outputs: int, options: Options
) -> dict[str, Any]:
    """Independent normal weights, a random stream for every array of every network.

    By name: W_in (B, W, r); "W_K 0", ..., (B, W, W) of every block; w (B, K, W).
    """
    names = [*ATTENTION_WEIGHTS, *(() if limit.mlp_activation is None else MLP_WEIGHTS)]
    shapes = {"W_in": (width, rank)}
    shapes |= {f"{name} {layer}": (width, width) for layer in range(limit.depth) for name in names}
    shapes["w"] = (outputs, width)
    weights = {}
    for kind, (name, shape) in enumerate(shapes.items()):
        array = np.empty((options.seeds, *shape))
        for network in range(options.seeds):
            key = np.random.SeedSequence(options.seed, spawn_key=(network, kind))
            np.random.Generator(np.random.Philox(key)).standard_normal(out=array[network])
        weights[name] = placed(array, options.device)
    return weights


class TransformerNetworks:
    """Networks that are trained side by side; a `dmftcore.march.March`.

    Parameters
    ----------
    limit, data, training
        As in `simulate`.
    weights : dict
        At the start, as `initial_weights` gives them; overwritten by the training.
    points : (M, r) array
        Rows of all tokens, for which C is their product.
    heads : int
    records : TokenRecords
        Receives the kernels.
    """

    def __init__(
        self,
        limit: Transformer,
        data: Dataset,
        training: GradientDescent,
        weights: dict[str, Any],
        points: FloatArray,
        heads: int,
        records: TokenRecords,
    ) -> None:
        self.step = 0
        self.weights = weights
        self._xp = xp = _arrays.namespace(weights["w"])
        self._limit, self._data, self._records = limit, data, records
        self._heads, self._positions = heads, data.sequence_length
        self._points = xp.asarray(points)
        self._targets = xp.asarray(data.targets.reshape(data.n_train, -1))
        self._train_tokens = data.n_train * data.sequence_length
        #: One list for every layer: its attention, and what follows it.
        self._layers = [self._blocks(layer) for layer in range(limit.depth)]
        self._descent = Descent(training, list(weights.values()))
        self._centre: Any = 0.0
        self._outputs: Any = None
        self._refresh()
        self._centre = self._outputs
        self._outputs = self._outputs - self._centre
        self._largest_loss = largest_loss(float(self._losses().max()))

    def _blocks(self, layer: int) -> list[Block]:
        limit, weights = self._limit, self.weights
        blocks: list[Block] = [
            AttentionBlock(
                [weights[f"{name} {layer}"] for name in ATTENTION_WEIGHTS],
                limit.attention_map,
                heads=self._heads,
                positions=self._positions,
                exponent=limit.attention_exponent,
                branch=limit.branch_factor,
            )
        ]
        if limit.mlp_activation is not None:
            dense = [weights[f"{name} {layer}"] for name in MLP_WEIGHTS]
            blocks.append(MLPBlock(dense, limit.mlp_activation, branch=limit.branch_factor))
        return blocks

    @property
    def width(self) -> int:
        """Width W of the stream."""
        return int(self.weights["w"].shape[2])

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the outputs, (B, P + Q, K)."""
        shape: tuple[int, ...] = self._outputs.shape
        return shape

    def advance(self, stops: IntArray) -> FloatArray:
        """Train through the given steps; outputs (len(stops), B, P + Q, K), fewer if diverged."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                if not self._train_until(stop):
                    break
                rows.append(_arrays.to_host(self._outputs))
        return np.array(rows).reshape(-1, *self.shape)

    def store_kernels(self) -> None:
        """Keep kernels and moments over heads of the present step.

        Gradients are those of one output, or of the signal of several.
        """
        attentions: list[Any] = [blocks[0] for blocks in self._layers]
        vectors: dict[str, list[Any]] = {
            "H": self._stream,
            "G": self._backward(len(self._points)),
            "O": [block.mixed for block in attentions],
        }
        for name in ("k", "q", "v"):
            vectors[f"P_{name}"] = [block.pulled[name] for block in attentions]
        values: dict[str, Any] = {}
        for name in ("S", "A"):
            # (B, depth, heads, ...)
            found = [block.attention if name == "S" else block.logits for block in attentions]
            by_head = self._xp.stack(found, axis=1)
            values[f"{name}_mean"], values[f"{name}_var"] = (
                by_head.mean(axis=2),
                by_head.var(axis=2),
            )
        if self._targets.shape[1] == 1 and self._limit.mlp_activation is None:
            tangent = self._tangent(vectors)
            values["ntk"] = tangent
            values["sharpness"] = np.array([sharpness(k[:, None, :, None]) for k in tangent])
        self._records.store(vectors, values)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        arrays = {f"weights {name}": array for name, array in self.weights.items()}
        arrays |= {f"velocity {i}": array for i, array in enumerate(self._descent.velocities)}
        return {
            "step": np.array(self.step),
            "centre": np.array(_arrays.to_host(self._centre)),
            **{name: np.array(_arrays.to_host(array)) for name, array in arrays.items()},
            **{f"records {name}": array for name, array in self._records.state().items()},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        self._centre = self._xp.asarray(state["centre"])
        for name, array in self.weights.items():
            array[...] = self._xp.asarray(state[f"weights {name}"])
        for i, array in enumerate(self._descent.velocities):
            array[...] = self._xp.asarray(state[f"velocity {i}"])
        prefix = "records "
        self._records.restore(
            {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        )
        self._refresh()

    def _train_until(self, stop: int) -> bool:
        """Train up to step `stop`, or to the first step at which a network has diverged."""
        while self.step < stop:
            self._update()
            if not (self._losses() <= self._largest_loss).all():
                return False
        return True

    def _losses(self) -> Any:
        """Training loss of every network."""
        return (self._errors() ** 2).sum(axis=(1, 2)) / (2 * len(self._targets))

    def _errors(self) -> Any:
        return self._targets - self._outputs[:, : len(self._targets)]

    def _refresh(self) -> None:
        """Pass all tokens through the networks."""
        h = self._points @ self.weights["W_in"].swapaxes(1, 2)
        #: h^0, ..., h^L (B, M, W).
        self._stream = [h]
        for blocks in self._layers:
            for block in blocks:
                h = h + block.forward(h)
            self._stream.append(h)
        self._mean = h.reshape(len(h), -1, self._positions, self.width).mean(axis=2)
        readout = self.weights["w"].swapaxes(1, 2) / (self._limit.gamma * self.width)
        self._outputs = self._mean @ readout - self._centre

    def _backward(self, tokens: int) -> list[Any]:
        """Gradients g^0, ..., g^L (B, tokens, W), for the first `tokens` tokens."""
        readout = self.weights["w"] / self._positions
        shape = (len(readout), tokens, self.width)
        if self._targets.shape[1] == 1:
            g = self._xp.zeros(shape) + readout
        else:
            errors = self._xp.zeros((len(readout), tokens, readout.shape[1]))
            errors[:, : self._train_tokens] = self._xp.repeat(
                self._errors(), self._positions, axis=1
            )
            g = errors @ readout
        gradients = [g]
        for blocks in reversed(self._layers):
            for block in reversed(blocks):
                g = g + block.backward(g)
            gradients.insert(0, g)
        return gradients

    def _update(self) -> None:
        """Make one update of all weights.

        ``theta += lr (1/P) sum_mu Delta_mu df_mu / dtheta``, lr = eta gamma^2 W for w and W_in,
        depth^(2 depth_exponent - 1) times that within blocks.
        """
        tokens, errors = self._train_tokens, self._errors()
        gradients = self._backward(tokens)
        scale = self._limit.gamma / len(self._targets)
        # With several outputs the errors are in the gradients already.
        by_token = self._xp.ones((1, tokens, 1))
        if errors.shape[2] == 1:
            by_token = self._xp.repeat(errors, self._positions, axis=1)
        points = self._xp.broadcast_to(
            self._points[:tokens], (len(errors), tokens, self._points.shape[1])
        )
        directions: list[Outer] = [(scale, by_token * gradients[0], points)]
        for blocks in self._layers:
            for block in blocks:
                for weight, left, right in block.directions(by_token):
                    directions.append((scale * self._limit.block_rate * weight, left, right))
        directions.append((scale, errors, self._mean[:, : len(self._targets)]))
        self._descent.update(self.step, directions)
        self.step += 1
        self._refresh()

    def _tangent(self, vectors: Mapping[str, list[Any]]) -> FloatArray:
        """Tangent kernels (B, P, P)."""
        kernels = {
            name: {
                layer: _arrays.to_host(x @ x.swapaxes(1, 2) / self.width)
                for layer, x in enumerate(layers)
            }
            for name, layers in vectors.items()
        }
        keys = self.width // self._heads
        slow = keys ** (2 * (self._limit.attention_exponent - 1))
        return transformer_ntk(self._limit, self._data, kernels, score_rate=slow)


def train(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: Options,
    config: dict[str, Any],
) -> Solution:
    """Train `options.seeds` networks; see `dmftcore.simulate`."""
    watch = Stopwatch()
    _check_limit(limit)
    heads, keys = network_shape(limit, options.width)
    width = heads * keys
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr)
    options = replace(options, schedule=schedule)
    points = factor(data)
    rank = points.shape[1]
    plan = memory_plan(limit, data, training, options, (heads, keys), rank=rank)
    check_memory(plan, _REMEDIES)
    weights = initial_weights(
        limit, width=width, rank=rank, outputs=data.n_outputs, options=options
    )
    records = TokenRecords(options.save)
    networks = TransformerNetworks(limit, data, training, weights, points, heads, records)
    targets = data.targets.reshape(data.n_train, -1)

    def mean_loss(outputs: FloatArray) -> float:
        return float(loss_function("square").mean(outputs[:, : data.n_train], targets).mean())

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        fields = curves_of_runs(data, outputs.reshape(-1, *networks.shape))
        order = records.means(ORDER_PARAMETERS)
        diagnostics = {
            "engine": "simulate",
            "heads": heads,
            "key_dim": keys,
            "width": width,
            "seeds": options.seeds,
            "device": options.device,
            "memory": plan.total,
            "wall_seconds": watch.seconds(),
        }
        if "S_var" in order:
            diagnostics["collapse"] = order["S_var"].mean(axis=(1, 2, 3, 4)).tolist()
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        tangent, errors = records.means(("ntk", "sharpness")), records.errors(KERNELS)
        patterns = data.targets.shape
        for of in (tangent, errors):
            if "ntk" in of:
                of["ntk"] = of["ntk"].reshape(-1, *patterns, *patterns)
        return Solution(
            schedule.times,
            schedule.kernel_times,
            **{name: field for name, field in fields.items() if name != "standard_errors"},
            ntk=tangent.get("ntk"),
            sharpness=tangent.get("sharpness"),
            equal_time=records.kernels(KERNELS),
            two_time=records.two_time(),
            standard_errors=fields["standard_errors"] | errors,
            order_parameters=order,
            diagnostics=diagnostics,
            config=config,
        )

    try:
        outputs = march(networks, schedule, mean_loss, options.progress, options.checkpoint)
    except Diverged as stop:
        raise DivergenceError(
            f"the training loss of a network diverged at step {stop.step}: lower lr "
            f"(now {training.rates.max():g})",
            step=stop.step,
            partial=solution(stop.schedule, stop.outputs),
        ) from None
    return solution(schedule, outputs)


def _check_limit(limit: Transformer) -> None:
    if limit.depth == INFINITE:
        raise ValueError(
            "simulate needs a finite depth: a network of infinite depth cannot be built; pass "
            "e.g. depth=16, whose distance to the limit is of order 1 / depth"
        )
    if limit.responses != "all":
        raise ValueError(
            f"responses = {limit.responses!r} is an approximation of the theory: networks have "
            "all of them; leave responses out"
        )


def memory_plan(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: Options,
    shape: tuple[int, int],
    *,
    rank: int,
) -> Plan:
    """Memory of a run, by part."""
    heads, keys = shape
    seeds, width, depth = options.seeds, heads * keys, int(limit.depth)
    length, tokens = data.sequence_length, len(data.kernel)
    per_block = 4 if limit.mlp_activation is None else 6
    weights = seeds * (width * (rank + data.n_outputs) + per_block * depth * width**2)
    weights *= 2 if training.momentum else 1
    slots = len(options.schedule.kernel_times)
    several = 2 if seeds > 1 else 1
    patterns = tokens * length
    counts = {
        "weights": weights,
        "checkpoint": 0 if options.checkpoint is None else weights,
        # What passes upward and downward in every block, and its weighted copies; patterns.
        "work": seeds * depth * (4 * per_block * tokens * width + 6 * heads * patterns),
        "curves": 3 * (seeds + 1) * len(options.schedule.times) * tokens * data.n_outputs,
        # Of all networks at a time; means and errors, as stored and as handed out.
        "kernels": (seeds + 2 * several * slots) * (6 * depth + 2) * (tokens**2 + patterns),
        "two-time kernels": len(options.save)
        * (depth + 1)
        * (2 * seeds * slots * tokens * width + 2 * (slots * tokens) ** 2),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "weights": "lower width or seeds",
    "checkpoint": "lower width or seeds, or pass no checkpoint",
    "work": "lower width or seeds, or take fewer tokens",
    "curves": "pass fewer times or lower seeds",
    "kernels": "pass fewer kernel_times, or take fewer tokens",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
