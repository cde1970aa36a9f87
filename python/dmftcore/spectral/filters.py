r"""Spectral filters: what training has left of an eigendirection by a given time.

All full-batch methods with linear predictors multiply the error along an eigenvector of the
gradient's matrix, of eigenvalue x = -z, by a number p_t(z) that is 1 at t = 0 and at z = 0. A
filter knows its values, and the contours on which they stay small.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import ComplexArray
from dmftcore.spectral.contours import Contour, ellipses, hyperbola, infinity, ladder

__all__ = ["Descent", "Filter", "Flow", "Piece", "Schedule", "described", "start"]

#: From this step on gradient descent takes hyperbolas.
LATE = 64
#: Kinds of pieces, with the reason for each.
START = "initial loss"
ELLIPSE = "ellipse for all times of a polynomial filter"
HYPERBOLA = "hyperbola for each octave of times"
HYPERBOLA_IN_LOG = "hyperbola in log rho for each octave of late times"
#: Negative roots are left out where the filter is below e^-45.
DROPPED = 45.0
#: From so many consecutive steps on, products are cheaper than exponentials.
CONSECUTIVE = 64
#: Logarithm of how little of the modes that oscillate with momentum is left out.
LEFT_OUT = 34.0


@dataclass(frozen=True)
class Piece:
    """Some of the times, with their contour.

    Attributes
    ----------
    where : (m,) int array
        Which times.
    turn : (m,) int array
        0 or 1: each time is evaluated twice, on two contours, for an estimate of the error.
    contour : Contour
        n nodes.
    values : (m, n) complex array
        The filter at the nodes.
    kind : str
        What the contour is.
    """

    where: npt.NDArray[np.intp]
    turn: npt.NDArray[np.intp]
    contour: Contour
    values: ComplexArray
    kind: str


class Filter(Protocol):
    """A way of training."""

    def pieces(self, times: FloatArray, power: int = 1) -> list[Piece]:
        """Contours for the filter, or its square, at some times, each time on two of them.

        Parameters
        ----------
        times : (n_times,) array
            Times > 0.
        power : int
            2 for the square of the filter.
        """

    @property
    def smooth_from(self) -> float:
        """The time from which on the filter is e^{-yt} with y >= 0 for every eigenvalue."""


def start(where: npt.NDArray[np.intp], beyond: float) -> Piece:
    """The piece of time 0, where nothing has been filtered; `beyond` as in `infinity`."""
    both = np.concatenate([where, where])
    turn = np.repeat([0, 1], len(where))
    return Piece(both, turn, infinity(beyond), np.ones((len(both), 1), np.complex128), START)


@dataclass(frozen=True)
class Flow:
    """Gradient flow, p_t = e^{zt}."""

    def pieces(self, times: FloatArray, power: int = 1) -> list[Piece]:
        """A hyperbola for each octave of times."""
        found = []
        unit = hyperbola(1.0)
        # On the hyperbola of its octave, and on the one before.
        values = np.exp(2 * np.frexp(times)[0][:, None] * unit.z)
        values = np.stack([values, values**2])
        for rung in ladder(power * times):
            found.append(
                Piece(
                    rung.where,
                    rung.turn,
                    hyperbola(rung.first),
                    values[rung.turn, rung.where],
                    HYPERBOLA,
                )
            )
        return found

    @property
    def smooth_from(self) -> float:
        """From the start."""
        return 0.0


@dataclass(frozen=True)
class Descent:
    r"""Gradient descent with a heavy ball.

    .. math:: p_{t+1} = (1 + m + \eta z) p_t - m p_{t-1}, \qquad p_{-1} = p_0 = 1

    With the larger root rho of rho + m/rho = 1 + m + eta z it is

    .. math:: p_t = \frac{\rho (\rho - m) \rho^t + m (\rho - 1) (m/\rho)^t}{\rho^2 - m}.

    The roots of the spectrum are the circle |rho|^2 = m, part of the real axis between it and 1,
    and part of the negative real axis between it and -1. Without momentum, rho = 1 + eta z.

    Parameters
    ----------
    lr : float
        Learning rate eta > 0.
    edge : float
        End of the spectrum.
    momentum : float
        0 <= m < 1.
    """

    lr: float
    edge: float
    momentum: float = 0.0

    @property
    def late(self) -> float:
        """The first step from which on there are hyperbolas."""
        return max(LATE, -2 * LEFT_OUT / np.log(self.momentum)) if self.momentum else LATE

    def pieces(self, times: FloatArray, power: int = 1) -> list[Piece]:
        """Two ellipses for all early times, hyperbolas in log rho for each octave of late ones."""
        found = []
        early = np.flatnonzero(times < self.late)
        if early.size:
            last = times[early].max()
            steps = np.unique(np.round(last * np.array([0.03, 0.1, 0.3, 0.6, 1.0])))

            def growth(z: ComplexArray) -> float:
                return float(np.abs(self._at(self._log_root(z), steps, power)).max())

            for turn, contour in enumerate(ellipses(self.edge, growth)):
                values = self._at(self._log_root(contour.z), times[early], power)
                found.append(Piece(early, np.full(len(early), turn), contour, values, ELLIPSE))
        late = np.flatnonzero(times >= self.late)
        for rung in ladder(power * times[late]):
            where = late[rung.where]
            contour, logs, signs = self.late_contour(rung.first)
            values = self._at(logs, times[where], power, signs)
            found.append(Piece(where, rung.turn, contour, values, HYPERBOLA_IN_LOG))
        return found

    @property
    def smooth_from(self) -> float:
        """From late times on, unless there are roots < 0."""
        return np.inf if self._has_negative_roots else self.late

    def late_contour(self, first: float) -> tuple[Contour, ComplexArray, FloatArray]:
        r"""Hyperbolas in log rho, for rho^t with t from `first` to four times that.

        One goes around the roots 0 < rho <= 1, and one around the negative ones where they
        matter. The circle of roots that momentum makes, and all within it, is left out: it counts
        m^{t/2}.

        Returns
        -------
        Contour, (n,) complex array, (n,) array
            And log(+-rho) at its nodes, and the sign.

        Raises
        ------
        ValueError
            If `first` is too early.
        """
        curve = hyperbola(first)
        s, ds = curve.z, curve.dz
        if np.abs(s.imag).max() > 3:
            raise ValueError(f"t = {first:g} is too early for a contour in log rho")
        logs, steps, signs = s, ds, np.ones(len(s))
        if self._has_negative_roots:
            lowest = self._log_root(np.array([-self.edge + 0j]))[0].real
            if first * lowest > -DROPPED:
                # -e^s has the upper half plane where s has the lower one.
                logs, steps = np.append(s, lowest + s.conj()), np.append(ds, ds.conj())
                signs = np.append(signs, -signs)
        if self.momentum:
            outside = logs.real > np.log(self.momentum) / 2
            logs, steps, signs = logs[outside], steps[outside], signs[outside]
        rho = signs * np.exp(logs)
        # rho - 1, without cancellation at rho = 1
        beyond = np.where(signs > 0, np.expm1(logs), rho - 1)
        z = np.asarray(beyond * (1 - self.momentum / rho) / self.lr, np.complex128)
        dz = np.asarray(steps * (rho - self.momentum / rho) / self.lr, np.complex128)
        return Contour(z, dz), logs, signs

    @property
    def _has_negative_roots(self) -> bool:
        return self.lr * self.edge > (1 + math.sqrt(self.momentum)) ** 2

    def _log_root(self, z: ComplexArray) -> ComplexArray:
        if self.momentum == 0:
            return np.asarray(np.log1p(self.lr * z))
        middle, end = (1 + self.momentum + self.lr * z) / 2, np.sqrt(self.momentum)
        return np.asarray(np.log(middle + np.sqrt(middle - end) * np.sqrt(middle + end)))

    def _at(
        self,
        logs: ComplexArray,
        times: FloatArray,
        power: int,
        signs: FloatArray | float = 1.0,
    ) -> ComplexArray:
        """The filter, or its square, at rho = signs e^logs, (times, n)."""
        if self.momentum == 0:
            values = _powers(power * logs, times)
            return values if power == 2 else _alternating(values, times, signs)
        m, rho = self.momentum, signs * np.exp(logs)
        fast, slow = _powers(logs, times), _powers(np.log(m) - logs, times)
        sum_: ComplexArray = rho * (rho - m) * fast + m * (rho - 1) * slow
        values = _alternating(sum_ / (rho**2 - m), times, signs)
        return values if power == 1 else values**2


def _alternating(
    values: ComplexArray, times: FloatArray, signs: FloatArray | float
) -> ComplexArray:
    """values signs^t: a phase pi t would have no digits left at late times."""
    if np.ndim(signs) == 0:
        return values
    odd = times[:, None] % 2 == 1
    return np.asarray(np.where(odd, signs, 1.0) * values)


def _powers(logs: ComplexArray, times: FloatArray) -> ComplexArray:
    """e^{logs t}, (times, n); of consecutive steps by products of two short tables."""
    count = len(times)
    if count < CONSECUTIVE or (np.diff(times) != 1).any():
        return np.exp(times[:, None] * logs)
    width = int(np.ceil(np.sqrt(count)))
    coarse = np.exp((times[0] + width * np.arange(-(-count // width)))[:, None] * logs)
    fine = np.exp(np.arange(width)[:, None] * logs)
    powers: ComplexArray = (coarse[:, None] * fine).reshape(-1, len(logs))[:count]
    return powers


@dataclass(frozen=True, eq=False)
class Schedule:
    r"""Gradient descent with a learning rate of its own for each step, and with a heavy ball.

    .. math:: u_t = m u_{t-1} + z p_t, \qquad p_{t+1} = p_t + \eta_t u_t, \qquad u_{-1} = 0, p_0 = 1

    Parameters
    ----------
    rates : (steps,) array
        Learning rates >= 0.
    edge : float
        End of the spectrum.
    momentum : float
        0 <= m < 1.
    """

    rates: FloatArray
    edge: float
    momentum: float = 0.0

    def pieces(self, times: FloatArray, power: int = 1) -> list[Piece]:
        """Two ellipses for all times."""
        steps = np.unique(np.linspace(0, times.max(), 65).round())

        def growth(z: ComplexArray) -> float:
            return float(np.abs(self._at(z, steps)).max() ** power)

        found, where = [], np.arange(len(times))
        for turn, contour in enumerate(ellipses(self.edge, growth)):
            values = self._at(contour.z, times) ** power
            found.append(Piece(where, np.full(len(times), turn), contour, values, ELLIPSE))
        return found

    @property
    def smooth_from(self) -> float:
        """Never."""
        return np.inf

    def _at(self, z: ComplexArray, times: FloatArray) -> ComplexArray:
        """p_t, (times, n)."""
        values = np.empty((len(times), len(z)), np.complex128)
        if self.momentum == 0:
            steps = times.astype(np.intp)
            rates = self.rates[: steps.max()]
            for j, node in enumerate(z):
                values[:, j] = np.exp(np.append(0, np.cumsum(np.log1p(rates * node)))[steps])
            return values
        order = np.argsort(times, kind="stable")
        now, velocity = np.ones(len(z), np.complex128), np.zeros(len(z), np.complex128)
        step = 0
        for place in order:
            for rate in self.rates[step : int(times[place])].tolist():
                velocity = self.momentum * velocity + z * now
                now = now + rate * velocity
            step = int(times[place])
            values[place] = now
        return values


def described(pieces: list[Piece], times: FloatArray) -> str:
    """Which contours serve which times, and why."""
    parts = []
    for kind in dict.fromkeys(piece.kind for piece in pieces):
        those = [piece for piece in pieces if piece.kind == kind]
        inside = times[np.concatenate([piece.where for piece in those])]
        nodes = sum(len(piece.contour.z) for piece in those)
        parts.append(f"{kind} (t = {inside.min():g} to {inside.max():g}: {nodes} nodes)")
    return "; ".join(parts)
