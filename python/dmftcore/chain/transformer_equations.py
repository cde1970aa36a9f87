"""The equations of `dmftcore.chain.transformer` for whole matrices, to check a march by.

Both sides of the stream follow from what the blocks add to it, with resolvents and congruences of
whole matrices; what the blocks add follows from both sides of the stream. Nothing is appended row
by row, and each side of a meeting is taken as it is, not as seen from the other one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.chain.base import deviation
from dmftcore.chain.transformer import TransformerChain
from dmftcore.twotime import causal_matmul, congruence, resolvent

__all__ = ["residual"]


def residual(chain: TransformerChain, largest_size: int = 200) -> float:
    """Largest relative deviation of a march from its equations, over its first `largest_size` rows.

    Of features and gradients of the stream, attention and the gradients of its logits, and what
    the blocks add to the stream.
    """
    whole = _Whole(chain, largest_size)
    upper = _upper_sides(whole)
    found: list[tuple[FloatArray, FloatArray]] = []
    meetings: list[_Met] = []
    z, hhat = whole.learned * whole.gram, whole.kept * whole.gram
    for layer, (y, ghat) in enumerate(upper):
        met = _meet(z, hhat, y, ghat)
        meetings.append(met)
        found += [
            (met.h, whole.symmetric("H", layer)),
            (met.g, whole.symmetric("G", layer)),
            (met.b, whole.causal("B", layer)),
        ]
        if layer < chain.depth:
            z, hhat = _beyond(z, hhat, *whole.added_downward(layer), *whole.added_upward(layer))
    for layer in range(chain.depth):
        found += _block(whole, layer, meetings[layer], meetings[layer + 1])
    return max(deviation(one, other) for one, other in found)


class _Whole:
    """What a march has found over its first steps, as full matrices in numpy."""

    def __init__(self, chain: TransformerChain, largest_size: int) -> None:
        self.chain = chain
        self.steps = max(1, min(largest_size // chain.tokens, chain.step + 1))
        self.n = n = self.steps * chain.tokens
        kept, learned = chain.couplings.dense(self.steps)
        #: Factors of what is left of the initial weights, and of what they have learned.
        self.kept = kept
        self.learned = learned * _arrays.to_host(chain.errors[:n])
        self.gram = np.tile(_arrays.to_host(chain.gram), (self.steps, self.steps))
        readout = _arrays.to_host(chain.readout[:n])
        self.top: FloatArray = readout @ readout.T / chain.positions**2

    def causal(self, name: str, layer: int) -> FloatArray:
        return np.ascontiguousarray(
            _arrays.to_host(self.chain.histories[name, layer][: self.n, : self.n])
        )

    def symmetric(self, name: str, layer: int) -> FloatArray:
        known = np.tril(self.causal(name, layer))
        full: FloatArray = known + np.tril(known, -1).T
        return full

    def added_upward(self, layer: int) -> tuple[FloatArray, FloatArray]:
        """C^{l+1} and beta^2 kept <o o>."""
        return self.causal("C", layer), self.symmetric("O", layer)

    def added_downward(self, layer: int) -> tuple[FloatArray, FloatArray]:
        """D^l and kept P^l."""
        return self.causal("D", layer), self.symmetric("P", layer)

    def diagonal(self, blocks: FloatArray) -> FloatArray:
        """A matrix of blocks (steps, sequences, S, S) on the diagonal."""
        flat = blocks.reshape(-1, *blocks.shape[-2:])
        count, s = len(flat), flat.shape[-1]
        matrix = np.zeros((count, s, count, s))
        matrix[np.arange(count), :, np.arange(count)] = flat
        return matrix.reshape(self.n, self.n)

    def blocks(self, matrix: FloatArray) -> FloatArray:
        """The blocks (steps, sequences, S, S) on the diagonal of a matrix."""
        s = self.chain.positions
        count = self.n // s
        each = np.arange(count)
        found: FloatArray = matrix.reshape(count, s, count, s)[each, :, each]
        return found.reshape(self.steps, -1, s, s)


@dataclass(frozen=True)
class _Met:
    """Two sides that have met: covariances and responses of both, and ``<g h^T>``."""

    h: FloatArray
    a: FloatArray
    g: FloatArray
    b: FloatArray
    across: FloatArray


def _meet(z: FloatArray, hhat: FloatArray, y: FloatArray, ghat: FloatArray) -> _Met:
    """``h = (1 - Z Y)^{-1} (hhat + Z ghat)``, ``g = (1 - Y Z)^{-1} (ghat + Y hhat)``."""
    up, down = resolvent(causal_matmul(z, y)), resolvent(causal_matmul(y, z))
    return _Met(
        h=congruence(up, hhat + congruence(z, ghat)),
        a=causal_matmul(up, z),
        g=congruence(down, ghat + congruence(y, hhat)),
        b=causal_matmul(down, y),
        across=down @ (ghat @ z.T + y @ hhat) @ up.T,
    )


def _beyond(
    y: FloatArray,
    ghat: FloatArray,
    z: FloatArray,
    m: FloatArray,
    added: FloatArray,
    noise: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """A side (Y, Ghat) seen from behind a block that answers it with (Z, M) and adds its own."""
    through = resolvent(causal_matmul(y, z))
    return added + causal_matmul(through, y), noise + congruence(through, ghat + congruence(y, m))


def _upper_sides(whole: _Whole) -> list[tuple[FloatArray, FloatArray]]:
    """Y^l and Ghat^l of all layers."""
    sides = [(whole.learned * whole.top, whole.kept * whole.top)]
    for layer in reversed(range(whole.chain.depth)):
        sides.append(_beyond(*sides[-1], *whole.added_upward(layer), *whole.added_downward(layer)))
    return sides[::-1]


def _block(
    whole: _Whole, layer: int, below: _Met, above: _Met
) -> list[tuple[FloatArray, FloatArray]]:
    """What a block does between both sides, beside what the march has found."""
    chain, kept, learned = whole.chain, whole.kept, whole.learned
    beta, rate = chain.branch, chain.block_rate
    marched_s, marched_j = (
        _arrays.to_host(blocks[: whole.steps, layer])
        for blocks in (chain.attention, chain.gradients)
    )
    s, j = whole.diagonal(marched_s), whole.diagonal(marched_j)
    upward = chain.stream * kept * below.a + rate * learned * below.h
    downward = beta * (chain.stream * kept * above.b + rate * learned * above.g)
    keys = _meet(upward @ j.T, kept * below.h, upward @ j, kept * below.h)
    values = _meet(beta * upward @ s.T, kept * below.h, downward @ s, kept * above.g)
    attention = chain.attention_map.value(whole.blocks(keys.across))
    gradient = chain.attention_map.gradient(attention, beta * whole.blocks(values.across))

    def seen(left: FloatArray, noise: FloatArray) -> FloatArray:
        return left @ noise @ left.T

    o, p = seen(s, values.h), seen(j.T, keys.g) + seen(j, keys.h) + beta**2 * seen(s.T, values.g)
    answers = j.T @ keys.b + j @ keys.a + beta * s.T @ values.b
    c, marched_o = whole.added_upward(layer)
    d, marched_p = whole.added_downward(layer)
    return [
        (attention, marched_s),
        (gradient, marched_j),
        (beta * (chain.head * kept * (s @ values.a) + beta * rate * learned * o), c),
        (beta**2 * kept * o, marched_o),
        (chain.head * kept * answers + rate * learned * p, d),
        (kept * p, marched_p),
    ]
