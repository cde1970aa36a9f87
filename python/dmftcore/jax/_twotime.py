r"""Operations on two-time kernels as JAX primitives, with their derivatives.

The derivatives are expressed in the same primitives, so that they can be differentiated again.
With :math:`\bar y` the derivative of a scalar by y, and strict(.) without the diagonal (blocks):

    c = a b           dc = da b + a db
    r = (1 - a)^-1    dr = r strict(da) r
    x = (1 - a)^-1 b  dx = (1 - a)^-1 (strict(da) x + db)
    s = r c r^T       s = p r^T + r p^T, p = r l: products, for c = l + l^T with causal l
    y = k g           dy = dk g + k dg

In :math:`\sum_{ij} w_{ij} (a b)_{ij}`, all causal, each of a, b and w meets the causal part of a
product of the others: a b, a^T w, w b^T. The derivatives of one of these are the other two, and
each costs n^3/3 flops.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dmftcore._shapes import (
    check_flags,
    check_functions,
    check_kernels,
    check_right_side,
    transposed_factor,
)
from dmftcore.jax._primitive import primitive

# After the module that says what to do where jax is missing.
import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
from jax.interpreters import ad  # isort: skip

__all__ = ["causal_apply", "causal_matmul", "causal_solve", "congruence", "resolvent"]

Array = Any  # jax.Array, which is Any where jax is not installed


def causal_matmul(a: Array, b: Array, *, transposed: str | None = None, block: int = 1) -> Array:
    """Product of two causal kernels: `dmftcore.twotime.causal_matmul` inside JAX.

    Parameters
    ----------
    a, b : (*batch, n, n) arrays, float64 or float32
    transposed : None, "a" or "b"
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
    beyond its diagonal (blocks), where it is not read. A product costs n^3/3 flops, and so does
    each of its two derivatives in reverse mode.
    """
    a, b = _arrays(a=a, b=b)
    _check_options(transposed=transposed, block=block)
    check_kernels(block, a=a, b=b)
    return _matmul.bind(a, b, transposed=transposed_factor(transposed), block=int(block))


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
    _check_options(dense=dense, block=block)
    check_flags(dense=dense)
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
    _check_options(block=block)
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
    _check_options(block=block)
    check_kernels(block, r=r, c=c)
    return _congruence.bind(r, c, block=int(block))


def causal_apply(
    k: Array, g: Array, strict: bool = True, *, transposed: bool = False, block: int = 1
) -> Array:
    """Causal kernel applied to functions of time: `dmftcore.twotime.causal_apply` inside JAX.

    Parameters
    ----------
    k : (*batch, n, n) array, float64 or float32
    g : (*batch, n, *trailing) array, same dtype
    strict, transposed : bool
    block : int

    Returns
    -------
    array of the shape of `g`

    Errors and derivatives as in `causal_matmul`. Under ``vmap`` over `g` alone, `k` is not copied.
    """
    k, g = _arrays(k=k, g=g)
    _check_options(strict=strict, transposed=transposed, block=block)
    check_flags(strict=strict, transposed=transposed)
    check_kernels(block, k=k)
    check_functions(k, g)
    options = {"strict": int(strict), "transposed": int(transposed), "block": int(block)}
    return _apply.bind(k, g, **options)


def _check_options(**options: Any) -> None:
    """Options choose what is compiled: they are no arrays, which tracing makes of arguments."""
    for name, value in options.items():
        if isinstance(value, jax.Array):
            raise TypeError(
                f"{name} must be known when the call is traced: pass static_argnames={name!r} to "
                "jax.jit, or set it by functools.partial"
            )


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


# Products: bilinear. The rules are the transposes of x -> x b and of x -> a x.

NEITHER, LEFT, RIGHT = range(3)


def _product(a: Array, b: Array, block: int, transposed: int = NEITHER) -> Array:
    return _matmul.bind(a, b, transposed=transposed, block=block)


def _matmul_left(bar: Array, a: Array, b: Array, *, transposed: int, block: int) -> Array:
    if transposed == LEFT:  # a^T b
        return _product(b, bar, block, RIGHT)
    return _product(bar, b, block, NEITHER if transposed == RIGHT else RIGHT)


def _matmul_right(bar: Array, a: Array, b: Array, *, transposed: int, block: int) -> Array:
    if transposed == RIGHT:  # a b^T
        return _product(bar, a, block, LEFT)
    return _product(a, bar, block, NEITHER if transposed == LEFT else LEFT)


def _apply_left(
    bar: Array, k: Array, g: Array, *, strict: int, transposed: int, block: int
) -> Array:
    """The (strictly) causal part of bar g^T, or of g bar^T, summed over the trailing axes."""
    axes = g.ndim - len(k.aval.shape) + 1
    columns = (*g.shape[: g.ndim - axes], int(np.prod(g.shape[g.ndim - axes :])))
    later, earlier = (g, bar) if transposed else (bar, g)
    outer = jnp.matmul(
        later.reshape(columns),
        _transposed(earlier.reshape(columns)),
        precision=jax.lax.Precision.HIGHEST,
    )
    return _causal(outer, block, strict=bool(strict))


def _apply_right(
    bar: Array, k: Array, g: Array, *, strict: int, transposed: int, block: int
) -> Array:
    return _apply.bind(k, bar, strict=strict, transposed=1 - transposed, block=block)


ad.defbilinear(_matmul, _matmul_left, _matmul_right)
ad.defbilinear(_apply, _apply_left, _apply_right)


# Solutions: linear in b.


def _solve_by_a(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    source = _product(_causal(tangent, block, strict=True), x, block)
    return _solve.bind(a, source, block=block)


def _solve_by_b(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    return _solve.bind(a, tangent, block=block)


def _solve_transpose(bar: Array, a: Array, b: Array, *, block: int) -> list[Array]:
    if isinstance(bar, ad.Zero):
        return [None, ad.Zero(b.aval)]
    # The resolvent and this product are 2/3 n^3 flops, a dense solution would be n^3.
    return [None, _product(_resolvent.bind(a, block=block), bar, block, LEFT)]


def _solve_dense_by_a(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    source = _apply.bind(tangent, x, strict=1, transposed=0, block=block)
    return _solve_dense.bind(a, source, block=block)


def _solve_dense_by_b(tangent: Array, x: Array, a: Array, b: Array, *, block: int) -> Array:
    return _solve_dense.bind(a, tangent, block=block)


def _solve_dense_transpose(bar: Array, a: Array, b: Array, *, block: int) -> list[Array]:
    """(1 - a^T)^-1 bar.

    A transposed kernel acts backwards in time: it is solved with as a causal one, its reflection in
    the antidiagonal, for functions of the reversed time.
    """
    if isinstance(bar, ad.Zero):
        return [None, ad.Zero(b.aval)]
    time = bar.ndim - 2
    reflected = jnp.flip(_transposed(a), (time, time + 1))
    solved = _solve_dense.bind(reflected, jnp.flip(bar, time), block=block)
    return [None, jnp.flip(solved, time)]


ad.defjvp2(_solve, _solve_by_a, _solve_by_b)
ad.primitive_transposes[_solve] = _solve_transpose
ad.defjvp2(_solve_dense, _solve_dense_by_a, _solve_dense_by_b)
ad.primitive_transposes[_solve_dense] = _solve_dense_transpose


# Functions that are not linear: their derivatives are made of products, and so is the transpose.


def _resolvent_by_a(tangent: Array, r: Array, a: Array, *, block: int) -> Array:
    return _product(_product(r, _causal(tangent, block, strict=True), block), r, block)


def _congruence_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array], *, block: int
) -> tuple[Array, Array]:
    (r, c), (dr, dc) = primals, tangents
    half = _half(c)
    p, dp, terms = _product(r, half, block), [], []
    if not isinstance(dr, ad.Zero):
        dp.append(_product(dr, half, block))
        terms += [_product(p, dr, block, RIGHT), _product(dr, p, block, RIGHT)]
    if not isinstance(dc, ad.Zero):
        dp.append(_product(r, _half(dc), block))
    for x, y in ((sum(dp), r), (r, sum(dp))):
        terms.append(_product(x, y, block, RIGHT))
    ds = sum(terms)
    return _congruence.bind(r, c, block=block), _causal(ds, 1) + _transposed(
        _causal(ds, 1, strict=True)
    )


def _half(c: Array) -> Array:
    """The causal l of which the symmetric kernel, given by its lower triangle, is l + l^T."""
    time = jnp.arange(c.shape[-1])
    return _causal(c, 1) * jnp.where(time[:, None] == time, 0.5, 1.0).astype(c.dtype)


ad.defjvp2(_resolvent, _resolvent_by_a)
ad.primitive_jvps[_congruence] = _congruence_jvp
