"""Pictures of solutions: theory as lines, experiment as points with standard-error bands.

`plot_solutions` composes a whole figure; the other functions draw on given axes. Nothing here
touches ``pyplot``: figures are objects, and no display is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dmftcore._optional import optional_import
from dmftcore._validate import FloatArray
from dmftcore.solution import IntArray, Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.image import AxesImage

__all__ = [
    "alignment",
    "plot_alignment",
    "plot_kernel_pair",
    "plot_losses",
    "plot_sharpness",
    "plot_solutions",
    "plot_two_time",
]

#: Okabe and Ito's colours, distinguishable with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D")
#: An experiment is drawn with about this many points.
POINTS = 24
#: Up to this many classes are named beside a kernel.
MAX_CLASSES = 6
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
class _Curve:
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


def _curves(solutions: Mapping[str, Solution]) -> list[_Curve]:
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
        curves.append(_Curve(label, solution, kind[0], drawn.count(kind)))
        drawn.append(kind)
    return curves


def _one_family(curves: Sequence[_Curve]) -> bool:
    return len({curve.family for curve in curves}) == 1


def _log_time(curves: Sequence[_Curve]) -> bool:
    """Whether anything is stored at uneven steps, as is the default of long runs."""
    return any(_uneven(c.solution.times) or _uneven(c.solution.kernel_times) for c in curves)


def _uneven(times: IntArray) -> bool:
    return len(times) > 2 and bool(np.ptp(np.diff(times)) > 0)


def _spread(times: IntArray, log_time: bool) -> list[int]:
    """Indices of about `POINTS` times, evenly spaced on the axis."""
    if len(times) <= POINTS:
        return list(range(len(times)))
    position = np.log1p(times) if log_time else times
    wanted = np.linspace(position[0], position[-1], POINTS)
    indices = np.unique(np.searchsorted(position, wanted).clip(max=len(times) - 1))
    return [int(index) for index in indices]


def _time_axis(ax: Axes, log_time: bool) -> None:
    ax.set_xlabel("step $t$")
    if log_time:
        # Logarithmic from step 1 on, with room for step 0.
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        ax.set_xlim(left=-0.15, right=1.2 * max(ax.dataLim.x1, 1))
    else:
        ticker = optional_import("matplotlib.ticker", extra="plot", purpose="plotting")
        ax.xaxis.set_major_locator(ticker.MaxNLocator("auto", integer=True))


def plot_losses(ax: Axes, solutions: Mapping[str, Solution]) -> None:
    """Training and test loss against time, on a logarithmic axis.

    Solutions of equal limit, data and training share a colour (a single such family uses one
    colour for training and one for test). The band of an experiment is one standard error.

    Parameters
    ----------
    ax : Axes
    solutions : mapping of label to Solution
    """
    curves = _curves(solutions)
    log_time, single = _log_time(curves), _one_family(curves)
    has_test = any(c.solution.test_loss is not None for c in curves)
    for curve in curves:
        for part, name in enumerate(("train_loss", "test_loss")):
            values = getattr(curve.solution, name)
            if values is None:
                continue
            label = curve.label
            if single and has_test:
                label = f"{label}, {('train', 'test')[part]}"
            style = curve.style(curve.solution.times, log_time, open_marker=part == 1)
            if part == 1 and not single:
                label = "_test"
                style["linestyle"] = "none" if curve.measured else (0, (4, 1.5))
            _draw(ax, curve, name, values, COLOURS[part] if single else curve.colour, label, style)
    if has_test and not single:
        ax.plot([], [], color="0.4", linestyle=(0, (4, 1.5)), label="test")
    _loss_axis(ax)
    _time_axis(ax, log_time)
    ax.legend()


def _loss_axis(ax: Axes) -> None:
    ticker = optional_import("matplotlib.ticker", extra="plot", purpose="plotting")
    ax.set_yscale("log", nonpositive="clip")
    ax.set_ylabel("loss")
    low, high = ax.get_ylim()
    if high < 300 * low:
        # Few decades: plain numbers at 1, 2, 5 read better than powers of ten.
        ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def _draw(
    ax: Axes,
    curve: _Curve,
    name: str,
    values: FloatArray,
    colour: str,
    label: str,
    style: Mapping[str, Any],
) -> None:
    times = curve.solution.times
    ax.plot(times, values, color=colour, label=label, **style)
    error = curve.solution.standard_errors.get(name)
    if error is not None:
        low = np.maximum(values - error, 1e-3 * values)
        ax.fill_between(times, low, values + error, color=colour, alpha=0.2, linewidth=0)


def alignment(kernels: FloatArray, targets: FloatArray) -> FloatArray:
    """Alignment ``<H, y y^T>_F / (|H|_F |y y^T|_F)`` of kernels with the targets.

    Parameters
    ----------
    kernels : (n, P, P) array
    targets : (P,) or (P, K) array

    Returns
    -------
    (n,) array
        1 where the kernel is proportional to ``y y^T``; 0 for a kernel or targets that vanish.
    """
    y = targets.reshape(len(targets), -1)
    overlap = np.einsum("mk,tmn,nk->t", y, kernels, y, optimize=True)
    norms = np.linalg.norm(kernels, axis=(1, 2)) * np.linalg.norm(y.T @ y)
    aligned: FloatArray = np.divide(overlap, norms, out=np.zeros_like(norms), where=norms > 0)
    return aligned


def _targets(solution: Solution) -> FloatArray:
    """Training targets; errors of the square loss are y - f."""
    targets: FloatArray = solution.outputs[0] + solution.errors[0]
    return targets


def _layers(solution: Solution, name: str) -> list[int]:
    return sorted(solution.equal_time.get(name, {})) if len(solution.kernel_times) else []


def _training_kernels(solution: Solution, name: str, layer: int) -> FloatArray:
    points = solution.outputs.shape[1]
    return solution.equal_time[name][layer][:, :points, :points]


def plot_alignment(ax: Axes, solutions: Mapping[str, Solution], name: str = "H") -> None:
    """Alignment of every layer's kernel with the targets, against time.

    With solutions of more than one limit, data or training, only the last layer is drawn.

    Parameters
    ----------
    ax : Axes
    solutions : mapping of label to Solution
    name : str
        Kernel over points.
    """
    curves = [c for c in _curves(solutions) if _layers(c.solution, name)]
    if not curves:
        raise ValueError(f"no solution holds the kernel {name!r} at equal times")
    log_time, single = _log_time(curves), _one_family(curves)
    for curve in curves:
        layers = _layers(curve.solution, name)
        shades = _shades(len(layers))
        for index, layer in enumerate(layers):
            if not single and layer != layers[-1]:
                continue
            kernels = _training_kernels(curve.solution, name, layer)
            ax.plot(
                curve.solution.kernel_times,
                alignment(kernels, _targets(curve.solution)),
                color=shades[index] if single else curve.colour,
                label=f"layer {layer}" if single else curve.label,
                **curve.style(curve.solution.kernel_times, log_time),
            )
    ax.set_ylim(top=1)
    which = r"\ell" if single else "L"
    ax.set_ylabel(f"alignment of ${name}^{which}(t,t)$ with $y y^\\top$")
    _time_axis(ax, log_time)
    handles, labels = ax.get_legend_handles_labels()
    # Experiments repeat the layers of the theory: one entry each.
    unique = dict(zip(reversed(labels), reversed(handles), strict=True))
    ax.legend(unique.values(), unique.keys()) if single else ax.legend()


def _shades(count: int) -> list[Any]:
    """Colours of layers, dark to light."""
    matplotlib = optional_import("matplotlib", extra="plot", purpose="plotting")
    return list(matplotlib.colormaps["viridis"](np.linspace(0.1, 0.8, max(count, 1))))


def plot_sharpness(ax: Axes, solutions: Mapping[str, Solution]) -> None:
    """Largest eigenvalue of the tangent kernel over P, with the edge of stability 2/lr.

    Parameters
    ----------
    ax : Axes
    solutions : mapping of label to Solution
    """
    curves = [c for c in _curves(solutions) if c.solution.sharpness is not None]
    if not curves:
        raise ValueError("no solution holds the sharpness")
    log_time = _log_time(curves)
    rates: set[float] = set()
    for curve in curves:
        times, values = curve.solution.kernel_times, curve.solution.sharpness
        assert values is not None
        style = curve.style(times, log_time)
        ax.plot(times, values, color=curve.colour, label=curve.label, **style)
        if "lr" in curve.solution.config.get("training", {}):
            rates.add(float(curve.solution.config["training"]["lr"]))
    for rate in sorted(rates):
        ax.axhline(2 / rate, color="0.4", linewidth=1, linestyle=(0, (5, 2)))
        ax.annotate(
            f"$2/\\mathrm{{lr}} = {2 / rate:.3g}$",
            (0.98, 2 / rate),
            xycoords=ax.get_yaxis_transform(),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            color="0.3",
            fontsize="small",
        )
    ax.set_ylim(bottom=0)
    ax.set_ylabel(r"sharpness $\lambda_{\max}(K)/P$")
    _time_axis(ax, log_time)
    ax.legend()


def plot_kernel_pair(
    axes: Sequence[Axes],
    solution: Solution,
    *,
    name: str = "H",
    layer: int | None = None,
    label: str = "",
    scale: float | None = None,
) -> AxesImage:
    """Kernel between training points before and after training, points sorted by target.

    Parameters
    ----------
    axes : two Axes
    solution : Solution
    name : str
        Kernel over points.
    layer : int, optional
        Default: the last.
    label : str
        Start of the titles.
    scale : float, optional
        Value at the ends of the colour map, for several pairs to share; default: of this pair.

    Returns
    -------
    AxesImage
        The second picture, for a colour bar.
    """
    layers = _layers(solution, name)
    if not layers:
        raise ValueError(f"the solution does not hold the kernel {name!r} at equal times")
    layer = layers[-1] if layer is None else layer
    kernels = _training_kernels(solution, name, layer)[[0, -1]]
    order, blocks = _by_class(_targets(solution))
    scale = _scale(solution, name, layer) if scale is None else scale
    for ax, kernel, step in zip(axes, kernels, solution.kernel_times[[0, -1]], strict=True):
        image = ax.imshow(kernel[np.ix_(order, order)], cmap="RdBu_r", vmin=-scale, vmax=scale)
        ax.set_title(f"{label}{', ' if label else ''}$t = {step}$")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ticks = [centre for centre, _ in blocks]
        names = [class_name for _, class_name in blocks]
        ax.set_xticks(ticks, names)
        ax.set_yticks(ticks, names, rotation=90, va="center")
        if not blocks:
            ax.set_xlabel("training point")
    return image


def _scale(solution: Solution, name: str, layer: int) -> float:
    kernels = _training_kernels(solution, name, layer)[[0, -1]]
    return float(np.quantile(np.abs(kernels), 0.995)) or 1.0


def _by_class(targets: FloatArray) -> tuple[npt.NDArray[np.intp], list[tuple[float, str]]]:
    """Order of the points by target, and (centre, name) of each block of equal class.

    Points of one output are sorted by decreasing target, those of several by their largest one.
    """
    values = targets.reshape(len(targets), -1)
    single = values.shape[1] == 1
    rank = np.round(-values[:, 0], 9) if single else values.argmax(axis=1)
    order = np.argsort(rank, kind="stable")
    levels, counts = np.unique(rank, return_counts=True)
    if len(levels) > MAX_CLASSES:
        return order, []
    centres = np.cumsum(counts) - (counts + 1) / 2
    names = [f"$y={-level:+g}$" if single else f"class {level + 1}" for level in levels]
    return order, list(zip(centres.tolist(), names, strict=True))


def plot_two_time(
    ax: Axes,
    solution: Solution,
    *,
    name: str = "H",
    layer: int | None = None,
    pair: tuple[int, int] | None = None,
) -> Any:
    """Two-time kernel as a map over (t, s).

    Parameters
    ----------
    ax : Axes
    solution : Solution
        Solved with ``save=(name,)``.
    name : str
        Kernel.
    layer : int, optional
        Default: the last.
    pair : (int, int), optional
        Which two points; default: the mean over training points (outputs, for "G") of equal ones.

    Returns
    -------
    QuadMesh
        For a colour bar.
    """
    layers = sorted(solution.two_time.get(name, {}))
    if not layers:
        solution.kernel(name, t=None, s=None)  # Raises, and says how to get the kernel.
    layer = layers[-1] if layer is None else layer
    kernel = solution.kernel(name, layer)
    if pair is None:
        points = solution.outputs.shape[1] if name == "H" else kernel.shape[1]
        values = np.einsum("tmsm->ts", kernel[:, :points, :, :points]) / points
    else:
        values = kernel[:, pair[0], :, pair[1]]
    signed = values.min() < 0
    bound = float(np.abs(values).max()) or 1.0
    times = solution.kernel_times
    mesh = ax.pcolormesh(
        times,
        times,
        values,
        shading="nearest",
        cmap="RdBu_r" if signed else "viridis",
        vmin=-bound if signed else None,
        vmax=bound,
        rasterized=True,
    )
    if _uneven(times):
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        ax.set_yscale("symlog", linthresh=1, linscale=0.4)
    ax.set(xlabel="step $s$", ylabel="step $t$", box_aspect=1)
    ax.set(xlim=(times[0], times[-1]), ylim=(times[0], times[-1]))
    if pair is not None:
        quantity = f"{name}^{{{layer}}}_{{{pair[0]},{pair[1]}}}"
    else:
        index = "kk" if name == "G" else r"\mu\mu"
        quantity = rf"\langle {name}^{{{layer}}}_{{{index}}}\rangle"
    ax.set_title(f"${quantity}(t, s)$")
    return mesh


def plot_solutions(solutions: Mapping[str, Solution]) -> Figure:
    """One figure of everything the solutions hold.

    Losses; alignment of the kernels with the targets; sharpness with the line 2/lr; the last
    layer's kernel before and after training; two-time kernels where saved.

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
    curves = _curves(solutions)
    pictured = [c for c in curves if _layers(c.solution, "H")]
    two_time = [
        (curve, name)
        for curve in curves
        for name in sorted(curve.solution.two_time)
        if len(curve.solution.kernel_times) > 1
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
        if not _one_family(curves):
            _share_legend(rows[0], axes)
        if pictured:
            scale = max(_scale(c.solution, "H", _layers(c.solution, "H")[-1]) for c in pictured)
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


def _kernel_row(row: SubFigure, curves: Sequence[_Curve], scale: float) -> None:
    axes = row.subplots(1, 4, squeeze=False)[0]
    for ax in axes[2 * len(curves) :]:
        ax.set_visible(False)
    for index, curve in enumerate(curves):
        pair = axes[2 * index : 2 * index + 2]
        image = plot_kernel_pair(pair, curve.solution, label=curve.label, scale=scale)
    layer = _layers(curves[0].solution, "H")[-1]
    bar = row.colorbar(image, ax=list(axes[: 2 * len(curves)]), shrink=0.8, pad=0.01)
    bar.set_label(f"$H^{{{layer}}}_{{\\mu\\nu}}(t,t)$")
    bar.outline.set_visible(False)


def _map_row(row: SubFigure, maps: Sequence[tuple[_Curve, str]]) -> None:
    axes = row.subplots(1, 4, squeeze=False)[0]
    for ax in axes[len(maps) :]:
        ax.set_visible(False)
    for ax, (curve, name) in zip(axes, maps, strict=False):
        mesh = plot_two_time(ax, curve.solution, name=name)
        ax.set_title(f"{curve.label}: {ax.get_title()}")
        bar = row.colorbar(mesh, ax=ax, shrink=0.8)
        bar.outline.set_visible(False)
