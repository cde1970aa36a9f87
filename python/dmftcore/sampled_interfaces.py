"""Sampled interfaces: an infinite random matrix between two sets of particles.

The matrix W of a layer joins the particles `below` to those `above`. It acts on what it has met by

    W / sqrt(N)  ->  c (U Qf^T + Qb Z^T) + Qb M Qf^T,

where Qf are orthonormal columns that span all vectors W was applied to, Qb those W^T was applied
to, U and Z the Gaussian columns that stand for W Qf and W^T Qb, M the learned part and c what
momentum and decay have left of the initial one. A vector outside the span of Qf adds a column to
it, and a fresh one to U, drawn orthogonal to Qb: what W^T has answered before determines the part
along Qb, which Z holds. With this alone the answers have the law of a dense matrix of width S.

Where nothing is nonlinear, sources may be unit vectors (see `Particles`): this is the growing
network of `dmftcore.interfaces`, whose compiled loop is far faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.particles import Directions, Particles, blend, products

__all__ = ["Interface", "Shore"]

#: Residuals down to this part of the norm are known from inner products alone, in units of the
#: rounding error of the particles: below, they are formed.
RELIABLE = 1e4


class Shore:
    """What an interface keeps on one set of particles.

    Parameters
    ----------
    particles : Particles
    stream : int
        Which array of sources this is, for the random numbers.

    Attributes
    ----------
    visited : Directions
        Orthonormal columns that span all fields which left from here.
    sources : Directions
        Gaussian columns, one for each visited column of the other shore.
    """

    def __init__(self, particles: Particles, stream: int) -> None:
        self.particles, self.stream = particles, stream
        self.visited, self.sources = particles.directions(), particles.directions()

    @property
    def bases(self) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
        """Visited columns and sources, as the operations take them."""
        return (self.visited.rows, self.visited.used), (self.sources.rows, self.sources.used)

    def draw(self, run: int, count: int) -> None:
        """Add sources to one run."""
        column = int(self.sources.used[run])
        fresh = self.particles.draw(run, count, self.stream, column, self.visited)
        self.sources.append(run, fresh)


class Interface:
    """A random matrix that learns, between two sets of particles in every run.

    Parameters
    ----------
    below, above : Particles
    tol : float
        Mean square below which, relative to that of a whole field, what is not visited is dropped.
    streams : (int, int)
        Of the sources below and above.

    Attributes
    ----------
    matrix : (runs, backward, forward) float64 array
        M, zero beyond the visited columns.
    dropped : float
        Largest part of the mean square of a field that was dropped so far.
    """

    def __init__(
        self, below: Particles, above: Particles, tol: float, streams: tuple[int, int]
    ) -> None:
        self.below, self.above = Shore(below, streams[0]), Shore(above, streams[1])
        self._tol = tol
        self.matrix: FloatArray = np.zeros((below.runs, 0, 0))
        self._velocity: FloatArray | None = None
        self.dropped = 0.0

    @property
    def ranks(self) -> tuple[Any, Any]:
        """Visited columns below and above, (runs,) each."""
        return self.below.visited.used, self.above.visited.used

    @property
    def memory(self) -> int:
        """Bytes of the columns."""
        shores = (self.below, self.above)
        return sum(s.visited.rows.nbytes + s.sources.rows.nbytes for s in shores)

    def forward(self, x: Any, n: int, kept: float, *, reference: Any = None, **rest: Any) -> Visit:
        """W x for the first n columns of a field below; what follows it goes as in `blend`.

        Parameters
        ----------
        x : (runs, >= n, S) array
        n : int
        kept : float
            c.
        reference : array like `x`, optional
            Fields of no response, a control variate.
        **rest
            Of `blend`; its ``u`` is c times the Gaussian part.
        """
        visit = self._visit(self.below, self.above, x, n, reference)
        learned = self._learned() @ visit.along
        self._answer(self.above, visit, learned, kept, n, rest)
        return visit

    def backward(self, x: Any, n: int, kept: float, *, reference: Any = None, **rest: Any) -> Visit:
        """W^T x for a field above; as `forward`."""
        visit = self._visit(self.above, self.below, x, n, reference)
        learned = self._learned().swapaxes(1, 2) @ visit.along
        self._answer(self.below, visit, learned, kept, n, rest)
        return visit

    def update(
        self, left: FloatArray, right: FloatArray, rate: float, momentum: float, decay: float
    ) -> None:
        """Heavy ball on M along ``left right^T``, (runs, backward, m) and (runs, forward, m)."""
        direction = left @ right.swapaxes(1, 2)
        matrix = self._learned()
        if decay:
            direction -= decay * matrix
        if momentum:
            if self._velocity is not None:
                direction += momentum * self._velocity
            self._velocity = direction
        matrix += rate * direction

    def mark(self) -> Any:
        """What `rewind` needs."""
        shores = (self.below, self.above)
        return [(s.visited.used.copy(), s.sources.used.copy()) for s in shores], self.dropped

    def rewind(self, mark: Any) -> None:
        """Forget the columns added since `mark`; M must not have learned since."""
        used, self.dropped = mark
        for shore, (visited, sources) in zip((self.below, self.above), used, strict=True):
            shore.visited.used, shore.sources.used = visited, sources

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """All that further answers depend on."""
        parts = {"matrix": self._learned().copy(), "dropped": np.array(self.dropped)}
        if self._velocity is not None:
            parts["velocity"] = self._velocity.copy()
        for name, directions in self._directions():
            parts |= {f"{name}.{part}": x for part, x in directions.state().items()}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        for name, directions in self._directions():
            directions.restore({part: state[f"{name}.{part}"] for part in ("used", "rows")})
        self.matrix = np.array(state["matrix"])
        self.dropped = float(state["dropped"])
        self._velocity = np.array(state["velocity"]) if "velocity" in state else None

    def _directions(self) -> list[tuple[str, Directions]]:
        return [
            (f"{side}.{kind}", getattr(shore, kind))
            for side, shore in (("below", self.below), ("above", self.above))
            for kind in ("visited", "sources")
        ]

    def _learned(self) -> FloatArray:
        """M with as many rows and columns as there is room for visited columns."""
        shape = (len(self.matrix), self.above.visited.capacity, self.below.visited.capacity)
        self.matrix = _padded(self.matrix, shape)
        if self._velocity is not None:
            self._velocity = _padded(self._velocity, shape)
        return self.matrix

    def _answer(
        self,
        target: Shore,
        visit: Visit,
        learned: FloatArray,
        kept: float,
        n: int,
        rest: dict[str, Any],
    ) -> None:
        """``c F C + Q (c R + M C)`` on the other shore."""
        visited, sources = target.bases
        # The responses belong to the visited columns of the target, as the learned part.
        along = kept * _padded(visit.along, (len(learned), sources[0].shape[1], n))
        response = kept * _padded(visit.response, learned.shape) + learned
        blend(n, sources, along, visited, response, **rest)

    def _visit(self, source: Shore, target: Shore, x: Any, n: int, reference: Any) -> Visit:
        """A field's coordinates along visited columns, which grow if it leaves their span."""
        visited, sources = source.bases
        along, response, gram = products(x, n, visited, sources, reference=reference, gram=True)
        eps = float(np.finfo(x.dtype).eps)
        for run in range(len(x)):
            norms = gram[run].diagonal()
            threshold = self._tol * float(norms.mean())
            outside = norms - np.sum(along[run] ** 2, axis=0)
            largest = float(outside.max(initial=0.0))
            if self._tol > RELIABLE * eps and not largest > threshold:
                self._note(largest, norms)
                continue
            new, rest = _unvisited(source.visited, run, x, n, along, threshold)
            self._note(rest, norms)
            if len(new):
                source.visited.append(run, new)
                target.draw(run, len(new))
                along = _padded(along, (len(x), source.visited.capacity, n))
                used = int(source.visited.used[run])
                field = x[run : run + 1]
                basis = (new[None], np.array([len(new)]))
                along[run, used - len(new) : used] = products(field, n, basis)[0][0]
        along = _padded(along, (len(x), source.visited.capacity, n))
        return Visit(along, response, gram)

    def _note(self, rest: float, norms: FloatArray) -> None:
        """Remember the largest part that was dropped."""
        mean = float(norms.mean()) if norms.size else 0.0
        if mean > 0:
            self.dropped = max(self.dropped, rest / mean)


