"""NAIVE: the iteration of published research notebooks, over whole trajectories.

Written from its description, not copied. All kernels of all layers are recomputed from those of
the iteration before, dense in both times and in all patterns, until the errors stop moving:

    Delta(t+1) = Delta(t) - (lr/P) sum_{l=0..L} G^{l+1}(t,t) H^l(t,t) Delta(t)
    C = A^{l-1} + (lr gamma/P) strict(H^{l-1}) Delta          (TP x T)
    D = B^l     + (lr gamma/P) strict(G^{l+1}) Delta          (T x TP)
    H^l = (1 - C D)^{-1} ( H^{l-1} + C G^{l+1} C^T ) (1 - C D)^{-T},    A^l = (1 - C D)^{-1} C
    G^l = (1 - D C)^{-1} ( G^{l+1} + D H^{l-1} D^T ) (1 - D C)^{-T},    B^{l-1} = (1 - D C)^{-1} D

Like the original it is not jitted and not damped, uses einsum and general inverses, and moves the
errors by the tangent kernel: it solves the equations of `DeepLinear(readout="ntk")`. Unlike the
original it runs to a tolerance, in float64: ten iterations leave an error of a few percent.
"""

from __future__ import annotations

import jax.numpy as jnp


def solve(gram, targets, *, depth, lr, gamma, steps, tol=1e-8, largest=200):
    """Errors (steps, P) and the number of iterations.

    The iteration stops when no error moves by more than `tol`, or after `largest` iterations.
    """
    points = len(targets)
    rate = lr * gamma / points
    strict = jnp.tril(jnp.ones((steps, steps)), -1)
    input_kernel = jnp.einsum("ts,mn->tmsn", jnp.ones((steps, steps)), gram)
    h = [input_kernel] * (depth + 1)
    g = [jnp.ones((steps, steps))] * (depth + 2)
    a = [jnp.zeros((steps, points, steps))] * (depth + 1)
    b = [jnp.zeros((steps, steps, points))] * (depth + 1)
    errors = by_tangent_kernel(h, g, targets, lr, steps)
    change, iterations = jnp.inf, 0
    while change > tol and iterations < largest:
        new = [
            layer(h[i - 1], g[i + 1], a[i - 1], b[i], errors, strict, rate)
            for i in range(1, depth + 1)
        ]
        h = [input_kernel, *(kernels[0] for kernels in new)]
        g = [g[0], *(kernels[1] for kernels in new), g[-1]]
        a = [a[0], *(kernels[2] for kernels in new)]
        b = [*(kernels[3] for kernels in new), b[-1]]
        before, errors = errors, by_tangent_kernel(h, g, targets, lr, steps)
        change, iterations = jnp.abs(errors - before).max(), iterations + 1
    return errors, iterations


def layer(h, g, a, b, errors, strict, rate):
    """H^l, G^l, A^l, B^{l-1} from H^{l-1}, G^{l+1}, A^{l-1}, B^l and the errors."""
    steps, points = errors.shape
    n = steps * points
    c = a + rate * jnp.einsum("ts,tmsn,sn->tms", strict, h, errors)
    d = b + rate * jnp.einsum("ts,ts,sn->tsn", strict, g, errors)
    cd = jnp.einsum("tmr,rsn->tmsn", c, d)
    features = jnp.linalg.inv(jnp.eye(n) - cd.reshape(n, n)).reshape(steps, points, steps, points)
    gradients = jnp.linalg.inv(jnp.eye(steps) - jnp.einsum("tum,ums->ts", d, c))

    h_source = h + jnp.einsum("tmr,rq,snq->tmsn", c, g, c)
    g_source = g + jnp.einsum("tum,umvn,svn->ts", d, h, d)
    return (
        jnp.einsum("tmua,uavb,snvb->tmsn", features, h_source, features),
        jnp.einsum("tu,uv,sv->ts", gradients, g_source, gradients),
        jnp.einsum("tmun,uns->tms", features, c),
        jnp.einsum("tu,usn->tsn", gradients, d),
    )


def by_tangent_kernel(h, g, targets, lr, steps):
    """Errors of gradient descent with the equal-time kernels, to first order in lr."""
    points = len(targets)
    ntk = sum(
        jnp.einsum("tt,tmtn->tmn", above, below) for below, above in zip(h, g[1:], strict=True)
    )
    errors = [jnp.asarray(targets)]
    for t in range(steps - 1):
        errors.append(errors[-1] - lr / points * jnp.einsum("mn,n->m", ntk[t], errors[-1]))
    return jnp.stack(errors)
