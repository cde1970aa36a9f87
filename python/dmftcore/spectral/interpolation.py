"""Curves at many times from few of them.

A mixture of decays e^{-yt} with y >= 0 is, as a function of s = log t, analytic and bounded where
the imaginary part of s is within pi/2. For an octave this strip contains the Bernstein ellipse of
parameter 9.2, so that the error of a polynomial in s through n Chebyshev points falls as 9.2^{-n}:
18 of them suffice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.polynomial.chebyshev import chebvander

from dmftcore._validate import FloatArray

__all__ = ["Thinned", "thin"]

#: Chebyshev points of an octave.
POINTS = 18
#: Octaves of more times are interpolated.
MANY = 2 * POINTS
#: The octave of time 0.
NEVER = -10_000
#: Times that are interpolated together: their polynomials stay in the cache.
BLOCK = 4096

_PLACES = np.cos(np.pi * (np.arange(POINTS) + 0.5) / POINTS)
#: From values at the points to coefficients of Chebyshev polynomials, (points, coefficients).
_TO_COEFFICIENTS = chebvander(_PLACES, POINTS - 1) * np.where(np.arange(POINTS) == 0, 1, 2) / POINTS


@dataclass(frozen=True)
class Thinned:
    """Times at which to compute, for a curve at all times.

    Attributes
    ----------
    times : (n,) array
        Those of `kept`, then the Chebyshev points of each octave.
    kept : (m,) int array
        Which of all times are among them.
    octaves : tuple of int
        Exponents of 2 of the octaves that are interpolated.
    wanted : (n_times,) array
        All times.
    """

    times: FloatArray
    kept: npt.NDArray[np.intp]
    octaves: tuple[int, ...]
    wanted: FloatArray

    def everywhere(self, values: FloatArray) -> FloatArray:
        """Curves at all times, (curves, n_times), from their values at some, (curves, n)."""
        if not self.octaves:
            return values
        found = np.empty((len(values), len(self.wanted)))
        found[:, self.kept] = values[:, : len(self.kept)]
        octave = _octave(self.wanted)
        for at, number in enumerate(self.octaves):
            first = len(self.kept) + at * POINTS
            coefficients = values[:, first : first + POINTS] @ _TO_COEFFICIENTS
            where = np.flatnonzero(octave == number)
            for some in np.array_split(where, -(-len(where) // BLOCK)):
                place = 2 * (np.log2(self.wanted[some]) - number) - 1
                found[:, some] = coefficients @ chebvander(place, POINTS - 1).T
        return found


def thin(times: FloatArray, smooth_from: float) -> Thinned:
    """Thin out the times of octaves in which there are many.

    Parameters
    ----------
    times : (n_times,) array
        Times >= 0.
    smooth_from : float
        The time from which on curves are mixtures of decays.
    """
    octave = _octave(times)
    numbers, counts = np.unique(octave[octave > NEVER], return_counts=True)
    dense = numbers[(counts > MANY) & (2.0**numbers >= smooth_from)]
    kept = np.flatnonzero(~np.isin(octave, dense))
    points = np.ldexp(2 ** ((1 + _PLACES) / 2), dense[:, None])
    anchors = np.concatenate([times[kept], points.ravel()])
    return Thinned(anchors, kept, tuple(dense.tolist()), times)


def _octave(times: FloatArray) -> npt.NDArray[np.intp]:
    """The exponents of 2 in the times, and `NEVER` for 0."""
    return np.where(times > 0, np.frexp(times)[1] - 1, NEVER)
