"""Sampled interfaces: an infinite random matrix between two sets of particles.

The matrix W of a layer joins the particles `below` to those `above`. It acts on what it has met by

    W / sqrt(N)  ->  c (U Qf^T + Qb Z^T) + Qb M Qf^T,

where Qf are orthonormal columns that span all vectors W was applied to, Qb those W^T was applied
to, U and Z the Gaussian columns that stand for W Qf and W^T Qb, M the learned part and c what
momentum and decay have left of the initial one. A vector outside the span of Qf adds a column to
it, and a fresh one to U, drawn orthogonal to Qb: what W^T has answered before determines the part
along Qb, which Z holds. With this alone the answers have the law of a dense matrix of width S.

Where nothing is nonlinear, sources may be unit vectors (see `Particles`): this is the growing
network of `dmftcore.growing.interfaces`, whose compiled loop is far faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import lapack

from dmftcore import _arrays, _core
from dmftcore._validate import FloatArray
from dmftcore.activations import ACTIVATIONS
from dmftcore.sampled.particles import (
    Directions,
    Particles,
    blend,
    deflate,
    orthonormalised,
    products,
)

__all__ = ["Interface", "Shore"]

#: How much of a mean square is not visited is known from inner products alone, with an error of
#: some 5 rounding errors of the particles. Where tol is below this many, it is formed.
RELIABLE = 100.0

#: Ratio of the smallest to the largest pivot among columns that are made orthonormal at a time.
WELL_CONDITIONED = 1e-6


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

    def draw(self, counts: Any) -> None:
        """Add counts[r] sources to run r."""
        used = self.sources.used
        fresh = self.particles.draw(counts, self.stream, used, self.visited)
        self.sources.append(fresh, counts)


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
    postponed : bool
        Whether `leaves_span` is asked later: until then fields are taken to be in the span.
    levels : (2, runs) array
        Of the latest field: the mean square of its columns, and the largest outside the span.
    """

    def __init__(
        self, below: Particles, above: Particles, tol: float, streams: tuple[int, int]
    ) -> None:
        self.below, self.above = Shore(below, streams[0]), Shore(above, streams[1])
        self._tol = tol
        self._xp = below.xp
        #: Whether what is not visited is formed in any case.
        self._formed = tol <= RELIABLE * float(np.finfo(below.dtype).eps)
        self._at_once = self._xp is np and not (below.unit or above.unit)
        self.matrix: Any = self._xp.zeros((below.runs, 0, 0))
        self._velocity: Any = None
        self.dropped = 0.0
        self.postponed = False
        self.levels: Any = None

    @property
    def ranks(self) -> tuple[Any, Any]:
        """Visited columns below and above, (runs,) each."""
        return self.below.visited.used, self.above.visited.used

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
        return self._pass(self.below, self.above, x, n, kept, reference, rest)

    def backward(self, x: Any, n: int, kept: float, *, reference: Any = None, **rest: Any) -> Visit:
        """W^T x for a field above; as `forward`."""
        return self._pass(self.above, self.below, x, n, kept, reference, rest)

    def update(self, left: Any, right: Any, rate: float, momentum: float, decay: float) -> None:
        """Heavy ball on M along ``left right^T``, (runs, backward, m) and (runs, forward, m)."""
        matrix = self._learned()
        direction = _padded(left @ right.swapaxes(1, 2), matrix.shape)
        if decay:
            direction -= decay * matrix
        if momentum:
            if self._velocity is not None:
                direction += momentum * self._velocity
            self._velocity = direction
        matrix += rate * direction

    def leaves_span(self, levels: Any) -> Any:
        """Whether a field of these `levels`, as numpy numbers, makes a basis grow, (runs,)."""
        mean, outside = levels
        return (outside > self._tol * mean) | self._formed

    def drop(self, mean: Any, outside: Any) -> None:
        """Count what is dropped of a field."""
        known = mean > 0
        self.dropped = max(self.dropped, float((outside[known] / mean[known]).max(initial=0.0)))

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
        parts = {
            "matrix": _arrays.host_copy(self._learned()),
            "dropped": np.array(self.dropped),
        }
        if self._velocity is not None:
            parts["velocity"] = _arrays.host_copy(self._velocity)
        for name, directions in self._directions():
            parts |= {f"{name}.{part}": x for part, x in directions.state().items()}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        for name, directions in self._directions():
            parts = ("used", "rows", "capacity")
            directions.restore({part: state[f"{name}.{part}"] for part in parts})
        self.matrix = self._xp.array(state["matrix"])
        self.dropped = float(state["dropped"])
        self._velocity = self._xp.array(state["velocity"]) if "velocity" in state else None

    def _directions(self) -> list[tuple[str, Directions]]:
        return [
            (f"{side}.{kind}", getattr(shore, kind))
            for side, shore in (("below", self.below), ("above", self.above))
            for kind in ("visited", "sources")
        ]

    def _learned(self) -> Any:
        """M with as many rows and columns as there is room for visited columns."""
        shape = (len(self.matrix), self.above.visited.capacity, self.below.visited.capacity)
        self.matrix = _padded(self.matrix, shape)
        if self._velocity is not None:
            self._velocity = _padded(self._velocity, shape)
        return self.matrix

    def _pass(
        self,
        source: Shore,
        target: Shore,
        x: Any,
        n: int,
        kept: float,
        reference: Any,
        rest: dict[str, Any],
    ) -> Visit:
        """A field leaves one shore and arrives at the other one."""
        if self._at_once:
            return self._pass_at_once(source, target, x, n, kept, reference, rest)
        visit = self._visit(source, target, x, n, reference)
        matrix = self._learned() if source is self.below else self._learned().swapaxes(1, 2)
        self._answer(target, visit, matrix @ visit.along, kept, n, rest)
        return visit

    def _pass_at_once(
        self,
        source: Shore,
        target: Shore,
        x: Any,
        n: int,
        kept: float,
        reference: Any,
        rest: dict[str, Any],
    ) -> Visit:
        """`_pass` of numpy arrays, as one operation."""
        particles, stream = target.particles, target.stream
        growing = source.visited, target.sources, particles.pool
        for directions in growing[:2]:
            directions.reserve(int(directions.used.max(initial=0)) + n)
        particles.pool.reserve(particles.room)
        matrix = self._learned()
        used = [directions.used.copy() for directions in growing]
        runs = len(x)
        along = np.empty((runs, source.visited.capacity, n))
        response = np.empty((runs, source.sources.capacity, n))
        gram, levels = np.empty((runs, n, n)), np.empty((runs, 2))
        rest = rest | {"activation": ACTIVATIONS.index(rest.get("activation", "linear"))}
        _core.interface_pass(
            x=x,
            n=n,
            reference=reference,
            visited=source.visited.rows,
            used_visited=used[0],
            responding=source.sources.rows,
            fresh=target.sources.rows,
            used_fresh=used[1],
            opposite=target.visited.rows,
            used_opposite=target.visited.used,
            pool=particles.pool.rows,
            used_pool=used[2],
            room=particles.room,
            match=particles.match,
            quasi=particles.quasi,
            matrix=matrix,
            transposed=source is self.above,
            kept=kept,
            tol=self._tol,
            formed=self._formed,
            normals=lambda out, run, *place: particles.normals.fill(out, run, stream, *place),
            along=along,
            response=response,
            gram=gram,
            levels=levels,
            **rest,
        )
        for directions, count in zip(growing, used, strict=True):
            directions.used = count
        self.drop(*levels.T)
        return Visit(along, response, gram)

    def _answer(
        self,
        target: Shore,
        visit: Visit,
        learned: Any,
        kept: float,
        n: int,
        rest: dict[str, Any],
    ) -> None:
        """``c F C + Q (c R + M C)`` on the other shore."""
        # The responses belong to the visited columns of the target, as the learned part.
        along = kept * _padded(visit.along, (len(learned), target.sources.capacity, n))
        response = kept * _padded(visit.response, learned.shape) + learned
        blend(n, target.sources.basis, along, target.visited.basis, response, **rest)

    def _visit(self, source: Shore, target: Shore, x: Any, n: int, reference: Any) -> Visit:
        """A field's coordinates along visited columns, which grow if it leaves their span."""
        along, response, gram = products(
            x, n, source.visited.basis, source.sources.basis, reference=reference, gram=True
        )
        xp = self._xp
        norms = xp.einsum("rjj->rj", gram)
        excess = (norms - xp.sum(along**2, axis=1)).max(axis=1)
        self.levels = xp.stack([norms.mean(axis=1), excess])
        if self.postponed:
            return Visit(along, response, gram)
        mean, outside = levels = _arrays.to_host(self.levels)
        grows = self.leaves_span(levels)
        if grows.any():
            thresholds = np.where(grows, self._tol * mean, np.inf)
            along, counts, rest = _visit_new(source.visited, x, n, along, thresholds)
            target.draw(counts)
            outside = np.where(grows, rest, outside)
        self.drop(mean, outside)
        return Visit(along, response, gram)


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

    def __init__(self, along: Any, response: Any, gram: Any) -> None:
        self.along, self.response, self.gram = along, response, gram


