"""Operations on two-time kernels: causal products, solves, resolvents, congruences.

A kernel is a matrix over two times, row = later time. A causal kernel (a response) vanishes for
column > row; only its lower triangle is read, and results are exact zero above it. A symmetric
kernel (a correlation) is stored full. All arrays are C-contiguous numpy arrays of one dtype,
float64 or float32.
"""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from dmftcore import _arrays, _core

__all__ = [
    "rows_causal",
    "rows_causal_pair",
    "rows_causal_transposed",
    "rows_congruence",
    "rows_low_rank",
    "rows_symmetric",
]

Float = TypeVar("Float", np.float64, np.float32)


# Row operations: what a causal march needs at each step. The compiled function checks types and
# shapes; only when it refuses are the arguments examined here, for the error message.


def rows_causal(x: NDArray[Float], a: NDArray[Float]) -> NDArray[Float]:
    r"""New rows times a causal history, :math:`y = x a`.

    .. math:: y_{pj} = \sum_{i=j}^{n-1} x_{pi} a_{ij}

    Parameters
    ----------
    x : (m, n) array, float64 or float32
        m new rows over the n known times.
    a : (N, N) array, N >= n, same dtype
        History; only the lower triangle of its leading n x n block is read.

    Returns
    -------
    (m, n) array

    Raises
    ------
    TypeError
        An argument is not a C-contiguous numpy array of the common dtype.
    ValueError
        The shapes do not fit.

    Notes
    -----
    m n^2 flops; for small m one pass over the n^2/2 elements of the history.
    """
    try:
        return _core.rows_causal(x, a)
    except (TypeError, ValueError) as error:
        _explain_rows(error, x, {}, a=a)


def rows_causal_transposed(x: NDArray[Float], a: NDArray[Float]) -> NDArray[Float]:
    r"""New rows times the transpose of a causal history, :math:`y = x a^\top`.

    .. math:: y_{pi} = \sum_{j=0}^{i} x_{pj} a_{ij}

    Parameters, errors and cost as in `rows_causal`.
    """
    try:
        return _core.rows_causal_transposed(x, a)
    except (TypeError, ValueError) as error:
        _explain_rows(error, x, {}, a=a)


def rows_causal_pair(
    x: NDArray[Float], w: NDArray[Float], a: NDArray[Float]
) -> tuple[NDArray[Float], NDArray[Float]]:
    r"""Both products :math:`(x a, w a^\top)` in one pass over the causal history.

    Parameters
    ----------
    x, w : (m, n) arrays, float64 or float32
        New rows.
    a : (N, N) array, N >= n, same dtype
        History; only the lower triangle of its leading n x n block is read.

    Returns
    -------
    (m, n) array, (m, n) array

    Errors and cost as in `rows_causal`, with twice the flops.
    """
    try:
        return _core.rows_causal_pair(x, w, a)
    except (TypeError, ValueError) as error:
        _explain_rows(error, x, {"w": w}, a=a)


def rows_symmetric(x: NDArray[Float], c: NDArray[Float]) -> NDArray[Float]:
    r"""New rows times a symmetric history, :math:`y = x c`, reading its lower triangle once.

    .. math:: y_{pj} = \sum_{i \ge j} x_{pi} c_{ij} + \sum_{i < j} x_{pi} c_{ji}

    Parameters, errors as in `rows_causal`; 2 m n^2 flops in one pass over n^2/2 elements.
    """
    try:
        return _core.rows_symmetric(x, c)
    except (TypeError, ValueError) as error:
        _explain_rows(error, x, {}, c=c)


def rows_congruence(
    x: NDArray[Float], c: NDArray[Float], r: NDArray[Float]
) -> tuple[NDArray[Float], NDArray[Float]]:
    r"""The new rows of a congruence, :math:`(x c, \; x c r^\top)`.

    Parameters
    ----------
    x : (m, n) array, float64 or float32
        New rows of the response.
    c : (N, N) array, N >= n, same dtype
        Symmetric history; only its lower triangle is read.
    r : (N', N') array, N' >= n, same dtype
        Causal history; only its lower triangle is read.

    Returns
    -------
    (m, n) array, (m, n) array

    Errors as in `rows_causal`; 3 m n^2 flops in one pass over each history.
    """
    try:
        return _core.rows_congruence(x, c, r)
    except (TypeError, ValueError) as error:
        _explain_rows(error, x, {}, c=c, r=r)


def rows_low_rank(x: NDArray[Float], u: NDArray[Float], v: NDArray[Float]) -> NDArray[Float]:
    r"""New rows times a history of low rank, :math:`y = (x u) v^\top`.

    Parameters
    ----------
    x : (m, n) array, float64 or float32
        New rows.
    u, v : (N, k) arrays, N >= n, same dtype
        Factors of the history; their leading n rows are read.

    Returns
    -------
    (m, n) array

    Errors as in `rows_causal`; 4 m n k flops.
    """
    try:
        return _core.rows_low_rank(x, u, v)
    except (TypeError, ValueError) as error:
        _explain_low_rank(error, x, u, v)


def _explain_rows(error: Exception, x: Any, like_x: dict[str, Any], **histories: Any) -> NoReturn:
    """Raise the precise reason why the core refused x, arrays of its shape, and histories."""
    _arrays.check(x=x, **like_x, **histories)
    _check_rows(x)
    for name, rows in like_x.items():
        if rows.shape != x.shape:
            raise ValueError(f"{name} must have the shape {x.shape} of x, not {rows.shape}")
    n = x.shape[1]
    for name, history in histories.items():
        shape = history.shape
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"{name} must be a square matrix (N, N), not {shape}")
        if shape[0] < n:
            raise ValueError(
                f"{name} has {shape[0]} times, fewer than the {n} of x with shape {x.shape}; "
                f"pass x[:, :{shape[0]}].copy() or a longer history"
            )
    raise error


def _explain_low_rank(error: Exception, x: Any, u: Any, v: Any) -> NoReturn:
    _arrays.check(x=x, u=u, v=v)
    _check_rows(x)
    n = x.shape[1]
    for name, factor in {"u": u, "v": v}.items():
        if factor.ndim != 2 or factor.shape[0] < n:
            raise ValueError(
                f"{name} must be (N, k) with N >= {n}, the length of the rows of x, "
                f"not {factor.shape}"
            )
    if u.shape[1] != v.shape[1]:
        raise ValueError(f"u has {u.shape[1]} columns but v has {v.shape[1]}; they must agree")
    raise error


def _check_rows(x: Any) -> None:
    if x.ndim != 2:
        raise ValueError(f"x must be (m, n), not {x.shape}; for one row pass x[None, :]")
