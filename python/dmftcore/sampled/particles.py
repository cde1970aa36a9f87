"""Particles: samples of one neuron of an infinitely wide layer, and the vectors over them.

A vector over S particles is a sample of a random variable, and the inner product is the mean
``<a, x> = a . x / S``. Every array has the runs, independent repetitions, on its first axis:
fields are (runs, columns, S), with each column contiguous. The Gaussian sources of the theory are
columns of the same kind, drawn when they are needed.

Fields and what sums over particles make of them are arrays of one library, numpy or cupy, whose
operations follow them. How many columns there are is known on the host, because it decides what is
done next; so are small matrices that the host has made, which the operations take to the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays, _core
from dmftcore._validate import FloatArray
from dmftcore.activations import ACTIVATIONS
from dmftcore.losses import LOSSES
from dmftcore.sampled.quasi import DIMENSIONS, WORDS, quasi_normals

__all__ = [
    "CounterNormals",
    "Directions",
    "Normals",
    "Particles",
    "TableNormals",
    "blend",
    "deflate",
    "enlarged",
    "orthonormalised",
    "products",
    "two_layer_march",
]

#: Columns by which an array of directions grows at least.
SPARE = 32

#: Largest number of columns that fresh ones are matched to by default.
LARGEST_POOL = 64


class Directions:
    """Columns over particles, in numbers that grow and may differ between the runs.

    Attributes
    ----------
    rows : (runs, capacity, S) array
    used : (runs,) numpy int array
        Columns in use; what lies beyond them has no meaning.
    """

    def __init__(self, runs: int, size: int, dtype: npt.DTypeLike, xp: Any = np) -> None:
        self._xp = xp
        self.rows: Any = xp.empty((runs, 0, size), dtype)
        self.used = np.zeros(runs, dtype=np.int64)

    @property
    def used(self) -> Any:
        return self._used

    @used.setter
    def used(self, used: Any) -> None:
        # For the operations where the rows are, once for all of them.
        self._used, self._used_there = used, self._xp.asarray(used)

    @property
    def capacity(self) -> int:
        """Columns that there is room for."""
        return int(self.rows.shape[1])

    @property
    def basis(self) -> tuple[Any, Any]:
        """Rows and numbers, as the operations take them."""
        return self.rows, self._used_there

    def append(self, columns: Any, counts: Any) -> None:
        """Add the first counts[r] of the columns (runs, m, S) to run r."""
        self.reserve(int((self.used + counts).max()))
        begin, self.used = self.used, self.used + counts
        for run, (first, last) in enumerate(zip(begin, self.used, strict=True)):
            self.rows[run, first:last] = columns[run, : last - first]

    def reserve(self, needed: int) -> None:
        """Have room for so many columns in every run."""
        if needed > self.capacity:
            self._reserve(max(needed, self.capacity + self.capacity // 2, SPARE), self.used)

    def enlarge(self, size: int) -> None:
        """Go on in a larger set of unit sources, which keeps all inner products."""
        self.rows = enlarged(self.rows, size)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What is in use, and the room there is."""
        return {
            "used": self.used.copy(),
            "rows": _arrays.to_host(self.rows[:, : int(self.used.max())].copy()),
            "capacity": np.array(self.capacity),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        # With equal room: the bits of products of matrices may depend on their shapes.
        self.used, self.rows = np.array(state["used"]), self._xp.asarray(state["rows"])
        self._reserve(int(state["capacity"]), self.used)

    def _reserve(self, capacity: int, used: Any) -> None:
        runs, _, size = self.rows.shape
        rows = self._xp.empty((runs, capacity, size), self.rows.dtype)
        known = int(used.max())
        rows[:, :known] = self.rows[:, :known]
        self.rows = rows


def products(
    x: Any,
    n: int,
    a: tuple[Any, Any] | None = None,
    b: tuple[Any, Any] | None = None,
    *,
    reference: Any = None,
    gram: bool = False,
) -> tuple[Any, Any, Any]:
    """Inner products of the first n columns of `x` with two bases, in one pass over all of them.

    Parameters
    ----------
    x : (runs, >= n, S) array
    n : int
    a, b : pairs of rows (runs, capacity, S) and numbers (runs,), optional
        See `Directions`; None for the numbers is all of the rows.
    reference : array like `x`, optional
    gram : bool

    Returns
    -------
    c : (runs, capacity, n) float64 array or None
        ``<a_i, x_j>``, zero beyond the columns in use.
    d : (runs, capacity, n) float64 array or None
        ``<b_i, x_j - reference_j>``.
    gram : (runs, n, n) float64 array or None
        ``<x_i, x_j>``.
    """
    runs, xp = len(x), _arrays.namespace(x)
    arguments: dict[str, Any] = {"x": x, "n": n}
    results: list[Any] = [None, None, None]
    for i, (name, out, basis) in enumerate((("a", "c", a), ("b", "d", b))):
        if basis is not None:
            rows, used = basis
            results[i] = xp.empty((runs, rows.shape[1], n))
            arguments |= {name: rows, f"used_{name}": _ranks(xp, used), out: results[i]}
    if reference is not None:
        arguments["reference"] = reference
    if gram:
        results[2] = arguments["gram"] = xp.empty((runs, n, n))
    _arrays.core_for(x).particle_products(**arguments)
    return results[0], results[1], results[2]


def blend(
    n: int,
    a: tuple[Any, Any] | None = None,
    c: Any = None,
    b: tuple[Any, Any] | None = None,
    d: Any = None,
    *,
    activation: str = "linear",
    **rest: Any,
) -> None:
    """n columns made of two bases, and what follows elementwise.

    ``u_j = sum_i c_ij a_i``, ``y_j = skip base_j + scale phi'(field_j) (u_j + sum_i d_ij b_i)``,
    ``value_j = phi(y_j)``.

    Parameters
    ----------
    n : int
    a, b : pairs of rows (runs, capacity, S) and numbers (runs,), optional
    c, d : (runs, capacity, n) float64 arrays
        From the host, too.
    activation : str
        Name of phi.
    **rest
        ``skip`` and ``scale``, numbers, by default 1; ``base`` and ``field``, (runs, >= n, S) or
        None for 0 and for no factor phi'; ``repeat``, how many columns j share a column of
        `field`; the results to write, ``u``, ``y``, ``value``, (runs, n, S) or None.
    """
    result = next(rest[name] for name in ("y", "u", "value") if rest.get(name) is not None)
    xp = _arrays.namespace(result)
    arguments: dict[str, Any] = {"n": n, "activation": ACTIVATIONS.index(activation), **rest}
    if a is not None:
        factors = xp.ascontiguousarray(xp.asarray(c))
        arguments |= {"a": a[0], "used_a": _ranks(xp, a[1]), "c": factors}
    if b is not None:
        factors = xp.ascontiguousarray(xp.asarray(d))
        arguments |= {"b": b[0], "used_b": _ranks(xp, b[1]), "d": factors}
    _arrays.core_for(result).particle_expansion(**arguments)


def _ranks(xp: Any, used: Any) -> Any:
    """Numbers of columns in use, where the columns are."""
    return None if used is None else xp.asarray(used)


def two_layer_march(
    weights: tuple[Any, Any],
    velocities: tuple[Any, Any],
    points: FloatArray,
    targets: FloatArray,
    centre: FloatArray,
    rates: FloatArray,
    *,
    activation: str,
    loss: str,
    gamma: float,
    momentum: float,
    decay: float,
) -> FloatArray:
    """Train a network of one hidden layer in place, in one pass over particles for each step.

    It is for numpy arrays: elsewhere `Ensemble` makes the same steps of products and expansions.

    With ``h_mu = sum_i points_{mu i} a_i``, ``f_{mu k} = <w_k, phi(h_mu)> / gamma`` less the
    centre, and the errors e = -(d loss / d f) / P over the training points mu, the gradients are
    ``gamma sum_{mu k} e_{mu k} points_{mu i} w_k phi'(h_mu)`` for a_i and
    ``gamma sum_mu e_{mu k} phi(h_mu)`` for w_k.

    Parameters
    ----------
    weights : pair of arrays
        a, (runs, r0, S), and w, (runs, K, S).
    velocities : pair of arrays like the weights, or of None
        None without momentum.
    points : (P + Q, r0) float64 array
        Training points first.
    targets : (P, K) float64 array
    centre : (runs, P + Q, K) float64 array
    rates : (n,) float64 array
        Of the updates.
    activation, loss : str
    gamma, momentum, decay : float

    Returns
    -------
    (n + 1, runs, P + Q, K) array
        Outputs f before every update, and after the last.
    """
    (a, w), (a_velocity, w_velocity) = weights, velocities
    f = np.empty((len(rates) + 1, *centre.shape))
    _core.two_layer_march(
        a=a,
        w=w,
        a_velocity=a_velocity,
        w_velocity=w_velocity,
        x=points,
        targets=targets,
        centre=centre,
        rates=rates,
        f=f,
        activation=ACTIVATIONS.index(activation),
        loss=LOSSES.index(loss),
        gamma=gamma,
        momentum=momentum,
        decay=decay,
    )
    return f


class Normals(Protocol):
    """Standard normal numbers by their place."""

    def fill(
        self, out: Any, run: int, stream: int, column: int, dimension: int | None = None
    ) -> None:
        """Columns from `column` on, (m, S), of a run and of one array of sources.

        Those with a `dimension`, which counts from that of the first, may be quasi-random.
        """


class CounterNormals:
    """Numbers that depend on (seed, run, stream, column, particle) alone.

    Parameters
    ----------
    seed : int
        At least 0.
    """

    def __init__(self, seed: int) -> None:
        self._key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])

    def fill(
        self, out: Any, run: int, stream: int, column: int, dimension: int | None = None
    ) -> None:
        """See `Normals`."""
        even = 0 if dimension is None else min(len(out), max(0, DIMENSIONS - dimension))
        for i, row in enumerate(out[:even]):
            place = (self._key, run, stream, column + i)
            words = np.random.SeedSequence(place).generate_state(WORDS)
            quasi_normals(row, (dimension or 0) + i, words)
        if even < len(out):
            _arrays.core_for(out).normals(
                out[even:], seed=self._key, run=run, stream=stream, column=column + even
            )


