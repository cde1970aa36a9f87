"""How solutions look: colours, marks, and the axis of time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dmftcore._optional import optional_import
from dmftcore.solution import IntArray, Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOURS",
    "STYLE",
    "Curve",
    "curves_of",
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

    @property
    def measured(self) -> bool:
        return bool(self.solution.per_seed)

    @property
    def colour(self) -> str:
        return COLOURS[self.family % len(COLOURS)]

    def style(
        self, times: IntArray, log_time: bool, *, open_marker: bool = False
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
    curves = []
    for label, solution in solutions.items():
        nouns = [solution.config.get(noun) for noun in ("limit", "data", "training")]
        key = json.dumps(nouns, sort_keys=True, default=str)
        if key not in families:
            families.append(key)
        kind = (families.index(key), bool(solution.per_seed))
        curves.append(Curve(label, solution, kind[0], drawn.count(kind)))
        drawn.append(kind)
    return curves


def one_family(curves: Sequence[Curve]) -> bool:
    """Whether all solutions share limit, data and training."""
    return len({curve.family for curve in curves}) == 1


def log_time_of(curves: Sequence[Curve]) -> bool:
    """Whether anything is stored at uneven steps, as is the default of long runs."""
    return any(uneven(c.solution.times) or uneven(c.solution.kernel_times) for c in curves)


def uneven(times: IntArray) -> bool:
    """Whether steps are spaced unevenly."""
    return len(times) > 2 and bool(np.ptp(np.diff(times)) > 0)


def _spread(times: IntArray, log_time: bool) -> list[int]:
    """Indices of about `POINTS` times, evenly spaced on the axis."""
    if len(times) <= POINTS:
        return list(range(len(times)))
    position = np.log1p(times) if log_time else times
    wanted = np.linspace(position[0], position[-1], POINTS)
    indices = np.unique(np.searchsorted(position, wanted).clip(max=len(times) - 1))
    return [int(index) for index in indices]


def time_axis(ax: Axes, log_time: bool) -> None:
    """Label and scale the axis of time; logarithmic ones start at step 0."""
    ax.set_xlabel("step $t$")
    if log_time:
        # Logarithmic from step 1 on, with room for step 0.
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        ax.set_xlim(left=-0.15, right=1.2 * max(ax.dataLim.x1, 1))
    else:
        ticker = optional_import("matplotlib.ticker", extra="plot", purpose="plotting")
        ax.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True))
