"""Where two sides of a network meet, and what passes a link between two meetings.

With the responses Z below and Y above, both zero within a step, and the covariances Hhat and Ghat
of what each side does by itself,

    h = hhat + Z g,    g = ghat + Y h.

Factors of gamma are part of the responses here. The steps are those of
`dmftcore.chain.reflection`.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmftcore import twotime
from dmftcore._validate import FloatArray
from dmftcore.chain.couplings import Through
from dmftcore.chain.reflection import features, reflected_covariance, reflected_response

__all__ = ["Link", "Meeting"]


def _through(covariance: FloatArray) -> Through:
    return lambda rows: twotime.rows_symmetric(rows, covariance)


@dataclass(frozen=True)
class Meeting:
    """Rows of ``H = <h h>``, ``A = dh/dghat``, ``G = <g g>``, ``B = dg/dhhat``, step by step.

    In every step `lower` comes first and `upper` after it.

    Attributes
    ----------
    hhat, ghat : (N, N) arrays
        Histories of both covariances; the caller appends the rows of a step before `lower` and
        `upper` respectively.
    z, b, g : (N, N) arrays
        Histories of Z, B and G, filled here.
    """

    hhat: FloatArray
    ghat: FloatArray
    z: FloatArray
    b: FloatArray
    g: FloatArray

    def lower(self, now: slice, z: FloatArray, hhat: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows of H and A, given those of Z and Hhat, (m, n)."""
        self.z[now, : z.shape[1]] = z
        h, a, _ = features(z, hhat, self.z, self.b, self.g, _through(self.hhat), 1.0)
        return h, a

    def upper(self, now: slice, y: FloatArray, ghat: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows of G and B, given those of Y and Ghat, (m, n)."""
        n = y.shape[1]
        b = reflected_response(y, self.z, self.b, 1.0)
        self.b[now, :n] = b
        g = self._covariance(b, ghat)
        self.g[now, :n] = g
        return g, b

    def across(self, now: slice, n: int) -> FloatArray:
        """``<g h^T>`` within a step, (m, m), after `upper`."""
        return self._with_features(now, self.g[now, :n], self.b[now, :n])

    def read(self, now: slice, y: FloatArray, what: FloatArray) -> FloatArray:
        """``<w h^T>`` within a step, (k, m), of a readout ``w = what + Y h``, before `upper`.

        Parameters
        ----------
        now : slice
        y : (k, n) array
            Rows of Y, zero at the step.
        what : (k, n) array
            ``<what ghat^T>``; the columns of the step do not matter.
        """
        b = reflected_response(y, self.z, self.b, 1.0)
        return self._with_features(now, self._covariance(b, what), b)

    def _covariance(self, b: FloatArray, ghat: FloatArray) -> FloatArray:
        g, _ = reflected_covariance(
            b, ghat, self.z, self.b, _through(self.ghat), _through(self.hhat), 1.0
        )
        return g

    def _with_features(self, now: slice, g: FloatArray, b: FloatArray) -> FloatArray:
        """``<g h^T> = B Hhat + G Z^T``."""
        n = g.shape[1]
        product: FloatArray = b @ self.hhat[now, :n].T + g @ self.z[now, :n].T
        return product


@dataclass(frozen=True)
class Link:
    """One side (Y, C) seen through what answers with Z and has the covariance M.

    Attributes
    ----------
    c, z, m : (N, N) arrays
        Histories of C, with the row of the step, and of Z and M before it.
    r : (N, N) array
        History of the response ``R = (1 - Y Z)^{-1} Y`` behind the link, filled here.
    """

    c: FloatArray
    z: FloatArray
    m: FloatArray
    r: FloatArray

    def rows(self, now: slice, y: FloatArray, c: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Rows of R, and of the covariance ``S C S^T + R M R^T`` with ``S = (1 - Y Z)^{-1}``."""
        r = reflected_response(y, self.z, self.r, 1.0)
        self.r[now, : y.shape[1]] = r
        covariance, _ = reflected_covariance(
            r, c, self.z, self.r, _through(self.c), _through(self.m), 1.0
        )
        return r, covariance
