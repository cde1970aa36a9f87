"""Where learned features help: hard, easy and super-easy tasks.

Infinitely many features, variance k^-1.5 of direction k, target such that the loss of a lazy model
falls as t^-beta. On a hard task, beta < 1, learned features follow t^(-2 beta / (1 + beta)): the
weights C_w grow without end, and with them the speed of training. On an easy one they come to
rest, and the exponent stays beta. Beyond beta = 2 - 1/1.5 = 4/3 a task is super-easy: the gradient
flow of either model keeps beta, but the noise of one-pass training of lazy features, dashed with
batches of 8 at lr 0.2, falls as t^-4/3 in the end and takes over. (For learned features under such
noise nothing is claimed here.) The exponents of the legends, and those printed, are measured on the
last factor of ten in time. Writes hard_and_easy_tasks.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

B = 1.5
#: Kind of task, and its beta.
TASKS = (("hard", 0.5), ("easy", 1.1), ("super-easy", 1.8))
GAMMAS = (0.0, 1.0)
LAST = 1e6
LR, BATCH = 0.2, 8


def exponent(times: np.ndarray, losses: np.ndarray) -> float:
    """Slope over the last factor of ten in time."""
    late = times >= times[-1] / 10.01
    return np.polyfit(np.log(times[late]), np.log(losses[late]), 1)[0]


def main() -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        axes = figure.subplots(1, len(TASKS))
        times = np.geomspace(0.1, LAST, 71)
        steps = np.unique(np.geomspace(1, LAST / LR, 60).round().astype(int))
        for ax, (kind, beta) in zip(axes, TASKS, strict=True):
            task = dc.PowerLaw(B, 1 + B * beta, 10**14).grouped(100, 8)
            for colour, gamma in zip(COLOURS, GAMMAS, strict=False):
                limit = dc.FeatureLearning(dc.INFINITE, gamma)
                theory = dc.solve(limit, task, dc.GradientFlow(times), kernel_times=[])
                slope = exponent(times, theory.test_loss)
                name = rf"$\gamma = {gamma:g}$: $t^{{{slope:.3f}}}$"
                ax.plot(times, theory.test_loss, color=colour, label=name)
                print(f"{kind:10}  beta {beta}  gamma {gamma:g}: {slope:.4f}")
            limit = dc.RandomFeatures(dc.INFINITE, dc.INFINITE)
            training = dc.OnlineSGD(LR, int(steps[-1]), batch=BATCH)
            noisy = dc.solve(limit, task, training, times=steps, kernel_times=[])
            slope = exponent(steps, noisy.test_loss)
            name = rf"lazy, one pass: $t^{{{slope:.3f}}}$"
            ax.plot(LR * steps, noisy.test_loss, "--", color=COLOURS[0], label=name)
            print(f"{kind:10}  beta {beta}  one pass: {slope:.4f}")
            ax.set(xscale="log", yscale="log", xlabel=r"time $\tau$")
            ax.set_title(rf"{kind}: $\beta = {beta:g}$")
            ax.legend(loc="lower left")
        axes[0].set_ylabel("test loss")
    figure.savefig("hard_and_easy_tasks.png")


if __name__ == "__main__":
    main()
