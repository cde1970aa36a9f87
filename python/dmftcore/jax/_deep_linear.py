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
from dmftcore.jax._twotime import _arrays

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
    About 22 L (steps K)^3 flops and 32 L (steps K)^2 bytes (float64). A gradient costs about five
    times as much, and memory for 2 sqrt(steps) copies.
    """
    gram, targets = _arrays(gram=gram, targets=targets)
    depth = integer("depth", depth, at_least=1)
    steps = integer("steps", steps, at_least=0)
    if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
        raise ValueError(f"gram must be (P, P), not {tuple(gram.shape)}")
    if targets.ndim not in (1, 2) or targets.shape[0] != gram.shape[0]:
        raise ValueError(
            f"targets must be ({gram.shape[0]},) or ({gram.shape[0]}, K) for gram of shape "
            f"{tuple(gram.shape)}, not {tuple(targets.shape)}"
        )
    wanted = targets.reshape(len(gram), -1).T
    rates = Rates(
        kept=jnp.asarray(init_scale, gram.dtype) ** 2,
        learned=jnp.asarray(lr, gram.dtype) / len(gram),
        g2=jnp.asarray(gamma, gram.dtype) ** 2,
    )
    return _march(gram, wanted, rates, depth=depth, times=steps + 1)


class Rates(NamedTuple):
    """The numbers of the equations: s2, rate and g2."""

    kept: Array
    learned: Array
    g2: Array


class History(NamedTuple):
    """Kernels over (t, k; s, k'), zero where nothing is known yet."""

    c: tuple[Array, ...]  # C^1, ..., C^L
    b: tuple[Array, ...]  # B^0, ..., B^{L-1}
    g: tuple[Array, ...]  # G^1, ..., G^L
    h: tuple[Array, ...]  # H^1, ..., H^{L-1}
    errors: Array  # (times K, P)


@partial(jax.jit, static_argnames=("depth", "times"))
def _march(gram: Array, targets: Array, rates: Rates, *, depth: int, times: int) -> Array:
    """Losses (times,) for targets (K, P)."""
    outputs, points = targets.shape
    size = times * outputs

    def kernels(count: int) -> tuple[Array, ...]:
        return tuple(jnp.zeros((size, size), gram.dtype) for _ in range(count))

    def body(history: History, t: Array) -> tuple[History, Array]:
        return _step(t, history, gram, targets, rates)

    def stretch(history: History, some_times: Array) -> tuple[History, Array]:
        return lax.scan(body, history, some_times)

    # A stretch is computed again when its derivative is asked for.
    again = jax.checkpoint(stretch)
    length = max(1, math.isqrt(times))
    whole = times // length * length
    history = History(
        kernels(depth),
        kernels(depth),
        kernels(depth),
        kernels(depth - 1),
        jnp.zeros((size, points), gram.dtype),
    )
    history, losses = lax.scan(again, history, jnp.arange(whole).reshape(-1, length))
    _, rest = again(history, jnp.arange(whole, times))
    return jnp.concatenate([losses.reshape(-1), rest])


def _step(
    t: Array, history: History, gram: Array, targets: Array, rates: Rates
) -> tuple[History, Array]:
    """Append the rows of step t: gradients downwards, errors, features upwards."""
    c, b, g, h = (list(kernels) for kernels in history[:-1])
    errors = history.errors
    kept, learned, g2 = rates
    depth, outputs = len(c), len(targets)
    time = jnp.arange(len(errors)) // outputs
    known, earlier = time <= t, time < t

    def response(rows: Array, kernel_rows: Array) -> Array:
        return kept * rows + learned * jnp.where(earlier, kernel_rows, 0)

    def with_rows(kernel: Array, rows: Array) -> Array:
        return lax.dynamic_update_slice(kernel, rows, (t * outputs, 0))

    def with_cross(kernel: Array, rows: Array) -> Array:
        return lax.dynamic_update_slice(with_rows(kernel, rows), rows.T, (0, t * outputs))

    def through_h(rows: Array, layer: int) -> Array:
        """Rows times H^layer, where H^0 = E K E^T has a low rank."""
        if layer:
            return rows @ h[layer - 1]
        return (rows @ errors @ gram) @ errors.T

    def through_g(rows: Array, layer: int) -> Array:
        """Rows times the G above a layer of the list, of which G^{L+1} adds up over time."""
        if layer + 1 < depth:
            return rows @ g[layer + 1]
        return rows.reshape(outputs, -1, outputs).sum(axis=1) @ top

    # G^{L+1} = 1 in the outputs.
    top = jnp.tile(jnp.eye(outputs, dtype=gram.dtype), len(errors) // outputs)
    b_rows, g_rows = jnp.zeros_like(top), jnp.where(known, top, 0)
    # The list index i is layer i + 1 of C, G, and layer i of B.
    for i in reversed(range(depth)):
        d_rows = response(b_rows, g_rows)
        b_rows = d_rows + g2 * ((d_rows @ c[i]) @ b[i])
        b[i] = with_rows(b[i], b_rows)
        bc = g2 * (b_rows @ c[i])
        sg = kept * (g_rows + through_g(bc, i))
        back = sg @ c[i].T + kept * through_h(b_rows, i)
        g_rows = jnp.where(known, sg + g2 * (back @ b[i].T), 0)
        g[i] = with_cross(g[i], g_rows)

    now = targets - response(b_rows, g_rows) @ errors @ gram
    errors = with_rows(errors, now)
    h_rows, a_rows = now @ gram @ errors.T, jnp.zeros_like(top)
    for i in range(depth):
        if i:
            h[i - 1] = with_cross(h[i - 1], h_rows)
        c_rows = response(a_rows, h_rows)
        c[i] = with_rows(c[i], c_rows)
        if i + 1 < depth:
            cb = c_rows @ b[i]
            q = kept * (h_rows @ b[i].T) + c_rows @ g[i]
            a_rows = c_rows + g2 * (cb @ c[i])
            new = kept * (h_rows + g2 * through_h(cb, i)) + g2 * (q @ c[i].T)
            h_rows = jnp.where(known, new, 0)
    loss = jnp.sum(now**2) / (2 * len(gram))
    return History(tuple(c), tuple(b), tuple(g), tuple(h), errors), loss
