"""The hidden chain of a network of residual blocks, h^{l+1} = h^l + b W^l h^l / sqrt(N).

A skip hands the features h^l on to the next layer, and its gradient back: what lies below a layer
is one side, with the response Z and the covariance Hhat, what lies above it the other, with Y and
Ghat (h^l = hhat + gamma Z g^l, g^l = ghat + gamma Y h^l). A block between two layers adds its own
couplings to each side. With the conventions of `dmftcore.chain.plain`:

    C^1 = kept A^0 + learned H^0                      D^L = learned G^{L+1}
    C^{l+1} = b^2 (kept A^l + learned H^l)            D^l = b^2 (kept B^l + learned G^{l+1})

    upward, over the block above layer l, from Z^1 = C^1 and Hhat^1 = kept H^0:
      Z^{l+1}    = C^{l+1} + V^{l+1},    V^{l+1} = (1 - g2 Z^l D^l)^{-1} Z^l
      Hhat^{l+1} = b^2 kept H^l + ( Hhat^l reflected at D^l with covariance b^2 kept G^{l+1} )
    downward, from Y^L = D^L and Ghat^L = kept G^{L+1}:
      Y^l    = D^l + U^l,                U^l = (1 - g2 Y^{l+1} C^{l+1})^{-1} Y^{l+1}
      Ghat^l = b^2 kept G^{l+1} + ( Ghat^{l+1} reflected at C^{l+1} with covariance b^2 kept H^l )
    at layer l both meet:
      B^{l-1} = (1 - g2 Y^l Z^l)^{-1} Y^l, and G^l: Ghat^l reflected at Z^l with covariance Hhat^l
      A^l = Z^l + g2 Z^l B^{l-1} Z^l, and H^l from the known B^{l-1}, G^l

The same reflection (`dmftcore.chain.reflection`) serves the blocks and the layers: seen from above,
a block is a layer without skip. Eight histories a layer beside G and H, ten in all, and 25 passes
over a triangle in each layer and step, against 4 and 11 without skips.

B^l and A^l answer to sources without the factor b: the response of a block's output to its own
noise carries a further b.
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

__all__ = ["ResidualChain"]


class ResidualChain(TwoTimeChain):
    """The chain of a network with L - 1 residual blocks.

    Parameters
    ----------
    couplings : Couplings
    depth : int
        Number L >= 2 of hidden layers.
    branch : float
        Factor b of a block.
    steps, outputs, gamma, xp, answers
        As in `TwoTimeChain`.
    """

    def __init__(
        self,
        couplings: Couplings,
        *,
        depth: int,
        branch: float,
        steps: int,
        outputs: int,
        gamma: float,
        xp: Any = np,
        answers: bool = False,
    ) -> None:
        super().__init__(
            couplings, steps=steps, outputs=outputs, gamma=gamma, xp=xp, answers=answers
        )
        self.depth, self._branch, self._b2 = depth, branch, branch**2
        self.layers = range(1, depth + 1)
        outer = range(depth)
        self._g, self._z, self._b, self._h = self._new(
            g=self.layers, z=self.layers, b=outer, h=outer
        )
        #: C^{l+1}, V^{l+1}, Hhat^{l+1} above the block of layer l; D^l, U^l, Ghat^l below it.
        above, below = range(2, depth + 1), range(1, depth)
        self._c, self._v, self._hhat, self._d, self._u, self._ghat = self._new(
            c=above, v=above, hhat=above, d=below, u=below, ghat=below
        )

    @staticmethod
    def count(depth: int, steps: int, outputs: int) -> int:
        """Numbers that the history of such a chain holds."""
        return (10 * depth - 6) * ((steps + 1) * outputs) ** 2

    def link(self, layer: int) -> float:
        """b for the blocks, 1 for the first and the last weights."""
        return self._branch if 0 < layer < self.depth else 1.0

    def descend(self, top: FloatArray) -> FloatArray:
        """See `TwoTimeChain`."""
        step = self.step
        y, ghat = self.couplings.learned(top, step), self.couplings.kept(top, step)
        b, g = self._meet(self.depth, y, ghat)
        for layer in reversed(self.layers[:-1]):
            d = self._b2 * self.couplings.both(b, g, step)
            self._append(self._d[layer], d)
            u, carried = self._reflected(
                y,
                ghat,
                self._c[layer + 1],
                self._u[layer],
                self._through_ghat(layer + 1),
                self._through(self._h[layer], self._b2),
            )
            y, ghat = d + u, self._b2 * self.couplings.kept(g, step) + carried
            self._append(self._ghat[layer], ghat)
            b, g = self._meet(layer, y, ghat)
        return self.couplings.both(b, g, step)

    def ascend(self, h: FloatArray, a: FloatArray | None = None) -> None:
        """See `TwoTimeChain`."""
        step = self.step
        self._remember(a)
        self._append(self._h[0], h)
        z, hhat = self._enter(h, a, step), self.couplings.kept(h, step)
        self._append(self._z[1], z)
        for layer in self.layers[:-1]:
            h, a, _ = self._features(layer, z, hhat)
            self._append(self._h[layer], h)
            c = self._b2 * self.couplings.both(a, h, step)
            v, carried = self._reflected(
                z,
                hhat,
                self._d[layer],
                self._v[layer + 1],
                self._through_hhat(layer),
                self._through_g(layer + 1),
            )
            z, hhat = c + v, self._b2 * self.couplings.kept(h, step) + carried
            for history, row in ((self._c, c), (self._z, z), (self._hhat, hhat)):
                self._append(history[layer + 1], row)

    def lift(self, h: FloatArray, step: int, a: FloatArray | None = None) -> LiftedRows:
        """See `TwoTimeChain`."""
        rows = LiftedRows(self.xp.full(len(h), self.couplings.scale[step]), h=[h])
        z, hhat = self._enter(h, a, step), self.couplings.kept(h, step)
        for layer in self.layers:
            h, a, change = self._features(layer, z, hhat)
            rows.h.append(h)
            rows.a.append(a)
            rows.layers.append(change)
            if layer < self.depth:
                c = self._b2 * self.couplings.both(a, h, step)
                v = reflected_response(z, self._d[layer], self._v[layer + 1], self.g2)
                carried, change = reflected_covariance(
                    v,
                    hhat,
                    self._d[layer],
                    self._v[layer + 1],
                    self._through_hhat(layer),
                    self._through_g(layer + 1),
                    self.g2,
                )
                z, hhat = c + v, self._b2 * self.couplings.kept(h, step) + carried
                rows.links.append(change)
        return rows

    def features(
        self, first: LiftedRows, second: LiftedRows, start: FloatArray
    ) -> list[FloatArray]:
        """H^1, ..., H^L: each adds its `layers` to Hhat^l.

        Hhat^{l+1} is b^2 kept H^l plus what the `links` add to Hhat^l.
        """
        kept = first.scale[:, None] * second.scale
        hhat = kept * start
        kernels: list[FloatArray] = []
        for layer in self.layers:
            kernels.append(added(hhat, first.layers[layer - 1], second.layers[layer - 1]))
            if layer < self.depth:
                carried = added(hhat, first.links[layer - 1], second.links[layer - 1])
                hhat = self._b2 * kept * kernels[-1] + carried
        return kernels

    def residual(self, largest_size: int) -> float:
        """See `TwoTimeChain`.

        The sides and the layers in their textbook form, ``S C S^T + g2 R M R^T`` with resolvents
        of whole matrices, and H^l by ``(1 - g2 Z Y)^{-1}``.
        """
        dense = self._dense(largest_size)
        kept, learned, g2 = dense.kept, dense.learned, self.g2

        def reflected(
            y: FloatArray, c: FloatArray, z: FloatArray, m: FloatArray
        ) -> tuple[FloatArray, FloatArray]:
            s = twotime.resolvent(g2 * twotime.causal_matmul(y, z))
            r = twotime.causal_matmul(s, y)
            return r, twotime.congruence(s, c) + g2 * twotime.congruence(r, m)

        h = {layer: dense.symmetric("h", layer) for layer in self._h}
        g = {layer: dense.symmetric("g", layer) for layer in self._g}
        z = {layer: dense.causal("z", layer) for layer in self._z}
        found: list[tuple[FloatArray, FloatArray]] = []
        above = {self.depth: (learned * dense.top, kept * dense.top)}
        for layer in reversed(self.layers[:-1]):
            d = self._b2 * (kept * dense.causal("b", layer) + learned * g[layer + 1])
            link = self._b2 * kept * h[layer]
            u, carried = reflected(*above[layer + 1], dense.causal("c", layer + 1), link)
            above[layer] = d + u, self._b2 * kept * g[layer + 1] + carried
            found += [(dense.causal("d", layer), d), (dense.causal("u", layer), u)]
            found.append((dense.symmetric("ghat", layer), above[layer][1]))
        below = dense.entering + learned * h[0], kept * h[0]
        for layer in self.layers:
            found.append((z[layer], below[0]))
            if layer > 1:
                found.append((dense.symmetric("hhat", layer), below[1]))
            b, expected = reflected(*above[layer], *below)
            found += [(dense.causal("b", layer - 1), b), (g[layer], expected)]
            if layer < self.depth:
                a, expected = reflected(*below, *above[layer])
                found.append((h[layer], expected))
                c = self._b2 * (kept * a + learned * h[layer])
                found.append((dense.causal("c", layer + 1), c))
                link = self._b2 * kept * g[layer + 1]
                v, carried = reflected(*below, dense.causal("d", layer), link)
                found.append((dense.causal("v", layer + 1), v))
                below = c + v, self._b2 * kept * h[layer] + carried
        return max(deviation(*pair) for pair in found)

    def _meet(self, layer: int, y: FloatArray, ghat: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Append and return the rows B^{l-1}, G^l, where y, ghat meet what lies below layer l."""
        b, g = self._reflected(
            y,
            ghat,
            self._z[layer],
            self._b[layer - 1],
            self._through_ghat(layer),
            self._through_hhat(layer),
        )
        self._append(self._g[layer], g)
        return b, g

    def _reflected(
        self,
        y: FloatArray,
        c: FloatArray,
        z: FloatArray,
        history: FloatArray,
        through_c: Through,
        through_m: Through,
    ) -> tuple[FloatArray, FloatArray]:
        """Rows of R, which are appended to its history, and of the reflected covariance."""
        r = reflected_response(y, z, history, self.g2)
        self._append(history, r)
        covariance, _ = reflected_covariance(r, c, z, history, through_c, through_m, self.g2)
        return r, covariance

    def _features(
        self, layer: int, z: FloatArray, hhat: FloatArray
    ) -> tuple[FloatArray, FloatArray, Factors]:
        """Rows H^l, A^l, and what H^l adds to Hhat^l."""
        return features(
            z,
            hhat,
            self._z[layer],
            self._b[layer - 1],
            self._g[layer],
            self._through_hhat(layer),
            self.g2,
        )

    def _through_ghat(self, layer: int) -> Through:
        if layer == self.depth:
            return self._through_top()
        return lambda w: twotime.rows_symmetric(w, self._ghat[layer])

    def _through_hhat(self, layer: int) -> Through:
        if layer == 1:
            return self._through(self._h[0])
        return lambda w: twotime.rows_symmetric(w, self._hhat[layer])

    def _through_g(self, layer: int) -> Through:
        """Products with the covariance of the gradients' noise in the block below `layer`."""
        return self._through(self._g[layer], self._b2)
