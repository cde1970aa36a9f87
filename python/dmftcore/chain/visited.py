"""The errors that a training run has visited, as coordinates in a growing orthonormal basis.

Whatever the number P of points, the errors Delta(t) of a run stay numerically in a space of few
dimensions. In an orthonormal basis E (k, P) of it, Delta(t) = a(t) E up to rounding, and all that
the hidden layers see of the data follows from Kx applied to the basis:

    h^0(t) . h^0(s) = Delta(t)^T Kx Delta(s) = a(t) (E Kx E^T) a(s)^T,     f = p (E Kx).

Kx is applied k times in all, and never decomposed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.data import Dataset

__all__ = ["VisitedErrors"]

#: Parts of an error below this multiple of the largest error are rounding.
ROUNDING = 2e-15


class VisitedErrors:
    """A growing orthonormal basis of errors.

    Parameters
    ----------
    data : Dataset
    xp : module
        Array library of the basis and of all that follows from it.

    Attributes
    ----------
    images : (k, P + Q) array
        E Kx, the basis seen by Kx at all points.
    gram : (k, k) array
        E Kx E^T over the training points.
    """

    def __init__(self, data: Dataset, xp: Any = np) -> None:
        self._xp, self._train = xp, slice(data.n_train)
        #: Kx, at all points from the training points, as a product.
        self._factors: tuple[FloatArray, ...]
        if data.points is not None:
            points = xp.asarray(data.points)
            self._factors = (points, points[self._train].T)
        else:
            self._factors = (xp.asarray(data.kernel[:, self._train]),)
        self._basis = xp.empty((0, data.n_train))
        self._largest = 0.0
        self.images: FloatArray = xp.empty((0, data.n_train + data.n_test))
        self.gram: FloatArray = xp.empty((0, 0))

    @property
    def size(self) -> int:
        """Number k of directions."""
        return len(self._basis)

    def coordinates(self, errors: FloatArray) -> tuple[FloatArray, float]:
        """Coordinates (K, k) of errors (K, P), and the sum of squares of the errors.

        The basis grows by what lies outside of it. On a device the host waits once, and once more
        for every error in a step at which the basis grows.
        """
        inside, outside = self._split(errors)
        squares = [(errors**2).sum(axis=1), (outside**2).sum(axis=1)]
        whole, rest = _arrays.to_host(self._xp.stack(squares))
        square = float(whole.sum())
        self._largest = max(self._largest, float(whole.max()) ** 0.5)
        if not np.any(rest > (ROUNDING * self._largest) ** 2):
            return inside, square
        rows = []
        for error in errors:
            inside, outside = self._split(error)
            size = float(self._xp.linalg.norm(outside))
            if size > ROUNDING * self._largest:
                self._append(outside / size)
                inside = self._xp.append(inside, size)
            rows.append(inside)
        coordinates = self._xp.zeros((len(rows), self.size))
        for row, inside in zip(coordinates, rows, strict=True):
            row[: len(inside)] = inside
        return coordinates, square

    def outputs(self, predictor: FloatArray) -> FloatArray:
        """Outputs (P + Q, K) from coordinates (K, k') in the first k' <= k directions."""
        outputs: FloatArray = self.images[: predictor.shape[1]].T @ predictor.T
        return outputs

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        return {
            "basis": _arrays.to_host(self._basis),
            "images": _arrays.to_host(self.images),
            "gram": _arrays.to_host(self.gram),
            "largest_error": np.array(self._largest),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on the same data."""
        self._basis, self.images, self.gram = (
            self._xp.asarray(state[name]) for name in ("basis", "images", "gram")
        )
        self._largest = float(state["largest_error"])

    def _split(self, errors: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Coordinates (..., k) of errors (..., P) in the basis, and what lies outside of it."""
        inside = errors @ self._basis.T
        outside = errors - inside @ self._basis
        # Once more: the first projection leaves rounding of the size of the error itself.
        correction = outside @ self._basis.T
        return inside + correction, outside - correction @ self._basis

    def _append(self, direction: FloatArray) -> None:
        image = direction
        for factor in reversed(self._factors):
            image = factor @ image
        self._basis = self._xp.vstack([self._basis, direction])
        self.images = self._xp.vstack([self.images, image])
        self.gram = self.images[:, self._train] @ self._basis.T
