"""The hidden chain at infinite depth: residual blocks as a flow in the depth 0 <= tau <= 1.

With blocks of the factor b = beta_0 / sqrt(L) and L -> infinity, the recursions of
`dmftcore.chain.residual` turn into Riccati equations (same symbols; M and N are the couplings of a
block divided by b^2):

    M = kept A + learned H,                      N = kept B + learned G
     dZ/dtau    = beta_0^2 ( M + g2 Z N Z ),                                   Z(0) = learned H^0
     dHhat/dtau = beta_0^2 ( kept H + g2 [ Z N Hhat + Hhat N^T Z^T + Z (kept G) Z^T ] ),
                                                                            Hhat(0) = kept H^0
    -dY/dtau    = beta_0^2 ( N + g2 Y M Y ),                            Y(1) = learned G^{L+1}
    -dGhat/dtau = beta_0^2 ( kept G + g2 [ Y M Ghat + Ghat M^T Y^T + Y (kept H) Y^T ] ),
                                                                         Ghat(1) = kept G^{L+1}
    B, G, A, H where both sides meet, as in `dmftcore.chain.residual`

They are collocated at Chebyshev-Lobatto nodes: the error falls spectrally with their number. A row
in time obeys equations that are linear in it, with coefficients from earlier rows. Of these,
``dy/dtau = kept y + learned ghat + rest`` is solved exactly column by column; the rest, which
feature learning brings in, is iterated from rows extrapolated in time. Nodes are visited one by
one: a sweep over one of them passes over 11 triangles downward and 8 upward, the history holds 9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from dmftcore import _arrays, twotime
from dmftcore._validate import FloatArray
from dmftcore.chain.base import Kernels, LiftedRows, TwoTimeChain, deviation
from dmftcore.chain.collocation import Collocation
from dmftcore.chain.couplings import Couplings
from dmftcore.chain.reflection import (
    Factors,
    added,
    features,
    reflected_covariance,
    reflected_response,
)

__all__ = ["ContinuumChain"]

#: Nodes in depth unless asked otherwise.
NODES = 9

#: Rows whose relative change in a sweep is below this are at rest.
REST = 1e-13

#: Sweeps after which a row that does not rest has diverged.
MOST_SWEEPS = 100

#: Earlier rows from which a new one is extrapolated.
EXTRAPOLATED = 6

#: Rows of a response and of a covariance at all nodes, (nodes, m, n) each.
Flow: TypeAlias = tuple[FloatArray, FloatArray]
#: Slopes of a flow.
Slopes: TypeAlias = Callable[[FloatArray, FloatArray], Flow]


class ContinuumChain(TwoTimeChain):
    """The chain at infinite depth; its layers are the nodes 0, 1, ... in depth.

    A step is iterated until it rests, and so not the same operations each time.

    Parameters
    ----------
    couplings : Couplings
    branch_scale : float
        beta_0.
    nodes : int
        Number of nodes in depth.
    steps, outputs, gamma, xp, answers
        As in `TwoTimeChain`.
    """

    repeats = False

    def __init__(
        self,
        couplings: Couplings,
        *,
        branch_scale: float,
        steps: int,
        outputs: int,
        gamma: float,
        nodes: int = NODES,
        xp: Any = np,
        answers: bool = False,
    ) -> None:
        super().__init__(
            couplings, steps=steps, outputs=outputs, gamma=gamma, xp=xp, answers=answers
        )
        self.collocation = Collocation.of(nodes)
        self.layers = range(nodes)
        self.sweeps = 0
        self._beta2 = branch_scale**2
        self._up, self._down = (
            self._beta2 * xp.asarray(a) for a in (self.collocation.up, self.collocation.down)
        )
        names = ("z", "hhat", "y", "ghat", "m", "n", "b", "g", "h")
        self._z, self._hhat, self._y, self._ghat, self._m, self._n, self._b, self._g, self._h = (
            self._new(**dict.fromkeys(names, self.layers))
        )

    @staticmethod
    def count(steps: int, outputs: int, nodes: int = NODES) -> int:
        """Numbers that the history of such a chain holds."""
        return 9 * nodes * ((steps + 1) * outputs) ** 2

    def gradient_noise(self, layer: int) -> FloatArray:
        """G at the same depth."""
        return self.gradients(layer)

    def feature_noise(self, layer: int, rows: LiftedRows) -> FloatArray:
        """H at the same depth."""
        return rows.h[layer + 1]

    @property
    def diagnostics(self) -> dict[str, Any]:
        """Nodes in depth, and the relative error of the kernels that more nodes would remove.

        The error is estimated by the last Chebyshev coefficient in depth of the present rows
        of H and G.
        """
        n, now = self._size(self.step), self._now(self.step)
        largest = []
        for history in (self._h, self._g):
            rows = _arrays.to_host(self.xp.stack([history[j][now, :n] for j in self.layers]))
            spectrum = np.tensordot(self.collocation.coefficients, rows, 1)
            largest.append(np.abs(spectrum[-1]).max() / np.abs(rows).max())
        return {"depth_nodes": self.collocation.nodes.tolist(), "depth_error": float(max(largest))}

    def descend(self, top: FloatArray) -> FloatArray:
        """See `TwoTimeChain`."""
        step, n, now = self.step, self._size(self.step), self._now(self.step)

        def slopes(y: FloatArray, ghat: FloatArray) -> Flow:
            slope_y, slope_ghat = self.xp.empty_like(y), self.xp.empty_like(ghat)
            for j in self.layers:
                self._y[j][now, :n], self._ghat[j][now, :n] = y[j], ghat[j]
                b = reflected_response(y[j], self._z[j], self._b[j], self.g2)
                self._b[j][now, :n] = b
                g, _ = reflected_covariance(
                    b,
                    ghat[j],
                    self._z[j],
                    self._b[j],
                    self._through_known(self._ghat[j]),
                    self._through_known(self._hhat[j]),
                    self.g2,
                )
                self._g[j][now, :n] = g
                coupling = self.couplings.both(b, g, step)
                self._n[j][now, :n] = coupling
                slope_y[j], slope_ghat[j], _ = self._slopes(
                    y[j],
                    ghat[j],
                    coupling,
                    self.couplings.kept(g, step),
                    (self._m[j], self._y[j], self._ghat[j], self._h[j]),
                )
            return slope_y, slope_ghat

        self._settle(
            (self.couplings.learned(top, step), self.couplings.kept(top, step)),
            self._extrapolated(self._y, self._ghat),
            self._down,
            slopes,
            step,
        )
        return self.couplings.both(self._b[0][now, :n], self._g[0][now, :n], step)

    def ascend(self, h: FloatArray, a: FloatArray | None = None) -> None:
        """See `TwoTimeChain`."""
        step, n, now = self.step, self._size(self.step), self._now(self.step)
        self._remember(a)

        def slopes(z: FloatArray, hhat: FloatArray) -> Flow:
            slope_z, slope_hhat = self.xp.empty_like(z), self.xp.empty_like(hhat)
            for j in self.layers:
                self._z[j][now, :n], self._hhat[j][now, :n] = z[j], hhat[j]
                slope_z[j], slope_hhat[j], rows = self._upward(j, z[j], hhat[j], step)
                self._h[j][now, :n], self._m[j][now, :n] = rows[0], rows[2]
            return slope_z, slope_hhat

        self._settle(
            (self._enter(h, a, step), self.couplings.kept(h, step)),
            self._extrapolated(self._z, self._hhat),
            self._up,
            slopes,
            step,
        )

    def lift(self, h: FloatArray, step: int, a: FloatArray | None = None) -> LiftedRows:
        """See `TwoTimeChain`."""
        rows = LiftedRows(self.xp.full(len(h), self.couplings.scale[step]), h=[h])

        def slopes(z: FloatArray, hhat: FloatArray) -> Flow:
            flows = [self._upward(j, z[j], hhat[j], step) for j in self.layers]
            rows.h[1:] = [found[0] for _, _, found in flows]
            rows.a = [found[1] for _, _, found in flows]
            rows.layers = [found[3] for _, _, found in flows]
            rows.links = [found[4] for _, _, found in flows]
            return self.xp.stack([f[0] for f in flows]), self.xp.stack([f[1] for f in flows])

        start = self._enter(h, a, step), self.couplings.kept(h, step)
        self._settle(start, self._constant(start), self._up, slopes, step)
        return rows

    def features(
        self, first: LiftedRows, second: LiftedRows, start: FloatArray
    ) -> list[FloatArray]:
        """H at every node: `layers` is what it adds to Hhat, `links` is the slope of Hhat.

        Hhat also grows by beta_0^2 kept H, which is solved by iteration.
        """
        kept = first.scale[:, None] * second.scale
        change = self.xp.stack(
            [
                added(self.xp.zeros_like(start), left, right)
                for left, right in zip(first.layers, second.layers, strict=True)
            ]
        )
        slope = self.xp.stack(
            [added(kept * change[j], first.links[j], second.links[j]) for j in self.layers]
        )
        fixed = kept * start + self.xp.tensordot(self._up, slope, 1)
        hhat = fixed
        # The iterates are the terms of an exponential series, (beta_0^2 kept)^n / n!.
        for _ in range(_terms(self._beta2 * float(kept.max(initial=0.0)))):
            hhat = fixed + self.xp.tensordot(self._up, kept * hhat, 1)
        return list(hhat + change)

    def residual(self, largest_size: int) -> float:
        """See `TwoTimeChain`.

        The flows re-integrated from whole matrices, and the layers in their textbook form.
        """
        dense = self._dense(largest_size)
        kept, learned, g2 = dense.kept, dense.learned, self.g2
        up, down = (self._beta2 * a for a in (self.collocation.up, self.collocation.down))
        causal = {name: [dense.causal(name, j) for j in self.layers] for name in "zymnb"}
        symmetric = {
            name: [dense.symmetric(name, j) for j in self.layers]
            for name in ("hhat", "ghat", "h", "g")
        }

        def slopes(z: str, hhat: str, m: str, n: str, h: str, g: str) -> list[Flow]:
            flows = []
            for j in self.layers:
                zn = g2 * twotime.causal_matmul(causal[z][j], causal[n][j])
                cross = zn @ symmetric[hhat][j]
                noise = g2 * twotime.congruence(causal[z][j], kept * symmetric[g][j])
                flows.append((
                    causal[m][j] + twotime.causal_matmul(zn, causal[z][j]),
                    kept * symmetric[h][j] + cross + cross.T + noise,
                ))  # fmt: skip
            return flows

        found: list[tuple[FloatArray, FloatArray]] = []
        for sides, integral, start in (
            (("z", "hhat", "m", "n", "h", "g"), up, (causal["z"][0], symmetric["hhat"][0])),
            (("y", "ghat", "n", "m", "g", "h"), down, (learned * dense.top, kept * dense.top)),
        ):
            flows = slopes(*sides)
            responses = start[0] + np.tensordot(integral, [f[0] for f in flows], 1)
            covariances = start[1] + np.tensordot(integral, [f[1] for f in flows], 1)
            found += zip(causal[sides[0]], responses, strict=True)
            found += zip(symmetric[sides[1]], covariances, strict=True)
        for j in self.layers:
            z, y, b = causal["z"][j], causal["y"][j], causal["b"][j]
            hhat, ghat = symmetric["hhat"][j], symmetric["ghat"][j]
            s = twotime.resolvent(g2 * twotime.causal_matmul(y, z))
            r = twotime.resolvent(g2 * twotime.causal_matmul(z, y))
            a = twotime.causal_matmul(r, z)
            found.append((b, twotime.causal_matmul(s, y)))
            g = twotime.congruence(s, ghat) + g2 * twotime.congruence(b, hhat)
            h = twotime.congruence(r, hhat) + g2 * twotime.congruence(a, ghat)
            found += [(symmetric["g"][j], g), (symmetric["h"][j], h)]
            found.append((causal["n"][j], kept * b + learned * g))
            found.append((causal["m"][j], kept * a + learned * h))
        return max(deviation(*pair) for pair in found)

    def _upward(
        self, j: int, z: FloatArray, hhat: FloatArray, step: int
    ) -> tuple[FloatArray, FloatArray, tuple[FloatArray, FloatArray, FloatArray, Factors, Factors]]:
        """Slopes of rows z, hhat at a node; the rows H, A, M and what H and Hhat add."""
        h, a, change = features(
            z,
            hhat,
            self._z[j],
            self._b[j],
            self._g[j],
            self._through_known(self._hhat[j]),
            self.g2,
        )
        coupling = self.couplings.both(a, h, step)
        slope_z, slope_hhat, link = self._slopes(
            z,
            hhat,
            coupling,
            self.couplings.kept(h, step),
            (self._n[j], self._z[j], self._hhat[j], self._g[j]),
        )
        return slope_z, slope_hhat, (h, a, coupling, change, link)

    def _slopes(
        self,
        z: FloatArray,
        hhat: FloatArray,
        coupling: FloatArray,
        noise: FloatArray,
        histories: tuple[FloatArray, FloatArray, FloatArray, FloatArray],
    ) -> tuple[FloatArray, FloatArray, Factors]:
        """Slopes of the rows of a side, from the histories of N, Z, Hhat and G; four passes.

        ``M + g2 Z N Z`` and ``kept H + g2 [ Z N Hhat + ( Hhat N^T + Z (kept G) ) Z^T ]``.
        """
        n, z_history, hhat_history, g = histories
        zn, hn = twotime.rows_causal_pair(z, hhat, n)
        zn, back = self.g2 * zn, self.g2 * (hn + self._through(g)(z))
        znz, carried = twotime.rows_causal_pair(zn, back, z_history)
        slope = noise + twotime.rows_symmetric(zn, hhat_history) + carried
        return coupling + znz, slope, [(zn, hhat), (back, z)]

    def _settle(
        self, start: Flow, guess: Flow, integral: FloatArray, slopes: Slopes, step: int
    ) -> None:
        """Iterate a flow from `guess` until its rows rest; `slopes` stores what it computes.

        Parameters
        ----------
        start : Flow
            Rows (m, n) where the flow begins.
        guess : Flow
            Rows (nodes, m, n) at all nodes.
        integral : (nodes, nodes) array
            beta_0^2 times the integrals from where the flow begins.
        """
        first = guess[0]
        propagate = self._propagator(integral, step, first.shape[2])

        def learned(rows: FloatArray) -> FloatArray:
            flat = rows.reshape(-1, rows.shape[2])
            return self.couplings.learned(flat, step).reshape(rows.shape)

        def kept(rows: FloatArray) -> FloatArray:
            flat = rows.reshape(-1, rows.shape[2])
            return self.couplings.kept(flat, step).reshape(rows.shape)

        response, covariance = guess
        for _ in range(MOST_SWEEPS):
            self.sweeps += 1
            slope_r, slope_c = slopes(response, covariance)
            rest_c = slope_c - kept(covariance)
            rest_r = slope_r - kept(response) - learned(covariance)
            new_c = propagate(start[1] + self.xp.tensordot(integral, rest_c, 1))
            rest_r += learned(new_c)
            new_r = propagate(start[0] + self.xp.tensordot(integral, rest_r, 1))
            changes = _relative(new_r, response), _relative(new_c, covariance)
            if self.xp.maximum(*changes) <= REST:
                return
            response, covariance = new_r, new_c
        self.settled = False

    def _propagator(
        self, integral: FloatArray, step: int, n: int
    ) -> Callable[[FloatArray], FloatArray]:
        """Products with ``(1 - kept integral)^{-1}``, kept at every column."""
        xp, eye = self.xp, self.xp.eye(len(integral))
        if self.couplings.is_constant:
            inverse = xp.linalg.inv(eye - self.couplings.scale[0] ** 2 * integral)
            return lambda rows: xp.tensordot(inverse, rows, 1)
        kept = self.couplings.kept(xp.ones((1, n)), step)[0]
        inverses = xp.linalg.inv(eye - kept[:, None, None] * integral)
        return lambda rows: xp.ascontiguousarray(xp.einsum("nij,jmn->imn", inverses, rows))

    def _extrapolated(self, responses: Kernels, covariances: Kernels) -> Flow:
        """New rows at all nodes: at equal lag for recent columns, at equal column for old ones."""
        step, k, n = self.step, self.outputs, self._size(self.step)
        order = min(EXTRAPOLATED, step // 2)
        middle = step // 2 * k
        flow = []
        for kernels in (responses, covariances):
            rows = self.xp.zeros((len(kernels), k, n))
            for back in range(1, order + 1):
                factor = (-1) ** (back - 1) * math.comb(order, back)
                earlier = self.xp.stack(
                    [kernels[j][self._now(step - back), : n - back * k] for j in self.layers]
                )
                rows[..., :middle] += factor * earlier[..., :middle]
                rows[..., middle:] += factor * earlier[..., middle - back * k :]
            flow.append(rows)
        return flow[0], flow[1]

    def _constant(self, start: Flow) -> Flow:
        shape = (len(self.layers), *start[0].shape)
        return self.xp.zeros(shape) + start[0], self.xp.zeros(shape) + start[1]

    def _through_known(self, kernel: FloatArray) -> Callable[[FloatArray], FloatArray]:
        return lambda w: twotime.rows_symmetric(w, kernel)


def _relative(new: FloatArray, old: FloatArray) -> Any:
    """Largest change, relative to the largest element: a number where the rows are."""
    return abs(new - old).max() / (abs(new).max() + np.finfo(float).tiny)


def _terms(exponent: float) -> int:
    """Terms of the exponential series after which those left out are below rounding."""
    terms, term = 1, exponent
    while term > np.finfo(float).eps / 4 or terms < exponent:
        terms += 1
        term *= exponent / terms
    return terms
