"""STRONG, second form: the contracted two-time chain in JAX, as an expert writes it.

The algorithm is that of `dmftcore.chain`: every kernel counts steps only, and a row of each is
appended per step. What XLA wants is given to it:

* Fixed shapes, which grow in stages, so that little work is done on zeros; one compiled call.
* Vectors times matrices only: G and H are kept in both triangles.
* No copies: nothing that was read in a step before a row was written is read again without it.
* The ends of the chain, H^0 and G^{L+1}, as the low-rank matrices that they are.
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

    return History(
        zeros(depth), zeros(depth), zeros(depth), zeros(depth - 1), jnp.zeros((size, points))
    )


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
    known, earlier = jnp.arange(size) <= t, jnp.arange(size) < t

    def response(row, kernel_row):
        return row + rate * jnp.where(earlier, kernel_row, 0.0)

    def through_gram(row):
        return errors @ (gram @ (row @ errors))

    # The list index i is layer i + 1 of C and G, and layer i of B; h[i] is layer i + 1.
    b_row = jnp.zeros(size)
    g_row = jnp.where(known, 1.0, 0.0)
    for i in reversed(range(depth)):
        d_row = response(b_row, g_row)
        b_row = d_row + g2 * (d_row @ c[i]) @ b[i]
        b[i] = with_row(b[i], b_row, t)
        bc = g2 * (b_row @ c[i])
        bcg = bc @ g[i + 1] if i + 1 < depth else jnp.sum(bc)
        sg = g_row + bcg
        q = b_row @ h[i - 1] if i else through_gram(b_row)
        g_row = jnp.where(known, sg + g2 * (b[i] @ (c[i] @ sg + q)), 0.0)
        g[i] = with_cross(g[i], g_row, t)
    now = targets - gram @ (response(b_row, g_row) @ errors)

    errors = with_row(errors, now, t)
    h_row = errors @ (gram @ now)
    a_row = jnp.zeros(size)
    for i in range(depth):
        if i:
            h[i - 1] = with_cross(h[i - 1], h_row, t)
        c_row = response(a_row, h_row)
        c[i] = with_row(c[i], c_row, t)
        if i + 1 < depth:
            cb = c_row @ b[i]
            cq = cb @ h[i - 1] if i else through_gram(cb)
            qv = b[i] @ h_row + c_row @ g[i]
            h_row = jnp.where(known, h_row + g2 * (cq + c[i] @ qv), 0.0)
            a_row = c_row + g2 * (cb @ c[i])
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
