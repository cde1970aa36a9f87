"""Residual transformers of finite width, trained in the space of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore._simulate.attention import network_shape
from dmftcore._simulate.blocks import AttentionBlock, Block, MLPBlock
from dmftcore._simulate.descent import Outer
from dmftcore._simulate.linear import factor
from dmftcore._simulate.networks import TrainedNetworks, placed
from dmftcore._simulate.options import Options
from dmftcore._simulate.run import Measured, run
from dmftcore._simulate.token_records import TokenRecords
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.limits.transformer import HEADS, KERNELS, Transformer, transformer_ntk
from dmftcore.march import Stopwatch, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["FIELDS", "TransformerNetworks", "initial_weights", "train"]

#: What `save` of `dmftcore.simulate` may name.
FIELDS = (*KERNELS, *HEADS)

#: Weights of an attention block, and of an MLP block.
ATTENTION_WEIGHTS = ("W_K", "W_Q", "W_V", "W_O")
MLP_WEIGHTS = ("W_1", "W_2")


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


class TransformerNetworks(TrainedNetworks):
    """Transformers on a fixed data set.

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
        super().__init__(training, list(weights.values()), records)
        self.weights, self._records = weights, records
        xp = self._xp
        self._limit, self._data = limit, data
        self._heads, self._positions = heads, data.sequence_length
        self._points = xp.asarray(points)
        self._targets = xp.asarray(data.targets.reshape(data.n_train, -1))
        self._train_tokens = data.n_train * data.sequence_length
        #: One list for every layer: its attention, and what follows it.
        self._layers = [self._blocks(layer) for layer in range(limit.depth)]
        self._centre: Any = 0.0
        self._refresh()
        self._centre = self._outputs
        self._start()

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
    def measured(self) -> Any:
        """Outputs f - f(0), (B, P + Q, K)."""
        return self._outputs

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
        values = {}
        if self._targets.shape[1] == 1 and self._limit.mlp_activation is None:
            values["ntk"] = self._tangent(vectors)[:, :, None, :, None]
        # (B, depth, H, ...)
        heads = {
            "S": self._xp.stack([block.attention for block in attentions], axis=1),
            "A": self._xp.stack([block.logits for block in attentions], axis=1),
        }
        self._records.store(vectors, values, heads)

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
    records = TokenRecords(data, options.save)
    networks = TransformerNetworks(limit, data, training, weights, points, heads, records)
    measured = Measured.on_data(data, training.loss, networks.shape)
    return run(
        networks, records, measured, training, options, config,
        plan=plan, watch=watch, heads=heads, key_dim=keys, width=heads * keys,
    )  # fmt: skip


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
    single = seeds * depth * heads * patterns
    kernels = sum(name in KERNELS for name in options.save)
    counts = {
        "weights": weights,
        "checkpoint": 0 if options.checkpoint is None else weights,
        # What passes upward and downward in every block, and its weighted copies; patterns.
        "work": seeds * depth * (4 * per_block * tokens * width + 6 * heads * patterns),
        "curves": 3 * (seeds + 1) * len(options.schedule.times) * tokens * data.n_outputs,
        # Of all networks at a time; means and errors, as stored and as handed out.
        "kernels": (seeds + 2 * several * slots) * (6 * depth + 2) * (tokens**2 + patterns),
        "two-time kernels": kernels
        * (depth + 1)
        * (2 * seeds * slots * tokens * width + 2 * (slots * tokens) ** 2),
        "single heads": 2 * (len(options.save) - kernels) * slots * single,
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
    "single heads": "pass fewer kernel_times, lower seeds, or save less",
}
