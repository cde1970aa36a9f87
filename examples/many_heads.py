"""Transformers of many heads, and of heads with many dimensions.

Residual transformers of one block learn two sequences of two tokens. Networks of H heads with
N = 4 dimensions each tend to the limit of infinitely many heads, in which every head sees the same
sequences, but no two attend alike: the first panel has the mean loss over many networks of each
size, the second how far that is from the limit (dots with standard errors; a line 1/H). That limit
tends in turn, with the dimension N of its heads and logits divided by N, to the limit of infinitely
many dimensions, in which all heads are the same: the last panel has the distance of its loss and
the variance of attention between heads, which collapses, with lines 1/N. Everything on the side of
the theory is found without training a network. Writes many_heads.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

STEPS, LATER = 12, 5
HEADS, DIMENSIONS = (2, 4, 8, 16), (2, 4, 8, 16, 32)
NETWORKS, SAMPLES = 3000, 4000


def sequences() -> dc.Dataset:
    d, a = np.arange(4)[:, None], np.arange(4)
    x = 2 * np.cos(1.7 * (d + 1) * (a + 1) + 0.7 * d)
    return dc.Dataset(inputs=x.T.reshape(2, 2, 4), targets=[1, -1])


TRAINING = dc.GradientDescent(lr=0.03, steps=STEPS)


def theory(**fields: float) -> dc.Solution:
    limit = dc.Transformer(1, gamma=2.0, **fields)
    # As many particles for every dimension.
    samples = None if "key_dim" not in fields else max(2, int(SAMPLES / fields["key_dim"]))
    return dc.solve(limit, sequences(), TRAINING, samples=samples, kernel_times=[STEPS])


def networks(heads: int) -> dc.Solution:
    limit = dc.Transformer(1, gamma=2.0, key_dim=4, heads=heads)
    return dc.simulate(limit, sequences(), TRAINING, seeds=NETWORKS, kernel_times=[])


def main() -> None:
    many_heads, many_dimensions = theory(key_dim=4), theory()
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        print(f"loss of networks of N = 4 after {LATER} steps, less that of infinitely many heads")
        for heads, colour in zip(HEADS, COLOURS, strict=False):
            found = networks(heads)
            axes[0].plot(found.times, found.train_loss, color=colour, label=f"$H = {heads}$")
            distance = found.train_loss[LATER] - many_heads.train_loss[LATER]
            error = found.stderr("train_loss")[LATER], many_heads.stderr("train_loss")[LATER]
            print(f"  H = {heads:<4} {distance:8.5f} +- {np.hypot(*error):.5f}")
            axes[1].errorbar(heads, distance, np.hypot(*error), fmt="o", color=colour)
            if heads == HEADS[0]:
                line = distance * heads / np.array(HEADS)
                axes[1].plot(HEADS, line, color="0.6", zorder=0)
        axes[0].plot(many_heads.times, many_heads.train_loss, "k--", label=r"$H = \infty$")
        axes[0].set(xlabel="step", ylabel="training loss", yscale="log")
        axes[0].legend()
        axes[1].set(xlabel="heads $H$", title="from infinitely many heads")
        print("limit of many heads: distance of its loss to that of many dimensions, collapse")
        far, spread = [], []
        for keys in DIMENSIONS:
            found = theory(key_dim=keys)
            far.append(abs(found.train_loss[LATER] - many_dimensions.train_loss[LATER]))
            spread.append(found.diagnostics["collapse"][-1])
            error = found.stderr("train_loss")[LATER]
            print(f"  N = {keys:<4} {far[-1]:8.5f} +- {error:.5f}   {spread[-1]:.5f}")
        for values, colour, label in (
            (far, COLOURS[0], "loss"),
            (spread, COLOURS[1], "variance of attention"),
        ):
            axes[2].plot(DIMENSIONS, values, "o", color=colour, label=label)
            line = values[-1] * DIMENSIONS[-1] / np.array(DIMENSIONS)
            axes[2].plot(DIMENSIONS, line, color="0.6", zorder=0)
        axes[2].set(xlabel="dimensions $N$", title="from infinitely many dimensions")
        axes[2].legend()
        for ax, ticks in ((axes[1], HEADS), (axes[2], DIMENSIONS)):
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(ticks, [str(tick) for tick in ticks])
            ax.minorticks_off()
    figure.savefig("many_heads.png")


if __name__ == "__main__":
    main()
