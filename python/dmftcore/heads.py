"""Heads of one attention layer that are trained together, at their exact finite overlaps.

All that training makes of a head is in the overlaps of the queries, keys and values of the tokens
with each other. Their Gram matrices have a finite rank, and so a head with any number N of
components, infinitely many included, is a head with few: 2 r components of queries and keys and
r + 1 of values, where r is the rank of the Gram matrix C of the tokens. With the patterns
``S = sigma(A)``, ``J`` their vector-Jacobian product and ``Delta = y - f`` one step is ::

    q <- q + eps s C J~ k      k <- k + eps s C J~^T q       A = q k^T / s,   s = N^(alpha - 1)
    v <- v + eps C (Delta c) w^T       w <- w + eps v^T (Delta c)

or, where queries and keys are too many to move (s = 0), ``A <- A + 2 eps C J~ C``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _core
from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.march import DIVERGENCE_FACTOR
from dmftcore.observables import square_loss
from dmftcore.solution import IntArray
from dmftcore.training import GradientDescent

__all__ = ["AttentionMarch", "AttentionProblem", "Heads", "Moments", "token_rows"]

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
    attention : {"softmax", "linear", "exp", "relu"}
        The map sigma from scores to patterns.
    gamma : float
    scale : float
        ``s = N^(alpha - 1)``; 0 for scores that are a state of their own.
    """

    data: Dataset
    rows: FloatArray
    attention: str
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
        """Components that values and read-out of an infinite head need."""
        return self.rank + 1

    @cached_property
    def for_core(self) -> dict[str, Any]:
        """The problem as the core takes it."""
        train, rank = self.data.n_train * self.length, self.rank
        # Whichever makes the product with C the cheaper one.
        low_rank = rank * (self.tokens + train) < self.tokens * train
        kernel = None if low_rank else np.ascontiguousarray(self.rows @ self.rows[:train].T)
        return {
            "attention": self.attention,
            "sequences": self.sequences,
            "length": self.length,
            "kernel": kernel,
            "tokens": self.rows if low_rank else None,
            "targets": self.data.targets.reshape(-1),
            "gamma": self.gamma,
            "scale": self.scale,
        }


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
    readout : (G, n, values) array
        ``w / sqrt(N)``.
    weight : (n,) array
        Of every head in the mean over its group; their sum is 1.
    """

    value: FloatArray
    readout: FloatArray
    weight: FloatArray
    query: FloatArray | None = None
    key: FloatArray | None = None
    score: FloatArray | None = None

    def chunks(self) -> dict[str, Any]:
        """The arrays (chunks, ..., lanes) that the core changes in place."""
        groups, heads = self.readout.shape[:2]
        lanes = 1 if 2 * heads < LANES else LANES
        weight = np.broadcast_to(self.weight, (groups, heads))
        names = ("query", "key", "score", "value", "readout")
        arrays = {name: getattr(self, name) for name in names} | {"weight": weight}
        return {
            name: None if array is None else _side_by_side(array, lanes)
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
        S_mean, S_var, A_mean, A_var (P + Q, S, S), V_mean (M, M) and Z_mean ().
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

    Outputs are (len(stops), G, P + Q), one row for every group of heads.

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
    """

    def __init__(
        self,
        problem: AttentionProblem,
        heads: Heads,
        training: GradientDescent,
        *,
        centred: bool,
        pooled: bool,
    ) -> None:
        self.step = 0
        self.moments: list[Moments] = []
        self._problem, self._pooled = problem, pooled
        self._rates = np.ascontiguousarray(training.rates)
        self._state = heads.chunks()
        self._groups = len(heads.readout)
        self._centre = np.zeros((self._groups, problem.sequences))
        first = self._run(self._rates[:0], np.inf)[0][0]
        if centred:
            self._centre = np.ascontiguousarray(first)
            first = np.zeros_like(first)
        targets = problem.data.targets.reshape(-1, 1)
        losses = square_loss(first[:, : len(targets), None], targets)
        self._loss_limit = DIVERGENCE_FACTOR * max(float(np.max(losses)), 1e-300)

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), G, P + Q); fewer if the loss of a group diverges."""
        begin = self.step
        last = int(stops[-1]) if len(stops) else begin
        outputs, finished = self._run(self._rates[begin:last], self._loss_limit)
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
        self.moments.append(Moments.over_groups(by_group, pooled=self._pooled))

    def order_parameters(self) -> dict[str, FloatArray]:
        """The means at the stored steps, which are their first axis."""
        return self._stacked([moments.mean for moments in self.moments])

    def standard_errors(self) -> dict[str, FloatArray]:
        """Their standard errors; empty for a single group."""
        return self._stacked([moments.error for moments in self.moments])

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        arrays = {name: array for name, array in self._state.items() if array is not None}
        return {
            "step": np.array(self.step),
            **{name: array.copy() for name, array in arrays.items()},
            **{f"mean.{name}": values for name, values in self.order_parameters().items()},
            **{f"error.{name}": values for name, values in self.standard_errors().items()},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        for name, array in self._state.items():
            if array is not None:
                array[...] = state[name]

        def at(prefix: str, slot: int) -> dict[str, FloatArray]:
            names = (name for name in state if name.startswith(prefix))
            return {name.removeprefix(prefix): state[name][slot] for name in names}

        stored = len(state["mean.Z_mean"]) if "mean.Z_mean" in state else 0
        self.moments = [Moments(at("mean.", slot), at("error.", slot)) for slot in range(stored)]

    def _run(self, rates: FloatArray, loss_limit: float) -> tuple[FloatArray, bool]:
        """Outputs before and after each update, and whether all were made."""
        return _core.attention_run(
            **self._problem.for_core,
            **self._state,
            centre=self._centre,
            rates=rates,
            loss_limit=loss_limit,
        )

    def _group_moments(self, state: dict[str, Any], group: int) -> dict[str, FloatArray]:
        """Means over the heads of one group, and the variances among them."""
        problem, weight = self._problem, state["weight"]
        scores, patterns = _core.attention_patterns(
            **problem.for_core, **state, centre=self._centre[group : group + 1]
        )
        found = {}
        for name, array in (("S", patterns), ("A", scores)):
            mean = np.einsum("cpstl,cl->pst", array, weight)
            array -= mean[..., None]
            found[f"{name}_mean"] = mean
            found[f"{name}_var"] = np.einsum("cpstl,cpstl,cl->pst", array, array, weight)
        weighted = state["value"] * np.sqrt(weight)[:, None, None]
        rows = weighted.swapaxes(0, 1).reshape(problem.tokens, -1)
        found["V_mean"] = rows @ rows.T
        found["Z_mean"] = np.einsum("cdl,cdl,cl->", state["readout"], state["readout"], weight)
        return found

    @staticmethod
    def _stacked(moments: list[dict[str, FloatArray]]) -> dict[str, FloatArray]:
        names = moments[0] if moments else {}
        return {name: np.stack([each[name] for each in moments]) for name in names}


def _part(array: FloatArray | None, group: int, each: int) -> FloatArray | None:
    return None if array is None else array[group * each : (group + 1) * each]
