"""kappa(z) of random matrices in pure JAX: the path of csrc/spectral_path.hpp, in lockstep.

Sums over the modes run in tiles that stay in the cache, so nothing of the size of z times modes is
stored. What has arrived is carried along until the last z has: shapes are fixed under jit.
"""

import jax
import jax.numpy as jnp

jax.config.update("jax_enable_x64", True)

LONGEST, SHORTER, LONGER = 2.0, 0.35, 1.7
INNER, NEAR, LAST_STEP = 2.0, 0.05, 1e-9
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


def growth(x):
    """(e^x - 1) / x"""
    small = jnp.abs(x) < 1e-8
    safe = jnp.where(small, 1, x)
    return jnp.where(small, 1 + x / 2, jnp.expm1(safe) / safe)


@jax.jit
def kappa(z, lam, power, samples, features):
    """kappa for Im z > 0 or z > 0; lam, power: (modes,), of more directions than samples."""
    p, n = 1 / samples, 1 / features
    missing = -len(lam) % TILE
    values = jnp.pad(lam, (0, missing), constant_values=1.0).reshape(-1, TILE)
    weights = jnp.pad(power, (0, missing)).reshape(-1, TILE)
    one = jnp.ones_like(z)

    def step(state):
        path, active = state
        at, rest, slope, bend, nxt, reach = path
        total, square = sums(nxt, values, weights)
        r1, r3 = 1 - p * total, 1 - n * total
        h = nxt * r1 * r3
        distance = jnp.log(z / h)
        real = (nxt.real > 0) & (r1.real > 0) & (r3.real > 0)
        inside = (nxt.imag > 0) & ((nxt * r1).imag >= 0) & (h.imag >= 0)
        real_way = (z.imag == 0) | (nxt.imag == 0)
        ok = (jnp.abs(distance) < jnp.abs(rest)) & jnp.where(real_way, real, inside)
        spread = nxt * square
        a1, a3 = p * spread / r1, n * spread / r3
        s = 1 + a1 + a3
        at, rest = jnp.where(ok, nxt, at), jnp.where(ok, distance, rest)
        slope = jnp.where(ok, s, slope)
        bend = jnp.where(ok, (1 + a1 * a1 + a3 * a3) / (s * s), bend)
        reach = jnp.where(ok, jnp.minimum(LONGEST, LONGER * reach), SHORTER * reach)

        last = rest / slope * growth(bend * rest)
        done = ok & (jnp.abs(last) < LAST_STEP)
        across = jnp.abs(rest.real)
        inward = jnp.where(across < NEAR, 0, jnp.minimum(across / 2, jnp.angle(z) - INNER))
        aim = rest - 1j * jnp.maximum(inward, 0)
        aim = aim * jnp.minimum(1, reach / jnp.maximum(jnp.abs(aim), 1e-300))
        tried = at * (1 + aim / slope * growth(bend * aim))
        nxt_new = jnp.where(done, at * (1 + last), tried)
        path_new = (at, rest, slope, bend, nxt_new, reach)
        kept = tuple(jnp.where(active, new, old) for new, old in zip(path_new, path, strict=True))
        return kept, active & ~done

    start = jnp.abs(z) + jnp.sum(power) * (p + n) + 0j
    path = (start, one * jnp.inf, one, one, start, jnp.full(z.shape, LONGEST))
    path, _ = jax.lax.while_loop(lambda s: s[1].any(), step, (path, z == z))
    return path[4]
