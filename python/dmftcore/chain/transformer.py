"""The chain of a residual transformer with infinitely many dimensions per head.

Everything is linear in Gaussian sources, because attention is the same in every head and does not
fluctuate. Rows and columns count (step, token), time slowest; a kernel times the factors
``rate(s) Delta_b(s)`` of its columns, for s < t alone, is written learned K. At every layer l, and
twice in every block, two sides meet (`dmftcore.chain.meeting`):

    stream   h^l = hhat^l + Z^l g^l        g^l = ghat^l + Y^l h^l
    heads    k = u^k + X q                 q = u^q + W k
    values   v = u^v + X' xi               xi = r + Y' v

With the features H^l of the stream and its response A^l = dh^l/dz^l, the attention S(t), the
gradient J(t) of its logits and beta = branch_scale / depth^depth_exponent:

    K^l = A^l + learned H^l                X = K^l J^T      W = K^l J       X' = beta K^l S^T
    N^l = beta B^{l+1} + beta learned G^{l+1}               Y' = N^l S
    k, q, v have the covariance H^l in their sources, r has G^{l+1}

A block adds to the stream, upward and downward, the kernels and responses of its output o = S v and
of the gradients p^q = J k, p^k = J^T q, p^v = beta S^T xi of its inputs:

    C^{l+1} = beta ( do/dr + beta learned <o o> )
    D^l     = dp^k/du^k + dp^q/du^q + dp^v/du^v + learned P^l,    P^l = <p^k p^k> + ... + <p^v p^v>
    Z^{l+1} = C^{l+1} + V^{l+1},   V^{l+1} = (1 - Z^l D^l)^{-1} Z^l
    Y^l     = D^l + U^l,           U^l = (1 - Y^{l+1} C^{l+1})^{-1} Y^{l+1}
    Hhat^{l+1} = beta^2 <o o> + ( Hhat^l reflected at D^l with covariance P^l )
    Ghat^l     = P^l + ( Ghat^{l+1} reflected at C^{l+1} with covariance beta^2 <o o> )

from Z^0 = learned C, Hhat^0 = C (inputs) to Y^L = learned 1 / S^2, Ghat^L = 1 / S^2 (readout of the
mean over S positions). Logits and outputs are correlations of the two sides at equal times. Sources
are never expanded layer by layer, so that a step costs a fixed number of passes over the triangles
of each layer: O(depth (steps tokens)^3) in all.

Source: the two-time equations of multi-head attention at infinite key dimension (Bordelon, Chaudhry,
Pehlevan 2024), with one layer's sources eliminated against the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.chain.meeting import Link, Meeting


class AttentionMap(Protocol):
    """What turns logits (*batch, S, S), rows the queries, into attention."""

    def value(self, logits: FloatArray) -> FloatArray:
        """The attention."""

    def gradient(self, logits: FloatArray, weights: FloatArray) -> FloatArray:
        """Gradient of ``sum(weights * value(logits))`` with respect to the logits."""


class TransformerChain:
    """Histories of the kernels of all layers, marched one step at a time.

    Parameters
    ----------
    gram : (P S, P S) array
        Inputs C = X X^T / D of all tokens, those of a sequence in a row.
    sequences : int
        Number P of sequences.
    rates : (steps,) array
        Factors ``gamma lr(s) / P_train`` of the errors of step s.
    """

    def __init__(
        self,
        gram: FloatArray,
        sequences: int,
        *,
        depth: int,
        branch: float,
        key_rate: float,
        rates: FloatArray,
        gamma: float,
        attention: AttentionMap,
        head_responses: bool = True,
        stream_responses: bool = True,
        xp: Any = np,
    ) -> None:
        self.step, self.depth, self.tokens = -1, depth, len(gram)
        self._xp, self._gram, self._attention = xp, xp.asarray(gram), attention
        self._sequences, self._positions = sequences, len(gram) // sequences
        self._branch, self._key_rate, self._gamma = branch, key_rate, gamma
        self._head, self._stream = float(head_responses), float(stream_responses)
        steps = len(rates)
        self._rates, self._size = rates, (steps + 1) * self.tokens
        self.histories: dict[str, FloatArray] = {}
        #: rate(s) Delta_b(s) of all columns, zero where not known or not trained.
        self._learned = xp.zeros(self._size)
        shape = (steps + 1, depth, sequences, self._positions, self._positions)
        #: S and J of every step and block.
        self.attention, self.logits = xp.zeros(shape), xp.zeros(shape)
        self._gradients = xp.zeros(shape)
        new = self._new
        hhat, ghat = ([new(f"{x}{l}") for l in range(depth + 1)] for x in ("hhat", "ghat"))
        self._h = [new(f"h{l}") for l in range(depth + 1)]
        self.streams = [self._meeting(f"s{l}", hhat[l], ghat[l]) for l in range(depth + 1)]
        self._keys = [self._meeting(f"k{l}", self._h[l], self._h[l]) for l in range(depth)]
        self._values = [
            self._meeting(f"v{l}", self._h[l], self.streams[l + 1].g) for l in range(depth)
        ]
        self._k = [new(f"kk{l}") for l in range(depth)]
        self._o = [new(f"o{l}") for l in range(depth)]
        self._ro = [new(f"ro{l}") for l in range(depth)]
        self._p = [new(f"p{l}") for l in range(depth)]
        self._d = [new(f"d{l}") for l in range(depth)]
        self._c = [new(f"c{l}") for l in range(depth)]
        self._up = [Link(hhat[l], self._d[l], self._p[l], new(f"vv{l}")) for l in range(depth)]
        self._down = [Link(ghat[l + 1], self._c[l], self._o[l], new(f"u{l}")) for l in range(depth)]

    def _new(self, name: str) -> FloatArray:
        self.histories[name] = self._xp.zeros((self._size, self._size))
        return self.histories[name]

    def _meeting(self, name: str, hhat: FloatArray, ghat: FloatArray) -> Meeting:
        return Meeting(hhat, ghat, *(self._new(f"{name}{x}") for x in ("z", "b", "g")))

    def forward(self) -> FloatArray:
        """Go to the next step; outputs (sequences,)."""
        self.step += 1
        t, m, xp = self.step, self.tokens, self._xp
        n = (t + 1) * m
        now = slice(n - m, n)
        hhat = xp.tile(self._gram, (1, t + 1))
        z = hhat * self._learned[:n]
        for layer, block in enumerate(self.streams):
            block.hhat[now, :n] = hhat
            h, a = block.lower(now, z, hhat)
            self._h[layer][now, :n] = h
            if layer == self.depth:
                break
            memory = self._stream * a + self._key_rate * h * self._learned[:n]
            # keys and queries
            keys = self._keys[layer]
            kk, rk = keys.lower(now, self._right(memory, self._gradients[:t, layer], True), h)
            qq, rq = keys.upper(now, self._right(memory, self._gradients[:t, layer], False), h)
            self._k[layer][now, :n] = kk
            self._rk = getattr(self, "_rk", {})
            self._rk[layer] = rk
            logits = self._blocks(keys.across(now, n))
            self.logits[t, layer] = logits
            s = self.attention[t, layer] = self._attention.value(logits)
            # values
            values = self._values[layer]
            vv, rv = values.lower(
                now, self._branch * self._right(memory, self.attention[:t, layer], True), h
            )
            oo = self._left(s, self._right(vv, self.attention[: t + 1, layer], True))
            ro = self._left(s, rv)
            self._ro[layer][now, :n] = ro
            c = self._branch * (
                self._head * ro + self._key_rate * self._branch * oo * self._learned[:n]
            )
            self._o[layer][now, :n] = self._branch**2 * oo
            v, carried = self._up[layer].rows(now, z, hhat)
            self._c[layer][now, :n] = c
            z, hhat = c + v, self._branch**2 * oo + carried
        top = self.streams[-1]
        ones = xp.full((m, n), 1 / self._positions**2)
        top.ghat[now, :n] = ones
        self._y = ones * self._learned[:n]
        top.upper(now, self._y, ones)
        outputs: FloatArray = top.across(now, n)[0].reshape(self._sequences, -1).sum(axis=1) / self._gamma
        return outputs

    def backward(self, errors: FloatArray) -> None:
        """Append the rows of the gradients at the present step, given errors (sequences,)."""
        t, m = self.step, self.tokens
        n = (t + 1) * m
        now = slice(n - m, n)
        y = self._y
        for layer in reversed(range(self.depth)):
            above, values, keys = self.streams[layer + 1], self._values[layer], self._keys[layer]
            s = self.attention[: t + 1, layer]
            memory = self._branch * (
                self._stream * above.b[now, :n]
                + self._key_rate * above.g[now, :n] * self._learned[:n]
            )
            xx, rx = values.upper(now, self._right(memory, self.attention[:t, layer], False), np.ascontiguousarray(above.g[now, :n]))
            weights = self._branch * self._blocks(values.across(now, n))
            j = self._attention.gradient(self.logits[t, layer], weights)
            self._gradients[t, layer] = j
            jj = self._gradients[: t + 1, layer]
            jt, st = j.swapaxes(-1, -2), self.attention[t, layer].swapaxes(-1, -2)
            kk, qq = self._k[layer][now, :n], keys.g[now, :n]
            p = (
                self._left(jt, self._right(qq, jj, False))
                + self._left(j, self._right(kk, jj, True))
                + self._branch**2 * self._left(st, self._right(xx, s, False))
            )
            rp = (
                self._left(jt, keys.b[now, :n])
                + self._left(j, self._rk[layer])
                + self._branch * self._left(st, rx)
            )
            d = self._head * rp + self._key_rate * p * self._learned[:n]
            u, carried = self._down[layer].rows(now, y, np.ascontiguousarray(above.ghat[now, :n]))
            self._p[layer][now, :n] = p
            self._d[layer][now, :n] = d
            y = d + u
            stream = self.streams[layer]
            stream.ghat[now, :n] = p + carried
            stream.upper(now, y, p + carried)
        if t < len(self._rates):
            by_token = self._xp.zeros((self._sequences, self._positions))
            by_token[: len(errors)] = errors[:, None] * self._rates[t]
            self._learned[now] = by_token.ravel()

    def _blocks(self, matrix: FloatArray) -> FloatArray:
        """The diagonal blocks (P, S, S) of a (P S, P S) matrix."""
        p, s = self._sequences, self._positions
        return matrix.reshape(p, s, p, s)[self._xp.arange(p), :, self._xp.arange(p)]

    def _right(self, rows: FloatArray, blocks: FloatArray, transposed: bool) -> FloatArray:
        """Rows times a block diagonal matrix over (step, sequence); zero beyond its steps."""
        p, s, t = self._sequences, self._positions, len(blocks)
        out = self._xp.zeros_like(rows)
        m = len(rows)
        x = rows[:, : t * p * s].reshape(m, t, p, s)
        out[:, : t * p * s] = self._xp.einsum(
            "mtps,tprs->mtpr" if transposed else "mtps,tpsr->mtpr", x, blocks
        ).reshape(m, -1)
        return out

    def _left(self, blocks: FloatArray, rows: FloatArray) -> FloatArray:
        """A block diagonal matrix over sequences times rows."""
        p, s = self._sequences, self._positions
        return self._xp.matmul(blocks, rows.reshape(p, s, -1)).reshape(rows.shape)
