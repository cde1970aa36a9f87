"""One attention layer with trainable queries, keys, values and read-out, in its limits.

Source: Bordelon, Chaudhry & Pehlevan, "Infinite limits of multi-head transformer dynamics" (2024),
for a single layer, in discrete time. The limits differ only in the law of the heads at the start:

- infinitely many keys, ``alpha = 1``: scores start at zero and all heads stay equal (collapse);
  `initial_correlations` of queries and keys start them apart;
- infinitely many keys, ``alpha = 1/2``: scores start as Gaussians, and queries and keys are too
  many to move: an average over heads by Monte Carlo, or by quadrature;
- between the two: scores start at zero, and queries and keys do not move;
- infinitely many heads of N keys: an average over heads by Monte Carlo;
- finite networks, random ones or of given weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmftcore._validate import INFINITE, FloatArray, integer, one_of, positive, real_array
from dmftcore.attention_maps import ATTENTION_MAPS, AttentionMap
from dmftcore.data import Dataset
from dmftcore.heads import AttentionProblem, Heads, token_rows

__all__ = ["GROUPS", "AttentionCore", "attention_problem", "heads_at_start"]

#: Independent groups of heads, or of networks, among which standard errors are taken.
GROUPS = 8

_WEIGHTS = ("W_Q", "W_K", "W_V", "w")


@dataclass(frozen=True, eq=False)
class AttentionCore:
    """One layer of H heads with N keys each, in the mean-field scaling.

    For the tokens ``x_s`` of a sequence and weights with entries N(0, 1), ::

        q_s = W_Q x_s / sqrt(D)      k_s = W_K x_s / sqrt(D)      v_s = W_V x_s / sqrt(D)
        A_ss' = q_s . k_s' / N^alpha      S = sigma(A)
        f_k = 1 / (gamma N H) sum_h w_hk . (1 / S) sum_ss' S^h_ss' v^h_s'

    with a read-out for each of the K outputs that the targets have. ``w`` and ``W_V`` have the
    learning rate ``lr gamma^2 N H``, ``W_Q`` and ``W_K`` that times ``N^(2 (alpha - 1))``.

    Parameters
    ----------
    heads, key_dim : int or INFINITE
        H and N.
    gamma : float
        Feature-learning strength gamma_0 > 0.
    attention_exponent : float
        alpha, from 1/2 to 1.
    attention : {"softmax", "linear", "exp", "relu"}
        sigma over the second index: ``exp(A) / sum exp(A)``, ``(1 + A) / S``, ``exp(A) / S`` or
        ``max(A, 0) / S``, with the length S of the sequence.
    initial_correlations : (n,) array, optional
        One head for each rho, with ``A = rho C`` at the start. For ``alpha = 1`` it is the
        correlation of W_Q with W_K, ``|rho| <= 1``, also of networks. For ``alpha < 1`` and
        infinitely many keys any number; nodes of a Gaussian quadrature average over the Gaussian A
        of ``alpha = 1/2`` where the tokens have one dimension.
    head_weights : (n,) array, optional
        Parts of the infinitely many heads that are as `initial_correlations` say; equal by default.
        Made to add up to 1.
    parameters : mapping, optional
        A network of given initial weights: W_Q, W_K, W_V (H, N, D) and w (H, N), or (H, N, K). Its
        output is trained as it is, not less its value at the start.
    mask : {"causal"}, optional
        Whether a position attends only to those up to its own.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and for what excludes each other.

    Notes
    -----
    Source of the theory: Bordelon, Chaudhry & Pehlevan, "Infinite limits of multi-head transformer
    dynamics" (2024), for a single layer, in discrete time.
    """

    heads: Any = INFINITE
    key_dim: Any = INFINITE
    gamma: float = 1.0
    attention_exponent: float = 1.0
    attention: str = "softmax"
    initial_correlations: Any = None
    head_weights: Any = None
    parameters: Any = None
    mask: str | None = None

    def __post_init__(self) -> None:
        one_of("attention", self.attention, ATTENTION_MAPS)
        if self.mask is not None:
            one_of("mask", self.mask, ("causal",))
        object.__setattr__(self, "gamma", positive("gamma", self.gamma))
        exponent = positive("attention_exponent", self.attention_exponent)
        if not 0.5 <= exponent <= 1:
            raise ValueError(f"attention_exponent must lie in [1/2, 1], not {exponent!r}")
        object.__setattr__(self, "attention_exponent", exponent)
        for name in ("heads", "key_dim"):
            if getattr(self, name) != INFINITE:
                object.__setattr__(self, name, integer(name, getattr(self, name), at_least=1))
        if self.parameters is not None:
            self._take_parameters()
        if self.initial_correlations is not None:
            self._check_correlations()
        elif self.head_weights is not None:
            raise ValueError(
                "head_weights says how many heads have each of initial_correlations: "
                "give these too, or leave it out"
            )

    def _take_parameters(self) -> None:
        for name in ("initial_correlations", "head_weights"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name} and parameters both say how the heads start: give one")
        given = self.parameters
        if not isinstance(given, Mapping) or sorted(given) != sorted(_WEIGHTS):
            raise TypeError(
                "parameters must map W_Q, W_K, W_V to arrays (H, N, D) and w to an array (H, N) "
                f"or (H, N, K), found {sorted(given) if isinstance(given, Mapping) else given!r}"
            )
        axes = dict.fromkeys(_WEIGHTS, 3) | {"w": 3 if np.ndim(given["w"]) == 3 else 2}
        arrays = {k: real_array(f"parameters[{k!r}]", given[k], n) for k, n in axes.items()}
        shape = arrays["W_Q"].shape
        for name, array in arrays.items():
            expected = (*shape[:2], *array.shape[2:]) if name == "w" else shape
            if array.shape != expected:
                raise ValueError(
                    f"parameters[{name!r}] must have shape {expected} as W_Q {shape} has it, "
                    f"found {array.shape}"
                )
        for name, found in (("heads", shape[0]), ("key_dim", shape[1])):
            if getattr(self, name) not in (INFINITE, found):
                raise ValueError(
                    f"{name} is {getattr(self, name)}, but parameters has {found}: leave it out"
                )
            object.__setattr__(self, name, found)
        object.__setattr__(self, "parameters", arrays)

    def _check_correlations(self) -> None:
        nodes = real_array("initial_correlations", self.initial_correlations, 1)
        object.__setattr__(self, "initial_correlations", nodes)
        count, largest = len(nodes), float(np.abs(nodes).max())
        if self.attention_exponent == 1 and largest > 1:
            raise ValueError(
                "initial_correlations must lie in [-1, 1] at attention_exponent=1, where they are "
                f"correlations of weights; found one of size {largest:g}"
            )
        if self.key_dim != INFINITE and self.attention_exponent < 1:
            raise ValueError(
                "initial_correlations at a finite key_dim need attention_exponent=1: below it "
                "scores start with fluctuations of their size"
            )
        if self.heads == INFINITE and self.key_dim != INFINITE:
            raise ValueError(
                f"initial_correlations at a finite key_dim are those of single heads: pass "
                f"heads={count}"
            )
        if self.heads not in (INFINITE, count):
            raise ValueError(
                f"initial_correlations must hold one number for each of the {self.heads} heads, "
                f"found {count}"
            )
        if self.head_weights is None:
            return
        weights = real_array("head_weights", self.head_weights, 1)
        if self.heads != INFINITE:
            raise ValueError(
                f"head_weights are parts of infinitely many heads, but heads={self.heads}: leave "
                "one of the two out"
            )
        if len(weights) != count:
            raise ValueError(
                f"head_weights must hold one number for each of the {count} "
                f"initial_correlations, found {len(weights)}"
            )
        if weights.min() < 0 or weights.sum() <= 0:
            raise ValueError("head_weights must be >= 0 with a positive sum")
        object.__setattr__(self, "head_weights", weights)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AttentionCore):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        arrays = (self.initial_correlations, self.head_weights)
        weights = None
        if self.parameters is not None:
            weights = tuple((k, v.shape, v.tobytes()) for k, v in sorted(self.parameters.items()))
        return (
            self.heads,
            self.key_dim,
            self.gamma,
            self.attention_exponent,
            self.attention,
            self.mask,
            *(None if array is None else array.tobytes() for array in arrays),
            weights,
        )

    @property
    def is_network(self) -> bool:
        """Whether there are finitely many heads that differ by chance, or as given."""
        return self.heads != INFINITE and not self.is_deterministic

    @property
    def is_deterministic(self) -> bool:
        """Whether no random number takes part."""
        if self.parameters is not None:
            return True
        if self.key_dim != INFINITE:
            return False
        gaussian = self.attention_exponent == 0.5 and self.initial_correlations is None
        return not gaussian

    @property
    def attention_map(self) -> AttentionMap:
        """sigma."""
        return AttentionMap(self.attention, causal=self.mask == "causal")

    @property
    def given_readout(self) -> FloatArray:
        """w (H, K, N) of the given weights."""
        readout: FloatArray = self.parameters["w"]
        return readout.reshape(*readout.shape[:2], -1).swapaxes(1, 2)

    @property
    def score_scale(self) -> float:
        """``s = N^(alpha - 1)``: 1 at alpha = 1, and 0 for infinitely many keys below it."""
        if self.attention_exponent == 1:
            return 1.0
        return 0.0 if self.key_dim == INFINITE else self.key_dim ** (self.attention_exponent - 1)


def attention_problem(limit: AttentionCore, data: Dataset) -> AttentionProblem:
    """What the heads of `limit` are trained on."""
    return AttentionProblem(
        data, token_rows(data), limit.attention_map, limit.gamma, limit.score_scale
    )


def heads_at_start(
    limit: AttentionCore, problem: AttentionProblem, *, groups: int, size: int, seed: int
) -> Heads:
    """The heads of `limit` at step 0.

    Parameters
    ----------
    limit : AttentionCore
    problem : AttentionProblem
    groups, size : int
        Groups, and heads of each, where they are random. A group is a network if its heads are
        finitely many. If not, its heads are antithetic pairs, whose outputs add up to zero.
    seed : int
        Group g depends on (seed, g) alone.
    """
    if limit.parameters is not None:
        return _given(limit, problem)
    if limit.is_deterministic:
        return _infinite(limit, problem)
    generators = [
        np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=(group,))))
        for group in range(groups)
    ]
    if limit.key_dim == INFINITE:
        return _gaussian_scores(limit, problem, generators, size)
    return _gaussian_weights(limit, problem, generators, size)


def _given(limit: AttentionCore, problem: AttentionProblem) -> Heads:
    parameters: Mapping[str, FloatArray] = limit.parameters
    points = problem.data.points
    if points is None or points.shape[1] != parameters["W_Q"].shape[2]:
        found = "a Gram matrix" if points is None else f"inputs of dimension {points.shape[1]}"
        raise ValueError(
            f"parameters are weights for inputs of dimension {parameters['W_Q'].shape[2]}, but "
            f"data holds {found}"
        )
    heads, keys, _ = parameters["W_Q"].shape
    root = math.sqrt(keys)
    query, key, value = (
        (points @ parameters[name].swapaxes(1, 2) / root)[None] for name in ("W_Q", "W_K", "W_V")
    )
    readout = limit.given_readout[None] / root
    return Heads(value, readout, np.full(heads, 1 / heads), query, key)


def _infinite(limit: AttentionCore, problem: AttentionProblem) -> Heads:
    """Heads of infinitely many keys, where only their correlations differ."""
    correlations = limit.initial_correlations
    nodes = np.zeros(1) if correlations is None else correlations
    weight = np.ones(len(nodes)) if limit.head_weights is None else limit.head_weights
    value, readout = _infinite_values(problem, 1, len(nodes))
    weight = weight / weight.sum()
    rho = nodes[None, :, None, None]
    if problem.scale == 0:
        blocks = _within_sequences(problem, problem.rows @ problem.rows.T)
        return Heads(value, readout, weight, score=rho[..., None] * blocks)
    rows = np.broadcast_to(problem.rows, (1, len(nodes), *problem.rows.shape))
    query = np.concatenate([rows, np.zeros_like(rows)], axis=-1)
    key = np.concatenate([rho * rows, np.sqrt(1 - rho**2) * rows], axis=-1)
    return Heads(value, readout, weight, query, key)


def _infinite_values(
    problem: AttentionProblem, groups: int, size: int
) -> tuple[FloatArray, FloatArray]:
    """Values with ``v v^T = C``, and read-outs of norm 1 orthogonal to them and to each other."""
    value = np.zeros((groups, size, problem.tokens, problem.values))
    value[..., : problem.rank] = problem.rows
    readout = np.zeros((groups, size, problem.outputs, problem.values))
    readout[..., problem.rank :] = np.eye(problem.outputs)
    return value, readout


def _within_sequences(problem: AttentionProblem, matrix: FloatArray) -> FloatArray:
    """The blocks (P + Q, S, S) of a matrix (M, M) within sequences."""
    count, length = problem.sequences, problem.length
    blocks: FloatArray = matrix.reshape(count, length, count, length)
    return blocks[np.arange(count), :, np.arange(count)]


def _gaussian_scores(
    limit: AttentionCore,
    problem: AttentionProblem,
    generators: list[np.random.Generator],
    size: int,
) -> Heads:
    """Scores ``A = L X L^T`` for a Gaussian X (r, r); of an antithetic pair, A and -A."""
    rank = problem.rank
    rows = problem.rows.reshape(problem.sequences, problem.length, rank)
    signs = (1,) if limit.is_network else (1, -1)
    score = np.empty((len(generators), size, problem.sequences, problem.length, problem.length))
    for group, generator in zip(score, generators, strict=True):
        for head in range(0, size, len(signs)):
            matrix = generator.standard_normal((rank, rank))
            blocks = rows @ matrix @ rows.swapaxes(1, 2)
            for i, sign in enumerate(signs):
                group[head + i] = sign * blocks
    value, readout = _infinite_values(problem, len(generators), size)
    return Heads(value, readout, np.full(size, 1 / size), score=score)


def _gaussian_weights(
    limit: AttentionCore,
    problem: AttentionProblem,
    generators: list[np.random.Generator],
    size: int,
) -> Heads:
    """Heads of Gaussian weights; of an antithetic pair, w and -w."""
    rank, signs = problem.rank, (1,) if limit.is_network else (1, -1)
    drawn = size // len(signs)
    parts: dict[str, list[FloatArray]] = {"query": [], "key": [], "value": [], "readout": []}
    for generator in generators:
        keys, values = (
            _gaussian_rows(generator, drawn, rows, limit.key_dim) / math.sqrt(limit.key_dim)
            for rows in (2 * rank, problem.values)
        )
        for_query, for_key = keys[:, :rank], keys[:, rank:]
        if limit.initial_correlations is not None:
            rho = limit.initial_correlations[:, None, None]
            for_query = rho * for_key + np.sqrt(1 - rho**2) * for_query
        for name, weights in (("query", for_query), ("key", for_key), ("value", values[:, :rank])):
            parts[name].append(np.repeat(problem.rows @ weights, len(signs), axis=0))
        pairs = values[:, None, rank:] * np.reshape(signs, (-1, 1, 1))
        parts["readout"].append(pairs.reshape(size, problem.outputs, -1))
    arrays = {name: np.stack(groups) for name, groups in parts.items()}
    return Heads(weight=np.full(size, 1 / size), **arrays)


def _gaussian_rows(
    generator: np.random.Generator, count: int, rows: int, columns: int
) -> FloatArray:
    """`rows` Gaussian vectors of `columns` numbers, up to a rotation common to them; `count` times.

    More columns than rows are turned to the lower triangle of their LQ decomposition, whose entries
    are independent: normal ones below the diagonal, on it chi of ``columns - i`` degrees of freedom
    (Bartlett).
    """
    if columns <= rows:
        return generator.standard_normal((count, rows, columns))
    triangles: FloatArray = np.tril(generator.standard_normal((count, rows, rows)), -1)
    diagonal = np.arange(rows)
    squares = generator.chisquare(columns - diagonal, (count, rows))
    triangles[:, diagonal, diagonal] = np.sqrt(squares)
    return triangles
