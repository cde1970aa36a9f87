"""Heads of one attention layer that are trained together, at their exact finite overlaps.

All that training makes of a head is in the overlaps of the queries, keys and values of the tokens
with each other. Their Gram matrices have a finite rank, and so a head with any number N of
components, infinitely many included, is a head with few: 2 r components of queries and keys and
r + K of values, where r is the rank of the Gram matrix C of the tokens and K the number of outputs.
With the patterns ``S = sigma(A)``, ``c`` their means over queries, ``J`` their vector-Jacobian
product for ``sum_k Delta_k v.w_k`` and ``Delta = y - f`` one step is ::

    q <- q + eps s C J k      k <- k + eps s C J^T q       A = q k^T / s,   s = N^(alpha - 1)
    v <- v + eps sum_k C (Delta_k c) w_k^T       w_k <- w_k + eps v^T (Delta_k c)

or, where queries and keys are too many to move (s = 0), ``A <- A + 2 eps C J C``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.attention_maps import AttentionMap
from dmftcore.attention_tangent import tangent_kernel
from dmftcore.data import Dataset
from dmftcore.losses import loss_function
from dmftcore.march import largest_loss
from dmftcore.observables import collapse, sharpness
from dmftcore.solution import IntArray
from dmftcore.training import GradientDescent

__all__ = [
    "AttentionMarch",
    "AttentionProblem",
    "Heads",
    "Moments",
    "token_rows",
]

#: Heads that the core takes side by side, as many as a vector has numbers. Fewer than half of them
#: are taken one by one.
LANES = 8

#: Eigenvalues of a Gram matrix below this multiple of the largest one, times its size, are zero.
RANK_TOLERANCE = float(np.finfo(np.float64).eps)


def token_rows(data: Dataset) -> FloatArray:
    """Rows L (M, r) of all tokens with ``C = L L^T``, of the least number r of columns."""
    if data.points is not None and data.points.shape[1] < len(data.points):
        left, scales, _ = np.linalg.svd(data.points, full_matrices=False)
        values, vectors = scales**2, left
    else:
        values, vectors = np.linalg.eigh(data.kernel)
        values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > RANK_TOLERANCE * len(vectors) * values[0]
    return np.ascontiguousarray(vectors[:, kept] * np.sqrt(values[kept]))


@dataclass(frozen=True, eq=False)
class AttentionProblem:
    """What heads are trained on, and how.

    Attributes
    ----------
    data : Dataset
        On the host; with sequences.
    rows : (M, r) array
        Rows of all tokens, as `token_rows` gives them.
    attention_map : AttentionMap
        sigma, from scores to patterns.
    gamma : float
    scale : float
        ``s = N^(alpha - 1)``; 0 for scores that are a state of their own.
    """

    data: Dataset
    rows: FloatArray
    attention_map: AttentionMap
    gamma: float
    scale: float

    @property
    def sequences(self) -> int:
        """Number P + Q of sequences."""
        return self.data.n_train + self.data.n_test

    @property
    def length(self) -> int:
        """Number S of tokens of a sequence."""
        return self.data.sequence_length

    @property
    def tokens(self) -> int:
        """Number M of tokens."""
        return self.sequences * self.length

    @property
    def rank(self) -> int:
        """Rank r of their Gram matrix."""
        return int(self.rows.shape[1])

    @property
    def keys(self) -> int:
        """Components that queries and keys of an infinite head need."""
        return 2 * self.rank

    @property
    def values(self) -> int:
        """Components that values and read-outs of an infinite head need."""
        return self.rank + self.outputs

    @property
    def outputs(self) -> int:
        """Number K of outputs."""
        return self.data.n_outputs

    @property
    def targets(self) -> FloatArray:
        """Targets (P, K)."""
        return np.ascontiguousarray(self.data.targets.reshape(self.data.n_train, -1))

    @cached_property
    def train_kernel(self) -> FloatArray:
        """C of the tokens that train."""
        rows = self.rows[: self.data.n_train * self.length]
        kernel: FloatArray = rows @ rows.T
        return kernel

    @cached_property
    def for_core(self) -> dict[str, Any]:
        """The problem as the core takes it."""
        train = self.data.n_train * self.length
        # Whichever makes the product with C the cheaper one.
        low_rank = self.rank * (self.tokens + train) < self.tokens * train
        kernel = None if low_rank else np.ascontiguousarray(self.rows @ self.rows[:train].T)
        return {
            "attention": self.attention_map.kind,
            "causal": self.attention_map.causal,
            "sequences": self.sequences,
            "length": self.length,
            "kernel": kernel,
            "tokens": self.rows if low_rank else None,
            "targets": self.targets,
            "gamma": self.gamma,
            "scale": self.scale,
        }

    def for_device(self, xp: Any) -> dict[str, Any]:
        """The same for the core on a device, with arrays of the library `xp`."""
        fields, train = dict(self.for_core), self.data.n_train * self.length
        if self.scale == 0 and fields["kernel"] is None:
            # Scores are moved there by C itself.
            fields |= {"kernel": self.rows @ self.rows[:train].T, "tokens": None}
        tokens = fields["tokens"]
        fields["transposed"] = None if tokens is None else tokens[:train].T
        for name in ("kernel", "tokens", "transposed", "targets"):
            if fields[name] is not None:
                fields[name] = xp.asarray(np.ascontiguousarray(fields[name]))
        return fields


@dataclass(frozen=True, eq=False)
class Heads:
    """The state of n heads in each of G groups.

    Attributes
    ----------
    query, key : (G, n, M, keys) arrays or None
        ``W x / sqrt(D N)`` of all tokens.
    score : (G, n, P + Q, S, S) array or None
        Instead of the two before, where the scale of the problem is 0.
    value : (G, n, M, values) array
    readout : (G, n, K, values) array
        ``w_k / sqrt(N)``.
    weight : (n,) array
        Of every head in the mean over its group; their sum is 1.
    """

    value: FloatArray
    readout: FloatArray
    weight: FloatArray
    query: FloatArray | None = None
    key: FloatArray | None = None
    score: FloatArray | None = None

    def chunks(self, xp: Any = np) -> dict[str, Any]:
        """The arrays (chunks, ..., lanes) of the library `xp` that the core changes in place."""
        groups, heads = self.readout.shape[:2]
        lanes = 1 if 2 * heads < LANES or xp is not np else LANES
        weight = np.broadcast_to(self.weight, (groups, heads))
        names = ("query", "key", "score", "value", "readout")
        arrays = {name: getattr(self, name) for name in names} | {"weight": weight}
        return {
            name: None if array is None else xp.asarray(_side_by_side(array, lanes))
            for name, array in arrays.items()
        }


def _side_by_side(array: FloatArray, lanes: int) -> FloatArray:
    """(G, n, ...) as (chunks, ..., lanes); what fills the last chunk of a group is zero."""
    groups, heads, *rest = array.shape
    count = -(-heads // lanes)
    padded = np.zeros((groups, count * lanes, *rest))
    padded[:, :heads] = array
    chunks = padded.reshape(groups * count, lanes, *rest)
    return np.ascontiguousarray(np.moveaxis(chunks, 1, -1))


@dataclass(frozen=True)
class Moments:
    """Means over heads and over groups at one step, and standard errors between groups.

    Attributes
    ----------
    mean : dict
        S_mean, S_var, A_mean, A_var (P + Q, S, S), V_mean (M, M), Z_mean (K, K) and ntk
        (P, K, P, K), the tangent kernel.
    error : dict
        The same of standard errors; empty for a single group.
    """

    mean: dict[str, FloatArray]
    error: dict[str, FloatArray]

    @classmethod
    def over_groups(cls, by_group: dict[str, FloatArray], *, pooled: bool) -> Moments:
        """The moments of groups, first axis G of every array.

        Parameters
        ----------
        by_group : dict
        pooled : bool
            Whether the variances are those of the heads of all groups together. Otherwise they are
            the means of the variances in each of them.
        """
        mean = {name: values.mean(axis=0) for name, values in by_group.items()}
        error = {}
        groups = len(by_group["Z_mean"])
        if groups > 1:
            error = {
                name: values.std(axis=0, ddof=1) / np.sqrt(groups)
                for name, values in by_group.items()
            }
        if pooled:
            for name in ("S", "A"):
                mean[f"{name}_var"] = mean[f"{name}_var"] + by_group[f"{name}_mean"].var(axis=0)
        return cls(mean, error)


class AttentionMarch:
    """The march of the heads of a layer; see `dmftcore.march.March`.

    Outputs are (len(stops), G, P + Q, K), for every group of heads.

    Parameters
    ----------
    problem : AttentionProblem
    heads : Heads
        At the start.
    training : GradientDescent
    centred : bool
        Whether f - f(0) is trained instead of f.
    pooled : bool
        See `Moments.over_groups`.
    save : tuple of str
        "S_heads" and "A_heads" for patterns and scores of every head.
    xp : module, optional
        Array library of the place where the heads are; what is handed out is on the host.
    """

    def __init__(
        self,
        problem: AttentionProblem,
        heads: Heads,
        training: GradientDescent,
        *,
        centred: bool,
        pooled: bool,
        save: tuple[str, ...] = (),
        xp: Any = np,
    ) -> None:
        self.step = 0
        self.moments: list[Moments] = []
        #: By name, for every stored step: (G, n, P + Q, S, S) numbers of every head.
        self._heads: dict[str, list[FloatArray]] = {name: [] for name in save}
        self._problem, self._pooled, self._xp = problem, pooled, xp
        self._rates = np.ascontiguousarray(training.rates)
        self._state = heads.chunks(xp)
        self._core, _ = _arrays.arguments(value=self._state["value"])
        self._fixed = problem.for_core if xp is np else problem.for_device(xp)
        self._groups, self._size = heads.readout.shape[:2]
        self._centre = xp.zeros(self.shape)
        self._loss_limit = np.inf
        first = self._run(self._rates[:0])[0][0]
        if centred:
            self._centre = xp.asarray(np.ascontiguousarray(first))
            first = np.zeros_like(first)
        self._loss_limit = largest_loss(float(self._losses(first).max()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the outputs of a step, (G, P + Q, K)."""
        return self._groups, self._problem.sequences, self._problem.outputs

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), G, P + Q, K); fewer if the loss of a group diverges."""
        begin = self.step
        last = int(stops[-1]) if len(stops) else begin
        outputs, finished = self._run(self._rates[begin:last])
        self.step = begin + len(outputs) - 1
        reached = stops if finished else stops[stops < self.step]
        rows: FloatArray = outputs[reached - begin]
        return rows

    def store_kernels(self) -> None:
        """Keep the moments over heads of the step."""
        each = len(self._state["weight"]) // self._groups
        parts = [
            self._group_moments(
                {name: _part(array, g, each) for name, array in self._state.items()}, g
            )
            for g in range(self._groups)
        ]
        by_group = {name: np.stack([part[name] for part in parts]) for name in parts[0]}
        for name, stored in self._heads.items():
            stored.append(by_group.pop(name))
        self.moments.append(Moments.over_groups(by_group, pooled=self._pooled))

    def fields(self, save: tuple[str, ...] = ()) -> dict[str, Any]:
        """What is stored, as fields of a `Solution`."""
        means, errors = (
            self._stacked([getattr(moments, kind) for moments in self.moments])
            for kind in ("mean", "error")
        )
        largest = [sharpness(kernel) for kernel in means.get("ntk", ())]
        targets = self._problem.data.targets.shape
        for of in (means, errors):
            for name, sides in (("ntk", targets), ("Z_mean", targets[1:])):
                if name in of:
                    of[name] = of[name].reshape(-1, *sides, *sides)
        ntk = means.pop("ntk", None)
        heads = {name: np.stack(self._heads[name]) for name in save if self._heads[name]}
        return {
            "ntk": ntk,
            "sharpness": None if ntk is None else np.array(largest),
            "order_parameters": means | heads,
            "standard_errors": errors,
        }

    def diagnostics(self) -> dict[str, Any]:
        """What the answer is about."""
        order = self._stacked([moments.mean for moments in self.moments])
        heads = [self._groups, self._size]
        return {"heads": heads, "rank": self._problem.rank, **collapse(order)}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        arrays = {name: array for name, array in self._state.items() if array is not None}
        return {
            "step": np.array(self.step),
            **{name: np.array(_arrays.to_host(array)) for name, array in arrays.items()},
            **{
                f"{kind}.{name}": values
                for kind in ("mean", "error")
                for name, values in self._stacked([getattr(m, kind) for m in self.moments]).items()
            },
            **{f"heads.{name}": np.stack(kept) for name, kept in self._heads.items() if kept},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        for name, array in self._state.items():
            if array is not None:
                array[...] = self._xp.asarray(state[name])

        def at(prefix: str, slot: int) -> dict[str, FloatArray]:
            names = (name for name in state if name.startswith(prefix))
            return {name.removeprefix(prefix): state[name][slot] for name in names}

        stored = len(state["mean.Z_mean"]) if "mean.Z_mean" in state else 0
        self.moments = [Moments(at("mean.", slot), at("error.", slot)) for slot in range(stored)]
        self._heads = {name: list(state.get(f"heads.{name}", ())) for name in self._heads}

    def _run(self, rates: FloatArray) -> tuple[FloatArray, bool]:
        """Outputs before and after each update, and whether none of their losses diverged."""
        outputs, finished = self._core.attention_run(
            **self._fixed,
            **self._state,
            centre=self._centre,
            rates=rates,
            loss_limit=self._loss_limit,
        )
        if self._xp is not np:
            outputs = _arrays.to_host(outputs)
            below = (self._losses(outputs) <= self._loss_limit).all(axis=1)
            finished = bool(below.all())
            outputs = outputs if finished else outputs[: int(below.argmin()) + 1]
        return outputs, finished

    def _losses(self, outputs: FloatArray) -> FloatArray:
        """Training losses of outputs (..., G, P + Q, K)."""
        targets = self._problem.targets
        losses: FloatArray = loss_function("square").mean(outputs[..., : len(targets), :], targets)
        return losses

    def _group_moments(self, state: dict[str, Any], group: int) -> dict[str, FloatArray]:
        """Means over the heads of one group, variances among them, and its tangent kernel."""
        problem, xp = self._problem, self._xp
        arrays = self._core.attention_patterns(
            **self._fixed, **state, centre=self._centre[group : group + 1]
        )
        scores, patterns = map(_one_by_one, arrays)
        weight, value, readout = (
            _one_by_one(state[name]) for name in ("weight", "value", "readout")
        )
        found: dict[str, Any] = {
            "Z_mean": xp.tensordot(weight, readout @ readout.swapaxes(1, 2), 1)
        }
        for name, array in (("S", patterns), ("A", scores)):
            mean = xp.tensordot(weight, array, 1)
            found[f"{name}_mean"] = mean
            found[f"{name}_var"] = xp.tensordot(weight, (array - mean) ** 2, 1)
            if f"{name}_heads" in self._heads:
                # Without those that fill the last chunk.
                found[f"{name}_heads"] = array[: self._size]
        root = xp.sqrt(weight)[:, None, None]
        rows = (root * value).swapaxes(0, 1).reshape(problem.tokens, -1)
        found["V_mean"] = rows @ rows.T
        if state["score"] is None:
            query, key = _one_by_one(state["query"]), _one_by_one(state["key"])
        else:
            # Infinitely many components have the overlaps of these.
            query = key = xp.asarray(problem.rows)[None]
        found["ntk"] = tangent_kernel(
            xp.asarray(problem.train_kernel),
            problem.attention_map,
            weight,
            patterns[:, : problem.data.n_train],
            query,
            key,
            value,
            readout,
        )
        return {name: _arrays.to_host(array) for name, array in found.items()}

    @staticmethod
    def _stacked(moments: list[dict[str, FloatArray]]) -> dict[str, FloatArray]:
        names = moments[0] if moments else {}
        return {name: np.stack([each[name] for each in moments]) for name in names}


def _part(array: FloatArray | None, group: int, each: int) -> FloatArray | None:
    return None if array is None else array[group * each : (group + 1) * each]


def _one_by_one(chunks: Any) -> Any:
    """(chunks, ..., lanes) as (heads, ...)."""
    heads_first = _arrays.namespace(chunks).moveaxis(chunks, -1, 1)
    return heads_first.reshape(-1, *heads_first.shape[2:])