class TableNormals:
    """Numbers of a table, whose columns are handed out in the order of the calls.

    Parameters
    ----------
    entry : callable
        The column (S,) of a given number, from that and the sites 0..S-1.
    """

    def __init__(self, entry: Callable[[int, FloatArray], FloatArray]) -> None:
        self._entry, self._next = entry, 0

    def fill(
        self, out: Any, run: int, stream: int, column: int, dimension: int | None = None
    ) -> None:
        """See `Normals`."""
        for row in out:
            row[:] = self._entry(self._next, np.arange(float(len(row))))
            self._next += 1


class Particles:
    """A set of particles in every run, and where its Gaussian sources come from.

    Sources are sampled, and then of three kinds:

    * As such (`match` False) they are made orthogonal to the basis that they must not know of,
      which makes the law of the march that of a network of width S.
    * Matched ones are orthogonal besides to the columns of a pool, the constant and the first
      sources on these particles, and orthonormal among each other, as in the limit of large S.
      This reduces the variance several times. Those of the pool may be quasi-random besides,
      which reduces it several times again, where nothing but means over all particles matters.
    * On a set on which all functions are linear the j-th source may be ``sqrt(S) e_j`` (`unit`):
      vectors are then coefficients of Gaussian sources, and nothing is sampled.

    Parameters
    ----------
    runs, size : int
        Runs, and the number S of particles in each.
    dtype : {"float64", "float32"}
    normals : Normals
    match, unit : bool
    pool : int, optional
        Largest size of the pool, by default the smaller of 64 and S / 4.
    quasi : bool
        Whether matched sources are quasi-random.
    xp : module
        numpy or cupy.
    """

    def __init__(
        self,
        runs: int,
        size: int,
        dtype: npt.DTypeLike,
        normals: Normals,
        *,
        match: bool = True,
        unit: bool = False,
        pool: int | None = None,
        quasi: bool = False,
        xp: Any = np,
    ) -> None:
        self.runs, self.size, self.dtype, self.xp = runs, size, np.dtype(dtype), xp
        self.normals, self.match, self.unit, self.quasi = normals, match and not unit, unit, quasi
        self.room = min(LARGEST_POOL, size // 4) if pool is None else pool
        self.pool = self.directions()
        #: Unit sources handed out so far.
        self.sources = np.zeros(runs, dtype=np.int64)
        if self.match and self.room:
            self.pool.append(xp.ones((runs, 1, size), dtype), 1)

    def empty(self, columns: int) -> Any:
        """A field of so many columns, (runs, columns, S), not initialised."""
        return self.xp.empty((self.runs, columns, self.size), self.dtype)

    def directions(self) -> Directions:
        """No columns yet."""
        return Directions(self.runs, self.size, self.dtype, self.xp)

    def draw(
        self, counts: Any, stream: int, columns: Any, opposite: Directions | None = None
    ) -> Any:
        """Fresh sources orthogonal to the `opposite` basis.

        Parameters
        ----------
        counts : (runs,) int array
            How many in each run.
        stream : int
            The array of sources that they belong to, and
        columns : (runs,) int array
            the place of the first in it.
        opposite : Directions, optional

        Returns
        -------
        (runs, m, S) array
            m, the largest of `counts`; zero beyond those of a run.

        Raises
        ------
        ValueError
            If there are more unit sources than particles.
        """
        fresh = self.xp.zeros((self.runs, int(counts.max()), self.size), self.dtype)
        if self.unit:
            return self._unit_sources(counts, fresh)
        taken = counts + self.pool.used + (0 if opposite is None else opposite.used)
        # Without room to match, the exact law of a network of width S.
        matched = (taken < self.size) & (counts > 0) & self.match
        pooled = np.clip(self.room - self.pool.used, 0, np.where(matched, counts, 0))
        for run, (count, even) in enumerate(zip(counts.tolist(), pooled.tolist(), strict=True)):
            column = int(columns[run])
            if self.quasi and even:
                # The constant comes before the first dimension.
                place = int(self.pool.used[run]) - 1
                self.normals.fill(fresh[run, :even], run, stream, column, place)
            else:
                even = 0
            self.normals.fill(fresh[run, even:count], run, stream, column + even)
        if not matched.any():
            self._project(fresh, opposite, counts > 0)
            return fresh
        for _ in range(2):
            self._project(fresh, self.pool, matched)
            self._project(fresh, opposite, counts > 0)
        for _ in range(2):
            fresh = orthonormalised(fresh, np.where(matched, counts, 0))
        self.pool.append(fresh, pooled)
        return fresh

    def mark(self) -> tuple[Any, Any]:
        """What `rewind` needs to forget the sources drawn in between."""
        return self.pool.used.copy(), self.sources.copy()

    def rewind(self, mark: tuple[Any, Any]) -> None:
        """Forget the sources drawn since `mark`."""
        self.pool.used, self.sources = mark

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that further draws depend on."""
        pool = {f"pool.{name}": x for name, x in self.pool.state().items()}
        return {"sources": self.sources.copy(), **pool}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        self.sources = np.array(state["sources"])
        parts = ("used", "rows", "capacity")
        self.pool.restore({part: state[f"pool.{part}"] for part in parts})

    def _unit_sources(self, counts: Any, fresh: Any) -> Any:
        last = int((self.sources + counts).max())
        if last > self.size:
            raise ValueError(
                f"unit sources: {last} are needed so far, but there are {self.size} particles"
            )
        for run, count in enumerate(counts.tolist()):
            sites = self.sources[run] + np.arange(count)
            fresh[run, np.arange(count), sites] = np.sqrt(self.size)
        self.sources = self.sources + counts
        return fresh

    def _project(self, columns: Any, basis: Directions | None, runs: Any) -> None:
        """Make columns (runs, m, S) orthogonal to a basis, in place, in some of the runs."""
        if basis is None:
            return
        known = basis.rows, np.where(runs, basis.used, 0)
        if known[1].any():
            deflate(columns, known)


def enlarged(columns: Any, size: int) -> Any:
    """Columns (runs, m, S) over unit sources as columns over `size` of them."""
    larger = _arrays.namespace(columns).zeros((*columns.shape[:2], size), columns.dtype)
    # A source is sqrt(S) e_j.
    larger[:, :, : columns.shape[2]] = columns * np.sqrt(size / columns.shape[2])
    return larger


def deflate(columns: Any, basis: tuple[Any, Any]) -> Any:
    """Make columns (runs, m, S) orthogonal to a basis, in place; their coordinates along it."""
    count = columns.shape[1]
    along, _, _ = products(columns, count, basis)
    blend(count, basis, along, base=columns, scale=-1.0, y=columns)
    return along


def orthonormalised(columns: Any, counts: Any) -> Any:
    """Orthonormal columns, the j-th made of the first j of those given, (runs, m, S).

    Only the first counts[r] in run r are changed.
    """
    count = columns.shape[1]
    gram = _arrays.to_host(products(columns, count, gram=True)[2])
    idle = np.arange(count) >= counts[:, None]
    gram[idle[:, :, None] | idle[:, None, :]] = 0
    gram[:, np.arange(count), np.arange(count)] += idle
    inverse = np.linalg.inv(np.linalg.cholesky(gram))
    result = _arrays.namespace(columns).empty_like(columns)
    blend(count, (columns, None), inverse.swapaxes(1, 2), y=result)
    return result
