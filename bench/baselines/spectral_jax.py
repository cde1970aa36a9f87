"""kappa(z) of random matrices in pure JAX, in lockstep.

Sums over the modes run in tiles that stay in the cache, so nothing of the size of z times modes is
stored. What has arrived is carried along until the last z has: shapes are fixed under jit.
"""

import jax
import jax.numpy as jnp

from bench.baselines.spectral_path import Path, advance, start

jax.config.update("jax_enable_x64", True)

TILE = 128


def sums(kappa, lam, weights):
    """Sums of w / (lam + kappa) and w / (lam + kappa)^2 for each kappa; lam, w: (tiles, TILE)."""
    re, im = kappa.real[:, None], kappa.imag[:, None]

    def tile(totals, modes):
        values, w = modes
        a = values + re
        inverse = 1 / (a * a + im * im)
        squared = inverse * inverse
        found = jnp.stack([inverse @ w, (a * inverse) @ w, squared @ w, (a * squared) @ w])
        return totals + found, None

    (n1, a1, n2, a2), _ = jax.lax.scan(tile, jnp.zeros((4, len(kappa))), (lam, weights))
    b = kappa.imag
    return a1 - 1j * b * n1, n1 - 2 * b * b * n2 - 2j * b * a2


@jax.jit
def kappa(z, lam, power, samples, features):
    """kappa for Im z > 0 or z > 0; lam, power: (modes,), of more directions than samples."""
    missing = -len(lam) % TILE
    values = jnp.pad(lam, (0, missing), constant_values=1.0).reshape(-1, TILE)
    weights = jnp.pad(power, (0, missing)).reshape(-1, TILE)

    def step(state):
        path, active = state
        found, done = advance(jnp, path, z, sums(path.next, values, weights), samples, features)
        kept = (jnp.where(active, new, old) for new, old in zip(found, path, strict=True))
        return Path(*kept), active & ~done

    path = start(jnp, z, jnp.sum(power), samples, features)
    path, _ = jax.lax.while_loop(lambda state: state[1].any(), step, (path, z == z))
    return path.next
