"""What theory and experiment both measure, from outputs and kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy.linalg

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset

__all__ = [
    "alignment",
    "curves",
    "sharpness",
    "square_loss",
    "tangent_kernel",
    "training_loss",
]


def square_loss(outputs: FloatArray, targets: FloatArray) -> FloatArray:
    """Mean over points of ``sum_k (y - f)^2 / 2``: outputs (..., P, K), targets (P, K)."""
    summed: FloatArray = np.sum((targets - outputs) ** 2, axis=(-2, -1))
    return summed / (2 * len(targets))


def training_loss(data: Dataset) -> Callable[[FloatArray], float]:
    """The training loss of outputs (P + Q, K), as a function."""
    targets = data.targets.reshape(data.n_train, -1)
    return lambda outputs: float(square_loss(outputs[: data.n_train], targets))


def curves(data: Dataset, outputs: FloatArray) -> dict[str, Any]:
    """Outputs and losses as fields of a `Solution`, from outputs (..., P + Q, K).

    Outputs of a single-output problem lose their last axis. What concerns test points is there
    if `data` has them.
    """
    train, test = outputs[..., : data.n_train, :], outputs[..., data.n_train :, :]
    k = data.targets.shape[1:]
    fields: dict[str, Any] = {
        "outputs": train.reshape(*train.shape[:-1], *k),
        "train_loss": square_loss(train, data.targets.reshape(data.n_train, -1)),
    }
    if data.n_test:
        fields["test_outputs"] = test.reshape(*test.shape[:-1], *k)
    if data.test_targets is not None:
        fields["test_loss"] = square_loss(test, data.test_targets.reshape(data.n_test, -1))
    return fields


def tangent_kernel(
    features: Sequence[FloatArray],
    gradients: Sequence[FloatArray],
    branch: float | None = None,
) -> FloatArray:
    """Tangent kernel ``sum_{l=0..L} H^l(t,t) G^{l+1}(t,t)``, shape (..., P, K, P, K).

    The terms l = 1..L-1 belong to the weights of residual blocks, if there are any, and come with
    the square of their factor.

    Parameters
    ----------
    features : sequence of (..., P, P) arrays
        H^0 = Kx, ..., H^L.
    gradients : sequence of (..., K, K) arrays
        G^1, ..., G^{L+1} = 1.
    branch : float, optional
        Factor b of residual blocks.
    """
    inner = 1.0 if branch is None else branch**2
    factors = [1.0, *[inner] * (len(features) - 2), 1.0]
    products = (
        factor * h[..., :, None, :, None] * g[..., None, :, None, :]
        for factor, h, g in zip(factors, features, gradients, strict=True)
    )
    kernel: FloatArray = next(products)
    for product in products:
        kernel += product
    return kernel


def sharpness(ntk: FloatArray) -> float:
    """``lambda_max / P`` of one tangent kernel (P, K, P, K)."""
    points, outputs = ntk.shape[:2]
    size = points * outputs
    matrix = ntk.reshape(size, size)
    (largest,) = scipy.linalg.eigvalsh(matrix, subset_by_index=[size - 1, size - 1])
    return float(largest / points)


def alignment(kernels: FloatArray, targets: FloatArray) -> FloatArray:
    """Alignment ``<H, y y^T>_F / (|H|_F |y y^T|_F)`` of kernels with the targets.

    Parameters
    ----------
    kernels : (n, P, P) array
    targets : (P,) or (P, K) array

    Returns
    -------
    (n,) array
        1 where the kernel is proportional to ``y y^T``; 0 for a kernel or targets that vanish.
    """
    y = targets.reshape(len(targets), -1)
    overlap = np.einsum("mk,tmn,nk->t", y, kernels, y, optimize=True)
    norms = np.linalg.norm(kernels, axis=(1, 2)) * np.linalg.norm(y.T @ y)
    aligned: FloatArray = np.divide(overlap, norms, out=np.zeros_like(norms), where=norms > 0)
    return aligned
