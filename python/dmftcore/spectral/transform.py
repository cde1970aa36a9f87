r"""From two frequencies to two times: :math:`W \Phi W^\top` over the nodes of a contour."""

from __future__ import annotations

from typing import Any

import numpy as np

from dmftcore import _arrays

__all__ = ["transform", "transform_diagonal"]


def transform(w1: Any, phi: Any, w2: Any) -> Any:
    r"""Table over two times.

    .. math:: L(t, s) = \mathrm{Re} \sum_{ij} W_{ti} \, \Phi(z_i, z'_j) \, W'_{sj}

    Parameters
    ----------
    w1 : (*batch, T, n) complex128 array
        Filters at the nodes of the first contour.
    phi : (*batch, n, m) complex128 array
        A two-point function.
    w2 : (*batch, S, m) complex128 array

    Returns
    -------
    (*batch, T, S) float64 array
        Of the library of the arguments. The factor 2 of a contour of which the upper half is given
        belongs into one of the filters.

    Notes
    -----
    8 T n m + 4 T S m flops, as real matrix products.
    """
    half = w1 @ phi
    xp = _arrays.namespace(phi)
    left = xp.concatenate([half.real, -half.imag], axis=-1)
    right = xp.concatenate([w2.real, w2.imag], axis=-1)
    return left @ np.swapaxes(right, -1, -2)


def transform_diagonal(w1: Any, phi: Any, w2: Any) -> Any:
    r"""The diagonal t = s of `transform` alone.

    Parameters
    ----------
    w1 : (T, n) complex128 array
    phi : (T, n, m) complex128 array, or (n, m)
        A two-point function for each time, whose contour follows the time, or one for all.
    w2 : (T, m) complex128 array

    Returns
    -------
    (T,) float64 array
    """
    half = w1 @ phi if phi.ndim == 2 else (w1[:, None, :] @ phi)[:, 0, :]
    return (half.real * w2.real - half.imag * w2.imag).sum(axis=-1)
