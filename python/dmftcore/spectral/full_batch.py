"""Losses of full-batch training: integrals over filters."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.spectral.curve import LearningCurve, judged
from dmftcore.spectral.filters import Filter, Piece, described, start
from dmftcore.spectral.interpolation import thin
from dmftcore.spectral.problem import Problem
from dmftcore.spectral.transform import transform

__all__ = ["full_batch"]

#: Largest number of pairs of nodes that are evaluated at a time, and that of pairs of several
#: contours, whose functions then stay in the cache.
GRID, GRIDS = 1 << 22, 1 << 13


def full_batch(
    problem: Problem, filter_: Filter, times: FloatArray, two_time: bool
) -> LearningCurve:
    """The losses of a filter, and on request their tables."""
    thinned = thin(times, filter_.smooth_from)
    squares = _pieces(problem, filter_, thinned.times, power=2)
    pieces = _pieces(problem, filter_, thinned.times) if np.isfinite(problem.samples) else []
    ones = _solved(problem, squares + pieces)
    count = len(thinned.times)

    def judge(evaluations: FloatArray) -> tuple[FloatArray, FloatArray]:
        return judged(thinned.everywhere(evaluations), problem.initial_loss)

    train, train_error = judge(_single(problem, squares, ones[: len(squares)], count))
    test, test_error = train, train_error
    if pieces:
        test, test_error = judge(_double(problem, pieces, ones[len(squares) :], count))
    tables = _tables(problem, _pieces(problem, filter_, times), times) if two_time else (None, None)
    engine = described(pieces or squares, thinned.times)
    return LearningCurve(times, test, train, test_error, train_error, engine, *tables)


def _pieces(problem: Problem, filter_: Filter, times: FloatArray, power: int = 1) -> list[Piece]:
    """The pieces of a filter, time 0 apart."""
    zero, later = np.flatnonzero(times == 0), np.flatnonzero(times > 0)
    if not zero.size:
        return filter_.pieces(times, power)
    found = [start(zero, problem.beyond)]
    if later.size:
        for piece in filter_.pieces(times[later], power):
            there = later[piece.where]
            found.append(Piece(there, piece.turn, piece.contour, piece.values, piece.kind))
    return found


def _solved(problem: Problem, pieces: list[Piece]) -> list[Any]:
    """`one_point` of the nodes of each piece, (3, n); a contour that recurs is solved for once."""
    contours = {piece.contour.z.tobytes(): piece.contour.z for piece in pieces}
    one = problem.one_point(np.concatenate([*contours.values()]))
    first, parts = 0, {}
    for key, z in contours.items():
        parts[key] = one[:, first : first + len(z)]
        first += len(z)
    return [parts[piece.contour.z.tobytes()] for piece in pieces]


def _single(problem: Problem, pieces: list[Piece], ones: list[Any], count: int) -> FloatArray:
    """The training loss, both evaluations (2, count): one integral over the squared filter."""
    curves = np.zeros((2, count))
    xp = _arrays.namespace(ones[0])
    z = np.concatenate([piece.contour.z for piece in pieces])
    residual = problem.residual(z, xp.concatenate(ones, axis=1))
    first = 0
    for piece in pieces:
        last = first + len(piece.contour.z)
        weights = piece.contour.dz * residual[first:last]
        curves[piece.turn, piece.where] = 2 * (piece.values @ weights).real
        first = last
    return curves


def _double(problem: Problem, pieces: list[Piece], ones: list[Any], count: int) -> FloatArray:
    """The test loss at equal times, both evaluations (2, count)."""
    curves = np.zeros((2, count))
    xp = _arrays.namespace(ones[0])
    for alike in _alike(pieces):
        nodes = len(pieces[alike[0]].contour.z)
        here = [pieces[i] for i in alike]
        one = xp.stack([ones[i] for i in alike], axis=1)
        closed = _closed(one)
        weights = problem.put(
            np.concatenate([piece.values * (piece.contour.dz / piece.contour.z) for piece in here])
        )
        ends = np.cumsum([0, *(len(piece.where) for piece in here)]).tolist()
        where = np.concatenate([piece.where for piece in here])
        turn = np.concatenate([piece.turn for piece in here])
        # Lines of the grids by parts: an ellipse may have thousands of nodes.
        parts = 1 + 2 * len(alike) * nodes**2 // GRID
        for first, last in pairwise([nodes * part // parts for part in range(parts + 1)]):
            grids, _ = problem.two_point(one[..., first:last], closed)
            lines = 2 * weights[:, first:last]
            half = xp.concatenate(
                [
                    lines[begin:end] @ phi
                    for (begin, end), phi in zip(pairwise(ends), grids, strict=True)
                ]
            )
            other = _closed(weights)
            found = (half.real * other.real - half.imag * other.imag).sum(axis=-1)
            curves[turn, where] += _arrays.to_host(found)
    return curves


def _alike(pieces: list[Piece]) -> list[list[int]]:
    """Which pieces are evaluated together, as contours of as many nodes."""
    found = []
    for nodes in {len(piece.contour.z) for piece in pieces}:
        places = [i for i, piece in enumerate(pieces) if len(piece.contour.z) == nodes]
        most = max(1, GRIDS // (2 * nodes**2))
        found += [places[first : first + most] for first in range(0, len(places), most)]
    return found


def _closed(nodes: Any) -> Any:
    """Nodes, or what belongs to them, on both half planes."""
    return _arrays.namespace(nodes).concatenate([nodes, nodes.conj()], axis=-1)


def _tables(
    problem: Problem, pieces: list[Piece], times: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Test and training loss between all pairs of times: all nodes with all nodes."""
    firsts = [piece for piece in pieces if not piece.turn.all()]
    z = np.concatenate([piece.contour.z for piece in firsts])
    weights = np.zeros((len(times), len(z)), np.complex128)
    first = 0
    for piece in firsts:
        last = first + len(piece.contour.z)
        here = piece.turn == 0
        filter_ = piece.values[here] * (piece.contour.dz / piece.contour.z)
        weights[piece.where[here], first:last] = filter_
        first = last
    there, one = problem.put(weights), problem.one_point(z)[:, None]
    test, train = (
        _arrays.to_host(transform(2 * there, phi[0], _closed(there)))
        for phi in problem.two_point(one, _closed(one))
    )
    return (test + test.T) / 2, (train + train.T) / 2
