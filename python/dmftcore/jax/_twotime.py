r"""Operations on two-time kernels as JAX primitives, with their derivatives.

The derivatives are expressed in the same primitives, so that they can be differentiated again.
With :math:`\bar y` the derivative of a scalar by y, and strict(.) without the diagonal (blocks):

    c = a b           dc = da b + a db
    r = (1 - a)^-1    dr = r strict(da) r
    x = (1 - a)^-1 b  dx = (1 - a)^-1 (strict(da) x + db)
    s = r c r^T       ds = dr c r^T + (dr c r^T)^T + r dc r^T
    y = k g           dy = dk g + k dg

A transposed kernel acts backwards in time. It is applied, and solved with, as a causal one: its
reflection in the antidiagonal, to functions of the reversed time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dmftcore._shapes import check_functions, check_kernels, check_right_side
from dmftcore.jax._primitive import primitive

# After the module that says what to do where jax is missing.
import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
from jax.interpreters import ad  # isort: skip

__all__ = ["causal_apply", "causal_matmul", "causal_solve", "congruence", "resolvent"]

Array = Any  # jax.Array, which is Any where jax is not installed


def causal_matmul(a: Array, b: Array, *, block: int = 1) -> Array:
    """Product of two causal kernels: `dmftcore.twotime.causal_matmul` inside JAX.

    Parameters
    ----------
    a, b : (*batch, n, n) arrays, float64 or float32
    block : int

    Returns
    -------
    (*batch, n, n) array

    Raises
    ------
    TypeError
        An argument is no array, or its dtype is not the common one. When the call is traced.
    ValueError
        The shapes do not fit, or n is not a multiple of `block`. When the call is traced.

    Notes
    -----
    Derivatives are those of the function as it is: with respect to a causal argument they vanish
    beyond its diagonal (blocks), where it is not read. A product costs n^3/3 flops, each of its two
    derivatives in reverse mode n^3.
    """
    a, b = _arrays(a=a, b=b)
    check_kernels(block, a=a, b=b)
    return _matmul.bind(a, b, block=int(block))


def causal_solve(a: Array, b: Array, dense: bool = False, *, block: int = 1) -> Array:
    """Solution of x = b + a x: `dmftcore.twotime.causal_solve` inside JAX.

    Parameters
    ----------
    a : (*batch, n, n) array, float64 or float32
    b : (*batch, n, n) array, or (*batch, n, m) with `dense`, same dtype
    dense : bool
    block : int

    Returns
    -------
    array of the shape of `b`

    Errors and derivatives as in `causal_matmul`.
    """
    a, b = _arrays(a=a, b=b)
    if dense:
        check_kernels(block, a=a)
        check_right_side(a, b)
        return _solve_dense.bind(a, b, block=int(block))
    check_kernels(block, a=a, b=b)
    return _solve.bind(a, b, block=int(block))


def resolvent(a: Array, *, block: int = 1) -> Array:
    """The resolvent (1 - a)^-1: `dmftcore.twotime.resolvent` inside JAX.

    Parameters
    ----------
    a : (*batch, n, n) array, float64 or float32
    block : int

    Returns
    -------
    (*batch, n, n) array

    Errors and derivatives as in `causal_matmul`.
    """
    (a,) = _arrays(a=a)
    check_kernels(block, a=a)
    return _resolvent.bind(a, block=int(block))


def congruence(r: Array, c: Array, *, block: int = 1) -> Array:
    """The congruence r c r^T of a symmetric kernel: `dmftcore.twotime.congruence` inside JAX.

    Parameters
    ----------
    r : (*batch, n, n) array, float64 or float32
    c : (*batch, n, n) array, same dtype
    block : int

    Returns
    -------
    (*batch, n, n) array

    Errors as in `causal_matmul`. Of `c` the lower triangle is read: a derivative with respect to it
    vanishes above the diagonal, and has twice the symmetric one below.
    """
    r, c = _arrays(r=r, c=c)
    check_kernels(block, r=r, c=c)
    return _congruence.bind(r, c, block=int(block))


def causal_apply(k: Array, g: Array, strict: bool = True, *, block: int = 1) -> Array:
    """Causal kernel applied to functions of time: `dmftcore.twotime.causal_apply` inside JAX.

    Parameters
    ----------
    k : (*batch, n, n) array, float64 or float32
    g : (*batch, n, *trailing) array, same dtype
    strict : bool
    block : int

    Returns
    -------
    array of the shape of `g`

    Errors and derivatives as in `causal_matmul`. Under ``vmap`` over `g` alone, `k` is not copied.
    """
    k, g = _arrays(k=k, g=g)
    check_kernels(block, k=k)
    check_functions(k, g)
    return _apply.bind(k, g, strict=int(strict), block=int(block))


def _arrays(**arrays: Any) -> tuple[Array, ...]:
    """The arguments as jax arrays of one dtype, float64 or float32."""
    converted = {name: _converted(name, array) for name, array in arrays.items()}
    (first, reference), *others = converted.items()
    for name, array in others:
        if array.dtype != reference.dtype:
            raise TypeError(
                f"{first} is {reference.dtype} but {name} is {array.dtype}; all arrays must have "
                f"one dtype: pass {name}.astype({first}.dtype)"
            )
    return tuple(converted.values())


def _converted(name: str, array: Any) -> Array:
    if not isinstance(array, (jax.Array, np.ndarray)):
        kind = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
        raise TypeError(f"{name} must be a jax array, not {kind}; pass jax.numpy.asarray({name})")
    if array.dtype not in (np.float64, np.float32):
        remedy = (
            f"pass {name}.real and {name}.imag separately"
            if "complex" in str(array.dtype)
            else f"pass {name}.astype(jax.numpy.float64)"
        )
        raise TypeError(f"{name} must be float64 or float32, not {array.dtype}; {remedy}")
    converted = jnp.asarray(array)
    if converted.dtype != array.dtype:
        raise TypeError(
            f"{name} is float64, which jax would cut to float32: call "
            f'jax.config.update("jax_enable_x64", True), or pass {name}.astype(numpy.float32)'
        )
    return converted


# -- the primitives ---------------------------------------------------------------------------

_matmul = primitive("causal_matmul")
_solve = primitive("causal_solve")
_solve_dense = primitive("causal_solve_dense", trailing=True)
_resolvent = primitive("resolvent")
_congruence = primitive("congruence")
_apply = primitive("causal_apply", trailing=True)


def _causal(a: Array, block: int, strict: bool = False) -> Array:
    """`a` with zeros where a (strictly) causal kernel has none of its elements."""
    time = jnp.arange(a.shape[-1]) // block
    kept = time[:, None] > time if strict else time[:, None] >= time
    return jnp.where(kept, a, 0)


def _transposed(a: Array) -> Array:
    return jnp.swapaxes(a, -1, -2)


def _reflected(a: Array) -> Array:
    """The causal kernel that acts on the reversed time as the transpose of `a` does on time."""
    return jnp.flip(_transposed(a), (-1, -2))


def _reversed(g: Array, kernel: Array) -> Array:
    """Functions of time, on which `kernel` acts, as functions of the reversed time."""
    return jnp.flip(g, kernel.ndim - 2)


def _apply_transposed(k: Array, g: Array, *, strict: int, block: int) -> Array:
    """k^T g for causal k."""
    backwards = _apply.bind(_reflected(k), _reversed(g, k), strict=strict, block=block)
    return _reversed(backwards, k)


def _solve_transposed(a: Array, b: Array, *, block: int) -> Array:
    """(1 - a^T)^-1 b for strictly causal a and dense b."""
    return _reversed(_solve_dense.bind(_reflected(a), _reversed(b, a), block=block), a)


# Products: bilinear. The rules are the transposes of x -> x b and of x -> a x.


def _matmul_left(bar: Array, a: Array, b: Array, *, block: int) -> Array:
    """The causal part of bar b^T."""
    b_transposed = _transposed(_causal(b, block))
    return _causal(_apply.bind(bar, b_transposed, strict=0, block=block), block)


def _matmul_right(bar: Array, a: Array, b: Array, *, block: int) -> Array:
    """The causal part of a^T bar, to which only that of bar contributes."""
    return _causal(_apply_transposed(a, bar, strict=0, block=block), block)


def _apply_left(bar: Array, k: Array, g: Array, *, strict: int, block: int) -> Array:
    """The (strictly) causal part of bar g^T, summed over the trailing axes."""
    axes = g.ndim - len(k.aval.shape) + 1
    columns = (*g.shape[: g.ndim - axes], int(np.prod(g.shape[g.ndim - axes :])))
    outer = jnp.matmul(
        bar.reshape(columns), _transposed(g.reshape(columns)), precision=jax.lax.Precision.HIGHEST
    )
    return _causal(outer, block, strict=bool(strict))


def _apply_right(bar: Array, k: Array, g: Array, *, strict: int, block: int) -> Array:
    return _apply_transposed(k, bar, strict=strict, block=block)


ad.defbilinear(_matmul, _matmul_left, _matmul_right)
ad.defbilinear(_apply, _apply_left, _apply_right)


# Solutions: linear in b.


def _solve_by_a(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    source = _matmul.bind(_causal(tangent, block, strict=True), x, block=block)
    return _solve.bind(a, source, block=block)


def _solve_by_b(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    return _solve.bind(a, tangent, block=block)


def _solve_transpose(bar: Array, a: Array, b: Array, *, block: int) -> list[Array]:
    if isinstance(bar, ad.Zero):
        return [None, ad.Zero(b.aval)]
    return [None, _causal(_solve_transposed(a, bar, block=block), block)]


def _solve_dense_by_a(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    source = _apply.bind(tangent, x, strict=1, block=block)
    return _solve_dense.bind(a, source, block=block)


def _solve_dense_by_b(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    return _solve_dense.bind(a, tangent, block=block)


def _solve_dense_transpose(bar: Array, a: Array, b: Array, *, block: int) -> list[Array]:
    if isinstance(bar, ad.Zero):
        return [None, ad.Zero(b.aval)]
    return [None, _solve_transposed(a, bar, block=block)]


ad.defjvp2(_solve, _solve_by_a, _solve_by_b)
ad.primitive_transposes[_solve] = _solve_transpose
ad.defjvp2(_solve_dense, _solve_dense_by_a, _solve_dense_by_b)
ad.primitive_transposes[_solve_dense] = _solve_dense_transpose


# Functions that are not linear: their derivatives are made of products, and so is the transpose.


def _resolvent_by_a(tangent: Array, r: Array, a: Array, *, block: int) -> Array:
    moved = _matmul.bind(r, _causal(tangent, block, strict=True), block=block)
    return _matmul.bind(moved, r, block=block)


def _congruence_by_r(tangent: Array, s: Array, r: Array, c: Array, *, block: int) -> Array:
    rc = _apply.bind(r, _symmetric(c), strict=0, block=block)
    one_side = _apply.bind(tangent, _transposed(rc), strict=0, block=block)
    return one_side + _transposed(one_side)


def _congruence_by_c(tangent: Array, s: Array, r: Array, c: Array, *, block: int) -> Array:
    rc = _apply.bind(r, _symmetric(tangent), strict=0, block=block)
    return _apply.bind(r, _transposed(rc), strict=0, block=block)


def _symmetric(c: Array) -> Array:
    """The symmetric kernel of which `c` has the lower triangle."""
    return _causal(c, 1) + _transposed(_causal(c, 1, strict=True))


ad.defjvp2(_resolvent, _resolvent_by_a)
ad.defjvp2(_congruence, _congruence_by_r, _congruence_by_c)
