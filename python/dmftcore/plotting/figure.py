"""The whole figure of a set of solutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dmftcore._optional import optional_import
from dmftcore.plotting.curves import plot_alignment, plot_losses, plot_sharpness
from dmftcore.plotting.fields import has_diagonal, layers_of
from dmftcore.plotting.kernels import colour_scale, plot_kernel_pair, plot_two_time
from dmftcore.plotting.style import STYLE, Curve, curves_of, one_family
from dmftcore.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

__all__ = ["plot_solutions"]


def plot_solutions(solutions: Mapping[str, Solution]) -> Figure:
    """One figure of everything the solutions hold.

    Losses; alignment of the kernels with the targets; sharpness with the line 2/lr; the last
    layer's kernel before and after training; two-time kernels where saved, but for those between
    points and outputs, which have no diagonal to show.

    Parameters
    ----------
    solutions : mapping of label to Solution
        Solutions of equal limit, data and training (a theory and its experiments) share colours.

    Returns
    -------
    matplotlib.figure.Figure
        Save it with ``figure.savefig(path)``.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    ValueError
        If there are no solutions.
    """
    matplotlib = optional_import("matplotlib", extra="plot", purpose="plotting")
    figures = optional_import("matplotlib.figure", extra="plot", purpose="plotting")
    curves = curves_of(solutions)
    pictured = [c for c in curves if layers_of(c.solution, "H")]
    two_time = [
        (curve, name)
        for curve in curves
        for name in sorted(curve.solution.two_time)
        if len(curve.solution.kernel_times) > 1 and has_diagonal(name)
    ]
    panels = [plot_losses]
    if pictured:
        panels.append(plot_alignment)
    if any(c.solution.sharpness is not None for c in curves):
        panels.append(plot_sharpness)
    kernel_rows = -(-len(pictured) // 2)
    map_rows = -(-len(two_time) // 4)
    heights = [2.9] + [2.9] * kernel_rows + [3.1] * map_rows
    width = 10.5 if len(heights) > 1 else max(3.5 * len(panels), 4.5)
    with matplotlib.rc_context(STYLE):
        figure: Figure = figures.Figure(figsize=(width, sum(heights)), layout="constrained")
        rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        axes = rows[0].subplots(1, len(panels), squeeze=False)[0]
        for ax, draw in zip(axes, panels, strict=True):
            draw(ax, solutions)
        if not one_family(curves):
            _share_legend(rows[0], axes)
        if pictured:
            scale = max(
                colour_scale(c.solution, "H", layers_of(c.solution, "H")[-1]) for c in pictured
            )
        for row in range(kernel_rows):
            _kernel_row(rows[1 + row], pictured[2 * row : 2 * row + 2], scale)
        for row in range(map_rows):
            _map_row(rows[1 + kernel_rows + row], two_time[4 * row : 4 * row + 4])
    return figure


def _share_legend(row: SubFigure, axes: Sequence[Axes]) -> None:
    """One legend above panels that tell the same curves apart by the same colours."""
    handles, labels = axes[0].get_legend_handles_labels()
    for ax in axes:
        legend = ax.get_legend()
        if legend is not None:
            legend.remove()
    row.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 6))


def _kernel_row(row: SubFigure, curves: Sequence[Curve], scale: float) -> None:
    axes = row.subplots(1, 4, squeeze=False)[0]
    for ax in axes[2 * len(curves) :]:
        ax.set_visible(False)
    for index, curve in enumerate(curves):
        pair = axes[2 * index : 2 * index + 2]
        image = plot_kernel_pair(pair, curve.solution, label=curve.label, scale=scale)
    layer = layers_of(curves[0].solution, "H")[-1]
    bar = row.colorbar(image, ax=list(axes[: 2 * len(curves)]), shrink=0.8, pad=0.01)
    bar.set_label(f"$H^{{{layer}}}_{{\\mu\\nu}}(t,t)$")
    bar.outline.set_visible(False)


def _map_row(row: SubFigure, maps: Sequence[tuple[Curve, str]]) -> None:
    axes = row.subplots(1, 4, squeeze=False)[0]
    for ax in axes[len(maps) :]:
        ax.set_visible(False)
    for ax, (curve, name) in zip(axes, maps, strict=False):
        mesh = plot_two_time(ax, curve.solution, name=name)
        ax.set_title(f"{curve.label}: {ax.get_title()}")
        bar = row.colorbar(mesh, ax=ax, shrink=0.8)
        bar.outline.set_visible(False)
