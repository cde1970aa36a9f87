"""How fast finite networks approach the theory: deviation against width.

Networks of width N are trained from several initialisations. The mean loss differs from the
infinite-width theory by order 1/N: that difference is plotted, averaged over time, with the
standard error of the mean over initialisations, and with it the scatter of the networks around
their mean, of order 1/sqrt(N). Writes width_convergence.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

WIDTHS = (16, 32, 64, 128, 256)
#: Networks of each width: the 1/N line is seen once the scatter is averaged out.
NETWORKS = 400


def main() -> None:
    generator = np.random.default_rng(0)
    data = dc.Dataset(inputs=generator.normal(size=(8, 20)), targets=generator.normal(size=8))
    training = dc.GradientDescent(lr=0.15, steps=30)
    limit = dc.DeepLinear(depth=2, gamma=1.0)
    theory = dc.solve(limit, data, training, kernel_times=[])

    bias, error, scatter = [], [], []
    for width in WIDTHS:
        networks = dc.simulate(limit, data, training, width=width, seeds=NETWORKS, kernel_times=[])
        # Relative to the initial loss, averaged over time; one number per network.
        deviation = networks.per_seed["train_loss"] - theory.train_loss
        number = deviation.mean(axis=1) / theory.train_loss[0]
        bias.append(abs(number.mean()))
        error.append(number.std(ddof=1) / np.sqrt(NETWORKS))
        scatter.append(number.std(ddof=1))

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        ax = figure.subplots()
        widths = np.array(WIDTHS)
        ax.errorbar(widths, bias, yerr=error, fmt="o", color=COLOURS[0], label="mean of networks")
        ax.plot(widths, scatter, "s", color=COLOURS[1], label="scatter of networks")
        for values, power, colour, name in (
            (bias, 1.0, COLOURS[0], "$\\propto 1/N$"),
            (scatter, 0.5, COLOURS[1], "$\\propto 1/\\sqrt{N}$"),
        ):
            level = np.exp(np.mean(np.log(values) + power * np.log(widths)))
            ax.plot(widths, level * widths**-power, color=colour, linewidth=1, label=name)
        ax.set(xscale="log", yscale="log", xlabel="width $N$", ylabel="deviation of the loss")
        ax.set_xticks(widths, [str(width) for width in WIDTHS])
        ax.minorticks_off()
        ax.legend()
    figure.savefig("width_convergence.png")


if __name__ == "__main__":
    main()
