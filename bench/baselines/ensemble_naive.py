"""NAIVE: the published iteration for one hidden layer, in own words.

Kernels over two times, (n, n) with n = T P, are iterated from a guess. Every iteration takes the
errors from the tangent kernel, draws fresh samples, finds their trajectories as a fixed point by
sweeps over all times at once, measures the kernels and mixes them with the old ones. That
trajectories are causal, and that two-time kernels are not needed, is not used. Nothing is jitted.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

DAMPING, SWEEPS, CLOSE = 0.6, 2500, 1e-10

FUNCTIONS = {
    "tanh": (jnp.tanh, lambda h: 1 - jnp.tanh(h) ** 2),
    "linear": (lambda h: h, jnp.ones_like),
    "relu": (lambda h: jnp.maximum(h, 0), lambda h: (h > 0) * 1.0),
}


def two_layer(gram, targets, key, *, activation, lr, gamma, times, samples, iterations=12):
    """Outputs (T, P), moved by the tangent kernel."""
    phi, slope = FUNCTIONS[activation]
    points = len(targets)
    rate = lr * gamma / points
    past = jnp.tril(jnp.ones((times, times)), -1)
    # From one point and time to another.
    inputs = jnp.einsum("ts,mn->tmsn", past, jnp.asarray(gram))
    features = jnp.broadcast_to(jnp.asarray(gram)[None, :, None], (times, points, times, points))
    gradients = jnp.ones((times, points, times, points))
    vectors = jnp.linalg.cholesky(jnp.asarray(gram) + 1e-12 * jnp.eye(points))
    for _ in range(iterations):
        errors = [jnp.asarray(targets)]
        for t in range(times - 1):
            kernel = features[t, :, t] + gradients[t, :, t] * gram
            errors.append(errors[t] - lr / points * kernel @ errors[t])
        errors = jnp.stack(errors)
        key, first, last = jax.random.split(key, 3)
        chi = (jax.random.normal(first, (samples, points)) @ vectors.T)[:, None]
        xi = jax.random.normal(last, (samples,))[:, None]
        h = jnp.broadcast_to(chi, (samples, times, points))
        z = jnp.broadcast_to(xi, (samples, times))
        for _ in range(SWEEPS):
            g = slope(h) * z[:, :, None]
            new_h = chi + rate * jnp.einsum("tmsn,isn->itm", inputs, errors * g)
            new_z = xi + rate * jnp.einsum("ts,is->it", past, (errors * phi(h)).sum(-1))
            change = jnp.linalg.norm(new_h - h) / jnp.linalg.norm(new_h)
            h, z = new_h, new_z
            if change < CLOSE:
                break
        value, g = phi(h), slope(h) * z[:, :, None]
        found = [jnp.einsum("itm,isn->tmsn", x, x) / samples for x in (value, g)]
        features = DAMPING * found[0] + (1 - DAMPING) * features
        gradients = DAMPING * found[1] + (1 - DAMPING) * gradients
    return targets - errors
