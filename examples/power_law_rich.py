"""Power laws of one-pass training: lazy and rich networks, hard and easy tasks.

The variance of direction k falls as k^-b, the loss it holds at the start as k^-a, and
beta = (a - 1) / b. The loss of a lazy network falls as t^-beta. In a rich one the tangent kernel
grows with what is learned: for a hard task, beta < 1, without end, and scaling puts the loss at
t^(-beta (L + 1) / (1 + beta L)) for L hidden layers; for an easy one, beta > 1, the kernel comes
to rest and the exponent stays beta. Colours are batches of 100 fresh samples in 100 000
dimensions, thin black lines population gradients. The exponents of the legends, and those printed,
are measured on the last factor of two in time. On the hard task they are within 0.03 of the laws;
the noise of the batches takes 0.01 off the rich ones. On the easy task rich networks are 0.06 to
0.11 steeper than beta: that is the kernel on its way to rest, and falls with time. Writes
power_law_rich.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

B = 1.5
BETAS = (0.5, 1.25)
STEPS = 500
#: Hidden layers, gamma, learning rate: the lazy one at the highest rate, the others below the edge
#: of stability that the growth of their kernel lowers.
NETWORKS = ((1, 0.1, 0.25), (1, 3.0, 0.1), (2, 3.0, 0.025))
#: Samples of a batch for every dimension.
BATCHES = (1e-3, 1e6)
#: Infinitely wide for all that is seen: the initial function vanishes even at gamma = 0.1.
WIDTH_RATIO = 1e8


def power_law(beta: float, groups: int = 24, last: float = 1e5) -> dc.Spectrum:
    """Directions k = 1..last in log-spaced groups, each of them as one mode."""
    edges = np.geomspace(1, last, groups + 1)
    values = np.sqrt(edges[1:] * edges[:-1]) ** -B
    power = edges[:-1] ** (-B * beta) - edges[1:] ** (-B * beta)
    weights = np.diff(edges) / (last - 1)
    return dc.Spectrum(values, power / (weights * values), weights=weights)


def exponent(times: np.ndarray, losses: np.ndarray) -> float:
    """Slope over the last factor of two in time."""
    late = times >= times[-1] / 2
    return np.polyfit(np.log(times[late]), np.log(losses[late]), 1)[0]


def main() -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 3.4), layout="constrained")
        axes = figure.subplots(1, len(BETAS))
        for ax, beta in zip(axes, BETAS, strict=True):
            for colour, (depth, gamma, lr) in zip(COLOURS, NETWORKS, strict=False):
                for batch in BATCHES:
                    limit = dc.ProportionalLinear(
                        depth, WIDTH_RATIO, batch, gamma=gamma, spectrum=power_law(beta)
                    )
                    training = dc.OnlineSGD(lr=lr, steps=STEPS)
                    theory = dc.solve(limit, None, training, kernel_times=[])
                    tau, losses = lr * theory.times[1:], theory.test_loss[1:]
                    slope = exponent(tau, losses)
                    if batch == BATCHES[0]:
                        name = rf"$L = {depth}$, $\gamma = {gamma:g}$: $t^{{{slope:.2f}}}$"
                        ax.plot(tau, losses, color=colour, linewidth=2.5, label=name)
                    else:
                        ax.plot(tau, losses, color="black", linewidth=0.6)
                    print(f"beta {beta}  L {depth}  gamma {gamma:<3}  batch {batch:g}: {slope:.3f}")
            ax.set(xscale="log", yscale="log", xlabel=r"time $\tau$ = lr $\times$ step")
            if beta < 1:
                laws = ", ".join(f"$t^{{-{beta * (L + 1) / (1 + beta * L):.2f}}}$" for L in (1, 2))
                ax.set_title(f"hard: lazy $t^{{-{beta:g}}}$, rich {laws}")
            else:
                ax.set_title(f"easy: lazy and rich $t^{{-{beta:g}}}$")
            ax.legend(title="measured", loc="lower left")
        axes[0].set_ylabel("test loss")
    figure.savefig("power_law_rich.png")


if __name__ == "__main__":
    main()
