"""Losses of full-batch training: integrals over filters."""

from __future__ import annotations

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import ComplexArray
from dmftcore.spectral.curve import LearningCurve, twice
from dmftcore.spectral.filters import Filter, Piece, described, start
from dmftcore.spectral.problem import Problem
from dmftcore.spectral.transform import transform, transform_diagonal

__all__ = ["full_batch"]

#: Largest number of pairs of nodes that are evaluated at a time.
GRID = 1 << 22


def full_batch(
    problem: Problem, filter_: Filter, times: FloatArray, two_time: bool
) -> LearningCurve:
    """The losses of a filter, and on request their tables."""
    edge, scale = problem.edge, problem.initial_loss
    train, train_error = twice(
        lambda pieces: _single(problem, pieces, times),
        _pieces(filter_, times, edge, power=2),
        _pieces(filter_, times, edge, power=2, again=True),
        scale,
    )
    pieces = _pieces(filter_, times, edge)
    test, test_error = train, train_error
    if np.isfinite(problem.samples):
        test, test_error = twice(
            lambda pieces: _double(problem, pieces, times),
            pieces,
            _pieces(filter_, times, edge, again=True),
            scale,
        )
    tables = _tables(problem, pieces, times) if two_time else (None, None)
    return LearningCurve(
        times, test, train, test_error, train_error, described(pieces, times), *tables
    )


def _pieces(
    filter_: Filter, times: FloatArray, edge: float, power: int = 1, again: bool = False
) -> list[Piece]:
    """The pieces of a filter, time 0 apart."""
    zero, later = np.flatnonzero(times == 0), np.flatnonzero(times > 0)
    found = [start(zero, edge)] if zero.size else []
    if later.size:
        for piece in filter_.pieces(times[later], edge, power, again):
            found.append(Piece(later[piece.where], piece.contour, piece.values, piece.kind))
    return found


def _single(problem: Problem, pieces: list[Piece], times: FloatArray) -> FloatArray:
    """The fast path: one integral over the squared filter."""
    curve = np.zeros(len(times))
    ends = np.cumsum([len(piece.contour.z) for piece in pieces])
    residual = problem.residual(np.concatenate([piece.contour.z for piece in pieces]))
    for piece, values in zip(pieces, np.split(residual, ends[:-1]), strict=True):
        curve[piece.where] = 2 * (piece.values @ (piece.contour.dz * values)).real
    return curve


def _double(problem: Problem, pieces: list[Piece], times: FloatArray) -> FloatArray:
    """The test loss at equal times."""
    curve = np.zeros(len(times))
    for nodes in {len(piece.contour.z) for piece in pieces}:
        alike = [piece for piece in pieces if len(piece.contour.z) == nodes]
        z = np.stack([piece.contour.z for piece in alike])
        weights = [piece.values * (piece.contour.dz / piece.contour.z) for piece in alike]
        # Lines of the grids by parts: an ellipse may have thousands of nodes.
        for lines in np.array_split(np.arange(nodes), 1 + 2 * len(alike) * nodes**2 // GRID):
            grids, _ = problem.two_point(z[:, lines], _closed(z))
            for piece, w, phi in zip(alike, weights, grids, strict=True):
                curve[piece.where] += transform_diagonal(2 * w[:, lines], phi, _closed(w))
    return curve


def _closed(nodes: ComplexArray) -> ComplexArray:
    """Nodes, or what belongs to them, on both half planes."""
    return np.concatenate([nodes, nodes.conj()], axis=-1)


def _tables(
    problem: Problem, pieces: list[Piece], times: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Test and training loss between all pairs of times: all nodes with all nodes."""
    z = np.concatenate([piece.contour.z for piece in pieces])
    weights = np.zeros((len(times), len(z)), np.complex128)
    first = 0
    for piece in pieces:
        last = first + len(piece.contour.z)
        weights[piece.where, first:last] = piece.values * (piece.contour.dz / piece.contour.z)
        first = last
    test, train = (
        transform(2 * weights, phi, _closed(weights)) for phi in problem.two_point(z, _closed(z))
    )
    return (test + test.T) / 2, (train + train.T) / 2