def _visit_new(
    visited: Directions, x: Any, n: int, along: Any, thresholds: Any
) -> tuple[Any, Any, Any]:
    """Append what of a field is not visited, by Gram-Schmidt with pivots.

    Parameters
    ----------
    visited : Directions
    x : (runs, >= n, S) array
    n : int
    along : (runs, k, n) array
        Coordinates of the field along the visited columns.
    thresholds : (runs,) numpy array
        Mean squares that columns may have outside the visited ones; infinite where nothing is to
        be changed.

    Returns
    -------
    along : (runs, k', n) array
    counts : (runs,) int array
        New columns of every run.
    rest : (runs,) array
        Largest mean square that is left.
    """
    active = np.isfinite(thresholds)
    # No work where nothing is to be done.
    known = visited.rows, np.where(active, visited.used, 0)
    xp = _arrays.namespace(x)
    rest = xp.empty((len(x), n, x.shape[2]), x.dtype)
    blend(n, known, along, base=x, scale=-1.0, y=rest)
    counts = np.zeros(len(x), dtype=np.int64)
    while True:
        gram = _arrays.to_host(products(rest, n, gram=True)[2])
        factors, ranks, left = _pivoted(gram, thresholds, n - counts)
        if not ranks.any():
            return along, counts, left
        new = xp.empty((len(x), int(ranks.max()), x.shape[2]), x.dtype)
        blend(new.shape[1], (rest, None), factors, y=new)
        # Once more, because rounding leaves something along the visited columns.
        deflate(new, (visited.rows, np.where(ranks > 0, visited.used, 0)))
        new = orthonormalised(new, ranks)
        deflate(rest, (new, ranks))
        first = visited.used
        visited.append(new, ranks)
        counts += ranks
        along = _padded(along, (len(x), visited.capacity, n))
        coordinates, _, _ = products(x, n, (new, ranks))
        for run, rank in enumerate(ranks.tolist()):
            along[run, first[run] : first[run] + rank] = coordinates[run, :rank]


