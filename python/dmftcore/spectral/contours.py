r"""Contours in the spectral plane: nodes and weights of quadratures around the spectrum.

The eigenvalues x of what training acts with lie at z = -x on the segment [-edge, 0]. A function f
that is analytic outside of it, and real on the real axis, is integrated once around it,

.. math:: \frac{1}{2\pi i} \oint f(z) dz = 2 \operatorname{Re} \sum_j f(z_j) dz_j,

with nodes in the upper half plane only. Two curves do for all filters. A *hyperbola* that opens to
the left is for filters e^{zt}: 18 nodes for any t of an octave, wherever the spectrum ends. An
*ellipse* with the ends of the spectrum as its foci is for polynomials of a degree up to T, with a
number of nodes that grows as sqrt(T) only, as nodes crowd at both ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import ComplexArray

__all__ = ["OCTAVE", "Contour", "ellipse", "hyperbola", "infinity", "octaves"]

#: Ratio of the last to the first time that one hyperbola serves.
OCTAVE = 2.0
#: Hyperbola of an octave that converges best: Weideman and Trefethen (2007), eq. (4.8)-(4.12).
#: The error falls as e^{-1.76 n}, rounding errors grow as e^{0.26 n}: they cross at 18 nodes.
ANGLE, STEP, SCALE = 1.1430972614, 1.5280445153, 2.9416547682
HYPERBOLA_NODES = 18
#: More would be worse.
MOST_HYPERBOLA_NODES = 20

#: What is left of a series that the trapezoidal rule on an ellipse truncates, -log(1e-16).
DIGITS = 37.0
#: Largest value of a filter on its ellipse, in units of that on the spectrum: rounding errors of a
#: double integral grow with its square.
GROWTH = 10.0
#: Between which widths the ellipse is searched for.
NARROWEST, WIDEST = 1e-5, 3.0
#: Of an ellipse, in the upper half plane; all pairs of them are evaluated, in a minute.
MOST_ELLIPSE_NODES = 8192


@dataclass(frozen=True)
class Contour:
    """Nodes in the upper half plane, and weights.

    Attributes
    ----------
    z : (n,) complex array
        Nodes.
    dz : (n,) complex array
        Weights; the conjugate nodes have the conjugate weights.
    """

    z: ComplexArray
    dz: ComplexArray


def hyperbola(first: float, nodes: int = HYPERBOLA_NODES) -> Contour:
    r"""Hyperbola around the negative real axis, for e^{zt} with t from `first` to twice that.

    .. math:: z(u) = \mu (1 + \sin(iu - \alpha))

    Parameters
    ----------
    first : float
        First time > 0.
    nodes : int
        At most 20.

    Raises
    ------
    ValueError
        For more nodes: rounding errors would grow.

    References
    ----------
    Weideman and Trefethen, Math. Comp. 76 (2007) 1341.
    """
    if nodes > MOST_HYPERBOLA_NODES:
        raise ValueError(
            f"nodes must be at most {MOST_HYPERBOLA_NODES}, not {nodes}: rounding errors of a "
            "hyperbola grow with the number of its nodes"
        )
    unit = _unit_hyperbola(nodes)
    return Contour(unit.z / first, unit.dz / first)


@cache
def _unit_hyperbola(nodes: int) -> Contour:
    step, scale = STEP / nodes, SCALE * nodes / OCTAVE
    u = 1j * step * (np.arange(nodes) + 0.5) - ANGLE
    return Contour(scale * (1 + np.sin(u)), step * scale / (2 * np.pi) * np.cos(u))


def ellipse(edge: float, growth: Callable[[ComplexArray], float], again: bool = False) -> Contour:
    r"""Ellipse around [-edge, 0], which are its foci, for polynomial filters.

    .. math:: z(\theta) = -\frac{x}{2} + \frac{x}{2} \cosh(\ell + i\theta), \quad x = edge

    The widest is taken on which the filter stays below 10 times what it is on the spectrum. The
    error of n nodes falls as e^{-n \ell}, and n follows from it.

    Parameters
    ----------
    edge : float
        End of the spectrum.
    growth : callable
        Largest absolute value of the filter at given points, over points and times.
    again : bool
        Draw another one, closer to the spectrum, for an estimate of the error.

    Raises
    ------
    ValueError
        If it takes more than 8192 nodes.
    """
    angles = np.linspace(0, np.pi, 65)

    def at(width: float, theta: FloatArray) -> ComplexArray:
        # cosh w - 1, without the cancellation at z = 0.
        z: ComplexArray = edge * np.sinh((width + 1j * theta) / 2) ** 2
        return z

    low, high = NARROWEST, WIDEST
    allowed = GROWTH * max(1.0, growth(at(low, angles)))
    while high > 1.01 * low:
        middle = np.sqrt(low * high)
        with np.errstate(over="ignore", invalid="ignore"):
            fits = growth(at(middle, angles)) <= allowed
        low, high = (middle, high) if fits else (low, middle)
    width = low / (1.2 if again else 1.0)
    nodes = max(8, int(np.ceil(DIGITS / (2 * width))))
    if nodes > MOST_ELLIPSE_NODES:
        raise ValueError(
            f"these times take a contour of {2 * nodes} nodes, more than {2 * MOST_ELLIPSE_NODES}: "
            "ask for shorter times, or for less momentum"
        )
    theta = np.pi * (np.arange(nodes) + 0.5) / nodes
    # dz / (2 pi i) = edge/2 sinh(w) i dtheta / (2 pi i)
    return Contour(at(width, theta), edge / (4 * nodes) * np.sinh(width + 1j * theta))


def infinity(edge: float) -> Contour:
    """Contour so wide that f(z) dz / z counts f at infinity: what time 0 asks for."""
    z = np.array([1e24 * edge], np.complex128)
    return Contour(z, np.asarray(z / 2, np.complex128))


def octaves(times: FloatArray) -> list[npt.NDArray[np.intp]]:
    """Times > 0 in groups, as indices, each within a factor of `OCTAVE` from its first."""
    order = np.argsort(times, kind="stable")
    in_order = times[order]
    groups: list[npt.NDArray[np.intp]] = []
    start = 0
    while start < len(order):
        last = OCTAVE * in_order[start] * (1 + 1e-12)
        end = int(np.searchsorted(in_order, last, side="right"))
        groups.append(order[start:end])
        start = end
    return groups
