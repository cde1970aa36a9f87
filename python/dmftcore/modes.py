"""A data set in the eigenbasis of its training Gram matrix.

Training moves the outputs by Kx alone, so the dynamics live in the r eigendirections of the
training Gram matrix ``Kx = U diag(scales^2) U^T``. A linear predictor of the inputs has one
coefficient per eigendirection, whatever the number of points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.training import GradientDescent

__all__ = ["LinearProblem", "Modes"]

#: Eigenvalues of Kx below this multiple of the largest are rounding noise and are dropped.
EIGENVALUE_CUTOFF = 1e-14


@dataclass(frozen=True, eq=False)
class Modes:
    """Eigenmodes of the training Gram matrix.

    Attributes
    ----------
    data : Dataset
        What the modes were taken from.
    scales : (r,) array
        Square roots of the eigenvalues, decreasing.
    targets : (K, r) array
        Targets in the eigenbasis, ``U^T y`` as rows.
    points : (P + Q, r) array
        Coordinates of all points along the eigendirections: ``f = points @ predictor``; for
        training points ``U diag(scales)``.
    """

    data: Dataset
    scales: FloatArray
    targets: FloatArray
    points: FloatArray

    @classmethod
    def of(cls, data: Dataset) -> Modes:
        """The modes of `data`."""
        n_train = data.n_train
        if data.points is not None and 2 * data.points.shape[1] < n_train:
            # Fewer dimensions than points: no P x P matrix is needed.
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
        return cls(data, np.ascontiguousarray(scales), targets, points)

    def outputs(self, predictors: FloatArray) -> FloatArray:
        """Outputs (n, P + Q, K) of all points from predictors (n, K, r)."""
        n, k, r = predictors.shape
        rows: FloatArray = predictors.reshape(n * k, r) @ self.points.T
        return rows.reshape(n, k, len(self.points)).swapaxes(1, 2)

    @property
    def kernel(self) -> FloatArray:
        """Gram matrix Kx of all points."""
        return self.data.kernel

    @cached_property
    def rest(self) -> FloatArray:
        """What ``points points^T`` lacks to Kx, (P + Q, P + Q).

        The parts of test points outside the span of the training points.
        """
        return self.data.kernel - self.points @ self.points.T


@dataclass(frozen=True, eq=False)
class LinearProblem:
    """A deep linear network trained on a fixed data set, as its marches see it.

    Attributes
    ----------
    data : Dataset
    depth, gamma, init_scale
        As in `DeepLinear`.
    branch : float or None
        Factor b of the residual blocks, at infinite depth their scale beta_0; None for a network
        without skips.
    training : GradientDescent
    follow_ntk : bool
        Move the outputs by the tangent kernel (``readout="ntk"``).
    loss_limit : float
        Sum of squared errors beyond which the dynamics count as diverged.
    """

    data: Dataset
    depth: int
    gamma: float
    init_scale: float
    branch: float | None
    training: GradientDescent
    follow_ntk: bool
    loss_limit: float

    @property
    def rates_per_point(self) -> FloatArray:
        """lr / P of every update, (steps,)."""
        return self.training.rates / self.data.n_train

    @property
    def lr_per_point(self) -> float:
        """lr / P of a constant learning rate."""
        return float(self.training.lr / self.data.n_train)

    @cached_property
    def modes(self) -> Modes:
        """The data in their eigenbasis."""
        return Modes.of(self.data)