def _pivoted(gram: FloatArray, limits: Any, most: Any) -> tuple[FloatArray, Any, Any]:
    """Combinations of columns with these inner products that are orthonormal.

    There are no more than `most` in each run. The pivots of the Cholesky decomposition stop at the
    limits, and where rounding spoils them: the rest is for another time.

    Returns
    -------
    factors : (runs, n, m) array
        Columns of coefficients.
    ranks : (runs,) int array
        How many are meant in each run; the others vanish.
    left : (runs,) array
        Largest mean square of a column beforehand.
    """
    runs, n, _ = gram.shape
    left = np.einsum("rjj->rj", gram).max(axis=1, initial=0.0)
    ranks = np.zeros(runs, dtype=np.int64)
    factors = np.zeros((runs, n, n))
    for run in np.flatnonzero(left > limits).tolist():
        stop = max(float(limits[run]), WELL_CONDITIONED * float(left[run]))
        factor, pivots, rank, _ = lapack.dpstrf(gram[run], tol=stop, lower=1)
        rank = min(rank, int(most[run]))
        triangle = np.tril(factor[:rank, :rank])
        factors[run, pivots[:rank] - 1, :rank] = np.linalg.inv(triangle).T
        ranks[run] = rank
    return factors[:, :, : int(ranks.max(initial=0))], ranks, left


def _padded(array: Any, shape: tuple[int, ...]) -> Any:
    """With zeros at the end of axes that are shorter than `shape`; cut where they are longer."""
    if array.shape == shape:
        return array
    wide = _arrays.namespace(array).zeros(shape)
    common = tuple(slice(min(a, b)) for a, b in zip(array.shape, shape, strict=True))
    wide[common] = array[common]
    return wide
