"""Particles: samples of one neuron of an infinitely wide layer, and the vectors over them.

A vector over S particles is a sample of a random variable, and the inner product is the mean
``<a, x> = a . x / S``. Every array has the runs, independent repetitions, on its first axis:
fields are (runs, columns, S), with each column contiguous. The Gaussian sources of the theory are
columns of the same kind, drawn when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import scipy.linalg

from dmftcore import _core
from dmftcore._validate import FloatArray
from dmftcore.activations import ACTIVATIONS

__all__ = [
    "CounterNormals",
    "Directions",
    "Normals",
    "Particles",
    "TableNormals",
    "blend",
    "products",
]

#: Columns by which an array of directions grows at least.
SPARE = 16

#: Largest number of columns that fresh ones are matched to by default.
LARGEST_POOL = 64


class Directions:
    """Columns over particles, in numbers that grow and may differ between the runs.

    Attributes
    ----------
    rows : (runs, capacity, S) array
    used : (runs,) int array
        Columns in use; what lies beyond them has no meaning.
    """

    def __init__(self, runs: int, size: int, dtype: npt.DTypeLike, capacity: int = 0) -> None:
        self.rows: Any = np.empty((runs, capacity, size), dtype)
        self.used = np.zeros(runs, dtype=np.int64)

    @property
    def capacity(self) -> int:
        """Columns that there is room for."""
        return int(self.rows.shape[1])

    def append(self, run: int, columns: Any) -> None:
        """Add columns (m, S) to one run."""
        begin = int(self.used[run])
        end = begin + len(columns)
        if end > self.capacity:
            self._reserve(max(end, self.capacity + self.capacity // 2, SPARE))
        self.rows[run, begin:end] = columns
        self.used[run] = end

    def of(self, run: int) -> tuple[Any, Any]:
        """Rows and numbers of one run, as the operations take them."""
        return self.rows[run : run + 1], self.used[run : run + 1]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What is in use."""
        return {"used": self.used.copy(), "rows": self.rows[:, : self.used.max(initial=0)].copy()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        self.used = np.array(state["used"])
        self.rows = np.array(state["rows"], order="C")

    def _reserve(self, capacity: int) -> None:
        runs, _, size = self.rows.shape
        rows = np.empty((runs, capacity, size), self.rows.dtype)
        known = self.used.max(initial=0)
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
        See `Directions`.
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
    runs = len(x)
    arguments: dict[str, Any] = {"x": x, "n": n}
    results: list[Any] = [None, None, None]
    for i, (name, out, basis) in enumerate((("a", "c", a), ("b", "d", b))):
        if basis is not None:
            rows, used = basis
            results[i] = np.empty((runs, rows.shape[1], n))
            arguments |= {name: rows, f"used_{name}": used, out: results[i]}
    if reference is not None:
        arguments["reference"] = reference
    if gram:
        results[2] = arguments["gram"] = np.empty((runs, n, n))
    _core.particle_products(**arguments)
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
    activation : str
        Name of phi.
    **rest
        ``skip`` and ``scale``, numbers, by default 1; ``base`` and ``field``, (runs, >= n, S) or
        None for 0 and for no factor phi'; ``repeat``, how many columns j share a column of
        `field`; the results to write, ``u``, ``y``, ``value``, (runs, n, S) or None.
    """
    arguments: dict[str, Any] = {"n": n, "activation": ACTIVATIONS.index(activation), **rest}
    if a is not None:
        arguments |= {"a": a[0], "used_a": a[1], "c": np.ascontiguousarray(c)}
    if b is not None:
        arguments |= {"b": b[0], "used_b": b[1], "d": np.ascontiguousarray(d)}
    _core.particle_expansion(**arguments)


class Normals(Protocol):
    """Standard normal numbers by their place."""

    def fill(self, out: Any, run: int, stream: int, column: int) -> None:
        """Columns from `column` on, (m, S), of a run and of one array of sources."""


class CounterNormals:
    """Numbers that depend on (seed, run, stream, column, particle) alone.

    Parameters
    ----------
    seed : int
        At least 0.
    """

    def __init__(self, seed: int) -> None:
        self._key = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])

    def fill(self, out: Any, run: int, stream: int, column: int) -> None:
        """See `Normals`."""
        _core.normals(out, seed=self._key, run=run, stream=stream, column=column)


class TableNormals:
    """Numbers of a table, whose columns are handed out in the order of the calls.

    Parameters
    ----------
    entry : callable
        The column (S,) of a given number, from that and the sites 0..S-1.
    """

    def __init__(self, entry: Callable[[int, FloatArray], FloatArray]) -> None:
        self._entry, self._next = entry, 0

    def fill(self, out: Any, run: int, stream: int, column: int) -> None:
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
      This reduces the variance several times.
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
    ) -> None:
        self.runs, self.size, self.dtype = runs, size, np.dtype(dtype)
        self._normals, self._match, self._unit = normals, match and not unit, unit
        self._room = min(LARGEST_POOL, size // 4) if pool is None else pool
        self.pool = Directions(runs, size, dtype)
        #: Unit sources handed out so far.
        self.sources = np.zeros(runs, dtype=np.int64)
        if self._match:
            for run in range(runs):
                self.pool.append(run, np.ones((1, size), dtype)[: self._room])

    def empty(self, columns: int) -> Any:
        """A field of so many columns, (runs, columns, S), not initialised."""
        return np.empty((self.runs, columns, self.size), self.dtype)

    def directions(self, capacity: int = 0) -> Directions:
        """No columns yet."""
        return Directions(self.runs, self.size, self.dtype, capacity)

    def draw(
        self, run: int, count: int, stream: int, column: int, opposite: Directions | None = None
    ) -> Any:
        """Fresh sources (count, S) of one run, orthogonal to the `opposite` basis.

        Raises
        ------
        ValueError
            If there are more unit sources than particles.
        """
        fresh = np.empty((count, self.size), self.dtype)
        if self._unit:
            return self._unit_sources(run, fresh)
        self._normals.fill(fresh, run, stream, column)
        taken = count + int(self.pool.used[run])
        taken += 0 if opposite is None else int(opposite.used[run])
        if not self._match or taken >= self.size:
            # Without room to match, the exact law of a network of width S.
            self._project(run, fresh, opposite)
            return fresh
        for _ in range(2):
            self._project(run, fresh, self.pool)
            self._project(run, fresh, opposite)
        for _ in range(2):
            fresh = self._normalised(fresh)
        self.pool.append(run, fresh[: max(0, self._room - int(self.pool.used[run]))])
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
        self.pool.restore({"used": state["pool.used"], "rows": state["pool.rows"]})

    def _unit_sources(self, run: int, fresh: Any) -> Any:
        first = int(self.sources[run])
        last = first + len(fresh)
        if last > self.size:
            raise ValueError(
                f"unit sources: {last} are needed so far, but there are {self.size} particles"
            )
        fresh[:] = 0
        fresh[np.arange(len(fresh)), np.arange(first, last)] = np.sqrt(self.size)
        self.sources[run] = last
        return fresh

    def _project(self, run: int, columns: Any, basis: Directions | None) -> None:
        """Make columns (m, S) orthogonal to a basis, in place."""
        if basis is None or basis.used[run] == 0:
            return
        field, known = columns[None], basis.of(run)
        c, _, _ = products(field, len(columns), known)
        blend(len(columns), known, c, base=field, scale=-1.0, y=field)

    @staticmethod
    def _normalised(columns: Any) -> Any:
        """The same space by orthonormal columns, the first j made of the first j."""
        field, count = columns[None], len(columns)
        _, _, gram = products(field, count, gram=True)
        factor = np.linalg.cholesky(gram[0])
        inverse = scipy.linalg.solve_triangular(factor, np.eye(count), lower=True)
        result = np.empty_like(field)
        used = np.array([count])
        blend(count, (field, used), inverse.T[None], y=result)
        return result[0]
