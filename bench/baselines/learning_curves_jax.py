"""STRONG: learning curves of gradient flow by the contour method in JAX, as an expert writes it.

* All hyperbolas, each for as wide a range of times as it can serve, are one batch, all nodes are
  solved for in lockstep, and the whole curve is one compiled call.
* Sums over the modes are in real arithmetic, as products of small matrices that stay in cache.
* Sums over two resolvents are divided differences: one pass over the modes for each node. Only the
  diagonal, where the difference vanishes, is summed directly.
* The training loss is taken from the same nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

jax.config.update("jax_enable_x64", True)

#: Angles through which a node is led from the positive axis to its place.
ANGLES = 5
MOST_STEPS = 60
#: Modes that are summed over at a time, in cache.
BLOCK = 32
#: Newton's last step, relative.
CONVERGED = 1e-12


class Model(NamedTuple):
    values: jax.Array  # (modes,)
    power: jax.Array  # multiplicities times values
    signal: jax.Array  # values times target
    samples: float
    features: float
    noise_variance: float


class Contours(NamedTuple):
    """Hyperbolas (rows, n) and filters (rows, times, n) with the weights of the nodes."""

    z: jax.Array
    filters: jax.Array


def plan(times, hyperbola, reach):
    """Nodes and filters of a request, and the place of each time among (rows, times).

    A hyperbola serves times up to `reach` times its first.
    """
    groups, left = [], np.argsort(times)
    while left.size:
        served = times[left] <= reach * times[left[0]]
        groups.append(left[served])
        left = left[~served]
    width = max(map(len, groups))
    contours = [hyperbola(times[group[0]]) for group in groups]
    nodes = len(contours[0].z)
    filters = np.zeros((len(groups), width, nodes), np.complex128)
    places = np.zeros(len(times), np.intp)
    for row, (group, contour) in enumerate(zip(groups, contours, strict=True)):
        decay = np.exp(times[group][:, None] * contour.z)
        filters[row, : len(group)] = decay * contour.dz / contour.z
        places[group] = row * width + np.arange(len(group))
    z = np.stack([contour.z for contour in contours])
    return Contours(z, filters), places


def resolvent_sums(values, weights, kappa):
    """sum w / (lambda + kappa) and sum w / (lambda + kappa)^2 for real weights (k, modes)."""
    weights = jnp.stack(weights)
    blocks = -(-values.size // BLOCK)
    padding = blocks * BLOCK - values.size
    values = jnp.pad(values, (0, padding), constant_values=1.0).reshape(blocks, BLOCK)
    weights = jnp.pad(weights, ((0, 0), (0, padding))).reshape(-1, blocks, BLOCK)

    def add(sums, block):
        lam, w = block
        a, b = lam[:, None] + kappa.real, kappa.imag
        inverse = 1 / (a * a + b * b)
        twice = inverse * inverse
        tables = inverse * a, inverse, twice * (a * a - b * b), twice * a
        return tuple(s + w @ table for s, table in zip(sums, tables, strict=True)), None

    zero = jnp.zeros((len(weights), kappa.size))
    rows = (values, weights.swapaxes(0, 1))
    (first, by, square, cross), _ = lax.scan(add, (zero,) * 4, rows)
    return first - 1j * kappa.imag * by, square - 2j * kappa.imag * cross


def kappas(model, z):
    """kappa(z) in the upper half plane, (n,)."""
    size, angle = jnp.log(jnp.abs(z)), jnp.angle(z)

    def terms(log_kappa):
        kappa = jnp.exp(log_kappa)
        (df,), (square,) = resolvent_sums(model.values, (model.power,), kappa)
        slope = kappa * square  # df_1 - df_2
        r1, r3 = 1 - df / model.samples, 1 - df / model.features
        return r1, r3, 1 + slope * (1 / (model.samples * r1) + 1 / (model.features * r3))

    def rest(log_kappa, target, r1, r3):
        missing = target - log_kappa - jnp.log(r1) - jnp.log(r3)
        turn = (missing.imag + jnp.pi) % (2 * jnp.pi) - jnp.pi
        return missing.real + 1j * turn

    trace = model.power.sum() * (1 / model.samples + 1 / model.features)

    def real_step(state):
        log_kappa, low, high, _, count = state
        r1, r3, slope = terms(log_kappa)
        inside = (r1.real > 0) & (r3.real > 0)
        missing = jnp.where(inside, rest(log_kappa, size, r1, r3).real, 1.0)
        low = jnp.where(missing > 0, log_kappa.real, low)
        high = jnp.where(missing > 0, high, log_kappa.real)
        new = log_kappa.real + missing / slope.real
        fits = inside & (new > low) & (new < high)
        new = jnp.where(fits, new, (low + high) / 2)
        # A start is all that is asked for.
        return new + 0j, low, high, jnp.abs(new - log_kappa.real).max() > 1e-3, count + 1

    high = jnp.log(jnp.abs(z) + trace)
    state = high + 0j, size, high, True, 0
    log_kappa = lax.while_loop(lambda s: s[3] & (s[4] < MOST_STEPS), real_step, state)[0]

    def newton(log_kappa, target, most, tolerance):
        def step(state):
            log_kappa, _, count = state
            r1, r3, slope = terms(log_kappa)
            change = rest(log_kappa, target, r1, r3) / slope
            return log_kappa + change, jnp.abs(change).max() > tolerance, count + 1

        going = lambda s: s[1] & (s[2] < most)  # noqa: E731
        return lax.while_loop(going, step, (log_kappa, True, 0))[0]

    for part in range(1, ANGLES):
        log_kappa = newton(log_kappa, size + 1j * angle * part / ANGLES, 4, 1e-2)
    return jnp.exp(newton(log_kappa, size + 1j * angle, MOST_STEPS, CONVERGED))


@jax.jit
def run(model, contours):
    """Test and training loss, (2, rows, times)."""
    kappa = kappas(model, contours.z.ravel())
    sums = resolvent_sums(model.values, weights_of(model), kappa)
    return losses(jnp, model, contours, kappa, *sums)


def weights_of(model):
    return model.power, model.power * model.values, model.signal, model.signal * model.values


def losses(xp, model, contours, kappa, sums, squares):
    """Test and training loss, from sums over one resolvent and over its square."""
    rows, nodes = contours.z.shape
    r1 = (1 - sums[0] / model.samples).reshape(rows, nodes)
    kappa = kappa.reshape(rows, nodes)

    def both(x):
        return xp.concatenate([x, x.conj()], axis=-1)

    left, right = kappa[:, :, None], both(kappa)[:, None, :]
    same = xp.eye(nodes, 2 * nodes, dtype=bool)

    def pairs(total, square):
        total = total.reshape(rows, nodes)
        difference = total[:, :, None] - both(total)[:, None, :]
        return xp.where(
            same, square.reshape(rows, nodes, 1), difference / xp.where(same, 1, right - left)
        )

    g1, g2, s1, s2 = (pairs(*one) for one in zip(sums, squares, strict=True))
    product, p, n = left * right, 1 / model.samples, 1 / model.features
    signal = product * s1 + model.noise_variance
    by_samples, by_features = 1 - g2 * p, 1 - g2 * n
    phi = (signal * by_features + product * g1 * s2 * n) / (
        by_samples * by_features - product * g1**2 * n * p
    )
    found = []
    for table in (phi, r1[:, :, None] * both(r1)[:, None, :] * phi):
        half = contours.filters @ table
        found.append(2 * (half * both(contours.filters)).sum(-1).real)
    return xp.stack(found)
