"""Operations on two-time kernels: causal products, solves, resolvents, congruences.

A kernel is a matrix over two times, row = later time. A causal kernel (a response) vanishes for
column > row; only its lower triangle is read, and results are exact zero above it. A symmetric
kernel (a correlation) is stored full. All arrays are C-contiguous and of one dtype, float64 or
float32.

The device follows the arrays. numpy arrays are computed with on the CPU. cupy arrays and torch
tensors on a CUDA device are computed with there: the work is queued on the current stream of their
library, which also allocates the results, and nothing waits for it. Device arrays of other
libraries with a ``__cuda_array_interface__`` or DLPack are seen through cupy or torch, whichever is
loaded, and the results are arrays of that library. Nothing is ever copied between host and device:
a mixture of arrays is refused.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy import ndarray
from numpy.typing import NDArray

from dmftcore import _arrays, _core
from dmftcore._shapes import (
    check_flags,
    check_functions,
    check_kernels,
    check_right_side,
    transposed_factor,
)

__all__ = [
    "causal_apply",
    "causal_matmul",
    "causal_solve",
    "congruence",
    "resolvent",
    "rows_causal",
    "rows_causal_batch",
    "rows_causal_pair",
    "rows_causal_transposed",
    "rows_congruence",
    "rows_low_rank",
    "rows_symmetric",
]

Float = TypeVar("Float", np.float64, np.float32)


def causal_matmul(
    a: NDArray[Float], b: NDArray[Float], *, transposed: str | None = None, block: int = 1
) -> NDArray[Float]:
    r"""Product of two causal kernels, or the causal part of a product with a transpose.

    .. math:: c_{ij} = \sum_{k=j}^{i} a_{ik} b_{kj}, \qquad j \le i

    With a factor transposed it is the derivative of such a product: of the scalar
    :math:`\sum_{ij} w_{ij} (a b)_{ij}` for causal w that by b is the causal part of
    :math:`a^\top w`, and that by a the causal part of :math:`w b^\top`,

    .. math:: \sum_{k \ge i} a_{ki} w_{kj}, \qquad \sum_{k \le j} w_{ik} b_{jk}, \qquad j \le i

    Parameters
    ----------
    a, b : (*batch, n, n) arrays, float64 or float32
        Causal kernels of equal shape, read on and below the diagonal (blocks) only.
    transposed : None, "a" or "b"
        The factor that is transposed; what the product then has beyond the diagonal (blocks) is
        left out.
    block : int
        Size P of the equal-time blocks: n counts T times of P components each, and a kernel
        vanishes for columns of later blocks. The diagonal blocks are full.

    Returns
    -------
    (*batch, n, n) array
        Causal; exact zero beyond the diagonal (blocks).

    Raises
    ------
    TypeError
        An argument is not a C-contiguous array of the common dtype, library and device.
    ValueError
        The shapes do not fit, or n is not a multiple of `block`.
    CudaError
        CUDA refused the call, or there is none.

    Notes
    -----
    n^3/3 flops. The error of c is at most of the order of ``n eps |a| |b|``, elementwise.
    Results do not depend on the number of threads.
    """
    core, a, b = _arrays.arguments(a=a, b=b)
    check_kernels(block, a=a, b=b)
    return core.causal_matmul(a, b, transposed_factor(transposed), block)


def causal_solve(
    a: NDArray[Float], b: NDArray[Float], dense: bool = False, *, block: int = 1
) -> NDArray[Float]:
    r"""Solution of the causal equation :math:`x = b + a x`, that is :math:`(1 - a)^{-1} b`.

    .. math:: x_{ij} = b_{ij} + \sum_{k<i} a_{ik} x_{kj}

    Parameters
    ----------
    a : (*batch, n, n) array, float64 or float32
        Strictly causal kernel: only columns of earlier blocks are read; the diagonal (blocks) count
        as zero.
    b : (*batch, n, n) array, or (*batch, n, m) with `dense`, same dtype
        Causal kernel, or any right-hand side.
    dense : bool
        Whether `b` is a dense right-hand side.
    block : int
        Size of the equal-time blocks, as in `causal_matmul`.

    Returns
    -------
    array of the shape of `b`
        Without `dense` it is causal, and exact zero beyond the diagonal (blocks).

    Raises
    ------
    TypeError, ValueError, CudaError
        As in `causal_matmul`.

    Notes
    -----
    n^3/3 flops, n^2 m with `dense`.
    """
    core, a, b = _arrays.arguments(a=a, b=b)
    check_flags(dense=dense)
    if dense:
        check_kernels(block, a=a)
        check_right_side(a, b)
    else:
        check_kernels(block, a=a, b=b)
    return core.causal_solve(a, b, dense, block)


def resolvent(a: NDArray[Float], *, block: int = 1) -> NDArray[Float]:
    r"""Resolvent :math:`r = (1 - a)^{-1}` of a strictly causal kernel.

    .. math:: r_{ij} = \delta_{ij} + \sum_{k<i} a_{ik} r_{kj}

    Parameters
    ----------
    a : (*batch, n, n) array, float64 or float32
        Strictly causal kernel: only columns of earlier blocks are read; the diagonal (blocks) count
        as zero.
    block : int
        Size of the equal-time blocks, as in `causal_matmul`.

    Returns
    -------
    (*batch, n, n) array
        Causal, with ones on the diagonal and exact zero beyond.

    Raises
    ------
    TypeError, ValueError, CudaError
        As in `causal_matmul`.

    Notes
    -----
    n^3/3 flops, by halves: the lower left quarter of r is r22 (a21 r11).
    """
    core, a = _arrays.arguments(a=a)
    check_kernels(block, a=a)
    return core.resolvent(a, block)


def congruence(r: NDArray[Float], c: NDArray[Float], *, block: int = 1) -> NDArray[Float]:
    r"""Congruence :math:`s = r c r^\top` of a symmetric kernel by a causal one.

    .. math:: s_{ij} = \sum_{k \le i} \sum_{l \le j} r_{ik} c_{kl} r_{jl}

    Parameters
    ----------
    r : (*batch, n, n) array, float64 or float32
        Causal kernel, read on and below the diagonal (blocks) only.
    c : (*batch, n, n) array, same dtype
        Symmetric kernel; only its lower triangle is read.
    block : int
        Size of the equal-time blocks of `r`, as in `causal_matmul`.

    Returns
    -------
    (*batch, n, n) array
        Full, and exactly symmetric.

    Raises
    ------
    TypeError, ValueError, CudaError
        As in `causal_matmul`.

    Notes
    -----
    n^3 flops: with c = l + l^T and p = r l, causal, s = p r^T + r p^T.
    """
    core, r, c = _arrays.arguments(r=r, c=c)
    check_kernels(block, r=r, c=c)
    return core.congruence(r, c, block)


def causal_apply(
    k: NDArray[Float],
    g: NDArray[Float],
    strict: bool = True,
    *,
    transposed: bool = False,
    block: int = 1,
) -> NDArray[Float]:
    r"""Causal kernel, or its transpose, applied to functions of time.

    .. math:: y(t, \ldots) = \sum_{s<t} k(t, s) g(s, \ldots)

    Parameters
    ----------
    k : (*batch, n, n) array, float64 or float32
        Causal kernel.
    g : (*batch, n, *trailing) array, same dtype
        Functions of time.
    strict : bool
        Sum over earlier blocks only, the diagonal (blocks) of `k` are not read; otherwise the
        equal-time term s = t (block) is included.
    transposed : bool
        Sum over later times instead, :math:`\sum_{s>t} k(s, t) g(s, \ldots)`: :math:`k^\top g`.
    block : int
        Size of the equal-time blocks, as in `causal_matmul`.

    Returns
    -------
    array of the shape of `g`

    Raises
    ------
    TypeError, ValueError, CudaError
        As in `causal_matmul`.

    Notes
    -----
    n^2 m flops for m trailing elements; for small m one pass over the n^2/2 elements of `k`.
    """
    core, k, g = _arrays.arguments(k=k, g=g)
    check_flags(strict=strict, transposed=transposed)
    check_kernels(block, k=k)
    check_functions(k, g)
    return core.causal_apply(k, g, strict, transposed, block)


# Row operations: what a causal march needs at each step. For numpy arrays the compiled function
# checks types and shapes; only when it refuses are the arguments examined here, for the message.
# A device array is examined before: pybind11 would print it, and so copy it, to complain about it.


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
        An argument is not a C-contiguous array of the common dtype, library and device.
    ValueError
        The shapes do not fit.
    CudaError
        CUDA refused the call, or there is none.

    Notes
    -----
    m n^2 flops; for small m one pass over the n^2/2 elements of the history.
    """
    if isinstance(x, ndarray):
        try:
            return _core.rows_causal(x, a)
        except (TypeError, ValueError):
            pass
    core, x, a = _arrays.arguments(x=x, a=a)
    _check_rows(x, {}, a=a)
    return core.rows_causal(x, a)


