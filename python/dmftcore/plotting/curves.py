"""Curves against time: losses, alignment of the kernels, sharpness."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dmftcore._optional import optional_import
from dmftcore._validate import FloatArray
from dmftcore.observables import alignment
from dmftcore.plotting.fields import layers_of, targets_of, training_kernels
from dmftcore.plotting.style import COLOURS, Curve, curves_of, log_time_of, one_family, time_axis
from dmftcore.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_alignment", "plot_losses", "plot_sharpness"]


def plot_losses(ax: Axes, solutions: Mapping[str, Solution]) -> None:
    """Training and test loss against time, on a logarithmic axis.

    Solutions of equal limit, data and training share a colour (a single such family uses one
    colour for training and one for test). The band of an experiment is one standard error.

    Parameters
    ----------
    ax : Axes
    solutions : mapping of label to Solution
    """
    curves = curves_of(solutions)
    log_time, single = log_time_of(curves), one_family(curves)
    has_test = any(c.solution.test_loss is not None for c in curves)
    for curve in curves:
        for part, name in enumerate(("train_loss", "test_loss")):
            values = getattr(curve.solution, name)
            if values is None:
                continue
            label = curve.label
            if single and has_test:
                label = f"{label}, {('train', 'test')[part]}"
            times = curve.clock(curve.solution.times)
            style = curve.style(times, log_time, open_marker=part == 1)
            if part == 1 and not single:
                label = "_test"
                style["linestyle"] = "none" if curve.measured else (0, (4, 1.5))
            _draw(ax, curve, name, values, COLOURS[part] if single else curve.colour, label, style)
    if has_test and not single:
        ax.plot([], [], color="0.4", linestyle=(0, (4, 1.5)), label="test")
    _loss_axis(ax)
    time_axis(ax, curves)
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
    curve: Curve,
    name: str,
    values: FloatArray,
    colour: str,
    label: str,
    style: Mapping[str, Any],
) -> None:
    times = curve.clock(curve.solution.times)
    ax.plot(times, values, color=colour, label=label, **style)
    error = curve.solution.standard_errors.get(name)
    if error is not None:
        low = np.maximum(values - error, 1e-3 * values)
        ax.fill_between(times, low, values + error, color=colour, alpha=0.2, linewidth=0)


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
    curves = [c for c in curves_of(solutions) if layers_of(c.solution, name)]
    if not curves:
        raise ValueError(f"no solution holds the kernel {name!r} at equal times")
    log_time, single = log_time_of(curves), one_family(curves)
    for curve in curves:
        layers = layers_of(curve.solution, name)
        shades = _shades(len(layers))
        times = curve.clock(curve.solution.kernel_times)
        for index, layer in enumerate(layers):
            if not single and layer != layers[-1]:
                continue
            kernels = training_kernels(curve.solution, name, layer)
            ax.plot(
                times,
                alignment(kernels, targets_of(curve.solution)),
                color=shades[index] if single else curve.colour,
                label=f"layer {layer}" if single else curve.label,
                **curve.style(times, log_time),
            )
    ax.set_ylim(top=1)
    which = r"\ell" if single else "L"
    ax.set_ylabel(f"alignment of ${name}^{which}(t,t)$ with $y y^\\top$")
    time_axis(ax, curves)
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
    curves = [c for c in curves_of(solutions) if c.solution.sharpness is not None]
    if not curves:
        raise ValueError("no solution holds the sharpness")
    log_time = log_time_of(curves)
    rates: set[float] = set()
    for curve in curves:
        times, values = curve.clock(curve.solution.kernel_times), curve.solution.sharpness
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
    time_axis(ax, curves)
    ax.legend()
