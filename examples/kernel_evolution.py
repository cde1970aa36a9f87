"""How the hidden kernels move: lazy against rich training.

A deep linear network learns to tell handwritten 3s from 8s at three feature-learning strengths
gamma. In the lazy limit gamma = 0 the kernels stay where the random weights put them; the larger
gamma, the more the last hidden layer collapses onto the direction of the targets. Infinite width,
solved in a second. Writes kernel_evolution.png.
"""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.demo import digits
from dmftcore.plotting import STYLE, plot_alignment, plot_kernel_pair, plot_losses

GAMMAS = (0.0, 1.0, 3.0)
DEPTH = 3
STEPS = 300


def main() -> None:
    data = digits(classes=(3, 8), train=120, test=0)
    training = dc.GradientDescent(lr=0.05, steps=STEPS)
    times = [0, 1, 2, 3, 4, 6, 8, 11, 15, 20, 30, 50, 80, 120, 200, STEPS]
    solutions = {
        f"$\\gamma = {gamma:g}$": dc.solve(
            dc.DeepLinear(DEPTH, gamma=gamma), data, training, kernel_times=times
        )
        for gamma in GAMMAS
    }

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.4), layout="constrained")
        grid = figure.add_gridspec(2, 4, width_ratios=(1.5, 1, 1, 1))
        plot_losses(figure.add_subplot(grid[0, 0]), solutions)
        plot_alignment(figure.add_subplot(grid[1, 0]), solutions)
        for column, (label, solution) in enumerate(solutions.items(), start=1):
            pair = [figure.add_subplot(grid[row, column]) for row in range(2)]
            image = plot_kernel_pair(pair, solution, label=label, scale=4)
        bar = figure.colorbar(image, ax=figure.axes[2:], shrink=0.6)
        bar.set_label(f"$H^{DEPTH}_{{\\mu\\nu}}(t,t)$")
    figure.savefig("kernel_evolution.png")


if __name__ == "__main__":
    main()
