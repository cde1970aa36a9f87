"""The errors that a training run has visited, as coordinates in a growing orthonormal basis.

Whatever the number P of points, the errors Delta(t) of a run stay numerically in a space of few
dimensions. In an orthonormal basis E (k, P) of it, Delta(t) = a(t) E up to rounding, and all that
the hidden layers see of the data follows from Kx applied to the basis:

    h^0(t) . h^0(s) = Delta(t)^T Kx Delta(s) = a(t) (E Kx E^T) a(s)^T,     f = p (E Kx).

Kx is applied k times in all, and never decomposed.
"""

from __future__ import annotations

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset

__all__ = ["VisitedErrors"]

#: Parts of an error below this multiple of the largest error are rounding.
ROUNDING = 2e-15


class VisitedErrors:
    """A growing orthonormal basis of errors.

    Attributes
    ----------
    images : (k, P + Q) array
        E Kx, the basis seen by Kx at all points.
    gram : (k, k) array
        E Kx E^T over the training points.
    """

    def __init__(self, data: Dataset) -> None:
        self._data = data
        self._basis = np.empty((0, data.n_train))
        self._largest = 0.0
        self.images: FloatArray = np.empty((0, data.n_train + data.n_test))
        self.gram: FloatArray = np.empty((0, 0))

    @property
    def size(self) -> int:
        """Number k of directions."""
        return len(self._basis)

    def coordinates(self, errors: FloatArray) -> FloatArray:
        """Coordinates (K, k) of errors (K, P); the basis grows by what lies outside of it."""
        rows = []
        for error in errors:
            self._largest = max(self._largest, float(np.linalg.norm(error)))
            inside, outside = self._split(error)
            size = np.linalg.norm(outside)
            if size > ROUNDING * self._largest:
                self._append(outside / size)
                inside = np.append(inside, size)
            rows.append(inside)
        coordinates = np.zeros((len(rows), self.size))
        for row, inside in zip(coordinates, rows, strict=True):
            row[: len(inside)] = inside
        return coordinates

    def outputs(self, predictor: FloatArray) -> FloatArray:
        """Outputs (P + Q, K) from coordinates (K, k') in the first k' <= k directions."""
        outputs: FloatArray = self.images[: predictor.shape[1]].T @ predictor.T
        return outputs

    def _split(self, error: FloatArray) -> tuple[FloatArray, FloatArray]:
        inside = self._basis @ error
        outside = error - inside @ self._basis
        # Once more: the first projection leaves rounding of the size of the error itself.
        correction = self._basis @ outside
        return inside + correction, outside - correction @ self._basis

    def _append(self, direction: FloatArray) -> None:
        data, train = self._data, slice(self._data.n_train)
        if data.points is not None:
            image = data.points @ (data.points[train].T @ direction)
        else:
            image = data.kernel[:, train] @ direction
        self._basis = np.vstack([self._basis, direction])
        self.images = np.vstack([self.images, image])
        self.gram = self.images[:, train] @ self._basis.T
