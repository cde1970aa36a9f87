"""Loss curves against depth and feature-learning strength.

On data of power-law variances a deep linear network learns the large directions first. Feature
learning speeds it up: the larger gamma and the deeper the network, the earlier and steeper the
drop of the loss. Lines are the theory, points one network of width 500. Writes
depth_and_gamma.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

DEPTHS = (1, 2, 4)
GAMMAS = (0.3, 1.0, 3.0)
STEPS = 1000


def main() -> None:
    # Power-law variances; the target has a component along every direction.
    generator = np.random.default_rng(1)
    scales = np.arange(1, 21.0) ** -0.8
    inputs = generator.normal(size=(40, 20)) * scales
    inputs *= np.sqrt(inputs.size) / np.linalg.norm(inputs)
    targets = inputs @ generator.normal(size=20)
    data = dc.Dataset(inputs=inputs, targets=targets / np.sqrt(np.mean(targets**2)))
    training = dc.GradientDescent(lr=0.02, steps=STEPS)
    points = np.unique(np.geomspace(1, STEPS, 20).round().astype(int))

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots(1, len(DEPTHS), sharey=True)
        for ax, depth in zip(axes, DEPTHS, strict=True):
            for colour, gamma in zip(COLOURS, GAMMAS, strict=False):
                limit = dc.DeepLinear(depth, gamma=gamma)
                theory = dc.solve(limit, data, training, kernel_times=[])
                network = dc.simulate(
                    limit, data, training, width=500, times=points, kernel_times=[]
                )
                label = f"$\\gamma = {gamma:g}$"
                ax.plot(theory.times, theory.train_loss, color=colour, label=label)
                ax.plot(network.times, network.train_loss, "o", color=colour, markersize=3)
            ax.set(xscale="log", yscale="log", xlabel="step $t$", title=f"{depth} hidden layers")
        axes[0].set_title("1 hidden layer")
        axes[0].set_ylabel("training loss")
        axes[0].legend()
    figure.savefig("depth_and_gamma.png")


if __name__ == "__main__":
    main()
