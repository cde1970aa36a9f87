"""What theory and experiment both measure, from outputs and kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.linalg

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.losses import loss_function

__all__ = [
    "alignment",
    "collapse",
    "curves",
    "curves_of_runs",
    "sharpness",
    "standard_error",
    "summed_products",
    "tangent_kernel",
    "training_loss",
]


def training_loss(data: Dataset, loss: str = "square") -> Callable[[FloatArray], float]:
    """The mean training loss of outputs (..., P + Q, K), as a function."""
    targets, mean = data.targets.reshape(data.n_train, -1), loss_function(loss).mean
    return lambda outputs: float(mean(outputs[..., : data.n_train, :], targets).mean())


def curves(data: Dataset, outputs: FloatArray, loss: str = "square") -> dict[str, Any]:
    """Outputs, errors and losses as fields of a `Solution`, from outputs (..., P + Q, K).

    Outputs of a single-output problem lose their last axis. What concerns test points is there
    if `data` has them.
    """
    function = loss_function(loss)
    train, test = outputs[..., : data.n_train, :], outputs[..., data.n_train :, :]
    targets, k = data.targets.reshape(data.n_train, -1), data.targets.shape[1:]
    fields: dict[str, Any] = {
        "outputs": train.reshape(*train.shape[:-1], *k),
        "errors": function.errors(train, targets).reshape(*train.shape[:-1], *k),
        "train_loss": function.mean(train, targets),
    }
    if data.n_test:
        fields["test_outputs"] = test.reshape(*test.shape[:-1], *k)
    if data.test_targets is not None:
        of_test = data.test_targets.reshape(data.n_test, -1)
        fields["test_loss"] = function.mean(test, of_test)
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
    of_outputs = [g[..., None, :, None, :] for g in gradients]
    return summed_products(zip(factors, features, of_outputs, strict=True))


def summed_products(terms: Iterable[tuple[float, FloatArray, FloatArray]]) -> FloatArray:
    """Tangent kernel ``sum scale Phi G``, shape (..., P, K, P, K), over the arrays of weights.

    Parameters
    ----------
    terms : iterable of (scale, features, gradients)
        For each array of weights the kernel (..., P, P) of what it acts on, and that of the
        gradients by what it gives, (..., P, K, P, K) or of length 1 where it is constant.
    """
    products = (scale * h[..., :, None, :, None] * g for scale, h, g in terms)
    kernel: FloatArray = next(products)
    for product in products:
        kernel = kernel + product
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


def collapse(order_parameters: Mapping[str, FloatArray]) -> dict[str, list[float]]:
    """How far heads of attention are apart, for the diagnostics of a `Solution`.

    "collapse" is the variance of patterns among heads, "S_var", in the mean over their entries (and
    layers), at each of the stored steps: 0 where all heads are the same.
    """
    if "S_var" not in order_parameters:
        return {}
    variances = order_parameters["S_var"]
    return {"collapse": variances.reshape(len(variances), -1).mean(axis=1).tolist()}


def curves_of_runs(data: Dataset, outputs: FloatArray, loss: str = "square") -> dict[str, Any]:
    """Curve fields of a `Solution` from outputs (n_times, runs, P + Q, K).

    Means over the runs, the curves of every run in `per_seed`, and standard errors if there are
    several.
    """
    per_seed = curves(data, outputs.swapaxes(0, 1), loss)
    errors = per_seed.pop("errors")
    means: dict[str, Any] = {name: values.mean(axis=0) for name, values in per_seed.items()}
    several = outputs.shape[1] > 1
    return {
        **means,
        "errors": errors.mean(axis=0),
        "per_seed": per_seed,
        "standard_errors": {
            name: standard_error(values) for name, values in per_seed.items() if several
        },
    }


def standard_error(values: FloatArray) -> FloatArray:
    """Standard error of the mean over the first axis."""
    error: FloatArray = np.std(values, axis=0, ddof=1) / np.sqrt(len(values))
    return error
