"""Losses that feed back on themselves: Volterra equations of convolution type."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import fft

from dmftcore._validate import FloatArray, real_array

__all__ = ["volterra"]


def volterra(forcing: Any, kernel: Any) -> FloatArray:
    r"""Solution of a discrete Volterra equation.

    .. math:: L(t) = F(t) + \sum_{s=0}^{t-1} K(t-1-s) L(s)

    One-pass SGD obeys it: F is the loss without the noise of the gradients, K what a unit of noise
    has left after a time.

    Parameters
    ----------
    forcing : (n,) array
        F(0), ..., F(n-1).
    kernel : (n,) array
        K(0), ..., K(n-1); the last is not used.

    Returns
    -------
    (n,) array
        L(0), ..., L(n-1).

    Raises
    ------
    ValueError
        The lengths differ.

    Notes
    -----
    In generating functions it is the division L(q) = F(q) / (1 - q K(q)). Newton's iteration
    doubles the known part of the reciprocal with two products by fast Fourier transforms,
    O(n log n) altogether. Errors are of the order of the rounding of the largest L; where K sums
    to much more than 1, L grows exponentially and its beginning loses digits.
    """
    forcing, kernel = real_array("forcing", forcing, 1), real_array("kernel", kernel, 1)
    n = len(forcing)
    if len(kernel) != n:
        raise ValueError(f"kernel has {len(kernel)} times, but forcing has {n}")
    divisor = np.concatenate([[1.0], -kernel[:-1]])
    reciprocal = np.ones(1)
    while len(reciprocal) < n:
        known = min(2 * len(reciprocal), n)
        defect = -_product(divisor[:known], reciprocal)
        defect[0] += 2
        reciprocal = _product(reciprocal, defect)
    loss = _product(reciprocal, forcing)
    # What the transforms have rounded off, once over.
    return loss + _product(reciprocal, forcing - _product(divisor, loss))


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    """The first coefficients of the product of two power series, as many as the longer has."""
    n = max(len(a), len(b))
    size = fft.next_fast_len(len(a) + len(b) - 1, real=True)
    product: FloatArray = fft.irfft(fft.rfft(a, size) * fft.rfft(b, size), size)[:n]
    return product
