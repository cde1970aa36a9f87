"""STRONG: one attention layer in JAX, as an expert writes it who has our equations.

The state are the components of queries, keys, values and read-out of all heads, the equations those
of `dmftcore.heads`: Gram matrices of finite rank, products with C through its rows where these are
few, and one compiled loop over all steps. The gradients are written out, which is faster than what
`jax.grad` makes of the loss. Softmax only.

`numpy_run` is the same in numpy.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

jax.config.update("jax_enable_x64", True)


class Problem(NamedTuple):
    """All sequences train. M tokens in P sequences of S."""

    rows: Any  # (M, r), C = rows rows^T
    targets: Any  # (P,)
    gamma: float
    scale: float  # N^(alpha - 1)


class State(NamedTuple):
    """n heads, all of the same weight."""

    query: Any  # (n, M, keys)
    key: Any  # (n, M, keys)
    value: Any  # (n, M, values)
    readout: Any  # (n, values)


def outputs_and_patterns(xp, problem, state):
    """f (P,) not yet centred, patterns S (n, P, S, S), and their column means c (n, P, S)."""
    n, tokens, _ = state.query.shape
    count = len(problem.targets)

    def by_sequence(x):
        return x.reshape(n, count, tokens // count, -1)

    scores = by_sequence(state.query) @ by_sequence(state.key).swapaxes(2, 3) / problem.scale
    scores = xp.exp(scores - scores.max(-1, keepdims=True))
    patterns = scores / scores.sum(-1, keepdims=True)
    attended = patterns.mean(2)
    overlaps = (state.value @ state.readout[:, :, None])[..., 0].reshape(attended.shape)
    outputs = (attended * overlaps).sum((0, 2)) / (n * problem.gamma)
    return outputs, patterns, attended, overlaps


def step(xp, problem, state, centre, lr):
    """The state after an update, and the outputs before it."""
    n, tokens, _ = state.query.shape
    count = len(problem.targets)
    outputs, patterns, attended, overlaps = outputs_and_patterns(xp, problem, state)
    outputs = outputs - centre
    missing = problem.targets - outputs
    rate = lr * problem.gamma / count
    length = tokens // count

    # The gradient of f by scores: each row of a pattern sees the same overlaps.
    mean = (patterns * overlaps[:, :, None, :]).sum(-1, keepdims=True)
    slopes = patterns * (overlaps[:, :, None, :] - mean) * (missing[:, None, None] / length)

    def by_sequence(x):
        return x.reshape(n, count, length, -1)

    def with_kernel(x):
        """C x of (n, M, k)."""
        return problem.rows @ (problem.rows.T @ x)

    by_query = (slopes @ by_sequence(state.key)).reshape(state.query.shape)
    by_key = (slopes.swapaxes(2, 3) @ by_sequence(state.query)).reshape(state.key.shape)
    driven = (attended * missing[:, None]).reshape(n, tokens)
    through = (driven @ problem.rows) @ problem.rows.T
    after = State(
        state.query + rate * problem.scale * with_kernel(by_query),
        state.key + rate * problem.scale * with_kernel(by_key),
        state.value + rate * through[:, :, None] * state.readout[:, None, :],
        state.readout + rate * (driven[:, None, :] @ state.value)[:, 0],
    )
    return after, outputs


@partial(jax.jit, static_argnames="steps")
def run(problem, state, lr, *, steps):
    """Outputs f - f(0) at t = 0..steps, (steps + 1, P)."""
    centre = outputs_and_patterns(jnp, problem, state)[0]

    def update(state, _):
        return step(jnp, problem, state, centre, lr)

    last, curve = lax.scan(update, state, length=steps)
    final = outputs_and_patterns(jnp, problem, last)[0] - centre
    return jnp.concatenate([curve, final[None]])


def numpy_run(problem, state, lr, steps):
    centre = outputs_and_patterns(np, problem, state)[0]
    curve = []
    for _ in range(steps):
        state, outputs = step(np, problem, state, centre, lr)
        curve.append(outputs)
    curve.append(outputs_and_patterns(np, problem, state)[0] - centre)
    return np.stack(curve)
