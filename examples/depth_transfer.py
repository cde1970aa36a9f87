"""The best learning rate against the depth: residual branches of 1/sqrt(L), of 1, none.

Networks on random data, a fresh batch at every step, at a width of four times the input dimension.
With branches of 1 / sqrt(number of blocks) the loss as a function of the learning rate tends to
that of the continuous-depth limit, solved directly, and with it the best rate: it falls by a factor
of 1.4 from one block to infinitely many, most of it at the first blocks, and 17 layers are within
5 % of the limit. With branches of 1 the squared features double in every block, and so does the
initial function: 5 layers want a rate 7 times lower, and with 9 none on the grid is stable. Plain
networks keep the size of their features, but with more layers that learn, and the products of more
random matrices, the best rate falls by a factor of 6 and the loss rises by one of 5. Marks are the
minima; the best rates are printed. Writes depth_transfer.png.
"""

from __future__ import annotations

import math
import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

STEPS = 20
DEPTHS = (2, 3, 5, 9, 17)
RATES = np.geomspace(0.0025, 0.25, 15)


def stacks() -> dict[str, list[tuple[float, float | None]]]:
    """Depths and branch scales, by kind of network."""
    return {
        "branches of 1/sqrt(L - 1)": [(depth, 1.0) for depth in (*DEPTHS, dc.INFINITE)],
        "branches of 1": [(depth, math.sqrt(depth - 1)) for depth in DEPTHS],
        "no skips": [(depth, None) for depth in DEPTHS],
    }


def final_losses(stack: list[tuple[float, float | None]]) -> np.ndarray:
    """Test loss after STEPS steps, (depths, rates); NaN where training diverges."""
    grid = dc.sweep(
        dc.solve,
        limit=[
            dc.ProportionalLinear(
                depth, width_ratio=4.0, sample_ratio=2.0, noise=0.3, branch_scale=scale
            )
            for depth, scale in stack
        ],
        data=None,
        training=[dc.OnlineSGD(lr=rate, steps=STEPS) for rate in RATES],
        options={"times": [STEPS], "kernel_times": []},
    )
    return grid["test_loss"].isel(time=-1).values


def best_rate(losses: np.ndarray) -> float:
    """Minimum of the parabola, in log rate and log loss, through the best rate and its neighbours.

    NaN where training never succeeds, or where the best rate is at an end of the grid.
    """
    if np.isnan(losses).all():
        return math.nan
    best = int(np.nanargmin(losses))
    near = losses[max(best - 1, 0) : best + 2]
    if len(near) < 3 or np.isnan(near).any():
        return math.nan
    curvature, slope, _ = np.polyfit([-1, 0, 1], np.log(near), 2)
    return RATES[best] * (RATES[1] / RATES[0]) ** (-slope / (2 * curvature))


def main() -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        for ax, (kind, stack) in zip(axes, stacks().items(), strict=True):
            # Rates beyond the stable ones are on the grid by intention.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", dc.StabilityWarning)
                losses = final_losses(stack)
            print(f"{kind}: best learning rate after {STEPS} steps")
            for (depth, _), colour, row in zip(stack, COLOURS, losses, strict=False):
                rate = best_rate(row)
                print(f"  L = {depth:<4g} {rate:.4f}")
                name = r"\infty" if depth == dc.INFINITE else str(depth)
                ax.plot(RATES, row, color=colour, label=f"$L = {name}$")
                if not math.isnan(rate):
                    ax.plot(rate, np.nanmin(row), "v", color=colour)
            ax.set(xscale="log", yscale="log", xlabel="learning rate", title=kind, ylim=(2e-3, 1))
        axes[0].set_ylabel(f"test loss after {STEPS} steps")
        axes[0].legend(ncols=2, loc="upper right")
    figure.savefig("depth_transfer.png")


if __name__ == "__main__":
    main()
