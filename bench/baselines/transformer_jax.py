"""STRONG: the march of a residual transformer in JAX, as an expert writes it.

The algorithm is that of `dmftcore.chain.transformer` with plain gradient descent, one output and
softmax attention: rows and columns count (step, token), and the M rows of a step are appended to
every kernel. What XLA wants is given to it:

* Fixed shapes, which grow in stages, so that little work is done on zeros; one compiled call.
* Rows times whole matrices, symmetric ones in both triangles.
* All layers in one program, without a loop over them, so that independent products can overlap.
* No copies: nothing that was read in a step before a row was written is read again without it.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Constants(NamedTuple):
    """The problem."""

    gram: jax.Array  # (M, M)
    targets: jax.Array  # (P,)
    rate: float  # lr gamma / P
    gamma: float
    beta: float
    kappa: float


class Meeting(NamedTuple):
    """Two sides: h = hhat + Z g, g = ghat + Y h."""

    hhat: jax.Array
    ghat: jax.Array
    z: jax.Array
    b: jax.Array
    g: jax.Array


class Block(NamedTuple):
    """What is between two layers; Z, B and G of both meetings, whose covariances are elsewhere."""

    keys: tuple
    values: tuple
    c: jax.Array
    o: jax.Array
    d: jax.Array
    p: jax.Array
    v: jax.Array
    u: jax.Array
    attention: jax.Array  # (T, P, S, S)
    gradients: jax.Array


def empty(depth, steps, tokens, positions):
    n = steps * tokens
    blocks = (steps, tokens // positions, positions, positions)

    def zeros(count):
        return tuple(jnp.zeros((n, n)) for _ in range(count))

    return (
        tuple(Meeting(*zeros(5)) for _ in range(depth + 1)),
        zeros(depth + 1),  # H
        tuple(
            Block(zeros(3), zeros(3), *zeros(6), jnp.zeros(blocks), jnp.zeros(blocks))
            for _ in range(depth)
        ),
        jnp.zeros(n),  # rate Delta, by column
        jnp.zeros((steps, tokens // positions)),  # outputs
    )


def with_rows(kernel, rows, at):
    return lax.dynamic_update_slice(kernel, rows, (at, 0))


def with_cross(kernel, rows, at):
    """A symmetric kernel with new rows and columns."""
    return lax.dynamic_update_slice(with_rows(kernel, rows, at), rows.T, (0, at))


def lower(meeting, z, hhat, at):
    """The meeting with rows of Z; rows of H and A."""
    meeting = meeting._replace(z=with_rows(meeting.z, z, at))
    zb = z @ meeting.b
    qv = hhat @ meeting.b.T + z @ meeting.g
    h = hhat + zb @ meeting.hhat + qv @ meeting.z.T
    return meeting, h, z + zb @ meeting.z


def upper(meeting, y, ghat, at):
    """The meeting with rows of B and G, and these."""
    g, b, history = link(y, ghat, meeting.ghat, meeting.z, meeting.hhat, meeting.b, at)
    return meeting._replace(b=history, g=with_cross(meeting.g, g, at)), g, b


def link(y, c, c_history, z, m, r, at):
    """Rows of S C S^T + R M R^T and of R, and the history of R."""
    row = y + (y @ z) @ r
    r = with_rows(r, row, at)
    sc = c + (row @ z) @ c_history
    return sc + (sc @ z.T + row @ m) @ r.T, row, r


def across(meeting, g, b, hhat, z):
    return b @ hhat.T + g @ z.T


def times(rows, blocks):
    """Rows (M, n) times a block diagonal matrix."""
    steps, p, s = blocks.shape[:3]
    by_block = rows.reshape(len(rows), steps * p, s)
    return jnp.einsum("mbi,bij->mbj", by_block, blocks.reshape(-1, s, s)).reshape(rows.shape)


def mapped(blocks, rows):
    p, s = blocks.shape[:2]
    return (blocks @ rows.reshape(p, s, -1)).reshape(rows.shape)


def within(matrix, p, s):
    each = jnp.arange(p)
    return matrix.reshape(p, s, p, s)[each, :, each]


def swapped(blocks):
    return blocks.swapaxes(-1, -2)


def step(t, state, p):
    """Append the rows of step t."""
    meetings, hs, blocks, learned, outputs = state
    meetings, hs, blocks = list(meetings), list(hs), list(blocks)
    depth, tokens, sequences = len(blocks), len(p.gram), outputs.shape[1]
    positions, n, at = tokens // sequences, len(learned), t * len(p.gram)
    known = jnp.arange(n) < at + tokens

    hhat = jnp.where(known, jnp.tile(p.gram, (1, n // tokens)), 0.0)
    z = hhat * learned
    rows = []
    for i in range(depth + 1):
        meetings[i] = meetings[i]._replace(hhat=with_cross(meetings[i].hhat, hhat, at))
        meetings[i], h, a = lower(meetings[i], z, hhat, at)
        hs[i] = with_cross(hs[i], h, at)
        top_rows = (hhat, z)
        if i == depth:
            break
        block = blocks[i]
        memory = a + p.kappa * h * learned
        keys = Meeting(hs[i], hs[i], *block.keys)
        j = block.gradients
        x = times(memory, swapped(j))
        keys, kk, rk = lower(keys, x, h, at)
        keys, qq, rq = upper(keys, times(memory, j), h, at)
        s = jax.nn.softmax(within(across(keys, qq, rq, h, x), sequences, positions), axis=-1)
        attention = lax.dynamic_update_slice(block.attention, s[None], (t, 0, 0, 0))
        x = p.beta * times(memory, swapped(attention))
        values = Meeting(hs[i], meetings[i + 1].g, *block.values)
        values, vv, rv = lower(values, x, h, at)
        oo, ro = mapped(s, times(vv, swapped(attention))), mapped(s, rv)
        added = p.beta * (ro + p.beta * p.kappa * oo * learned)
        carried, v, v_history = link(z, hhat, meetings[i].hhat, block.d, block.p, block.v, at)
        blocks[i] = block._replace(
            keys=keys[2:],
            values=values[2:],
            c=with_rows(block.c, added, at),
            o=with_cross(block.o, p.beta**2 * oo, at),
            v=v_history,
            attention=attention,
        )
        rows.append((kk, rk, qq, rq, h, x))
        z, hhat = added + v, p.beta**2 * oo + carried

    ghat = jnp.where(known, jnp.full((tokens, n), 1 / positions**2), 0.0)
    y = ghat * learned
    meetings[depth] = meetings[depth]._replace(ghat=with_cross(meetings[depth].ghat, ghat, at))
    meetings[depth], g, b = upper(meetings[depth], y, ghat, at)
    f = across(meetings[depth], g, b, *top_rows)[0].reshape(sequences, positions).sum(1) / p.gamma
    outputs = with_rows(outputs, f[None], t)
    for i in reversed(range(depth)):
        block = blocks[i]
        kk, rk, qq, rq, h, x = rows[i]
        memory = p.beta * (b + p.kappa * learned * g)
        values = Meeting(hs[i], meetings[i + 1].g, *block.values)
        attention = block.attention
        values, xx, rx = upper(values, times(memory, attention), g, at)
        weights = p.beta * within(across(values, xx, rx, h, x), sequences, positions)
        s = lax.dynamic_index_in_dim(attention, t, keepdims=False)
        now = s * (weights - (s * weights).sum(-1, keepdims=True))
        j = lax.dynamic_update_slice(block.gradients, now[None], (t, 0, 0, 0))
        noise = (
            mapped(swapped(now), times(qq, j))
            + mapped(now, times(kk, swapped(j)))
            + p.beta**2 * mapped(swapped(s), times(xx, attention))
        )
        response = mapped(swapped(now), rq) + mapped(now, rk) + p.beta * mapped(swapped(s), rx)
        added = response + p.kappa * noise * learned
        carried, u, u_history = link(y, ghat, meetings[i + 1].ghat, block.c, block.o, block.u, at)
        blocks[i] = block._replace(
            values=values[2:],
            d=with_rows(block.d, added, at),
            p=with_cross(block.p, noise, at),
            u=u_history,
            gradients=j,
        )
        y, ghat = added + u, noise + carried
        meetings[i] = meetings[i]._replace(ghat=with_cross(meetings[i].ghat, ghat, at))
        meetings[i], g, b = upper(meetings[i], y, ghat, at)

    new = p.rate * jnp.repeat(p.targets - f, positions)
    learned = lax.dynamic_update_slice(learned, new, (at,))
    return tuple(meetings), tuple(hs), tuple(blocks), learned, outputs


@partial(jax.jit, static_argnames=("depth", "positions", "sizes"))
def run(constants, *, depth, positions, sizes):
    """Outputs (T, P); `sizes` are the ends of the stages, the last T."""
    tokens, begin = len(constants.gram), 0
    state = empty(depth, 0, tokens, positions)
    for size in sizes:
        state = jax.tree.map(
            lambda new, old: lax.dynamic_update_slice(new, old, (0,) * old.ndim),
            empty(depth, size, tokens, positions),
            state,
        )
        state = lax.fori_loop(begin, size, partial(step, p=constants), state)
        begin = size
    return state[-1]
