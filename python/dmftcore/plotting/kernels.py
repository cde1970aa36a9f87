"""Pictures of kernels: between points before and after training, and over two times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.plotting.fields import has_diagonal, layers_of, targets_of, training_kernels
from dmftcore.plotting.style import log_scale, uneven
from dmftcore.solution import Solution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = ["colour_scale", "plot_kernel_pair", "plot_two_time"]

#: Up to this many classes are named beside a kernel.
MAX_CLASSES = 6


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
    layers = layers_of(solution, name)
    if not layers:
        raise ValueError(f"the solution does not hold the kernel {name!r} at equal times")
    layer = layers[-1] if layer is None else layer
    kernels = training_kernels(solution, name, layer)[[0, -1]]
    order, blocks = _by_class(targets_of(solution))
    scale = colour_scale(solution, name, layer) if scale is None else scale
    for ax, kernel, step in zip(axes, kernels, solution.kernel_times[[0, -1]], strict=True):
        image = ax.imshow(kernel[np.ix_(order, order)], cmap="RdBu_r", vmin=-scale, vmax=scale)
        when = rf"\tau = {step:.4g}" if solution.in_flow_time else f"t = {step}"
        ax.set_title(f"{label}{', ' if label else ''}${when}$")
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0)
        ticks = [centre for centre, _ in blocks]
        names = [class_name for _, class_name in blocks]
        ax.set_xticks(ticks, names)
        ax.set_yticks(ticks, names, rotation=90, va="center")
        if not blocks:
            ax.set_xlabel("training point")
    return image


def colour_scale(solution: Solution, name: str, layer: int) -> float:
    """Value at the ends of the colour map: nearly the largest before or after training."""
    kernels = training_kernels(solution, name, layer)[[0, -1]]
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
        Kernels of random data have none; those between points and outputs need it.

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
    if kernel.ndim == 6:
        # Gradients of several outputs of every pattern.
        kernel = kernel.reshape(len(kernel), -1, len(kernel), kernel.shape[1] * kernel.shape[2])
    if kernel.ndim == 2:
        values = kernel
    elif pair is None:
        if not has_diagonal(name):
            raise ValueError(
                f"{name!r} is a kernel between points and outputs, which has no diagonal: pass "
                "pair=(i, j), the numbers of one on each side"
            )
        points = solution.outputs.shape[1] if name in ("H", "Phi") else kernel.shape[1]
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
    if uneven(times):
        ax.set_xscale(**log_scale(times))
        ax.set_yscale(**log_scale(times))
    labels = (
        (r"time $\tau'$", r"time $\tau$") if solution.in_flow_time else ("step $s$", "step $t$")
    )
    ax.set(xlabel=labels[0], ylabel=labels[1], box_aspect=1)
    ax.set(xlim=(times[0], times[-1]), ylim=(times[0], times[-1]))
    if kernel.ndim == 2:
        quantity = f"{name}^{{{layer}}}" if name in ("G", "H", "Phi") else name
    elif pair is not None:
        quantity = f"{name}^{{{layer}}}_{{{pair[0]},{pair[1]}}}"
    else:
        index = "kk" if name == "G" else r"\mu\mu"
        quantity = rf"\langle {name}^{{{layer}}}_{{{index}}}\rangle"
    ax.set_title(f"${quantity}(t, s)$")
    return mesh
