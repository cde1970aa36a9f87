"""Repeated data against fresh data, at equal numbers of steps.

Networks of two hidden layers learn from noisy labels. Solid lines see the same alpha D samples at
every step, dashed ones alpha D new samples each time. After the first step the two have the same
test loss; after six they differ by more than a tenth. On repeated data the training loss falls
below that of the label noise (thin line), and the test loss turns (triangles) as the noise is
fitted: with fewer samples earlier, at a higher level, and to a worse end. Fresh data have no such
turn: the noise of the batches sets a floor that falls as 1 / alpha and is 20 to 70 times lower.
Their training loss is that of a batch before it is learned from. Points are networks of finite
width, mean and standard error. Writes data_repetition.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

STEPS = 300
LR = 0.03
NOISE = 0.5
SAMPLE_RATIOS = (1.0, 2.0, 4.0)
#: Of the trained networks; the input dimension is half of it.
WIDTH, SEEDS = 200, 10


def main() -> None:
    points = np.unique(np.geomspace(1, STEPS, 12).round().astype(int))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for colour, alpha in zip(COLOURS, SAMPLE_RATIOS, strict=False):
            limit = dc.ProportionalLinear(depth=2, width_ratio=2.0, sample_ratio=alpha, noise=NOISE)
            for training, line, mark in (
                (dc.GradientDescent(LR, STEPS), "-", "o"),
                (dc.OnlineSGD(LR, STEPS), "--", "s"),
            ):
                theory = dc.solve(limit, None, training, kernel_times=[])
                networks = dc.simulate(
                    limit,
                    None,
                    training,
                    width=WIDTH,
                    seeds=SEEDS,
                    times=points,
                    kernel_times=[],
                )
                for ax, name in ((left, "test_loss"), (right, "train_loss")):
                    ax.plot(theory.times, getattr(theory, name), line, color=colour)
                    ax.errorbar(
                        points,
                        getattr(networks, name),
                        networks.stderr(name),
                        fmt=mark,
                        color=colour,
                        markersize=3,
                        linewidth=1,
                    )
                if line == "-":
                    best = theory.test_loss.argmin()
                    left.plot(best, theory.test_loss[best], "v", color="black", zorder=4)
            left.plot([], [], color=colour, label=rf"$\alpha = {alpha:g}$")
        left.plot([], [], "k-", label="repeated")
        left.plot([], [], "k--", label="fresh")
        left.legend()
        right.axhline(NOISE**2 / 2, color="black", linewidth=0.6)
        for ax, label in ((left, "test loss"), (right, "training loss")):
            ax.set(xscale="log", yscale="log", xlabel="step $t$", ylabel=label)
    figure.savefig("data_repetition.png")


if __name__ == "__main__":
    main()
