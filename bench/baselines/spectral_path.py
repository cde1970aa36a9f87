"""The path of csrc/spectral_path.hpp from a start to kappa(z), for all z in lockstep.

For numpy and for jax.numpy, as `xp`.
"""

from typing import Any, NamedTuple

LONGEST, SHORTER, LONGER = 2.0, 0.35, 1.7
INNER, NEAR, LAST_STEP = 2.0, 0.05, 1e-9


class Path(NamedTuple):
    """Where each z is on its way: the last good kappa, what it has there, and the next one."""

    at: Any
    rest: Any
    slope: Any
    bend: Any
    next: Any
    reach: Any


def growth(xp, x):
    """(e^x - 1) / x"""
    small = xp.abs(x) < 1e-8
    safe = xp.where(small, 1, x)
    return xp.where(small, 1 + x / 2, xp.expm1(safe) / safe)


def start(xp, z, trace, samples, features):
    first = xp.abs(z) + trace * (1 / samples + 1 / features) + 0j
    one = xp.ones_like(z)
    return Path(first, xp.full(z.shape, complex("inf")), one, one, first, xp.full(z.shape, LONGEST))


def advance(xp, path, z, sums, samples, features):
    """The path after a step, given the sums at its next kappa; and which z have arrived."""
    at, rest, slope, bend, nxt, reach = path
    p, n = 1 / samples, 1 / features
    total, square = sums
    r1, r3 = 1 - p * total, 1 - n * total
    h = nxt * r1 * r3
    distance = xp.log(z / h)
    real = (nxt.real > 0) & (r1.real > 0) & (r3.real > 0)
    inside = (nxt.imag > 0) & ((nxt * r1).imag >= 0) & (h.imag >= 0)
    real_way = (z.imag == 0) | (nxt.imag == 0)
    ok = (xp.abs(distance) < xp.abs(rest)) & xp.where(real_way, real, inside)
    spread = nxt * square
    a1, a3 = p * spread / r1, n * spread / r3
    s = 1 + a1 + a3
    at, rest = xp.where(ok, nxt, at), xp.where(ok, distance, rest)
    slope = xp.where(ok, s, slope)
    bend = xp.where(ok, (1 + a1 * a1 + a3 * a3) / (s * s), bend)
    reach = xp.where(ok, xp.minimum(LONGEST, LONGER * reach), SHORTER * reach)

    last = rest / slope * growth(xp, bend * rest)
    done = ok & (xp.abs(last) < LAST_STEP)
    across = xp.abs(rest.real)
    inward = xp.where(across < NEAR, 0, xp.minimum(across / 2, xp.angle(z) - INNER))
    aim = rest - 1j * xp.maximum(inward, 0)
    aim = aim * xp.minimum(1, reach / xp.maximum(xp.abs(aim), 1e-300))
    tried = at * (1 + aim / slope * growth(xp, bend * aim))
    return Path(at, rest, slope, bend, xp.where(done, at * (1 + last), tried), reach), done
