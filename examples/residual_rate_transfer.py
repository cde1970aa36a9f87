"""Learning rates and sharpness over the depth of residual networks of tanh units.

Above, the loss after some steps of descent against the learning rate, left with branches of
1/sqrt(L), right with branches of a constant scale; marks are the best rates, which are printed.
With 1/sqrt(L) the curves tend to that of infinite depth, extrapolated from 8, 16 and 32 blocks, and
the best rate stays where it is; with a constant scale it falls as blocks are added. Below, the
sharpness along the training at a rate that all of them stand: with 1/sqrt(L) it is the same at all
depths (super consistency), with a constant scale it rises with depth. Writes
residual_rate_transfer.png.
"""

from __future__ import annotations

import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

DEPTHS = (1, 4, 16)
RATES = np.array([0.25, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0])
#: Of the curves below.
RATE = 0.5
STEPS = 8
#: Particles; their errors are far below the differences shown.
SAMPLES = 300
DATA = dc.Dataset(gram=[[1.0, 0.3], [0.3, 0.8]], targets=[1.0, -1.0])


def stacks() -> dict[str, list[dc.Residual]]:
    """Networks of rising depth, by the scale of their branches."""
    return {
        "branches of $1/\\sqrt{L}$": [
            dc.Residual(depth, "tanh") for depth in (*DEPTHS, dc.INFINITE)
        ],
        "branches of $1/2$": [
            dc.Residual(depth, "tanh", branch="none", branch_scale=0.5) for depth in DEPTHS
        ],
    }


def solve(limit: dc.Residual, rate: float) -> dc.Solution:
    """One run, with the sharpness at all steps."""
    training = dc.GradientDescent(lr=rate, steps=STEPS)
    return dc.solve(limit, DATA, training, samples=SAMPLES, replicas=4)


def final_loss(limit: dc.Residual, rate: float) -> float:
    """Loss after the last step; NaN if training diverges."""
    try:
        return float(solve(limit, rate).train_loss[-1])
    except dc.DivergenceError:
        return np.nan


def main() -> None:
    # Rates beyond the stable ones are on the grid by intention, where depths differ.
    warnings.simplefilter("ignore", dc.StabilityWarning)
    warnings.simplefilter("ignore", dc.AccuracyWarning)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 5.6), layout="constrained")
        axes = figure.subplots(2, 2, sharex="row", sharey="row")
        for (above, below), (kind, limits) in zip(axes.T, stacks().items(), strict=True):
            for colour, limit in zip(COLOURS, limits, strict=False):
                depth = "\\infty" if limit.depth == dc.INFINITE else str(limit.depth)
                losses = np.array([final_loss(limit, rate) for rate in RATES])
                best = np.nanargmin(losses)
                print(f"{kind}, L = {limit.depth}: best rate {RATES[best]}")
                above.plot(RATES, losses, color=colour, label=f"$L = {depth}$")
                above.plot(RATES[best], losses[best], "o", color=colour)
                run = solve(limit, RATE)
                error = run.stderr("sharpness")
                below.errorbar(run.kernel_times, run.sharpness, error, color=colour)
            above.set(xscale="log", yscale="log", xlabel="learning rate", title=kind)
            above.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"], minor=False)
            above.set_xticks([], minor=True)
            below.set(xlabel="step $t$")
        axes[0, 0].set_ylabel(f"loss after {STEPS} steps")
        axes[0, 0].legend()
        axes[1, 0].set(ylabel="sharpness", ylim=(0, None))
    figure.savefig("residual_rate_transfer.png")


if __name__ == "__main__":
    main()
