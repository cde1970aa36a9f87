"""Six decades of training time: the loss on power-law data, lazy and rich.

The variance of the data in mode k falls as k^-b, the loss it holds at the start as k^-a. A lazy
network learns the modes one by one, at the rates of the data: loss ~ tau^-beta, with
beta = (a - 1) / b. Where features are learned, the tangent kernel grows with what has been
learned so far. For a hard task, beta < 1, that grows without end, and the loss falls by a steeper
law, which scaling puts at tau^(-beta (L + 1) / (1 + beta L)) for L hidden layers. Lines are
gradient flows, points a million steps of gradient descent, on one axis tau = lr * step; the
exponents in the legends are measured on the last decade of the lines. Writes long_times.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

A, B = 1.9, 1.5
DEPTHS = (1, 2)
GAMMAS = (0.0, 0.3, 3.0)
LR, STEPS = 2e-3, 1_000_000


def power_law(modes: int = 64, last: float = 1e8) -> dc.Dataset:
    """Modes k = 1..last in log-spaced groups, each of them as one mode."""
    edges = np.geomspace(1, last, modes + 1)
    variances = np.sqrt(edges[1:] * edges[:-1]) ** -B
    losses = edges[:-1] ** (1 - A) - edges[1:] ** (1 - A)
    # As many points as modes: the mean over points is then the sum over modes.
    return dc.Dataset(gram=np.diag(modes * variances), targets=np.sqrt(2 * modes * losses))


def main() -> None:
    data = power_law()
    beta = (A - 1) / B
    flow = dc.GradientFlow(LR * np.geomspace(1, STEPS, 61))
    descent = dc.GradientDescent(LR, STEPS)
    steps = np.geomspace(1, STEPS, 19).round().astype(int)

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.4), layout="constrained")
        axes = figure.subplots(1, len(DEPTHS), sharey=True)
        for ax, depth in zip(axes, DEPTHS, strict=True):
            for colour, gamma in zip(COLOURS, GAMMAS, strict=False):
                limit = dc.DeepLinear(depth, gamma=gamma)
                line = dc.solve(limit, data, flow, tol=1e-4, kernel_times=[])
                points = dc.solve(limit, data, descent, tol=1e-4, times=steps, kernel_times=[])
                late = line.times >= line.times[-1] / 10
                slope, _ = np.polyfit(np.log(line.times[late]), np.log(line.train_loss[late]), 1)
                label = rf"$\gamma = {gamma:g}$: $\tau^{{{slope:.3f}}}$"
                ax.plot(line.times, line.train_loss, color=colour, label=label)
                ax.plot(LR * points.times, points.train_loss, "o", color=colour, markersize=3)
            rich = beta * (depth + 1) / (1 + beta * depth)
            layers = "layer" if depth == 1 else "layers"
            laws = f"lazy $\\tau^{{-{beta:.3f}}}$, rich $\\tau^{{-{rich:.3f}}}$"
            ax.set(xscale="log", yscale="log", title=f"{depth} hidden {layers}: {laws}")
            ax.set_xlabel(r"time $\tau$ = lr $\times$ step")
            ax.legend(title="measured", loc="lower left")
        axes[0].set_ylabel("training loss")
    figure.savefig("long_times.png")


if __name__ == "__main__":
    main()
