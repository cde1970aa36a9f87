"""STRONG, first form: the growing network in JAX, as an expert writes it.

The algorithm is that of csrc/cpu/growing.hpp. What XLA wants is given to it:

* Fixed shapes. A layer has its final capacity in a stage of the run; coordinates of neurons that
  do not exist yet are zero and stay zero. Stages double in length, and their capacities come from
  an untimed pass (`plan`), so that little work is done on zeros.
* No branch that writes. A direction that is not needed is written as zeros into the row that the
  next one will take.
* Few checks: after a step that looks for new directions come steps that do not, up to the next
  that is due, in an inner loop through which the bases pass untouched.
* Weights and bases that are updated in place. What a step changes is applied at the start of the
  next one, before anything reads them: XLA would otherwise copy all of them in every step.
  (Rank-one updates collected over 4 to 32 steps were slower, and so were sums of products in place
  of matrix-vector products.)
* One compiled call for the whole run.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

LONGEST_GAP = 64
#: Capacities are multiples of the lanes of a vector register.
LANES = 8


class Basis(NamedTuple):
    """Visited directions of a map, one row each.

    The last direction found, or zeros, still has to be written to row `count`. Directions are
    looked for at steps that lie `gap` apart, `due` is the next one.
    """

    rows: jax.Array
    count: jax.Array
    last: jax.Array
    largest: jax.Array  # norm seen
    gap: jax.Array
    due: jax.Array


class State(NamedTuple):
    weights: tuple  # W[l] (n[l+1], n[l]), l = 0..L-1
    features: tuple  # h^l (n[l]) of the step before, l = 0..L-1: the weights lack rate g^{l+1} h^l
    gradients: tuple  # g^l (n[l]) of the step before, l = 1..L
    readout: jax.Array
    neurons: tuple  # n[1..L]
    forward: tuple  # Basis of W[l], l = 0..L-1
    backward: tuple  # Basis of W[l]^T, l = 1..L-1


class Modes(NamedTuple):
    """The data in the eigenbasis of the Gram matrix."""

    scales: jax.Array  # square roots of the eigenvalues
    targets: jax.Array
    gamma: float

    def errors(self, predictor):
        return self.targets - self.scales * predictor / self.gamma


class Capacity(NamedTuple):
    """Largest neurons of layers 1..L, forward directions, backward directions."""

    neurons: tuple
    forward: tuple
    backward: tuple


class Stage(NamedTuple):
    stop: int
    capacity: Capacity


def empty(points, depth, capacity):
    """No neuron but one of the readout."""
    n = (points, *capacity.neurons)

    def basis(rows, columns):
        return Basis(
            rows=jnp.zeros((rows, columns)),
            count=jnp.array(0),
            last=jnp.zeros(columns),
            largest=jnp.array(0.0),
            gap=jnp.array(1),
            due=jnp.array(0),
        )

    return State(
        weights=tuple(jnp.zeros((n[link + 1], n[link])) for link in range(depth)),
        features=tuple(map(jnp.zeros, n[:-1])),
        gradients=tuple(map(jnp.zeros, n[1:])),
        readout=jnp.zeros(n[depth]).at[0].set(1.0),
        neurons=tuple(jnp.array(int(layer == depth)) for layer in range(1, depth + 1)),
        forward=tuple(basis(capacity.forward[link], n[link]) for link in range(depth)),
        backward=tuple(basis(capacity.backward[link - 1], n[link + 1]) for link in range(1, depth)),
    )


def widen(state, points, depth, capacity):
    """The state in the larger arrays of the next stage."""
    return jax.tree.map(
        lambda new, old: lax.dynamic_update_slice(new, old, (0,) * old.ndim),
        empty(points, depth, capacity),
        state,
    )


def norm_floor(tol):
    """As in dmftcore: vectors count for at least this multiple of the largest of their kind."""
    return jnp.maximum(1e-10, jnp.finfo(jnp.float64).eps / tol)


def visit(basis, x, t, tol):
    """The basis with the unvisited direction of x, if it is due; whether there is one."""
    rows = lax.dynamic_update_slice(basis.rows, basis.last[None], (basis.count, 0))
    count = basis.count + jnp.any(basis.last != 0)

    def look(rows, x, largest, gap):
        size = jnp.linalg.norm(x)
        largest = jnp.maximum(largest, size)
        threshold = tol * jnp.maximum(size, norm_floor(tol) * largest)
        rest = x - (rows @ x) @ rows
        rest = lax.cond(
            jnp.linalg.norm(rest) > threshold,
            lambda rows, rest: rest - (rows @ rest) @ rows,
            lambda rows, rest: rest,
            rows,
            rest,
        )
        left = jnp.linalg.norm(rest)
        new = left > threshold
        gap = jnp.where(
            left > 2 * threshold,
            1,
            jnp.where(new, jnp.maximum(1, gap // 2), jnp.minimum(LONGEST_GAP, gap + 1)),
        )
        return jnp.where(new, rest / left, 0.0), new, largest, gap, t + gap

    def skip(rows, x, largest, gap):
        return jnp.zeros_like(x), False, largest, gap, basis.due

    last, new, largest, gap, due = lax.cond(
        t >= basis.due, look, skip, rows, x, basis.largest, basis.gap
    )
    return Basis(rows, count, last, largest, gap, due), new


def updated(state, rate):
    """The weights after gradient descent, W += a g h^T."""
    return [
        w + (rate * g)[:, None] * h
        for w, g, h in zip(state.weights, state.gradients, state.features, strict=True)
    ]


def checked_step(state, t, data, rate, tol):
    """A step at which some basis looks for a new direction: the state and the errors."""
    depth = len(state.weights)
    weights, neurons = updated(state, rate), list(state.neurons)
    forward, backward = list(state.forward), list(state.backward)
    g = [None] * depth + [state.readout]
    # neurons[i] counts layer i + 1, and backward[i] is the basis of link i + 1.
    for link in range(depth - 1, 0, -1):
        backward[link - 1], new = visit(backward[link - 1], g[link + 1], t, tol)
        # As a sum, which fuses with the update: a slice written here would be slower.
        new_neuron = jnp.arange(weights[link].shape[1]) == neurons[link - 1]
        weights[link] += jnp.where(new_neuron, backward[link - 1].last[:, None], 0.0)
        neurons[link - 1] += new
        g[link] = g[link + 1] @ weights[link]
    errors = data.errors(g[1] @ weights[0])
    h = [data.scales * errors]
    for link in range(depth):
        forward[link], new = visit(forward[link], h[link], t, tol)
        row = forward[link].last[None]
        weights[link] = lax.dynamic_update_slice(weights[link], row, (neurons[link], 0))
        neurons[link] += new
        h.append(weights[link] @ h[link])
    after = State(
        weights=tuple(weights),
        features=tuple(h[:-1]),
        gradients=tuple(g[1:]),
        readout=state.readout + rate * h[-1],
        neurons=tuple(neurons),
        forward=tuple(forward),
        backward=tuple(backward),
    )
    return after, errors


def plain_step(state, data, rate):
    """A step within the span of the directions visited: the state and the errors."""
    depth = len(state.weights)
    weights = updated(state, rate)
    g = [None] * depth + [state.readout]
    for link in range(depth - 1, 0, -1):
        g[link] = g[link + 1] @ weights[link]
    errors = data.errors(g[1] @ weights[0])
    h = [data.scales * errors]
    for link in range(depth):
        h.append(weights[link] @ h[link])
    after = state._replace(
        weights=tuple(weights),
        features=tuple(h[:-1]),
        gradients=tuple(g[1:]),
        readout=state.readout + rate * h[-1],
    )
    return after, errors


@partial(jax.jit, static_argnames=("depth", "steps", "stages"))
def march(gram, targets, *, depth, lr, gamma, steps, tol, stages):
    """Errors (steps, P), and how many neurons and directions there were after each stage."""
    points = len(targets)
    values, vectors = jnp.linalg.eigh(gram)
    data = Modes(jnp.sqrt(jnp.maximum(values, 0.0)), targets @ vectors, gamma)
    rate = lr * gamma / points

    def check_and_go(stop, carry):
        t, state, errors = carry
        state, now = checked_step(state, t, data, rate, tol)
        errors = lax.dynamic_update_slice(errors, now[None], (t, 0))
        due = jnp.stack([basis.due for basis in (*state.forward, *state.backward)]).min()
        until = jnp.minimum(stop, due)

        def plain(time, inner):
            state, now = plain_step(inner[0], data, rate)
            return state, lax.dynamic_update_slice(inner[1], now[None], (time, 0))

        return until, *lax.fori_loop(t + 1, until, plain, (state, errors))

    counts = []
    state = empty(points, depth, stages[0].capacity)
    carry = (jnp.array(0), state, jnp.zeros((steps, points)))
    for stage in stages:
        t, state, errors = carry
        carry = lax.while_loop(
            lambda carry, stop=stage.stop: carry[0] < stop,
            partial(check_and_go, stage.stop),
            (t, widen(state, points, depth, stage.capacity), errors),
        )
        state = carry[1]
        counts.append(
            Capacity(
                state.neurons,
                tuple(basis.count for basis in state.forward),
                tuple(basis.count for basis in state.backward),
            )
        )
    return carry[2] @ vectors.T, counts


@partial(jax.jit, static_argnames=("depth", "steps", "stages"))
def run(gram, targets, **options):
    """Errors (steps, P)."""
    return march(gram, targets, **options)[0]


def plan(gram, targets, *, largest=400, stops=None, **options):
    """Stages with capacities just large enough, from a run with `largest` in all layers."""
    stops, depth = stops or stage_stops(options["steps"]), options["depth"]
    wide = Capacity((largest,) * depth, (largest,) * depth, (largest,) * (depth - 1))
    stages = tuple(Stage(stop, wide) for stop in stops)
    _, counts = march(gram, targets, stages=stages, **options)

    def capacity(count):
        # Two more: the direction not yet written, and the row that takes those not needed.
        needed = int(count) + 2
        if needed > largest:
            raise MemoryError(f"more than {largest} neurons or directions: raise `largest`")
        return LANES * math.ceil(needed / LANES)

    return tuple(
        Stage(stop, jax.tree.map(capacity, count))
        for stop, count in zip(stops, counts, strict=True)
    )


def stage_stops(steps, first=25, most=4):
    """Stages of doubling length from `first` steps on, at most `most` before the last."""
    doublings = max(0, int(math.log2(steps / first)))
    return (*(first * 2**i for i in range(min(doublings, most))), steps)
