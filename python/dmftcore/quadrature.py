"""Gauss quadrature of a sum over many points."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.linalg

from dmftcore._validate import FloatArray

__all__ = ["GaussRules"]


class GaussRules:
    r"""Few points in the place of many: rules for the sums :math:`\sum_k w_k f(x_k)`.

    The rule of q points is exact for the polynomials f up to the degree 2 q - 1; its weights are
    positive. Points and weights are the eigenvalues of the Jacobi matrix of the sum and the first
    elements of its eigenvectors, squared.

    Parameters
    ----------
    points : (K,) array
        x_k; equal ones count as one.
    weights : (K,) array
        w_k >= 0.
    largest : int
        The largest rule that will be asked for.

    Notes
    -----
    The Jacobi matrix comes from the Lanczos process of the diagonal matrix of all points, with full
    orthogonalisation: 4 K largest^2 flops, the first time that a rule has fewer points than K.

    Source: Golub & Welsch, Math. Comp. 23, 221 (1969).
    """

    def __init__(self, points: FloatArray, weights: FloatArray, largest: int) -> None:
        known = weights > 0
        self._points, places = np.unique(points[known], return_inverse=True)
        self._weights = np.zeros(len(self._points))
        np.add.at(self._weights, places, weights[known])
        self._largest = min(largest, len(self._points))

    def __len__(self) -> int:
        """Number of different points of weight."""
        return len(self._points)

    def rule(self, size: int) -> tuple[FloatArray, FloatArray]:
        """Points and weights of the rule of `size` points, or of fewer that are exact."""
        if size >= len(self):
            return self._points, self._weights
        diagonal, beside = self._jacobi_matrix
        size = min(size, len(diagonal))
        points, vectors = scipy.linalg.eigh_tridiagonal(diagonal[:size], beside[: size - 1])
        return points, self._weights.sum() * vectors[0] ** 2

    @cached_property
    def _jacobi_matrix(self) -> tuple[FloatArray, FloatArray]:
        """Its diagonal and what is beside it; it ends where no more is told from rounding."""
        size = self._largest
        basis = np.empty((size, len(self)))
        diagonal, beside = np.empty((2, size))
        smallest = np.finfo(float).eps * np.abs(self._points).max()
        vector = np.sqrt(self._weights / self._weights.sum())
        for i in range(size):
            basis[i] = vector
            after = self._points * vector
            diagonal[i] = vector @ after
            after -= diagonal[i] * vector
            if i > 0:
                after -= beside[i - 1] * basis[i - 1]
            after -= (basis[: i + 1] @ after) @ basis[: i + 1]
            beside[i] = np.linalg.norm(after)
            if beside[i] <= smallest:
                return diagonal[: i + 1], beside[: i + 1]
            vector = after / beside[i]
        return diagonal, beside