def rows_causal_transposed(x: NDArray[Float], a: NDArray[Float]) -> NDArray[Float]:
    r"""New rows times the transpose of a causal history, :math:`y = x a^\top`.

    .. math:: y_{pi} = \sum_{j=0}^{i} x_{pj} a_{ij}

    Errors and cost as in `rows_causal`.

    Parameters
    ----------
    x : (m, n) array, float64 or float32
        m new rows over the n known times.
    a : (N, N) array, N >= n, same dtype
        History; only the lower triangle of its leading n x n block is read.

    Returns
    -------
    (m, n) array
    """
    if isinstance(x, ndarray):
        try:
            return _core.rows_causal_transposed(x, a)
        except (TypeError, ValueError):
            pass
    core, x, a = _arrays.arguments(x=x, a=a)
    _check_rows(x, {}, a=a)
    return core.rows_causal_transposed(x, a)


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
    if isinstance(x, ndarray):
        try:
            return _core.rows_causal_pair(x, w, a)
        except (TypeError, ValueError):
            pass
    core, x, w, a = _arrays.arguments(x=x, w=w, a=a)
    _check_rows(x, {"w": w}, a=a)
    return core.rows_causal_pair(x, w, a)


def rows_symmetric(x: NDArray[Float], c: NDArray[Float]) -> NDArray[Float]:
    r"""New rows times a symmetric history, :math:`y = x c`, reading its lower triangle once.

    .. math:: y_{pj} = \sum_{i \ge j} x_{pi} c_{ij} + \sum_{i < j} x_{pi} c_{ji}

    Errors as in `rows_causal`; 2 m n^2 flops in one pass over n^2/2 elements.

    Parameters
    ----------
    x : (m, n) array, float64 or float32
        m new rows over the n known times.
    c : (N, N) array, N >= n, same dtype
        History; only the lower triangle of its leading n x n block is read.

    Returns
    -------
    (m, n) array
    """
    if isinstance(x, ndarray):
        try:
            return _core.rows_symmetric(x, c)
        except (TypeError, ValueError):
            pass
    core, x, c = _arrays.arguments(x=x, c=c)
    _check_rows(x, {}, c=c)
    return core.rows_symmetric(x, c)


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
    if isinstance(x, ndarray):
        try:
            return _core.rows_congruence(x, c, r)
        except (TypeError, ValueError):
            pass
    core, x, c, r = _arrays.arguments(x=x, c=c, r=r)
    _check_rows(x, {}, c=c, r=r)
    return core.rows_congruence(x, c, r)


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
    if isinstance(x, ndarray):
        try:
            return _core.rows_low_rank(x, u, v)
        except (TypeError, ValueError):
            pass
    core, x, u, v = _arrays.arguments(x=x, u=u, v=v)
    _check_low_rank(x, u, v)
    return core.rows_low_rank(x, u, v)