class Visit:
    """What an interface knows of a field that has passed it.

    Attributes
    ----------
    along : (runs, k, n) array
        Coordinates C, or D backward, along the visited columns: ``C_t^T C_s`` is the correlation of
        the fields at two times.
    response : (runs, k', n) array
        R: inner products with the sources here, the response of the field to them; k' visited
        columns of the other shore.
    gram : (runs, n, n) array
        Inner products of the columns of the field.
    """

    __slots__ = ("along", "gram", "response")

    def __init__(self, along: FloatArray, response: FloatArray, gram: FloatArray) -> None:
        self.along, self.response, self.gram = along, response, gram


def _unvisited(
    visited: Directions, run: int, x: Any, n: int, along: FloatArray, threshold: float
) -> tuple[Any, float]:
    """New orthonormal columns (m, S) of a field, and the largest mean square that they miss.

    By Gram-Schmidt with pivots, until no column has a mean square above the threshold outside the
    visited ones. `along` is corrected for rounding.
    """
    known = visited.of(run)
    rest = np.empty((1, n, x.shape[2]), x.dtype)
    blend(n, known, along[run : run + 1], base=x[run : run + 1], scale=-1.0, y=rest)
    correction, _, _ = products(rest, n, known)
    blend(n, known, correction, base=rest, scale=-1.0, y=rest)
    along[run] += correction[0]
    new: Any = np.empty((0, x.shape[2]), x.dtype)
    while True:
        norms = _mean_squares(rest[0])
        pivot = int(norms.argmax()) if n else 0
        if n == 0 or not norms[pivot] > threshold or len(new) == n:
            break
        column = _orthogonal(rest[0, pivot] / np.sqrt(norms[pivot]), visited, run, new)
        new = np.concatenate([new, column])
        basis = (column[None], np.array([1]))
        c, _, _ = products(rest, n, basis)
        blend(n, basis, c, base=rest, scale=-1.0, y=rest)
    return new, float(norms.max(initial=0.0))


def _orthogonal(column: Any, visited: Directions, run: int, new: Any) -> Any:
    """The column (1, S) without rounding errors along others, and normalised."""
    field = np.ascontiguousarray(column, dtype=new.dtype)[None, None]
    for basis in (visited.of(run), (new[None], np.array([len(new)]))):
        c, _, _ = products(field, 1, basis)
        blend(1, basis, c, base=field, scale=-1.0, y=field)
    norm = np.sqrt(_mean_squares(field[0])[0])
    return (field[0] / norm).astype(new.dtype)


def _mean_squares(columns: Any) -> FloatArray:
    squares: FloatArray = np.square(columns, dtype=np.float64).mean(axis=1)
    return squares


def _padded(array: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """With zeros at the end of axes that are shorter than `shape`; cut where they are longer."""
    if array.shape == shape:
        return array
    wide = np.zeros(shape)
    common = tuple(slice(min(a, b)) for a, b in zip(array.shape, shape, strict=True))
    wide[common] = array[common]
    return wide
