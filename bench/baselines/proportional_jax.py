"""STRONG: the march of deep linear networks on random data in JAX, as an expert writes it.

The algorithm is that of `dmftcore.limits.proportional` with `GradientDescent`: every kernel counts
steps only, and a row of each is appended per step. What XLA wants is given to it:

* Fixed shapes, which grow in stages, so that little work is done on zeros; one compiled call.
* Vectors times matrices, symmetric ones in both triangles, and all modes in one batched product.
* The histories M_k of all the modes, which are most of the work, as a staircase: the rows of a
  stage with the columns known at its end. It has half the elements, and nothing is copied as it
  grows. (Ours keeps none of them where there are many modes, and has fewer points than modes.)
* No copies: nothing that was read in a step before a row was written is read again without it.

Sums over the modes may be Gauss sums over fewer points, one rule for the whole run, as in ours;
with all modes as points it is the program that most would write.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Constants(NamedTuple):
    """The problem; see `dmftcore.random_data`."""

    values: jax.Array  # lambda_k of the points, for the weights w_k
    weights: jax.Array
    target_values: jax.Array  # those for the weights w_k beta2_k
    target_weights: jax.Array
    alpha: float
    nu: float
    kap: float
    noise2: float
    lr: float


class History(NamedTuple):
    """Kernels over (t, s), zero where nothing is known yet."""

    c: tuple  # C^l, l = 1..L
    b: tuple  # B^{l-1}
    g: tuple  # G^l
    h: tuple  # H^{l-1}; H^0 is Cv
    e: jax.Array
    rd: jax.Array
    x: jax.Array
    f: jax.Array
    drawn: jax.Array  # E CD E^T / alpha
    cp: jax.Array
    y: jax.Array
    cd: jax.Array
    curves: jax.Array  # (steps, 3)
    reach: jax.Array  # r_k = M_k 1 of the points of the target, (steps, points)


def empty(depth, size, points):
    def zeros(count):
        return tuple(jnp.zeros((size, size)) for _ in range(count))

    flat = jnp.zeros((size, 3)), jnp.zeros((size, points))
    return History(*(zeros(depth) for _ in range(4)), *zeros(8), *flat)


def with_row(kernel, row, t):
    return lax.dynamic_update_slice(kernel, row[None], (t, 0))


def with_cross(kernel, row, t):
    """A symmetric kernel with a new row and column."""
    return lax.dynamic_update_slice(with_row(kernel, row, t), row[:, None], (0, t))


def times_modes(rows, m):
    """Rows (K, n) times the staircase of M_k, over the rows of the staircase."""
    product = jnp.zeros((len(rows), m[-1].shape[2]))
    begin = 0
    for block in m:
        end = begin + block.shape[1]
        product = product.at[:, :end].add(jnp.einsum("ki,kij->kj", rows[:, begin:end], block))
        begin = end
    return product


def times_modes_transposed(rows, m):
    parts = [jnp.einsum("kj,kij->ki", rows[:, : block.shape[2]], block) for block in m]
    return jnp.concatenate(parts, axis=1)


def step(t, state, done, begin, p):
    """Append the rows of step t; `done` are the blocks of M of earlier stages."""
    history, block = state
    c, b, g, h = map(list, history[:4])
    depth, size = len(c), len(history.e)
    known, earlier = jnp.arange(size) <= t, jnp.arange(size) < t
    feedback = jnp.sqrt(p.nu) / p.kap
    rate = p.lr / feedback

    def response(row, kernel_row):
        return row + rate * jnp.where(earlier, kernel_row, 0.0)

    # The list index i is layer i + 1 of C and G, and layer i of B and H.
    b_row = jnp.zeros(size)
    g_row = jnp.where(known, 1.0, 0.0)
    for i in reversed(range(depth)):
        d_row = response(b_row, g_row)
        b_row = d_row + (d_row @ c[i]) @ b[i]
        b[i] = with_row(b[i], b_row, t)
        bc = b_row @ c[i]
        sg = g_row + (bc @ g[i + 1] if i + 1 < depth else jnp.sum(bc))
        g_row = jnp.where(known, sg + b[i] @ (c[i] @ sg + b_row @ h[i]), 0.0)
        g[i] = with_cross(g[i], g_row, t)

    # The data.
    e_row = feedback * response(b_row, g_row)
    e = with_row(history.e, e_row, t)
    drawn = with_cross(history.drawn, e @ (e_row @ history.cd) / p.alpha, t)
    k_row = e_row @ history.rd
    reach_row = 1 - p.target_values * (k_row @ history.reach)
    reach = with_row(history.reach, reach_row, t)
    m_rows = times_modes(-p.values[:, None] * k_row, (*done, block))
    m_rows = lax.dynamic_update_slice(m_rows, jnp.ones((len(m_rows), 1)), (0, t))
    block = lax.dynamic_update_slice(block, m_rows[:, None], (0, t - begin, 0))
    inner = m_rows @ g[0] / p.kap**2 + p.values[:, None] * (m_rows @ drawn)
    moments = p.weights * jnp.stack([p.values, p.values**2])
    of_target = p.target_weights * jnp.stack([p.target_values, p.target_values**2])
    learned = (of_target * reach_row) @ reach.T
    cp_row, y_row = moments @ times_modes_transposed(inner, (*done, block)) + learned
    first, second = moments @ m_rows
    cp, y = with_cross(history.cp, cp_row, t), with_cross(history.y, y_row, t)
    x = with_row(history.x, second @ e, t)
    rd_row = (-(first @ e) / p.alpha) @ history.rd
    rd_row = lax.dynamic_update_slice(rd_row, jnp.ones(1), (t,))
    rd = with_row(history.rd, rd_row, t)
    cd_row = rd @ (rd_row @ cp + p.noise2 * rd_row.sum())
    cd = with_cross(history.cd, cd_row, t)
    f_row = rd_row @ x
    f = with_row(history.f, f_row, t)
    mean = moments[0].sum()
    h_row = (mean * cd_row - f_row @ cd - f @ cd_row) / p.alpha + rd @ (rd_row @ y)
    a_row = (f_row @ rd - mean * rd_row) / (p.kap * jnp.sqrt(p.nu))
    overlap = p.target_weights @ (1 - reach_row)
    curves = with_row(history.curves, jnp.stack([cp_row[t], cd_row[t], overlap]), t)

    for i in range(depth):
        h[i] = with_cross(h[i], h_row, t)
        c_row = response(a_row, h_row)
        c[i] = with_row(c[i], c_row, t)
        if i + 1 < depth:
            cb = c_row @ b[i]
            qv = b[i] @ h_row + c_row @ g[i]
            h_row = jnp.where(known, h_row + cb @ h[i] + c[i] @ qv, 0.0)
            a_row = c_row + cb @ c[i]
    kernels = map(tuple, (c, b, g, h))
    return History(*kernels, e, rd, x, f, drawn, cp, y, cd, curves, reach), block


@partial(jax.jit, static_argnames=("depth", "sizes"))
def run(constants, *, depth, sizes):
    """Cp(t,t), CD(t,t) and overlap, (T, 3); `sizes` are the ends of the stages, the last T."""
    points = len(constants.target_values)
    history, done, begin = empty(depth, 0, points), (), 0
    for size in sizes:
        history = jax.tree.map(
            lambda new, old: lax.dynamic_update_slice(new, old, (0,) * old.ndim),
            empty(depth, size, points),
            history,
        )
        history, block = lax.fori_loop(
            begin,
            size,
            partial(
                lambda t, state, done, begin: step(t, state, done, begin, constants),
                done=done,
                begin=begin,
            ),
            (history, jnp.zeros((len(constants.values), size - begin, size))),
        )
        done, begin = (*done, block), size
    return history.curves
