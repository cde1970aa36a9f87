"""When the march of sampled particles beats a wide network: error against CPU time.

The loss after the last step of a residual network, left of tanh units, right of relu units: the
standard deviation of one run, relative to the loss, against the CPU seconds of that run, for the
march at rising numbers of particles and for networks of rising width. Small errors cost the march
less: its time is proportional to the particles, that of a network to the square of its width. Where
errors may be large small networks are as cheap, but their means are off as well: crosses are the
distances of the means of all networks from the theory, of order 1 / width and down to their noise.
The gradients of relu units visit a new direction at nearly every step, so that a long training
costs the march more. Writes march_against_networks.png.
"""

from __future__ import annotations

import time

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

SAMPLES = (125, 250, 500, 1000, 2000)
WIDTHS = (64, 128, 256, 512, 1024)
STEPS = 50
#: Runs of each size: their scatter is known to a fifth of itself.
RUNS = 12
#: Particles of the theory that means are compared with.
REFERENCE = 8000


def main() -> None:
    inputs = np.random.default_rng(0).normal(size=(3, 5))
    data = dc.Dataset(inputs=inputs, targets=[1.0, -1.0, 0.5])
    ends = {"times": [STEPS], "kernel_times": []}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, activation in zip(axes, ("tanh", "relu"), strict=True):
            limit = dc.Residual(3, activation, gamma=1.0 if activation == "tanh" else 0.7)
            training = dc.GradientDescent(lr=0.3, steps=STEPS)
            theory = dc.solve(limit, data, training, samples=REFERENCE, **ends).train_loss[0]
            costs = []
            for name, colour, sizes in zip(
                ("march", "networks"), COLOURS, (SAMPLES, WIDTHS), strict=False
            ):
                seconds, scatter, distance = [], [], []
                for size in sizes:
                    begin = time.process_time()
                    if name == "march":
                        run = dc.solve(limit, data, training, samples=size, replicas=RUNS, **ends)
                    else:
                        run = dc.simulate(limit, data, training, width=size, seeds=RUNS, **ends)
                    seconds.append((time.process_time() - begin) / RUNS)
                    losses = run.per_seed["train_loss"][:, 0]
                    scatter.append(losses.std(ddof=1) / theory)
                    distance.append(abs(losses.mean() / theory - 1))
                    print(
                        f"{activation} {name} {size}: {seconds[-1]:.3f} s, scatter "
                        f"{scatter[-1]:.3f}, mean off by {distance[-1]:.3f}"
                    )
                ax.plot(seconds, scatter, "o-", color=colour, label=name)
                if name == "networks":
                    ax.plot(seconds, distance, "x", color=colour, label="mean of networks")
                # What a variance of one takes, in means of many of the largest runs.
                costs.append(scatter[-1] ** 2 * seconds[-1])
            print(f"{activation}: networks of {WIDTHS[-1]} take {costs[1] / costs[0]:.1f} times")
            ax.set(xscale="log", yscale="log", xlabel="CPU seconds of a run", title=activation)
        axes[0].set_ylabel(f"relative error of loss({STEPS})")
        axes[0].legend()
    figure.savefig("march_against_networks.png")


if __name__ == "__main__":
    main()
