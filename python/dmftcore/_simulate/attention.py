"""Attention layers of finite width, trained in the space of their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.linear import factor
from dmftcore._simulate.networks import placed
from dmftcore._simulate.options import Options
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.attention_maps import AttentionMap
from dmftcore.attention_tangent import tangent_kernel
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.attention_solve import check_attention, sharpnesses
from dmftcore.limits.transformer import Transformer
from dmftcore.march import Diverged, Stopwatch, largest_loss, march, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import curves_of_runs, standard_error, training_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import IntArray, Solution
from dmftcore.training import GradientDescent

__all__ = ["KERNELS", "AttentionNetworks", "AttentionWeights", "network_shape", "train"]

#: Two-time kernels that a simulation can store: attention has none.
KERNELS: tuple[str, ...] = ()


@dataclass(frozen=True)
class AttentionWeights:
    """Weights of B networks: W_Q, W_K, W_V (B, H, N, r) and w (B, H, N)."""

    query: Any
    key: Any
    value: Any
    readout: Any

    @property
    def all(self) -> dict[str, Any]:
        """By name."""
        return {"W_Q": self.query, "W_K": self.key, "W_V": self.value, "w": self.readout}


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
    limit: AttentionCore, shape: tuple[int, int], rank: int, options: Options
) -> AttentionWeights:
    """Independent normal weights, a random stream for every network, or those given.

    Weights of queries have the correlations of `limit` with those of keys.
    """
    if limit.parameters is not None:
        given = (limit.parameters[name][None].copy() for name in ("W_Q", "W_K", "W_V", "w"))
        return AttentionWeights(*(placed(array, options.device) for array in given))
    heads, keys = shape
    of_tokens = (options.seeds, heads, keys, rank)
    weights = AttentionWeights(*(np.empty(n) for n in (*(of_tokens,) * 3, of_tokens[:3])))
    for kind, array in enumerate(weights.all.values()):
        for network in range(options.seeds):
            seeds = np.random.SeedSequence(options.seed, spawn_key=(network, kind))
            np.random.Generator(np.random.Philox(seeds)).standard_normal(out=array[network])
    if limit.initial_correlations is not None:
        rho = limit.initial_correlations[:, None, None]
        weights.query[...] = rho * weights.key + np.sqrt(1 - rho**2) * weights.query
    return AttentionWeights(*(placed(array, options.device) for array in weights.all.values()))


class AttentionNetworks:
    """Networks that are trained side by side; a `dmftcore.march.March`.

    Parameters
    ----------
    limit, data, training
        As in `simulate`.
    weights : AttentionWeights
        At the start; overwritten by the training.
    points : (M, r) array
        Rows of all tokens, for which C is their product.
    """

    def __init__(
        self,
        limit: AttentionCore,
        data: Dataset,
        training: GradientDescent,
        weights: AttentionWeights,
        points: FloatArray,
    ) -> None:
        self.step = 0
        self.weights = weights
        self.stored: list[dict[str, FloatArray]] = []
        self._xp = xp = _arrays.namespace(weights.readout)
        self._limit, self._rates = limit, training.rates
        self._map = AttentionMap(limit.attention)
        self._length = data.sequence_length
        self._points = xp.asarray(points)
        self._targets = xp.asarray(data.targets.reshape(-1))
        self._centre: Any = 0.0
        self._outputs: Any = None
        self._refresh()
        if limit.parameters is None:
            self._centre = self._outputs
            self._outputs = self._outputs - self._centre
        self._largest_loss = largest_loss(float(self._losses().max()))

    @property
    def keys(self) -> int:
        """Number N of keys of a head."""
        return int(self.weights.readout.shape[2])

    def advance(self, stops: IntArray) -> FloatArray:
        """Train through the given steps; outputs (len(stops), B, P + Q), fewer if diverged."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                if not self._train_until(stop):
                    break
                rows.append(_arrays.to_host(self._outputs))
        return np.array(rows).reshape(-1, *self._outputs.shape)

    def store_kernels(self) -> None:
        """Keep the moments over the heads of each network, (B, ...)."""
        scores, patterns = self._scores(), self._patterns
        readout = self.weights.readout
        # All components of all heads side by side.
        values = self._values.swapaxes(1, 2).reshape(len(readout), len(self._points), -1)
        found = {
            "V_mean": values @ values.swapaxes(1, 2) / values.shape[2],
            "Z_mean": (readout**2).mean(axis=(1, 2)),
        }
        for name, array in (("S", patterns), ("A", scores)):
            found[f"{name}_mean"], found[f"{name}_var"] = array.mean(axis=1), array.var(axis=1)
        found["ntk"] = self._xp.stack([self._tangent_kernel(b) for b in range(len(readout))])
        self.stored.append({name: _arrays.to_host(array) for name, array in found.items()})

    def _tangent_kernel(self, network: int) -> Any:
        """Tangent kernel (P, P) of one network."""
        count, xp, root = len(self._targets), self._xp, self.keys**0.5
        points, patterns = self._points[: count * self._length], self._patterns[network, :, :count]
        arrays = (self._queries, self._keys, self._values, self.weights.readout)
        return tangent_kernel(
            points @ points.T,
            self._limit.attention,
            xp.full(len(patterns), 1 / len(patterns)),
            patterns,
            *(array[network] / root for array in arrays),
        )

    def means(self) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
        """Means over networks at the stored steps, and their standard errors."""
        names = self.stored[0] if self.stored else {}
        by_network = {
            name: np.stack([slot[name] for slot in self.stored], axis=1) for name in names
        }
        errors = {}
        if len(self.weights.readout) > 1:
            errors = {name: standard_error(values) for name, values in by_network.items()}
        return {name: values.mean(axis=0) for name, values in by_network.items()}, errors

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        names = self.stored[0] if self.stored else {}
        return {
            "step": np.array(self.step),
            "centre": np.array(_arrays.to_host(self._centre)),
            **{name: np.array(_arrays.to_host(x)) for name, x in self.weights.all.items()},
            **{f"stored.{name}": np.stack([slot[name] for slot in self.stored]) for name in names},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        self._centre = self._xp.asarray(state["centre"])
        for name, array in self.weights.all.items():
            array[...] = self._xp.asarray(state[name])
        prefix = "stored."
        by_name = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        self.stored = [
            dict(zip(by_name, slot, strict=True)) for slot in zip(*by_name.values(), strict=True)
        ]
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
        errors = self._targets - self._outputs[:, : len(self._targets)]
        return (errors**2).mean(axis=1) / 2

    def _by_sequence(self, tokens: Any) -> Any:
        """(B, H, M, N) as (B, H, P + Q, S, N)."""
        return tokens.reshape(*tokens.shape[:2], -1, self._length, tokens.shape[3])

    def _scores(self) -> Any:
        """A (B, H, P + Q, S, S)."""
        queries, keys = self._by_sequence(self._queries), self._by_sequence(self._keys)
        return queries @ keys.swapaxes(3, 4) / self.keys**self._limit.attention_exponent

    def _refresh(self) -> None:
        """Pass all tokens through the networks."""
        weights, limit = self.weights, self._limit
        self._queries, self._keys, self._values = (
            self._points @ matrix.swapaxes(2, 3)
            for matrix in (weights.query, weights.key, weights.value)
        )
        self._patterns = self._map.value(self._scores())
        #: Mean over positions of what a token is attended to, (B, H, P + Q, S).
        self._attended = self._patterns.mean(axis=3)
        #: w . v of every token, (B, H, P + Q, S).
        overlaps = self._values @ weights.readout[..., None]
        self._overlaps = overlaps.reshape(self._attended.shape)
        summed = (self._attended * self._overlaps).sum(axis=(1, 3))
        heads = weights.readout.shape[1]
        self._outputs = summed / (limit.gamma * self.keys * heads) - self._centre

    def _update(self) -> None:
        """Make one update of all weights.

        ``theta += lr (1/P) sum_mu Delta_mu df_mu / dtheta``, lr = eta gamma^2 N H for w and W_V,
        N^(2 (alpha - 1)) times that for W_Q and W_K.
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

        errors = (self._targets - self._outputs[:, :count])[:, None, :, None]
        attended = (errors * self._attended[:, :, :count]).reshape(batch, heads, -1, 1)
        gradient = self._map.gradient(
            self._patterns[:, :, :count],
            self._overlaps[:, :, :count, None, :] / self._length,
        )
        gradient = errors[..., None] * gradient / keys**exponent
        by_key = gradient @ self._by_sequence(self._keys[:, :, train])
        by_query = gradient.swapaxes(3, 4) @ self._by_sequence(self._queries[:, :, train])
        shape = (batch, heads, -1, keys)
        # Before any weight moves: all gradients belong to the present ones.
        to_readout = (attended * self._values[:, :, train]).sum(axis=2)
        to_value = weights.readout[..., None] * (attended.swapaxes(2, 3) @ points)
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
    check_attention(data, training)
    if limit.parameters is not None and options.seeds > 1:
        raise ValueError("seeds: all networks of given parameters are the same; leave seeds out")
    shape = network_shape(limit, options.width)
    _check_shape(limit, shape)
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr)
    options = replace(options, schedule=schedule)
    points = factor(data)
    if limit.parameters is not None:
        points = _points_of(limit, data)
    plan = memory_plan(data, options, shape, rank=points.shape[1])
    check_memory(plan, _REMEDIES)
    weights = initial_weights(limit, shape, points.shape[1], options)
    networks = AttentionNetworks(limit, data, training, weights, points)
    of_outputs = training_loss(data)

    def mean_loss(outputs: FloatArray) -> float:
        return of_outputs(outputs[..., None])

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        parameters, errors = networks.means()
        ntk = parameters.pop("ntk", None)
        diagnostics = {
            "engine": "simulate",
            "heads": shape[0],
            "key_dim": shape[1],
            "width": shape[0] * shape[1],
            "seeds": options.seeds,
            "device": options.device,
            "memory": plan.total,
            "wall_seconds": watch.seconds(),
        }
        if "S_var" in parameters:
            diagnostics["collapse"] = parameters["S_var"].mean(axis=(1, 2, 3)).tolist()
        if options.checkpoint is not None:
            diagnostics.update(options.checkpoint.diagnostics())
        every = outputs.reshape(-1, options.seeds, data.n_train + data.n_test, 1)
        fields = curves_of_runs(data, every)
        return Solution(
            schedule.times,
            schedule.kernel_times,
            **{name: field for name, field in fields.items() if name != "standard_errors"},
            ntk=ntk,
            sharpness=None if ntk is None else sharpnesses(ntk),
            standard_errors=fields["standard_errors"] | errors,
            order_parameters=parameters,
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
    weights = options.seeds * heads * keys * (3 * rank + 1)
    slots = len(options.schedule.kernel_times)
    counts = {
        # And their gradients.
        "weights": 2 * weights,
        "checkpoint": 0 if options.checkpoint is None else weights,
        # Queries, keys, values and gradients by them; scores, patterns and temporaries of them.
        "work": options.seeds * heads * (5 * tokens * keys + 6 * square),
        "curves": 3 * (options.seeds + 1) * len(options.schedule.times) * sequences,
        "order parameters": (2 * options.seeds + 2) * slots * (4 * square + tokens**2),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "weights": "lower width or seeds",
    "checkpoint": "lower width or seeds, or pass no checkpoint",
    "work": "lower width or seeds, or take fewer tokens",
    "curves": "pass fewer times or lower seeds",
    "order parameters": "pass fewer kernel_times, or lower seeds",
}
