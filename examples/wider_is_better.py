"""Wider is better: test and training loss at several ratios nu of width to input dimension.

All networks learn from equally many samples at the same learning rate, in muP. The losses fall
into place one below the other as the width grows, until the widest networks start to fit the label
noise. They converge: at nu = 4 the test loss stays within a factor of 1.7 of that at a width
without bound. Narrow networks start from a random function of variance 1 / (gamma^2 nu); most of it
is unlearned within ten steps, but they learn more slowly ever after. Lines are the theory, points
networks of finite width, mean and standard error. Writes wider_is_better.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

STEPS = 80
LR = 0.05
WIDTH_RATIOS = (0.25, 0.5, 1.0, 4.0, 1e6)
#: Of the trained networks, up to the ratio at which they become large.
INPUTS, SEEDS, LARGEST_RATIO = 200, 10, 4.0


def main() -> None:
    points = np.arange(0, STEPS + 1, 8)
    training = dc.GradientDescent(LR, STEPS)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.4), layout="constrained")
        axes = figure.subplots(1, 2)
        for colour, ratio in zip(COLOURS, WIDTH_RATIOS, strict=False):
            limit = dc.ProportionalLinear(depth=2, width_ratio=ratio, sample_ratio=3.0, noise=0.3)
            theory = dc.solve(limit, None, training, kernel_times=[])
            trained = ratio <= LARGEST_RATIO
            label = rf"$\nu = {ratio:g}$" if trained else r"$\nu \to \infty$"
            for ax, name in zip(axes, ("test_loss", "train_loss"), strict=True):
                ax.plot(theory.times, getattr(theory, name), color=colour, label=label)
            if not trained:
                continue
            networks = dc.simulate(
                limit,
                None,
                training,
                width=round(ratio * INPUTS),
                seeds=SEEDS,
                times=points,
                kernel_times=[],
            )
            for ax, name in zip(axes, ("test_loss", "train_loss"), strict=True):
                mean, error = getattr(networks, name), networks.stderr(name)
                ax.errorbar(points, mean, error, fmt="o", color=colour, markersize=3, linewidth=1)
        axes[0].set_ylabel("test loss")
        axes[1].set_ylabel("training loss")
        for ax in axes:
            ax.set(yscale="log", xlabel="step $t$")
        axes[0].legend()
    figure.savefig("wider_is_better.png")


if __name__ == "__main__":
    main()
