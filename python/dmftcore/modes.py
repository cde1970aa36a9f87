"""A data set in the eigenbasis of its training Gram matrix.

Training moves the outputs by Kx alone, so the dynamics live in the r eigendirections of the
training Gram matrix ``Kx = U diag(scales^2) U^T``. A linear predictor of the inputs has one
coefficient per eigendirection, whatever the number of points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset

__all__ = ["Modes"]

#: Eigenvalues of Kx below this multiple of the largest are rounding noise and are dropped.
EIGENVALUE_CUTOFF = 1e-14


@dataclass(frozen=True)
class Modes:
    """Eigenmodes of the training Gram matrix.

    Attributes
    ----------
    scales : (r,) array
        Square roots of the eigenvalues, decreasing.
    targets : (K, r) array
        Targets in the eigenbasis, ``U^T y`` as rows.
    points : (P + Q, r) array
        Coordinates of all points along the eigendirections: ``f = points @ predictor``; for
        training points ``U diag(scales)``.
    rest : (P + Q, P + Q) array
        What ``points points^T`` lacks to the full Gram matrix: the parts of test points outside
        the span of the training points.
    """

    scales: FloatArray
    targets: FloatArray
    points: FloatArray
    rest: FloatArray

    @classmethod
    def of(cls, data: Dataset) -> Modes:
        """The modes of `data`, from its inputs where it has them, else from its Gram matrix.

        Raises
        ------
        ValueError
            If the training Gram matrix is zero.
        """
        n_train = data.n_train
        if not np.any(data.kernel[:n_train, :n_train]):
            raise ValueError("the Gram matrix of the training points is zero: nothing can be learned")
        if data.points is not None:
            vectors, scales, directions = np.linalg.svd(data.points[:n_train], full_matrices=False)
            kept = scales**2 > EIGENVALUE_CUTOFF * scales[0] ** 2
            vectors, scales = vectors[:, kept], scales[kept]
            outside = data.points[n_train:] @ directions[kept].T
        else:
            values, vectors = np.linalg.eigh(data.kernel[:n_train, :n_train])
            values, vectors = values[::-1], vectors[:, ::-1]
            kept = values > EIGENVALUE_CUTOFF * values[0]
            vectors, scales = vectors[:, kept], np.sqrt(values[kept])
            outside = data.kernel[n_train:, :n_train] @ vectors / scales
        points = np.vstack([vectors * scales, outside])
        targets = np.ascontiguousarray((vectors.T @ data.targets.reshape(n_train, -1)).T)
        return cls(np.ascontiguousarray(scales), targets, points, data.kernel - points @ points.T)
