"""STRONG, second form: the contracted two-time chain in JAX, as an expert writes it.

The algorithm is that of `dmftcore.chain`: every kernel counts steps only, and a row of each is
appended per step, G and H in both triangles. What XLA wants is given to it: one compiled call;
fixed shapes, growing in stages, so that little work is done on zeros; every history is written
either before it is read in a step or after, so that all of them are updated in place; the ends of
the chain, H^0 and G^{L+1}, are kept as the low-rank matrices that they are.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class History(NamedTuple):
    """Kernels over (t, s), zero where nothing is known yet."""

    c: tuple  # C^l, l = 1..L
    b: tuple  # B^{l-1}
    g: tuple  # G^l
    h: tuple  # H^l, l = 1..L-1
    errors: jax.Array  # (steps, P)


def empty(depth, size, points):
    def zeros(count):
        return tuple(jnp.zeros((size, size)) for _ in range(count))

    return History(zeros(depth), zeros(depth), zeros(depth), zeros(depth - 1), jnp.zeros((size, points)))


def with_row(kernel, row, t):
    return lax.dynamic_update_slice(kernel, row[None], (t, 0))


def with_cross(kernel, row, t):
    """A symmetric kernel with a new row and column."""
    return lax.dynamic_update_slice(with_row(kernel, row, t), row[:, None], (0, t))


def step(t, history, gram, targets, rate, g2):
    """Append the rows of step t."""
    c, b, g, h = map(list, history[:-1])
    errors = history.errors
    depth, size = len(c), len(errors)
    times = jnp.arange(size)
    known, strict = times <= t, times < t

    d = jnp.zeros(size)
    g_row = jnp.where(known, 1.0, 0.0)
    for i in reversed(range(depth)):
        d = d + rate * jnp.where(strict, g_row, 0.0)
        b_row = d + g2 * (d @ c[i]) @ b[i]
        b[i] = with_row(b[i], b_row, t)
        bc = g2 * (b_row @ c[i])
        through_g = bc @ g[i + 1] if i + 1 < depth else jnp.sum(bc)
        sg = jnp.where(known, g_row + through_g, 0.0)
        through_h = b_row @ h[i - 1] if i else errors @ (gram @ (b_row @ errors))
        g_row = sg + g2 * (b[i] @ (c[i] @ sg + through_h))
        g_row = jnp.where(known, g_row, 0.0)
        g[i] = with_cross(g[i], g_row, t)
        d = b_row
    d = d + rate * jnp.where(strict, g_row, 0.0)

    now = targets - gram @ (d @ errors)
    errors = with_row(errors, now, t)
    h_row = errors @ (gram @ now)
    a = jnp.zeros(size)
    for i in range(depth):
        if i:
            h[i - 1] = with_cross(h[i - 1], h_row, t)
        c_row = a + rate * jnp.where(strict, h_row, 0.0)
        c[i] = with_row(c[i], c_row, t)
        if i + 1 < depth:
            cb = c_row @ b[i]
            through_h = cb @ h[i - 1] if i else errors @ (gram @ (cb @ errors))
            qv = b[i] @ h_row + c_row @ g[i]
            h_row = jnp.where(known, h_row + g2 * (through_h + c[i] @ qv), 0.0)
            a = c_row + g2 * (cb @ c[i])
    return History(tuple(c), tuple(b), tuple(g), tuple(h), errors)


@partial(jax.jit, static_argnames=("depth", "sizes"))
def run(gram, targets, *, depth, lr, gamma, sizes):
    """Errors (T, P); `sizes` are the ends of the stages, the last of them T."""
    points = len(targets)
    history = empty(depth, 0, points)
    begin = 0
    for size in sizes:
        history = jax.tree.map(
            lambda new, old: lax.dynamic_update_slice(new, old, (0,) * old.ndim),
            empty(depth, size, points),
            history,
        )
        history = lax.fori_loop(
            begin,
            size,
            lambda t, history: step(t, history, gram, targets, lr / points, gamma**2),
            history,
        )
        begin = size
    return history.errors
