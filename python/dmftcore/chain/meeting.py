"""Where two sides of a network meet, and what passes a link between two meetings.

With the responses Z below and Y above, both zero within a step, and the covariances Hhat and Ghat
of what both sides do by themselves,

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
        g, _ = reflected_covariance(
            b, ghat, self.z, self.b, _through(self.ghat), _through(self.hhat), 1.0
        )
        self.g[now, :n] = g
        return g, b

    def across(self, now: slice, n: int) -> FloatArray:
        """``<g h^T>`` within a step, (m, m): ``B Hhat + G Z^T``."""
        product: FloatArray = (
            self.b[now, :n] @ self.hhat[now, :n].T + self.g[now, :n] @ self.z[now, :n].T
        )
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
        n = y.shape[1]
        r = reflected_response(y, self.z, self.r, 1.0)
        self.r[now, :n] = r
        covariance, _ = reflected_covariance(
            r, c, self.z, self.r, _through(self.c), _through(self.m), 1.0
        )
        return r, covariance
