"""What theory and experiment both measure, from outputs and kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.linalg

from dmftcore._validate import FloatArray

__all__ = ["sharpness", "square_loss", "tangent_kernel"]


def square_loss(outputs: FloatArray, targets: FloatArray) -> FloatArray:
    """Mean over points of ``sum_k (y - f)^2 / 2``: outputs (..., P, K), targets (P, K)."""
    summed: FloatArray = np.sum((targets - outputs) ** 2, axis=(-2, -1))
    return summed / (2 * len(targets))


def tangent_kernel(features: Sequence[FloatArray], gradients: Sequence[FloatArray]) -> FloatArray:
    """Tangent kernel ``sum_{l=0..L} H^l(t,t) G^{l+1}(t,t)``, shape (..., P, K, P, K).

    Parameters
    ----------
    features : sequence of (..., P, P) arrays
        H^0 = Kx, ..., H^L.
    gradients : sequence of (..., K, K) arrays
        G^1, ..., G^{L+1} = 1.
    """
    products = (
        h[..., :, None, :, None] * g[..., None, :, None, :]
        for h, g in zip(features, gradients, strict=True)
    )
    kernel: FloatArray = next(products)
    for product in products:
        kernel += product
    return kernel


def sharpness(ntk: FloatArray) -> float:
    """``lambda_max / P`` of one tangent kernel (P, K, P, K)."""
    points, outputs = ntk.shape[:2]
    size = points * outputs
    (largest,) = scipy.linalg.eigvalsh(
        ntk.reshape(size, size), subset_by_index=[size - 1, size - 1]
    )
    return float(largest) / points
