"""The hidden chain: two-time kernels of L linear layers, marched one step at a time.

All pattern indices are contracted with the errors Delta, so that every kernel counts steps and
outputs only, whatever the number of points. For layers l = 1..L, with g2 = gamma^2, the factors
kept and learned of a weight matrix (`dmftcore.chain.couplings`; init_scale^2 and lr / P for s < t
in plain gradient descent) as elementwise products, B^L = 0 and G^{L+1} = 1 in the outputs at all
times, A^0 = 0 for fixed data:

    C^l = kept A^{l-1} + learned H^{l-1}            D^l = kept B^l + learned G^{l+1}
    S   = (1 - g2 D^l C^l)^{-1}
    A^l = C^l S                                     B^{l-1} = S D^l
    G^l = S (kept G^{l+1}) S^T + g2 B^{l-1} (kept H^{l-1}) B^{l-1}^T
    Q^l = (kept H^{l-1}) B^{l-1}^T
    H^l = kept H^{l-1} + g2 ( C^l Q^l^T + Q^l C^l^T + C^l G^l C^l^T )

H^l is the feature kernel contracted with Delta on both sides (Gamma^l in the literature), G^l the
gradient kernel; A^l and B^l are the responses of features and gradients, divided by gamma so that
gamma = 0 is a regular point. Layer l is what `dmftcore.chain.reflection` describes, with Y = D^l
above and Z = C^l below. C and B are strictly causal; only what random data answer within a step,
the diagonal of A^0, makes C and A causal. D is needed in its current row only: the history
consists of C, B, G and H, and a step passes over 11 triangles in each layer. The response
of the outputs, D^0 = kept B^0 + learned G^1, continues D to l = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dmftcore import twotime
from dmftcore._validate import FloatArray
from dmftcore.chain.base import LiftedRows, TwoTimeChain, deviation
from dmftcore.chain.couplings import Couplings, Through
from dmftcore.chain.reflection import (
    Factors,
    added,
    features,
    reflected_covariance,
    reflected_response,
)

__all__ = ["HiddenChain"]


class HiddenChain(TwoTimeChain):
    """The chain of a network without skips.

    Parameters
    ----------
    couplings : Couplings
    depth : int
        Number L of hidden layers.
    steps, outputs, gamma, xp, answers
        As in `TwoTimeChain`.
    """

    def __init__(
        self,
        couplings: Couplings,
        *,
        depth: int,
        steps: int,
        outputs: int,
        gamma: float,
        xp: Any = np,
        answers: bool = False,
    ) -> None:
        super().__init__(
            couplings, steps=steps, outputs=outputs, gamma=gamma, xp=xp, answers=answers
        )
        self.depth = depth
        self.layers = range(1, depth + 1)
        below = range(depth)
        self.c, self.g, self.b, self.h = self._new(c=self.layers, g=self.layers, b=below, h=below)

    @staticmethod
    def count(depth: int, steps: int, outputs: int) -> int:
        """Numbers that the history of such a chain holds."""
        return 4 * depth * ((steps + 1) * outputs) ** 2

    def descend(self, top: FloatArray) -> FloatArray:
        """See `TwoTimeChain`."""
        g, d = top, self.couplings.learned(top, self.step)
        for layer in reversed(self.layers):
            c, history = self.c[layer], self.b[layer - 1]
            b = reflected_response(d, c, history, self.g2)
            self._append(history, b)
            g, _ = reflected_covariance(
                b,
                self.couplings.kept(g, self.step),
                c,
                history,
                self._through_g(layer + 1),
                self._through(self.h[layer - 1]),
                self.g2,
            )
            self._append(self.g[layer], g)
            d = self.couplings.both(b, g, self.step)
        return d

    def ascend(self, h: FloatArray, a: FloatArray | None = None) -> None:
        """See `TwoTimeChain`."""
        self._remember(a)
        self._append(self.h[0], h)
        c = self._enter(h, a, self.step)
        self._append(self.c[1], c)
        for layer in self.layers[:-1]:
            h, a, _ = self._features(layer, c, h, self.step)
            self._append(self.h[layer], h)
            c = self.couplings.both(a, h, self.step)
            self._append(self.c[layer + 1], c)

    def lift(self, h: FloatArray, step: int, a: FloatArray | None = None) -> LiftedRows:
        """See `TwoTimeChain`."""
        rows = LiftedRows(self.xp.full(len(h), self.couplings.scale[step]), h=[h])
        for layer in self.layers:
            c = self._enter(h, a, step)
            h, a, change = self._features(layer, c, h, step)
            rows.h.append(h)
            rows.a.append(a)
            rows.layers.append(change)
        return rows

    def features(
        self, first: LiftedRows, second: LiftedRows, start: FloatArray
    ) -> list[FloatArray]:
        """H^1, ..., H^L: each adds its `layers` to kept H^{l-1}."""
        kept = first.scale[:, None] * second.scale
        kernels: list[FloatArray] = []
        h = start
        for left, right in zip(first.layers, second.layers, strict=True):
            h = added(kept * h, left, right)
            kernels.append(h)
        return kernels

    def residual(self, largest_size: int) -> float:
        """See `TwoTimeChain`."""
        dense = self._dense(largest_size)
        kept, learned = dense.kept, dense.learned
        c = {layer: dense.causal("c", layer) for layer in self.c}
        g = {layer: dense.symmetric("g", layer) for layer in self.g}
        h = {layer: dense.symmetric("h", layer) for layer in self.h}
        g[self.depth + 1] = dense.top

        deviations = [deviation(c[1], dense.entering + learned * h[0])]
        b = np.zeros_like(kept)
        for layer in reversed(self.layers):
            d = kept * b + learned * g[layer + 1]
            s = twotime.resolvent(self.g2 * twotime.causal_matmul(d, c[layer]))
            b = twotime.causal_matmul(s, d)
            deviations.append(deviation(dense.causal("b", layer - 1), b))
            sgs = twotime.congruence(s, kept * g[layer + 1])
            bhb = twotime.congruence(b, kept * h[layer - 1])
            deviations.append(deviation(g[layer], sgs + self.g2 * bhb))
            if layer < self.depth:
                a = twotime.causal_matmul(c[layer], s)
                deviations.append(deviation(c[layer + 1], kept * a + learned * h[layer]))
                # H^l = R (kept H^{l-1} + g2 C (kept G^{l+1}) C^T) R^T, R = (1 - g2 C D)^{-1}
                r = twotime.resolvent(self.g2 * twotime.causal_matmul(c[layer], d))
                cgc = twotime.congruence(c[layer], kept * g[layer + 1])
                rhr = twotime.congruence(r, kept * h[layer - 1] + self.g2 * cgc)
                deviations.append(deviation(h[layer], rhr))
        return max(deviations)

    def _features(
        self, layer: int, c: FloatArray, h: FloatArray, step: int
    ) -> tuple[FloatArray, FloatArray, Factors]:
        """Rows H^l, A^l, and what H^l adds, from rows C^l, H^{l-1}."""
        return features(
            c,
            self.couplings.kept(h, step),
            self.c[layer],
            self.b[layer - 1],
            self.g[layer],
            self._through(self.h[layer - 1]),
            self.g2,
        )

    def _through_g(self, layer: int) -> Through:
        """Products with kept o G^l, for l = 1..L+1."""
        return self._through_top() if layer > self.depth else self._through(self.g[layer])