def rows_causal_batch(
    x: NDArray[Float], a: NDArray[Float], transposed: bool = False
) -> NDArray[Float]:
    r"""A new row for each of many causal histories, :math:`y_k = x_k a_k`.

    Parameters
    ----------
    x : (batch, n) array, float64 or float32
        A new row over the n known times for every history.
    a : (batch, N, N) array, N >= n, same dtype
        Histories; only the lower triangles of their leading n x n blocks are read.
    transposed : bool
        The product with the transposed histories instead, :math:`y_k = x_k a_k^\top`.

    Returns
    -------
    (batch, n) array

    Errors as in `rows_causal`; n^2 flops and one pass over n^2/2 elements for every history.
    """
    if isinstance(x, ndarray):
        try:
            return _core.rows_causal_batch(x, a, transposed)
        except (TypeError, ValueError):
            pass
    core, x, a = _arrays.arguments(x=x, a=a)
    _check_batch(x, a)
    return core.rows_causal_batch(x, a, transposed)


def _check_rows(x: Any, like_x: dict[str, Any], **histories: Any) -> None:
    """New rows x (m, n), arrays of its shape, and square histories of at least n times."""
    _check_two_axes(x)
    for name, rows in like_x.items():
        if rows.shape != x.shape:
            raise ValueError(
                f"{name} must have the shape {tuple(x.shape)} of x, not {tuple(rows.shape)}"
            )
    n = x.shape[1]
    for name, history in histories.items():
        shape = tuple(history.shape)
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"{name} must be a square matrix (N, N), not {shape}")
        if shape[0] < n:
            raise ValueError(
                f"{name} has {shape[0]} times, fewer than the {n} of x with shape "
                f"{tuple(x.shape)}; pass x[:, :{shape[0]}].copy() or a longer history"
            )


def _check_low_rank(x: Any, u: Any, v: Any) -> None:
    _check_two_axes(x)
    n = x.shape[1]
    for name, factor in {"u": u, "v": v}.items():
        if factor.ndim != 2 or factor.shape[0] < n:
            raise ValueError(
                f"{name} must be (N, k) with N >= {n}, the length of the rows of x, "
                f"not {tuple(factor.shape)}"
            )
    if u.shape[1] != v.shape[1]:
        raise ValueError(f"u has {u.shape[1]} columns but v has {v.shape[1]}; they must agree")


def _check_batch(x: Any, a: Any) -> None:
    if x.ndim != 2:
        raise ValueError(
            f"x must be (batch, n), not {tuple(x.shape)}; for one history pass x[None, :]"
        )
    batch, n = x.shape
    if a.ndim != 3 or len(a) != batch or a.shape[1] != a.shape[2] or a.shape[1] < n:
        raise ValueError(
            f"a must be ({batch}, N, N) with N >= {n} for x of shape {tuple(x.shape)}, "
            f"not {tuple(a.shape)}"
        )


def _check_two_axes(x: Any) -> None:
    if x.ndim != 2:
        raise ValueError(f"x must be (m, n), not {tuple(x.shape)}; for one row pass x[None, :]")
