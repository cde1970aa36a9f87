"""How solutions look: colours, marks, and the axis of time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dmftcore._optional import optional_import
from dmftcore.solution import Solution, TimeArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "STYLE",
    "Curve",
    "curves_of",
    "log_scale",
    "log_time_of",
    "one_family",
    "time_axis",
    "uneven",
]

#: Okabe and Ito's colours, distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")
#: An experiment is drawn with about this many points.
POINTS = 24
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "savefig.dpi": 200,
    "figure.dpi": 120,
}


@dataclass(frozen=True)
class Curve:
    """How one solution is drawn: a family is a theory with the experiments that test it."""

    label: str
    solution: Solution
    family: int
    repeat: int
    #: Whether the picture holds a gradient flow, so that time is tau for all.
    in_flow_time: bool

    @property
    def measured(self) -> bool:
        return bool(self.solution.per_seed)

    @property
    def colour(self) -> str:
        return COLOURS[self.family % len(COLOURS)]

    def clock(self, times: TimeArray) -> TimeArray:
        """Times of the solution as positions on the axis: steps beside a flow become tau."""
        if self.solution.in_flow_time or not self.in_flow_time:
            return times
        lr = self.solution.config["training"]["lr"]
        if not isinstance(lr, float):
            raise ValueError(
                f"{self.label}: the steps of a schedule cannot be drawn beside a gradient flow"
            )
        return times.astype(np.float64) * lr

    def style(
        self, times: TimeArray, log_time: bool, *, open_marker: bool = False
    ) -> dict[str, Any]:
        """Keywords of `Axes.plot`, colour excepted."""
        if self.measured:
            return {
                "linestyle": "none",
                "marker": MARKERS[self.repeat % len(MARKERS)],
                "markerfacecolor": "white" if open_marker else None,
                "markevery": _spread(times, log_time),
                "zorder": 3,
            }
        return {"linestyle": LINES[self.repeat % len(LINES)]}


def curves_of(solutions: Mapping[str, Solution]) -> list[Curve]:
    """Solutions with their families: those of equal limit, data and training."""
    if not solutions:
        raise ValueError("there is nothing to plot: solutions is empty")
    families: list[str] = []
    drawn: list[tuple[int, bool]] = []
    in_flow_time = any(solution.in_flow_time for solution in solutions.values())
    curves = []
    for label, solution in solutions.items():
        nouns = [solution.config.get(noun) for noun in ("limit", "data", "training")]
        key = json.dumps(nouns, sort_keys=True, default=str)
        if key not in families:
            families.append(key)
        kind = (families.index(key), bool(solution.per_seed))
        curves.append(Curve(label, solution, kind[0], drawn.count(kind), in_flow_time))
        drawn.append(kind)
    return curves


def one_family(curves: Sequence[Curve]) -> bool:
    """Whether all solutions share limit, data and training."""
    return len({curve.family for curve in curves}) == 1


def log_time_of(curves: Sequence[Curve]) -> bool:
    """Whether anything is stored at uneven times, as is the default of long runs."""
    return any(uneven(c.solution.times) or uneven(c.solution.kernel_times) for c in curves)


def uneven(times: TimeArray) -> bool:
    """Whether times are spaced unevenly, beyond rounding."""
    return len(times) > 2 and bool(np.ptp(np.diff(times)) > 1e-9 * times[-1])


def _spread(times: TimeArray, log_time: bool) -> list[int]:
    """Indices of about `POINTS` times, evenly spaced on the axis."""
    if len(times) <= POINTS:
        return list(range(len(times)))
    position = np.log1p(times / _first(times)) if log_time else times
    wanted = np.linspace(position[0], position[-1], POINTS)
    indices = np.unique(np.searchsorted(position, wanted).clip(max=len(times) - 1))
    return [int(index) for index in indices]


def _first(times: TimeArray) -> float:
    """The first time after the start."""
    return float(min(times[times > 0], default=1))


def log_scale(times: TimeArray) -> dict[str, Any]:
    """Keywords of a scale that is logarithmic from the first time on, with room for the start."""
    return {"value": "symlog", "linthresh": _first(times), "linscale": 0.4}


def time_axis(ax: Axes, curves: Sequence[Curve]) -> None:
    """Label and scale the axis of time; logarithmic ones start at time 0."""
    in_flow_time = curves[0].in_flow_time
    ax.set_xlabel(r"time $\tau$ = lr $\times$ step" if in_flow_time else "step $t$")
    if log_time_of(curves):
        stored = ((c, t) for c in curves for t in (c.solution.times, c.solution.kernel_times))
        times = np.concatenate([curve.clock(times) for curve, times in stored])
        ax.set_xscale(**log_scale(times))
        ax.set_xlim(left=-0.15 * _first(times), right=1.2 * max(ax.dataLim.x1, _first(times)))
    elif not in_flow_time:
        ticker = optional_import("matplotlib.ticker", extra="plot", purpose="plotting")
        ax.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True))
