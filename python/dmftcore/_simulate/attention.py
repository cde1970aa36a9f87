"""Attention layers of finite width, trained in the space of their weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dmftcore._simulate.linear import factor
from dmftcore._simulate.networks import TrainedNetworks, placed
from dmftcore._simulate.options import Options
from dmftcore._simulate.run import Measured, run
from dmftcore._simulate.token_records import TokenRecords
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.attention_tangent import tangent_kernel
from dmftcore.data import Dataset
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.attention_solve import FIELDS, check_attention
from dmftcore.limits.transformer import Transformer
from dmftcore.losses import loss_function
from dmftcore.march import Stopwatch, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["FIELDS", "AttentionNetworks", "AttentionWeights", "network_shape", "train"]


@dataclass(frozen=True)
class AttentionWeights:
    """Weights of B networks: W_Q, W_K, W_V (B, H, N, r) and w (B, H, K, N)."""

    query: Any
    key: Any
    value: Any
    readout: Any

    @property
    def all(self) -> list[Any]:
        """W_Q, W_K, W_V, w."""
        return [self.query, self.key, self.value, self.readout]


def network_shape(limit: AttentionCore | Transformer, width: int | None) -> tuple[int, int]:
    """Heads H and keys N of the networks of total width N H that approach a limit.

    Raises
    ------
    ValueError
        If these do not follow from `width`, or contradict it.
    """
    heads, keys = limit.heads, limit.key_dim
    if INFINITE not in (heads, keys):
        if width not in (None, heads * keys):
            raise ValueError(
                f"width must be {heads * keys}, that of {heads} heads of {keys} keys, or left "
                f"out, not {width}"
            )
        return int(heads), int(keys)
    if heads == keys:
        raise ValueError(
            "a limit of infinitely many heads and keys says neither: pass one with heads or "
            "key_dim, and width = heads * key_dim"
        )
    given, name = (heads, "heads") if keys == INFINITE else (keys, "key_dim")
    if width is None:
        raise ValueError(f"width is missing: pass heads * key_dim, a multiple of {name}={given}")
    other, rest = divmod(width, int(given))
    if rest:
        raise ValueError(f"width = {width} is not a multiple of {name}={given}")
    return (int(given), other) if name == "heads" else (other, int(given))


def initial_weights(
    limit: AttentionCore, shape: tuple[int, int], *, rank: int, outputs: int, options: Options
) -> AttentionWeights:
    """Independent normal weights, a random stream for every network, or those given.

    Weights of queries have the correlations of `limit` with those of keys.
    """
    if limit.parameters is not None:
        given = [limit.parameters[name] for name in ("W_Q", "W_K", "W_V")]
        given.append(limit.given_readout)
        return AttentionWeights(*(placed(array[None].copy(), options.device) for array in given))
    heads, keys = shape
    of_tokens, of_outputs = ((options.seeds, heads, *n) for n in ((keys, rank), (outputs, keys)))
    weights = AttentionWeights(*map(np.empty, [of_tokens] * 3 + [of_outputs]))
    for kind, array in enumerate(weights.all):
        for network in range(options.seeds):
            seeds = np.random.SeedSequence(options.seed, spawn_key=(network, kind))
            np.random.Generator(np.random.Philox(seeds)).standard_normal(out=array[network])
    if limit.initial_correlations is not None:
        rho = limit.initial_correlations[:, None, None]
        weights.query[...] = rho * weights.key + np.sqrt(1 - rho**2) * weights.query
    return AttentionWeights(*(placed(array, options.device) for array in weights.all))


class AttentionNetworks(TrainedNetworks):
    """Layers of attention on a fixed data set.

    Parameters
    ----------
    limit, data, training
        As in `simulate`.
    weights : AttentionWeights
        At the start; overwritten by the training.
    points : (M, r) array
        Rows of all tokens, for which C is their product.
    records : TokenRecords
        Receives what is measured.
    """

    def __init__(
        self,
        limit: AttentionCore,
        data: Dataset,
        training: GradientDescent,
        weights: AttentionWeights,
        points: FloatArray,
        records: TokenRecords,
    ) -> None:
        super().__init__(training, weights.all, records)
        self.weights, self._records = weights, records
        self._limit, self._rates = limit, training.rates
        self._map, self._loss = limit.attention_map, loss_function(training.loss)
        self._length = data.sequence_length
        self._points = self._xp.asarray(points)
        self._targets = self._xp.asarray(data.targets.reshape(data.n_train, -1))
        self._centre: Any = 0.0
        self._refresh()
        if limit.parameters is None:
            self._centre = self._outputs
        self._start()

    @property
    def keys(self) -> int:
        """Number N of keys of a head."""
        return int(self.weights.query.shape[2])

    @property
    def width(self) -> int:
        """Number N H of keys of all heads."""
        return self.keys * int(self.weights.query.shape[1])

    @property
    def measured(self) -> Any:
        """Outputs, less those at the start of random weights, (B, P + Q, K)."""
        return self._outputs

    def store_kernels(self) -> None:
        """Keep the moments over the heads of each network."""
        values, readout = self._side_by_side(self._values), self._side_by_side(self.weights.readout)
        moments = {
            "V_mean": values @ values.swapaxes(1, 2) / self.width,
            "Z_mean": readout @ readout.swapaxes(1, 2) / self.width,
            "ntk": self._xp.stack([self._tangent_kernel(b) for b in range(len(values))]),
        }
        self._records.store({}, moments, {"S": self._patterns, "A": self._scores()})

    def _side_by_side(self, rows: Any) -> Any:
        """(B, H, n, N) as (B, n, H N)."""
        return rows.swapaxes(1, 2).reshape(len(rows), -1, self.width)

    def _tangent_kernel(self, network: int) -> Any:
        """Tangent kernel (P, K, P, K) of one network."""
        count, xp, root = len(self._targets), self._xp, self.keys**0.5
        points, patterns = self._points[: count * self._length], self._patterns[network, :, :count]
        arrays = (self._queries, self._keys, self._values, self.weights.readout)
        return tangent_kernel(
            points @ points.T,
            self._map,
            xp.full(len(patterns), 1 / len(patterns)),
            patterns,
            *(array[network] / root for array in arrays),
        )

    def _losses(self) -> Any:
        """Training loss of every network."""
        return self._loss.mean(self._outputs[:, : len(self._targets)], self._targets)

    def _by_sequence(self, tokens: Any) -> Any:
        """(B, H, M, n) as (B, H, P + Q, S, n)."""
        return tokens.reshape(*tokens.shape[:2], -1, self._length, tokens.shape[3])

    def _scores(self) -> Any:
        """A (B, H, P + Q, S, S)."""
        queries, keys = self._by_sequence(self._queries), self._by_sequence(self._keys)
        return queries @ keys.swapaxes(3, 4) / self.keys**self._limit.attention_exponent

    def _refresh(self) -> None:
        """Pass all tokens through the networks."""
        weights = self.weights
        self._queries, self._keys, self._values = (
            self._points @ matrix.swapaxes(2, 3)
            for matrix in (weights.query, weights.key, weights.value)
        )
        self._patterns = self._map.value(self._scores())
        #: Mean over positions of what a token is attended to, (B, H, P + Q, S, 1).
        self._attended = self._patterns.mean(axis=3)[..., None]
        #: w_k . v of every token, (B, H, P + Q, S, K).
        self._overlaps = self._by_sequence(self._values @ weights.readout.swapaxes(2, 3))
        summed = (self._attended * self._overlaps).sum(axis=(1, 3))
        self._outputs = summed / (self._limit.gamma * self.width) - self._centre

    def _update(self) -> None:
        """Make one update of all weights.

        ``theta += lr (1/P) sum_mu_k Delta_mu_k df_mu_k / dtheta``, lr = eta gamma^2 N H for w and
        W_V, N^(2 (alpha - 1)) times that for W_Q and W_K.
        """
        limit, weights = self._limit, self.weights
        batch, heads, keys, _ = weights.query.shape
        count = len(self._targets)
        train = slice(count * self._length)
        points = self._points[train]
        exponent = limit.attention_exponent
        # Of the output by the sum over heads and components that it is a multiple of.
        factor = 1 / (limit.gamma * keys * heads)
        rate = float(self._rates[self.step]) * limit.gamma**2 * keys * heads / count * factor
        slow_rate = rate * keys ** (2 * (exponent - 1))

        # (B, 1, P, 1, K)
        errors = (self._targets - self._outputs[:, :count])[:, None, :, None]
        attended = (errors * self._attended[:, :, :count]).reshape(batch, heads, train.stop, -1)
        demand = (errors * self._overlaps[:, :, :count]).sum(axis=4) / self._length
        gradient = self._map.gradient(self._patterns[:, :, :count], demand[..., None, :])
        gradient = gradient / keys**exponent
        by_key = gradient @ self._by_sequence(self._keys[:, :, train])
        by_query = gradient.swapaxes(3, 4) @ self._by_sequence(self._queries[:, :, train])
        shape = (batch, heads, -1, keys)
        # Before any weight moves: all gradients belong to the present ones.
        to_readout = attended.swapaxes(2, 3) @ self._values[:, :, train]
        to_value = weights.readout.swapaxes(2, 3) @ (attended.swapaxes(2, 3) @ points)
        to_query = by_key.reshape(shape).swapaxes(2, 3) @ points
        to_key = by_query.reshape(shape).swapaxes(2, 3) @ points
        weights.readout[...] += rate * to_readout
        weights.value[...] += rate * to_value
        weights.query[...] += slow_rate * to_query
        weights.key[...] += slow_rate * to_key
        self.step += 1
        self._refresh()


def train(
    limit: AttentionCore,
    data: Dataset,
    training: GradientDescent,
    options: Options,
    config: dict[str, Any],
) -> Solution:
    """Train `options.seeds` networks; see `dmftcore.simulate`."""
    watch = Stopwatch()
    check_attention(limit, data, training)
    if limit.parameters is not None and options.seeds > 1:
        raise ValueError("seeds: all networks of given parameters are the same; leave seeds out")
    heads, keys = shape = network_shape(limit, options.width)
    _check_shape(limit, shape)
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr)
    options = replace(options, schedule=schedule)
    points = factor(data) if limit.parameters is None else _points_of(limit, data)
    plan = memory_plan(data, options, shape, rank=points.shape[1])
    check_memory(plan, _REMEDIES)
    weights = initial_weights(
        limit, shape, rank=points.shape[1], outputs=data.n_outputs, options=options
    )
    records = TokenRecords(data, options.save)
    networks = AttentionNetworks(limit, data, training, weights, points, records)
    measured = Measured.on_data(data, training.loss, networks.shape)
    return run(
        networks, records, measured, training, options, config,
        plan=plan, watch=watch, heads=heads, key_dim=keys, width=heads * keys,
    )  # fmt: skip


def _check_shape(limit: AttentionCore, shape: tuple[int, int]) -> None:
    correlations = limit.initial_correlations
    if correlations is None:
        return
    if limit.attention_exponent < 1:
        raise ValueError(
            "initial_correlations of networks need attention_exponent=1: below it scores start "
            "with fluctuations of their size"
        )
    if len(correlations) != shape[0]:
        raise ValueError(
            f"networks of {shape[0]} heads need as many initial_correlations, found "
            f"{len(correlations)}: pass heads={len(correlations)}"
        )


def _points_of(limit: AttentionCore, data: Dataset) -> FloatArray:
    dimension = limit.parameters["W_Q"].shape[2]
    if data.points is None or data.points.shape[1] != dimension:
        raise ValueError(
            f"parameters are weights for inputs of dimension {dimension}: pass data with such "
            "inputs"
        )
    return data.points


def memory_plan(data: Dataset, options: Options, shape: tuple[int, int], *, rank: int) -> Plan:
    """Memory of a run, by part."""
    heads, keys = shape
    sequences, length = data.n_train + data.n_test, data.sequence_length
    tokens, square = sequences * length, sequences * length**2
    outputs = data.n_outputs
    weights = options.seeds * heads * keys * (3 * rank + outputs)
    slots = len(options.schedule.kernel_times)
    counts = {
        # And their gradients.
        "weights": 2 * weights,
        "checkpoint": 0 if options.checkpoint is None else weights,
        # Queries, keys, values and gradients by them; scores, patterns and temporaries of them.
        # The tangent kernel of one network at a time, among tokens and outputs.
        "work": options.seeds * heads * (5 * tokens * keys + 6 * square + 2 * outputs * tokens)
        + heads * outputs * (3 * tokens * keys + square)
        + 2 * (outputs * tokens) ** 2,
        "curves": 3 * (options.seeds + 1) * len(options.schedule.times) * sequences * outputs,
        # Of all networks at a time; means and errors, as stored and as handed out.
        "order parameters": (options.seeds + 4 * slots)
        * (4 * square + tokens**2 + (outputs * data.n_train) ** 2),
        "single heads": 2 * len(options.save) * slots * options.seeds * heads * square,
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "weights": "lower width or seeds",
    "checkpoint": "lower width or seeds, or pass no checkpoint",
    "work": "lower width or seeds, or take fewer tokens",
    "curves": "pass fewer times or lower seeds",
    "order parameters": "pass fewer kernel_times, or lower seeds",
    "single heads": "pass fewer kernel_times, lower seeds, or save less",
}
