"""Draws docs/figures: the times of each benchmark over the sizes that grow in it.

`python -m bench figures` reads the committed results; nothing is measured here.
"""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from bench._growth import Series, series
from bench._harness import ROOT
from bench.table import SUBJECTS, clock, figure_path, results
from dmftcore.plotting import COLOURS, STYLE

#: Panels of a figure in a row.
ACROSS = 3
MARKERS = "os^Dv<>P"


def panel(axes, one: Series, unit: str, subject: str) -> None:
    """Times over sizes, in logarithms; the legend has the exponents."""
    exponents = dict(one.exponents())
    for i, (name, (sizes, seconds)) in enumerate(one.times.items()):
        label = f"{name}: {exponents[name]:.2f}" if name in exponents else name
        style = {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i % len(COLOURS)]}
        axes.loglog(sizes, seconds, label=label, markersize=4, **style)
    measured = sorted({size for sizes, _ in one.times.values() for size in sizes})
    axes.minorticks_off()
    axes.set_xticks(measured, [f"{size:g}" for size in measured])
    axes.set_title(subject + one.title, fontsize=8)
    axes.set(xlabel=one.size, ylabel=f"{unit} time / s")
    axes.legend(fontsize=6, title="growth exponents", title_fontsize=6)


def draw(path: Path, found: list[Series], unit: str, subject: str) -> None:
    """All series of a benchmark."""
    across = min(ACROSS, len(found))
    down = math.ceil(len(found) / across)
    # Ids in the file that do not change from run to run.
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": "dmftcore"}):
        figure = Figure(figsize=(3.6 * across, 2.9 * down), layout="constrained")
        panels = np.ravel(figure.subplots(down, across, squeeze=False))
        for axes, one in zip(panels, found, strict=False):
            panel(axes, one, unit, subject)
        for axes in panels[len(found) :]:
            axes.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))


def main():
    for name, records in results().items():
        for record in records:
            if found := series(record["cases"]):
                path = ROOT / "docs" / figure_path(name, record)
                draw(
                    path, found, clock(record), SUBJECTS.get(name, "").removeprefix("against JAX, ")
                )
                print(f"written: {path.relative_to(ROOT)}")
