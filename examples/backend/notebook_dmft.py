"""A DMFT solver as research notebooks have it, and the lines that put dmftcore under it.

Deep linear networks by iteration over whole trajectories, in JAX: every kernel is an array over
(time, pattern) twice, and each sweep over the layers inverts and multiplies such arrays. `Dense` is
what notebooks write. `Causal` is the same with three calls of dmftcore.jax, which know that the
responses are causal: a resolvent costs n^3/3 flops where a general inverse costs 2 n^3, a
congruence n^3 where two products cost 4 n^3. Prints that the numbers agree, with each other and
with `dmftcore.solve`, and the ratio of the times.

(Both are what dmftcore replaces altogether where it has a theory of its own: its march solves this
problem without any sweep, in milliseconds.)
"""

from __future__ import annotations

import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

import dmftcore as dc
from dmftcore import jax as dj

jax.config.update("jax_enable_x64", True)

DEPTH, POINTS, TIMES = 3, 10, 40
LR, GAMMA = 0.05, 1.0
SWEEPS = 30


class Dense:
    def resolvent(a, block):
        return jnp.linalg.inv(jnp.eye(len(a)) - a)

    def congruence(r, c, block):
        return r @ c @ r.T

    def product(r, x, block):
        return r @ x


class Causal:
    resolvent = dj.resolvent
    congruence = dj.congruence
    product = partial(dj.causal_apply, strict=False)


def sweep(algebra, kernels, gram, targets):
    """All kernels of all layers once, then the errors by the tangent kernel."""
    h, g, a, b, errors = kernels
    times, points = errors.shape
    rate = LR * GAMMA / points
    strict = jnp.tril(jnp.ones((times, times)), -1)
    # Patterns are kept beside their time: an index of (time, pattern) is time * points + pattern.
    strict_h = jnp.kron(strict, jnp.ones((points, points)))
    spread = jnp.kron(jnp.eye(times), jnp.ones((points, 1))) * errors.reshape(-1, 1)
    new_h, new_g, new_a, new_b = [h[0]], [g[0]], [a[0]], []
    for layer in range(1, DEPTH + 1):
        c = a[layer - 1] + rate * (strict_h * h[layer - 1]) @ spread
        d = b[layer] + rate * (strict * g[layer + 1]) @ spread.T
        features = algebra.resolvent(c @ d, block=points)
        gradients = algebra.resolvent(d @ c, block=1)
        new_h.append(
            algebra.congruence(features, h[layer - 1] + c @ g[layer + 1] @ c.T, block=points)
        )
        new_g.append(algebra.congruence(gradients, g[layer + 1] + d @ h[layer - 1] @ d.T, block=1))
        new_a.append(algebra.product(features, c, block=points))
        new_b.append(algebra.product(gradients, d, block=1))
    h, g, a, b = new_h, [*new_g, g[-1]], new_a, [*new_b, b[-1]]
    return h, g, a, b, by_tangent_kernel(h, g, gram, targets, times)


def by_tangent_kernel(h, g, gram, targets, times):
    points = len(targets)
    equal = [k.reshape(times, points, times, points) for k in h]
    ntk = sum(
        jnp.einsum("tmtn,tt->tmn", below, above) for below, above in zip(equal, g[1:], strict=True)
    )

    def update(errors, kernel):
        return errors - LR / points * kernel @ errors, errors

    return jax.lax.scan(update, targets, ntk)[1]


def start(gram, targets):
    points, times = len(targets), TIMES
    ones = jnp.ones((times, times))
    h = [jnp.kron(ones, gram)] * (DEPTH + 1)
    g = [ones] * (DEPTH + 2)
    a = [jnp.zeros((times * points, times))] * (DEPTH + 1)
    b = [jnp.zeros((times, times * points))] * (DEPTH + 1)
    return h, g, a, b, by_tangent_kernel(h, g, gram, targets, times)


def solve(algebra, gram, targets):
    """Errors (times, points), and the seconds that the sweeps took after compilation."""
    one = jax.jit(partial(sweep, algebra))
    kernels = start(gram, targets)
    jax.block_until_ready(one(kernels, gram, targets))
    began = time.perf_counter()
    for _ in range(SWEEPS):
        kernels = one(kernels, gram, targets)
    errors = np.asarray(kernels[-1])
    return errors, time.perf_counter() - began


def problem():
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(POINTS, 2 * POINTS))
    targets = np.repeat([1.0, -1.0], [POINTS - POINTS // 2, POINTS // 2])
    return inputs @ inputs.T / (2 * POINTS), targets


def main() -> dict[str, float]:
    gram, targets = problem()
    dense, dense_seconds = solve(Dense, jnp.asarray(gram), jnp.asarray(targets))
    causal, causal_seconds = solve(Causal, jnp.asarray(gram), jnp.asarray(targets))
    march = dc.solve(
        dc.DeepLinear(DEPTH, gamma=GAMMA, readout="ntk"),
        dc.Dataset(gram=gram, targets=targets),
        dc.GradientDescent(LR, TIMES - 1),
    )
    found = {
        "dense - causal": float(np.abs(dense - causal).max()),
        "causal - dmftcore.solve": float(np.abs(causal - march.errors).max()),
    }
    for name, difference in found.items():
        print(f"{name}: {difference:.1e}")
    print(f"{SWEEPS} sweeps: dense {dense_seconds:.2f} s, causal {causal_seconds:.2f} s")
    print(f"ratio of the times: {dense_seconds / causal_seconds:.1f}")
    return found


if __name__ == "__main__":
    main()
