"""What comes back from a neighbour: the step that all chains are made of.

Two parts of a network meet. What lies on this side answers with the response Y and fluctuates with
the covariance C; the other side answers with Z and fluctuates with M. Together, with g2 = gamma^2,

    S = (1 - g2 Y Z)^{-1},    R = S Y,    K = S C S^T + g2 R M R^T

are the response and the covariance of this side, with all reflections to and fro. Since
S = 1 + g2 R Z, no inverse is formed: rows of R and K follow from the histories of Z and R.
"""

from __future__ import annotations

from typing import TypeAlias

from dmftcore import twotime
from dmftcore._validate import FloatArray
from dmftcore.chain.couplings import Through

__all__ = ["Factors", "added", "features", "reflected_covariance", "reflected_response"]

#: Pairs (x, y) of rows whose products ``x y^T`` add up to the change of a kernel.
Factors: TypeAlias = list[tuple[FloatArray, FloatArray]]


def added(kernel: FloatArray, left: Factors, right: Factors) -> FloatArray:
    """A kernel between two sets of rows, and what their factors add to it."""
    for (x, _), (_, y) in zip(left, right, strict=True):
        kernel = kernel + x @ y.T
    return kernel


def reflected_response(y: FloatArray, z: FloatArray, r: FloatArray, g2: float) -> FloatArray:
    """Rows ``R = Y + g2 Y Z R`` from rows y of Y and the histories of Z and R: two passes."""
    return y + g2 * twotime.rows_causal(twotime.rows_causal(y, z), r)


def reflected_covariance(
    row: FloatArray,
    c: FloatArray,
    z: FloatArray,
    r: FloatArray,
    through_c: Through,
    through_m: Through,
    g2: float,
) -> tuple[FloatArray, Factors]:
    """Rows of K, and what K adds to C: five passes.

    ``S C S^T + g2 R M R^T = S C + g2 ( S C Z^T + R M ) R^T``.

    Parameters
    ----------
    row, c : (m, n) arrays
        Rows of R and of C.
    z, r : (N, N) arrays
        Histories of Z, and of R up to the present rows.
    through_c, through_m : callable
        Products of rows with C and with M.
    g2 : float
    """
    rz = g2 * twotime.rows_causal(row, z)
    sc = c + through_c(rz)
    back = g2 * (twotime.rows_causal_transposed(sc, z) + through_m(row))
    return sc + twotime.rows_causal_transposed(back, r), [(rz, c), (back, row)]


def features(
    z: FloatArray,
    hhat: FloatArray,
    z_history: FloatArray,
    b: FloatArray,
    g: FloatArray,
    through_hhat: Through,
    g2: float,
) -> tuple[FloatArray, FloatArray, Factors]:
    """Rows of H and A where the part below a layer (Z, Hhat) meets the solved part above it.

    ``h = hhat + gamma Z g`` with B the response and G the covariance of g, known already:
    ``Q = Hhat B^T``, ``H = Hhat + g2 ( Z Q^T + Q Z^T + Z G Z^T )``, ``A = Z S = Z + g2 Z B Z``.
    Four passes.

    Returns
    -------
    h, a : (m, n) arrays
    change : Factors
        What H adds to Hhat.
    """
    zb, q = twotime.rows_causal_pair(z, hhat, b)
    qv = q + twotime.rows_symmetric(z, g)
    zbz, qv_z = twotime.rows_causal_pair(zb, qv, z_history)
    return hhat + g2 * (through_hhat(zb) + qv_z), z + g2 * zbz, [(g2 * z, q), (g2 * qv, z)]
