"""STRONG: the ensemble march of a nonlinear network in JAX, as an expert writes it.

One output, square loss, gradient descent. `two_layer` is the march of one hidden layer, which has
no interfaces; `march` that of more, with the algorithm of dmftcore.sampled.interfaces and the same
sources (matched, and orthogonal to the opposite basis). What XLA wants is given to it:

* Fixed shapes. Bases have their final capacity in a stage of the run, and rows that do not exist
  yet are zero. Stages double in length, and their capacities come from an untimed pass (`plan`).
* No branch that writes to a large array: it returns the new rows, or zeros, and these are written
  in place.
* Of triangular points, the products that are not zero and no other.
* No second orthogonalisation but of new columns, which are looked for where inner products say so.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

POOL = 64
#: New columns whose mean square is smaller than this part of the largest wait for the next round.
WELL_CONDITIONED = 1e-6


#: phi, and phi' from h and phi(h).
FUNCTIONS = {
    "tanh": (jnp.tanh, lambda h, phi: 1 - phi**2),
    "relu": (lambda h: jnp.maximum(h, 0), lambda h, phi: jnp.where(h > 0, 1.0, 0.0)),
    "linear": (lambda h: h, lambda h, phi: jnp.ones_like(h)),
}


def matched(key, count, size):
    """Normal columns, orthonormal among each other and to the constant, (count, size)."""
    return made_matched(jax.random.normal(key, (count, size)))


def made_matched(columns):
    """Columns (count, S) made orthonormal among each other and to the constant."""
    rows = jnp.concatenate([jnp.ones((1, columns.shape[1])), columns])
    return orthonormal(orthonormal(rows))[1:]


def orthonormal(rows):
    """Rows made orthonormal, from the first on."""
    factor = jnp.linalg.cholesky(rows @ rows.T / rows.shape[1])
    # A product: a triangular solve with so long right-hand sides takes a hundred times longer.
    return jnp.linalg.inv(factor) @ rows


@partial(jax.jit, static_argnames=("activation", "steps"))
def two_layer(points, targets, a, w, *, activation, lr, gamma, steps):
    """Outputs f - f(0), (steps + 1, P), from the columns a (r0, S) and w (S,).

    Of points[mu, i] what lies beyond i = mu is zero.
    """
    phi, slope = FUNCTIONS[activation]
    count, rank = points.shape
    rate = lr * gamma / count

    # Sums over few terms that are written out fuse with what follows: products of such thin
    # matrices, in either layout, were slower.
    def step(state, _):
        a, w, initial = state
        h = [sum(points[mu, i] * a[i] for i in range(min(mu + 1, rank))) for mu in range(count)]
        values = [phi(one) for one in h]
        f = jnp.stack([jnp.dot(w, value) for value in values]) / (len(w) * gamma)
        initial = jnp.where(jnp.isnan(initial), f, initial)
        errors = rate * (targets - (f - initial))
        g = [e * w * slope(*one) for e, *one in zip(errors, h, values, strict=True)]
        a = tuple(a[i] + sum(points[mu, i] * g[mu] for mu in range(i, count)) for i in range(rank))
        w += sum(errors[mu] * values[mu] for mu in range(count))
        return (a, w, initial), f - initial

    start = (tuple(a), w, jnp.full(count, jnp.nan))
    return lax.scan(step, start, None, length=steps + 1)[1]


@partial(jax.jit, static_argnames=("size", "activation", "steps"))
def two_layer_by_chance(points, targets, key, *, size, activation, lr, gamma, steps):
    """`two_layer` with columns of so many particles drawn from a key."""
    *a, w = matched(key, points.shape[1] + 1, size)
    options = {"activation": activation, "lr": lr, "gamma": gamma, "steps": steps}
    return two_layer(points, targets, tuple(a), w, **options)


# -- several layers ------------------------------------------------------------------------------


def along(rows, x):
    """Inner products of rows (k, S) with x (P, S): in this order the faster."""
    return rows @ x.T / x.shape[1]


def combined(coefficients, rows):
    """Columns of coefficients (k, P) made of rows (k, S), (P, S)."""
    # Transposed before the product, which would do it while it runs, and be slower.
    return lax.optimization_barrier(coefficients.T) @ rows


class Shore(NamedTuple):
    """What an interface keeps on one set of particles: rows of visited columns and of sources."""

    visited: jax.Array  # (capacity + P, S)
    known: jax.Array  # how many
    sources: jax.Array  # (capacity of the other shore + P, S)


class Interface(NamedTuple):
    below: Shore
    above: Shore
    matrix: jax.Array  # (above, below), as many as there are visited columns


class State(NamedTuple):
    a: jax.Array
    w: jax.Array
    interfaces: tuple
    pools: tuple  # (POOL + P, S) of every hidden layer
    pooled: tuple
    key: jax.Array


class Stage(NamedTuple):
    stop: int
    capacity: tuple  # ((below, above), ...) of the interfaces


def empty(points, size, capacity):
    """Interfaces with no columns."""

    def shore(visited, sources):
        return Shore(
            jnp.zeros((visited + points, size)),
            jnp.array(0),
            jnp.zeros((sources + points, size)),
        )

    return tuple(
        Interface(
            shore(below, above),
            shore(above, below),
            jnp.zeros((above + points, below + points)),
        )
        for below, above in capacity
    )


def widen(interfaces, points, size, capacity):
    """Interfaces in the larger arrays of the next stage."""
    return jax.tree.map(
        lambda new, old: lax.dynamic_update_slice(new, old, (0,) * old.ndim),
        empty(points, size, capacity),
        interfaces,
    )


def new_rows(x, coordinates, visited, opposite, pool, key, threshold):
    """Orthonormal rows for what of x is not visited, sources for them, and how many (<= P)."""
    count, size = x.shape
    rest = x - combined(coordinates, visited)
    rest -= combined(along(visited, rest), visited)
    # In principal axes, the largest first.
    values, vectors = jnp.linalg.eigh(rest @ rest.T / size)
    values, vectors = values[::-1], vectors[:, ::-1]
    keep = values > jnp.maximum(threshold, WELL_CONDITIONED * values[0])
    scale = jnp.where(keep, 1 / jnp.sqrt(jnp.where(keep, values, 1.0)), 0.0)
    rows = (scale[:, None] * vectors.T) @ rest
    rows -= combined(along(visited, rows), visited)
    fresh = jax.random.normal(key, (count, size))
    for _ in range(2):
        fresh -= combined(along(pool, fresh), pool)
        fresh -= combined(along(opposite, fresh), opposite)
    for _ in range(2):
        fresh = orthonormal(fresh)
    return rows, jnp.where(keep[:, None], fresh, 0.0), keep.sum()


def visit(source, target, x, pool, pooled, key, tol):
    """Coordinates and responses of the field x (P, S), on shores which may grow by it.

    `pool` is that of the particles of the target.
    """
    count, size = x.shape
    coordinates, response = along(source.visited, x), along(source.sources, x)
    norms = jnp.sum(x * x, axis=1) / size
    threshold = tol * jnp.mean(norms)
    grows = jnp.max(norms - jnp.sum(coordinates**2, axis=0)) > threshold
    none = jnp.zeros_like(x)
    rows, fresh, new = lax.cond(
        grows,
        new_rows,
        lambda *_: (none, none, jnp.array(0)),
        x,
        coordinates,
        source.visited,
        target.visited,
        pool,
        key,
        threshold,
    )
    coordinates = lax.dynamic_update_slice(coordinates, along(rows, x), (source.known, 0))
    room = POOL - pooled
    free = (jnp.arange(count) < room)[:, None]
    pool = lax.dynamic_update_slice(pool, jnp.where(free, fresh, 0.0), (pooled, 0))
    source, target = (
        source._replace(
            visited=lax.dynamic_update_slice(source.visited, rows, (source.known, 0)),
            known=source.known + new,
        ),
        target._replace(sources=lax.dynamic_update_slice(target.sources, fresh, (source.known, 0))),
    )
    return source, target, coordinates, response, pool, pooled + jnp.minimum(new, room)


def step(state, points, targets, initial, *, activation, rate, gamma, tol):
    """The updated state, and the outputs before the update."""
    phi, slope = FUNCTIONS[activation]
    interfaces, pools, pooled = list(state.interfaces), list(state.pools), list(state.pooled)
    size = len(state.w)
    keys = jax.random.split(state.key, 2 * len(interfaces) + 1)
    h, value, features = [points @ state.a], [], []
    for i, one in enumerate(interfaces):
        value.append(phi(h[i]))
        below, above, c, response, pools[i + 1], pooled[i + 1] = visit(
            one.below, one.above, value[i], pools[i + 1], pooled[i + 1], keys[2 * i], tol
        )
        learned = response + one.matrix @ c
        h.append(combined(c, above.sources) + combined(learned, above.visited))
        interfaces[i] = Interface(below, above, one.matrix)
        features.append(c)
    value.append(phi(h[-1]))
    f = value[-1] @ state.w / (size * gamma)
    initial = jnp.where(jnp.isnan(initial), f, initial)
    errors = rate * (targets - (f - initial))
    g = state.w * slope(h[-1], value[-1])
    for i in range(len(interfaces) - 1, -1, -1):
        one = interfaces[i]
        above, below, c, response, pools[i], pooled[i] = visit(
            one.above, one.below, g, pools[i], pooled[i], keys[2 * i + 1], tol
        )
        learned = response + one.matrix.T @ c
        g = slope(h[i], value[i]) * (combined(c, below.sources) + combined(learned, below.visited))
        interfaces[i] = Interface(below, above, one.matrix + (c * errors) @ features[i].T)
    after = State(
        state.a + points.T @ (errors[:, None] * g),
        state.w + errors @ value[-1],
        tuple(interfaces),
        tuple(pools),
        tuple(pooled),
        keys[-1],
    )
    return after, f - initial, initial


@partial(jax.jit, static_argnames=("depth", "size", "activation", "steps", "stages"))
def march(points, targets, key, *, depth, size, activation, lr, gamma, steps, tol, stages):
    """Outputs f - f(0), (steps + 1, P), and how many columns there were after each stage."""
    count, rank = points.shape
    first, last, key = jax.random.split(key, 3)
    one = jnp.ones((1, size))
    a = matched(first, rank, size)
    # Of one hidden layer, a and w would live on the same particles.
    w = matched(last, 1, size)[0]
    empty_pool = jnp.zeros((POOL + count, size))
    pools = [empty_pool.at[:1].set(one) for _ in range(depth)]
    pools[0] = pools[0].at[1 : 1 + rank].set(a)
    pools[-1] = pools[-1].at[1].set(w)
    pooled = [1 + (layer == 0) * rank + (layer == depth - 1) for layer in range(depth)]
    interfaces = empty(count, size, stages[0].capacity)
    state = State(a, w, interfaces, tuple(pools), tuple(map(jnp.array, pooled)), key)
    options = {"activation": activation, "rate": lr * gamma / count, "gamma": gamma, "tol": tol}

    def body(t, carry):
        state, outputs, initial = carry
        state, f, initial = step(state, points, targets, initial, **options)
        return state, lax.dynamic_update_slice(outputs, f[None], (t, 0)), initial

    carry = (state, jnp.zeros((steps + 1, count)), jnp.full(count, jnp.nan))
    begin, counts = 0, []
    for stage in stages:
        state = carry[0]
        wide = widen(state.interfaces, count, size, stage.capacity)
        carry = (state._replace(interfaces=wide), *carry[1:])
        carry = lax.fori_loop(begin, stage.stop, body, carry)
        begin = stage.stop
        counts.append([(one.below.known, one.above.known) for one in carry[0].interfaces])
    return carry[1], counts


def plan(points, targets, key, *, largest=400, margin=1.2, most=3, **options):
    """Stages with capacities just large enough, from a run with `largest` everywhere.

    Other seeds may need a few columns more.
    """
    times = options["steps"] + 1
    stops = [math.ceil(times / 2**i) for i in range(most, -1, -1)]
    wide = ((largest, largest),) * (options["depth"] - 1)
    _, counts = march(points, targets, key, stages=tuple(Stage(s, wide) for s in stops), **options)

    def room(known):
        if int(known) >= largest:
            raise MemoryError(f"{largest} columns or more: raise `largest`")
        return 8 * math.ceil(margin * (int(known) + 1) / 8)

    return tuple(
        Stage(stop, tuple((room(below), room(above)) for below, above in count))
        for stop, count in zip(stops, counts, strict=True)
    )
