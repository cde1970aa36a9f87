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

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import ComplexArray

__all__ = ["Contour", "Rung", "ellipses", "hyperbola", "infinity", "ladder"]

#: The hyperbola z = mu (1 + sin(iu - alpha)), u = (j + 1/2) h, for times from 1 to 4, with n h and
#: mu. Found by minimising the largest error of e^{-xt} over these times and all x >= 0, which is
#: 5e-15; the weights of its nodes are then up to 15 times the sum in size. The family is that of
#: Weideman and Trefethen, Math. Comp. 76 (2007) 1341.
HYPERBOLA_NODES = 24
ANGLE, STEP, SCALE = 0.9431, 2.7568, 5.2003

#: What is left of a series that the trapezoidal rule on an ellipse truncates, -log(1e-16).
DIGITS = 37.0
#: Largest value of a filter on its ellipse, in units of that on the spectrum: rounding errors of a
#: double integral grow with its square.
GROWTH = 10.0
#: How much narrower the second ellipse is.
CLOSER = 1.2
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


@cache
def _unit_hyperbola() -> Contour:
    step = STEP / HYPERBOLA_NODES
    u = 1j * step * (np.arange(HYPERBOLA_NODES) + 0.5) - ANGLE
    return Contour(SCALE * (1 + np.sin(u)), step * SCALE / (2 * np.pi) * np.cos(u))


def hyperbola(first: float) -> Contour:
    r"""Hyperbola around the negative real axis, for e^{zt} with t from `first` to four times that.

    .. math:: z(u) = \mu (1 + \sin(iu - \alpha))
    """
    unit = _unit_hyperbola()
    return Contour(unit.z / first, unit.dz / first)


@dataclass(frozen=True)
class Rung:
    """A hyperbola, by the first time it is for, and the times it serves.

    Attributes
    ----------
    first : float
        A power of 2.
    where : (m,) int array
        Which times.
    turn : (m,) int array
        0 in the octave of `first`, 1 in the next: the other evaluation of the same times.
    """

    first: float
    where: npt.NDArray[np.intp]
    turn: npt.NDArray[np.intp]


def ladder(times: FloatArray) -> list[Rung]:
    """The hyperbolas for times > 0, two for each time.

    They stand an octave apart and reach over two, wherever the times lie. So the second evaluation
    of a time, for an estimate of its error, is at the nodes of the first one of other times, and a
    filter and its square have their nodes in common.
    """
    octave = np.frexp(times)[1] - 1  # 2^octave <= t < 2^(octave + 1)
    order = np.argsort(octave, kind="stable")
    in_order = octave[order]
    numbers = np.union1d(octave, octave - 1)
    ends = [np.searchsorted(in_order, numbers + beyond).tolist() for beyond in (0, 2)]
    return [
        Rung(math.ldexp(1.0, number), order[begin:end], in_order[begin:end] - number)
        for number, begin, end in zip(numbers.tolist(), *ends, strict=True)
    ]


def ellipses(edge: float, growth: Callable[[ComplexArray], float]) -> tuple[Contour, Contour]:
    r"""Ellipses around [-edge, 0], which are their foci, for polynomial filters.

    .. math:: z(\theta) = -\frac{x}{2} + \frac{x}{2} \cosh(\ell + i\theta), \quad x = edge

    The widest is taken on which the filter stays below 10 times what it is on the spectrum. The
    error of n nodes falls as e^{-n \ell}, and n follows from it. The other one, for an estimate of
    the error, is closer to the spectrum.

    Parameters
    ----------
    edge : float
        End of the spectrum.
    growth : callable
        Largest absolute value of the filter at given points, over points and times.

    Raises
    ------
    ValueError
        If one takes more than 8192 nodes.
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

    def drawn(width: float) -> Contour:
        nodes = max(8, int(np.ceil(DIGITS / (2 * width))))
        if nodes > MOST_ELLIPSE_NODES:
            raise ValueError(
                f"these times take a contour of {2 * nodes} nodes, more than "
                f"{2 * MOST_ELLIPSE_NODES}: ask for shorter times, or for less momentum"
            )
        theta = np.pi * (np.arange(nodes) + 0.5) / nodes
        # dz / (2 pi i) = edge/2 sinh(w) i dtheta / (2 pi i)
        return Contour(at(width, theta), edge / (4 * nodes) * np.sinh(width + 1j * theta))

    return drawn(low), drawn(low / CLOSER)


def infinity(beyond: float) -> Contour:
    """Contour so far out, at `beyond`, that f(z) dz / z counts f at infinity: what time 0 wants."""
    z = np.array([beyond], np.complex128)
    return Contour(z, np.asarray(z / 2, np.complex128))
