"""The best learning rate against the width: muP transfers it, NTK scaling does not.

Networks of two hidden layers on random data, with width N, samples P and dimension D in
proportion, nu = N / D. Under NTK scaling gamma counts as gamma / sqrt(nu): wide networks do not
learn features, wide muP networks do, and what they learn raises their sharpness. So the contrast
is a matter of gamma, more than of time. At gamma = 10 the best rate of full batches is 0.016 in muP
at every width, and climbs from there to 0.18 under NTK scaling at nu = 256; with fresh batches and
label noise it goes from 0.004 to 0.003 and to 0.02. At gamma = 1 full batches show a contrast of
1.4, until NTK networks of nu >= 64 train best beyond the lazy edge of stability, 0.23, by a
catapult: the loss first rises, at nu = 256 to 60 times its start. With fresh batches both optima
fall with the width up to nu = 16 and hardly move beyond. Lines are the theory, points trained
networks of nu = 4, triangles the minima; the best rates are printed. Writes
learning_rate_transfer.png.
"""

from __future__ import annotations

import itertools
import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

STEPS = 64
WIDTHS = (1, 4, 16, 64, 256)
SCALINGS = {"mup": "muP", "ntk": "NTK scaling"}
GAMMAS = (1.0, 10.0)
RATES = np.geomspace(0.0015, 0.75, 19)
#: Standard deviation of the label noise, by what a step sees.
NOISES = {"full batch": 0.0, "fresh batches": 0.3}
#: Width ratio, input dimension and number of the networks that are trained.
TRAINED, INPUTS, SEEDS = 4, 100, 10


def limits(widths: tuple[int, ...], gamma: float, noise: float) -> list[dc.ProportionalLinear]:
    """Every width in one scaling, then in the other."""
    return [
        dc.ProportionalLinear(
            depth=2,
            width_ratio=width,
            sample_ratio=2.0,
            gamma=gamma,
            noise=noise,
            parameterization=scaling,
        )
        for scaling, width in itertools.product(SCALINGS, widths)
    ]


def final_losses(gamma: float, batches: str) -> np.ndarray:
    """Test loss after STEPS steps, (scalings, widths, rates); NaN where training diverges."""
    training = dc.GradientDescent if batches == "full batch" else dc.OnlineSGD
    grid = dc.sweep(
        dc.solve,
        limit=limits(WIDTHS, gamma, NOISES[batches]),
        data=None,
        training=[training(lr=rate, steps=STEPS) for rate in RATES],
        options={"times": [STEPS], "kernel_times": []},
    )
    return grid["test_loss"].values.reshape(len(SCALINGS), len(WIDTHS), len(RATES))


def trained_networks(gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over trained networks and standard error, (scalings, every other rate)."""
    grid = dc.sweep(
        dc.simulate,
        limit=limits((TRAINED,), gamma, NOISES["fresh batches"]),
        data=None,
        training=[dc.OnlineSGD(lr=rate, steps=STEPS) for rate in RATES[::2]],
        width=TRAINED * INPUTS,
        seeds=SEEDS,
        options={"times": [STEPS], "kernel_times": []},
    ).isel(time=-1)
    return grid["test_loss"].values, grid["stderr_test_loss"].values


def best_rate(losses: np.ndarray) -> float:
    """Minimum of the parabola, in log rate and log loss, through the best rate and its neighbours.

    Where there is none, next to divergence or at an end of the grid, the best rate itself.
    """
    best = int(np.nanargmin(losses))
    near = losses[max(best - 1, 0) : best + 2]
    if len(near) < 3 or np.isnan(near).any():
        return RATES[best]
    curvature, slope, _ = np.polyfit([-1, 0, 1], np.log(near), 2)
    return RATES[best] * (RATES[1] / RATES[0]) ** (-slope / (2 * curvature))


def main() -> None:
    # Rates beyond the stable ones are on the grid by intention.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dc.StabilityWarning)
        losses = {case: final_losses(*case) for case in itertools.product(GAMMAS, NOISES)}
        networks = trained_networks(GAMMAS[-1])
    best = {case: np.apply_along_axis(best_rate, 2, grid) for case, grid in losses.items()}

    print(f"best learning rate after {STEPS} steps")
    print("gamma  batches        scaling    ", *(f"nu={width:<6}" for width in WIDTHS))
    for (gamma, batches), rates in best.items():
        for scaling, row in zip(SCALINGS.values(), rates, strict=True):
            numbers = "  ".join(f"{rate:.4f} " for rate in row)
            print(f"{gamma:<5g}  {batches:13}  {scaling:11}  {numbers}")

    rich = GAMMAS[-1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for ax, name, grid, rates, means, errors in zip(
            (left, middle),
            SCALINGS.values(),
            losses[rich, "fresh batches"],
            best[rich, "fresh batches"],
            *networks,
            strict=True,
        ):
            for colour, width, row, rate in zip(COLOURS, WIDTHS, grid, rates, strict=False):
                ax.plot(RATES, row, color=colour, label=rf"$\nu = {width}$")
                ax.plot(rate, np.nanmin(row), "v", color=colour)
            colour = COLOURS[WIDTHS.index(TRAINED)]
            ax.errorbar(RATES[::2], means, errors, fmt="o", color=colour, markersize=3)
            ax.set(xscale="log", yscale="log", xlabel="learning rate")
            ax.set(xlim=(RATES[0], RATES[-1]), ylim=(5e-4, 2))
            ax.set_title(rf"{name}, $\gamma = {rich:g}$, fresh batches")
        left.set_ylabel(f"test loss after {STEPS} steps")
        left.legend()
        for (gamma, batches), colour in zip(best, COLOURS, strict=False):
            for rates, style in zip(best[gamma, batches], ("o-", "s:"), strict=True):
                right.plot(WIDTHS, rates, style, color=colour)
            right.plot([], [], color=colour, label=rf"$\gamma = {gamma:g}$, {batches}")
        right.plot([], [], "ko-", label="muP")
        right.plot([], [], "ks:", label="NTK scaling")
        right.set(xscale="log", yscale="log", xlabel=r"width ratio $\nu$", title="best rate")
        right.set(ylim=(RATES[0], 4))
        right.legend(ncols=2, fontsize=6.5, columnspacing=1, handlelength=1.5)
    figure.savefig("learning_rate_transfer.png")


if __name__ == "__main__":
    main()
