"""The hidden chain: two-time kernels of L linear layers, marched one step at a time.

All pattern indices are contracted with the errors Delta, so that every kernel counts steps and
outputs only, whatever the number of points. Rows and columns are numbered (t, k), time slowest;
n_t = (t + 1) K of them are known at step t. For layers l = 1..L, with eta_P = lr / P,
g2 = gamma^2, s2 = init_scale^2, strict(.) zero at equal and later times, A^0 = B^L = 0 and
G^{L+1} = 1 in the outputs at all times:

    C^l = s2 A^{l-1} + eta_P strict(H^{l-1})        D^l = s2 B^l + eta_P strict(G^{l+1})
    S   = (I - g2 D^l C^l)^{-1}
    A^l = C^l S                                     B^{l-1} = S D^l
    Q^l = s2 H^{l-1} B^{l-1}^T
    G^l = s2 S G^{l+1} S^T + g2 B^{l-1} Q^l
    H^l = s2 H^{l-1} + g2 ( C^l Q^l^T + Q^l C^l^T + C^l G^l C^l^T )

H^l is the feature kernel contracted with Delta on both sides (Gamma^l in the literature), G^l the
gradient kernel; A^l and B^l are the responses of features and gradients, divided by gamma so that
gamma = 0 is a regular point. C and B are strictly causal and D is needed in its current row only;
since S = I + g2 B^{l-1} C^l, no inverse is ever formed and the history consists of C, B, G and H.
The response of the outputs, D^0 = s2 B^0 + eta_P strict(G^1), continues D to l = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dmftcore import twotime
from dmftcore._validate import FloatArray

__all__ = ["HiddenChain", "LiftedRows"]


@dataclass(frozen=True)
class LiftedRows:
    """Rows of the h side at one step t, layer by layer, for m vectors in input space.

    Attributes
    ----------
    h : list of (m, n) arrays
        H^0, ..., H^L, contracted with Delta on the second side.
    c, q, v, a : list of (m, n) arrays
        C^l, Q^l, C^l G^l, A^l for l = 1..L.
    """

    h: list[FloatArray]
    c: list[FloatArray]
    q: list[FloatArray]
    v: list[FloatArray]
    a: list[FloatArray]


class HiddenChain:
    """History of the kernels of L hidden layers.

    A step consists of `backward`, which needs earlier steps only, and of `forward`, which takes
    the new row of H^0 from the data side.

    Parameters
    ----------
    depth : int
        Number L of hidden layers.
    steps : int
        Steps t = 0..steps will be marched.
    outputs : int
        Number K of outputs.
    lr_per_point : float
        eta_P.
    gamma, init_scale : float
        As in `DeepLinear`.
    """

    def __init__(
        self,
        *,
        depth: int,
        steps: int,
        outputs: int,
        lr_per_point: float,
        gamma: float,
        init_scale: float,
    ) -> None:
        size = (steps + 1) * outputs
        self.depth, self.outputs = depth, outputs
        self.rate, self.g2, self.s2 = lr_per_point, gamma**2, init_scale**2
        #: Lower triangles over (t, k): C^l, G^l for l = 1..L; B^l, H^l for l = 0..L-1.
        self.c = {layer: np.zeros((size, size)) for layer in range(1, depth + 1)}
        self.g = {layer: np.zeros((size, size)) for layer in range(1, depth + 1)}
        self.b = {layer: np.zeros((size, size)) for layer in range(depth)}
        self.h = {layer: np.zeros((size, size)) for layer in range(depth)}
        #: G^{L+1} = top top^T.
        self.top = np.tile(np.eye(outputs), (steps + 1, 1))
        self.step = -1

    @staticmethod
    def count(depth: int, steps: int, outputs: int) -> int:
        """Numbers that the history of such a chain holds."""
        return 4 * depth * ((steps + 1) * outputs) ** 2

    def backward(self) -> FloatArray:
        """Go to the next step and append its rows of B and G; the row D^0 (K, n_t)."""
        self.step += 1
        n, now = self._size(self.step), self._now(self.step)
        b = np.zeros((self.outputs, n))
        g = np.ascontiguousarray(self.top[:n].T)
        for layer in range(self.depth, 0, -1):
            c, b_history = self.c[layer], self.b[layer - 1]
            d_row = self.s2 * b + self.rate * self._strict(g, self.step)
            dc = self.g2 * twotime.rows_causal(d_row, c)
            b = d_row + twotime.rows_causal(dc, b_history)
            b_history[now, :n] = b
            # S - I and S G^{l+1}
            bc = self.g2 * twotime.rows_causal(b, c)
            sg = self.s2 * (g + self._through_g(layer + 1, bc))
            q = self.s2 * twotime.rows_symmetric(b, self.h[layer - 1])
            # S G S^T + g2 B Q = S G + g2 ( S G C^T + Q^T ) B^T
            sgc = twotime.rows_causal_transposed(sg, c)
            g = sg + self.g2 * twotime.rows_causal_transposed(sgc + q, b_history)
            self.g[layer][now, :n] = g
        return self.s2 * b + self.rate * self._strict(g, self.step)

    def forward(self, h: FloatArray) -> None:
        """Append the rows of H and C at the present step, given that of H^0 (K, n_t)."""
        n, now = self._size(self.step), self._now(self.step)
        a = np.zeros_like(h)
        for layer in range(1, self.depth + 1):
            self.h[layer - 1][now, :n] = h
            c = self.s2 * a + self.rate * self._strict(h, self.step)
            self.c[layer][now, :n] = c
            if layer < self.depth:
                h, a, _, _ = self._next_layer(layer, h, c)

    def lift(self, h: FloatArray, step: int) -> LiftedRows:
        """Rows of all layers at `step` for m vectors of the input space.

        Parameters
        ----------
        h : (m, n) array
            Rows of H^0 on any number n >= (step + 1) K of known columns.
        step : int
            Where the strictly causal rows end.
        """
        rows = LiftedRows([h], [], [], [], [])
        a = np.zeros_like(h)
        for layer in range(1, self.depth + 1):
            c = self.s2 * a + self.rate * self._strict(h, step)
            h, a, q, v = self._next_layer(layer, h, c)
            rows.h.append(h)
            rows.c.append(c)
            rows.q.append(q)
            rows.v.append(v)
            rows.a.append(a)
        return rows

    def _next_layer(
        self, layer: int, h: FloatArray, c: FloatArray
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Rows H^l, A^l, Q^l, C^l G^l from rows H^{l-1}, C^l."""
        cb, hb = twotime.rows_causal_pair(c, h, self.b[layer - 1])
        q = self.s2 * hb
        v = twotime.rows_symmetric(c, self.g[layer])
        # C S - C = g2 C B C
        cbc, qv_c = twotime.rows_causal_pair(cb, q + v, self.c[layer])
        cq = self.s2 * twotime.rows_symmetric(cb, self.h[layer - 1])
        return self.s2 * h + self.g2 * (cq + qv_c), c + self.g2 * cbc, q, v

    def features(self, first: LiftedRows, second: LiftedRows) -> list[FloatArray]:
        """H^1, ..., H^L between two sets of lifted rows, apart from s2^l H^0.

        ``H^l - s2 H^{l-1} = g2 ( C Q^T + Q C^T + C G C^T )``, the first factor at one step and
        pattern, the second at another.
        """
        kernels: list[FloatArray] = []
        below: FloatArray | float = 0.0
        for layer in range(self.depth):
            c1, q1, v1 = first.c[layer], first.q[layer], first.v[layer]
            c2, q2 = second.c[layer], second.q[layer]
            below = self.s2 * below + self.g2 * (c1 @ q2.T + (q1 + v1) @ c2.T)
            kernels.append(below)
        return kernels

    def gradients(self, layer: int) -> FloatArray:
        """G^l over all marched steps, (n_t, n_t), both triangles."""
        n = self._size(self.step)
        lower = np.tril(self.g[layer][:n, :n])
        return lower + np.tril(lower, -1).T

    def residual(self, largest_size: int) -> float:
        """Largest relative violation of the equations above, over the first `largest_size` rows.

        The kernels are recomputed from each other by another route than the march: S and its
        counterpart on the h side as resolvents of whole matrices, G^l and H^l as congruences.
        """
        n = min(largest_size, self._size(self.step))
        steps = np.arange(n) // self.outputs
        later = steps[:, None] > steps

        def symmetric(history: FloatArray) -> FloatArray:
            lower = np.tril(history[:n, :n])
            return lower + np.tril(lower, -1).T

        c = {layer: history[:n, :n].copy() for layer, history in self.c.items()}
        g = {layer: symmetric(history) for layer, history in self.g.items()}
        h = {layer: symmetric(history) for layer, history in self.h.items()}
        g[self.depth + 1] = self.top[:n] @ self.top[:n].T

        deviations = [_deviation(c[1], self.rate * np.where(later, h[0], 0.0))]
        b = np.zeros((n, n))
        for layer in range(self.depth, 0, -1):
            d = self.s2 * b + self.rate * np.where(later, g[layer + 1], 0.0)
            s = twotime.resolvent(self.g2 * twotime.causal_matmul(d, c[layer]))
            b = twotime.causal_matmul(s, d)
            deviations.append(_deviation(self.b[layer - 1][:n, :n], b))
            # G^l = s2 ( S G^{l+1} S^T + g2 B H^{l-1} B^T )
            sgs = twotime.congruence(s, g[layer + 1])
            bhb = twotime.congruence(b, h[layer - 1])
            deviations.append(_deviation(g[layer], self.s2 * (sgs + self.g2 * bhb)))
            if layer < self.depth:
                a = twotime.causal_matmul(c[layer], s)
                response = self.s2 * a + self.rate * np.where(later, h[layer], 0.0)
                deviations.append(_deviation(c[layer + 1], response))
                # H^l = s2 R ( H^{l-1} + g2 C G^{l+1} C^T ) R^T with R = (I - g2 C D)^{-1}
                r = twotime.resolvent(self.g2 * twotime.causal_matmul(c[layer], d))
                cgc = twotime.congruence(c[layer], g[layer + 1])
                rhr = twotime.congruence(r, h[layer - 1] + self.g2 * cgc)
                deviations.append(_deviation(h[layer], self.s2 * rhr))
        return max(deviations)

    def _through_g(self, layer: int, w: FloatArray) -> FloatArray:
        """w G^l, for l = 1..L+1."""
        if layer > self.depth:
            return twotime.rows_low_rank(w, self.top, self.top)
        return twotime.rows_symmetric(w, self.g[layer])

    def _strict(self, rows: FloatArray, step: int) -> FloatArray:
        """Rows without the columns of `step` and later ones."""
        earlier = rows.copy()
        earlier[:, step * self.outputs :] = 0.0
        return earlier

    def _size(self, step: int) -> int:
        return (step + 1) * self.outputs

    def _now(self, step: int) -> slice:
        return slice(step * self.outputs, (step + 1) * self.outputs)


def _deviation(found: FloatArray, expected: FloatArray) -> float:
    scale = np.abs(expected).max(initial=0.0)
    return float(np.abs(found - expected).max() / scale) if scale > 0 else 0.0
