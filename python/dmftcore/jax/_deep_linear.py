r"""Deep linear networks as a differentiable function: the hidden chain of `dmftcore.chain` in JAX.

With the errors :math:`\Delta` contracted into every kernel, E[(t,k), mu] = Delta_mu,k(t), and
s2 = init_scale^2, rate = lr / P, g2 = gamma^2, the equations of layers l = 1..L are

    C^l = s2 A^{l-1} + rate strict(H^{l-1})        H^0 = E K E^T,  A^0 = 0
    D^l = s2 B^l     + rate strict(G^{l+1})        G^{L+1} = 1,    B^L = 0
    S = (1 - g2 D^l C^l)^{-1},   A^l = C^l S,   B^{l-1} = S D^l
    G^l = s2 S G^{l+1} S^T + g2 B^{l-1} Q^l,       Q^l = s2 H^{l-1} B^{l-1}^T
    H^l = s2 H^{l-1} + g2 (C^l Q^l^T + Q^l C^l^T + C^l G^l C^l^T)
    f(t) = sum_s (s2 B^0 + rate strict(G^1))(t, s) Delta(s) K

They are marched row by row (Bordelon and Pehlevan 2022, in discrete time). Reverse differentiation
of a march keeps all that was carried; here it keeps the beginnings of about sqrt(steps) stretches
and computes each of them again.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

from dmftcore._validate import integer
from dmftcore.jax._twotime import _arrays, _check_options

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip
from jax import lax  # isort: skip

__all__ = ["deep_linear_loss"]

Array = Any


def deep_linear_loss(
    gram: Array,
    targets: Array,
    *,
    depth: int,
    lr: Array | float,
    gamma: Array | float,
    init_scale: Array | float,
    steps: int,
) -> Array:
    r"""Training losses of an infinitely wide deep linear network, differentiable.

    The losses of ``dmftcore.solve(DeepLinear(depth, gamma, init_scale), Dataset(gram=gram,
    targets=targets), GradientDescent(lr, steps))`` as a function of everything but `depth` and
    `steps`, under ``jit``, ``vmap``, ``grad``, ``jvp``, any number of times.

    Parameters
    ----------
    gram : (P, P) array, float64 or float32
        Symmetric: inputs inputs^T / D.
    targets : (P,) or (P, K) array, same dtype
    depth : int
        Number of hidden layers L >= 1.
    lr, gamma, init_scale : scalars
    steps : int
        Number of updates, >= 0.

    Returns
    -------
    (steps + 1,) array
        Mean over points of (y - f)^2 / 2, summed over outputs, before each update and after the
        last. Where training diverges they become inf and nan: inside JAX nothing can be raised.

    Raises
    ------
    TypeError, ValueError
        An argument is no array of the common dtype, or a shape does not fit.

    Notes
    -----
    26 L (steps K)^3 flops and 32 L (steps K)^2 bytes (float64). Reverse differentiation marches a
    second time, and keeps about 2 sqrt(steps) copies of these bytes.
    """
    gram, targets = _arrays(gram=gram, targets=targets)
    _check_options(depth=depth, steps=steps)
    depth = integer("depth", depth, at_least=1)
    steps = integer("steps", steps, at_least=0)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1] or not len(gram):
        raise ValueError(f"gram must be (P, P) with P >= 1, not {tuple(gram.shape)}")
    if targets.ndim not in (1, 2) or targets.shape[0] != gram.shape[0]:
        raise ValueError(
            f"targets must be ({gram.shape[0]},) or ({gram.shape[0]}, K) for gram of shape "
            f"{tuple(gram.shape)}, not {tuple(targets.shape)}"
        )
    wanted = targets.reshape(len(gram), -1).T
    numbers = {"lr": lr, "gamma": gamma, "init_scale": init_scale}
    eta, strength, scale = (_scalar(name, x, gram.dtype) for name, x in numbers.items())
    rates = Rates(kept=scale**2, learned=eta / len(gram), g2=strength**2)
    return _march(gram, wanted, rates, depth=depth, times=steps + 1)


def _scalar(name: str, value: Any, dtype: Any) -> Array:
    if isinstance(value, str) or jnp.ndim(value):
        found = repr(value) if isinstance(value, str) else f"of shape {jnp.shape(value)}"
        raise ValueError(f"{name} must be a scalar, not {found}; for several use jax.vmap")
    return jnp.asarray(value, dtype)


class Rates(NamedTuple):
    """The numbers of the equations: s2, rate and g2."""

    kept: Array
    learned: Array
    g2: Array


class History(NamedTuple):
    """Kernels over (t, k; s, k') by layer, zero where nothing is known yet."""

    c: Array  # C^1, ..., C^L
    b: Array  # B^0, ..., B^{L-1}
    g: Array  # G^1, ..., G^{L+1}
    h: Array  # H^0, ..., H^{L-1}
    errors: Array  # (times K, P)


@partial(jax.jit, static_argnames=("depth", "times"))
def _march(gram: Array, targets: Array, rates: Rates, *, depth: int, times: int) -> Array:
    """Losses (times,) for targets (K, P)."""
    outputs, points = targets.shape
    length = math.isqrt(times)
    stretches = -(-times // length)
    size = stretches * length * outputs

    def kernels(count: int) -> Array:
        return jnp.zeros((count, size, size), gram.dtype)

    def body(history: History, t: Array) -> tuple[History, Array]:
        return _step(t, history, gram, targets, rates, learning=t < times)

    history = History(
        kernels(depth),
        kernels(depth),
        kernels(depth + 1),
        kernels(depth),
        jnp.zeros((size, points), gram.dtype),
    )
    # A stretch is computed again when its derivative is asked for.
    stretch = jax.checkpoint(partial(lax.scan, body))
    times_of = jnp.arange(stretches * length).reshape(stretches, length)
    _, losses = lax.scan(stretch, history, times_of)
    return losses.reshape(-1)[:times]


def _step(
    t: Array, history: History, gram: Array, targets: Array, rates: Rates, *, learning: Array
) -> tuple[History, Array]:
    """Append the rows of step t: gradients downwards, errors, features upwards.

    The kernels are known up to the step before; what the new rows and columns add to a product is
    the block of column t.
    """
    kept, learned, g2 = rates
    outputs, points = targets.shape
    time = jnp.arange(len(history.errors)) // outputs
    known, earlier = time <= t, time < t
    nothing = jnp.zeros((outputs, len(time)), gram.dtype)

    def response(rows: Array, kernel_rows: Array) -> Array:
        return kept * rows + learned * jnp.where(earlier, kernel_rows, 0)

    def now(block: Array) -> Array:
        return lax.dynamic_update_slice(nothing, block, (0, t * outputs))

    Rows = tuple[Array, Array]

    def downwards(above: Rows, layer: tuple[Array, ...]) -> tuple[Rows, Rows]:
        """Rows of B^{l-1}, G^l from those of B^l, G^{l+1}."""
        (b_above, g_above), (c, b, g, h) = above, layer
        d = response(b_above, g_above)
        b_rows = d + g2 * ((d @ c) @ b)
        bc = g2 * (b_rows @ c)
        sg = kept * (g_above + bc @ g + now(bc @ g_above.T))
        back = sg @ c.T + kept * (b_rows @ h)
        g_rows = jnp.where(known, sg + g2 * (back @ b.T + now(back @ b_rows.T)), 0)
        return (b_rows, g_rows), (b_rows, g_rows)

    def upwards(below: Rows, layer: tuple[Array, ...]) -> tuple[Rows, Rows]:
        """Rows of A^l, H^l from those of A^{l-1}, H^{l-1}; on the way those of C^l."""
        (a_below, h_below), (c, b, g, h) = below, layer
        c_rows = response(a_below, h_below)
        cb = c_rows @ b
        q = kept * (h_below @ b.T) + c_rows @ g
        a_rows = c_rows + g2 * (cb @ c)
        streamed = kept * (h_below + g2 * (cb @ h + now(cb @ h_below.T)))
        h_rows = jnp.where(known, streamed + g2 * (q @ c.T + now(q @ c_rows.T)), 0)
        return (a_rows, h_rows), (c_rows, h_below)

    c, b, g, h, errors = history
    # G^{L+1} = 1 in the outputs.
    top = jnp.where(known, jnp.tile(jnp.eye(outputs, dtype=gram.dtype), len(time) // outputs), 0)
    bottom, (b_rows, g_rows) = lax.scan(downwards, (nothing, top), (c, b, g[1:], h), reverse=True)
    # A step that only fills the last stretch has no errors: it cannot overflow.
    new = jnp.where(learning, targets - response(*bottom) @ errors @ gram, 0)
    errors = lax.dynamic_update_slice(errors, new, (t * outputs, 0))
    start = (nothing, new @ gram @ errors.T)
    _, (c_rows, h_rows) = lax.scan(upwards, start, (c, b, g[:-1], h))

    def with_rows(kernels: Array, rows: Array) -> Array:
        return lax.dynamic_update_slice(kernels, rows, (0, t * outputs, 0))

    def with_cross(kernels: Array, rows: Array) -> Array:
        columns = jnp.swapaxes(rows, 1, 2)
        return lax.dynamic_update_slice(with_rows(kernels, rows), columns, (0, 0, t * outputs))

    g_rows = jnp.concatenate([g_rows, top[None]])
    history = History(
        with_rows(c, c_rows),
        with_rows(b, b_rows),
        with_cross(g, g_rows),
        with_cross(h, h_rows),
        errors,
    )
    return history, jnp.sum(new**2) / (2 * points)
