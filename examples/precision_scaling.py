"""How many bits to train with: a scaling law with precision.

Left: loss against the bits P of weights, activations and attention cache, at compute (P/16) 6 N D
with N and D balanced for every P. Fewer bits buy a larger model and more data, but each parameter
counts for less; the optimum (circles) is the same number of bits at any budget. Middle: with the
size given, more compute goes into data, and the bits that are worth their cost grow with its
logarithm. Right: models rounded to 3 bits after training on more and more data, the price delta of
which grows until the loss rises with data. The constants are not measurements. Writes
precision_scaling.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

LAW = dc.PrecisionLaw(
    A=4e3,
    alpha=0.5,
    B=2e4,
    beta=0.5,
    E=1.8,
    gamma=(2.7, 2.2, 1.0),
    C_T=0.06,
    gamma_D=0.5,
    gamma_N=0.5,
    gamma_post=0.6,
)
BUDGETS = (1e20, 1e21, 1e22)
SIZES = (1e8, 1e9, 1e10)


def balanced(bits: np.ndarray, cost: float) -> np.ndarray:
    """Loss at given bits, with the best N on a fine grid and the data that are left to it."""
    sizes = np.geomspace(1e6, 1e13, 4001)[:, None]
    tokens = cost * 16 / (6 * bits * sizes)
    return LAW.loss(sizes, tokens, bits, bits, bits).min(axis=0)


def main() -> None:
    bits = np.linspace(1.5, 16, 100)
    costs = np.geomspace(1e19, 1e24, 40)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        for colour, cost in zip(COLOURS, BUDGETS, strict=False):
            best = LAW.optimum(cost)
            label = rf"$C = 10^{{{np.log10(cost):.0f}}}$"
            left.plot(bits, balanced(bits, cost) - LAW.E, color=colour, label=label)
            left.plot(best.P, best.loss - LAW.E, "o", color=colour)
            print(f"C = {cost:.0e}: P* = {best.P:.4f}, N* = {best.N:.3e}, D* = {best.D:.3e}")
        left.set(yscale="log", ylim=(0.06, 0.5), xlabel="bits $P$", ylabel="loss $- E$")
        for colour, size in zip(COLOURS, SIZES, strict=False):
            label = rf"$N = 10^{{{np.log10(size):.0f}}}$"
            middle.plot(costs, LAW.optimum(costs, N=size).P, color=colour, label=label)
        middle.axhline(LAW.optimum(1e20).P, color="0.5", linewidth=1, label="$N$ free")
        middle.set(xscale="log", xlabel="compute $C$", ylabel="optimal bits $P^*$")
        tokens = np.geomspace(1e9, 1e13, 60)
        for colour, size in zip(COLOURS, SIZES, strict=False):
            label = rf"$N = 10^{{{np.log10(size):.0f}}}$"
            right.plot(tokens, LAW.loss(size, tokens), color=colour, label=label)
            right.plot(tokens, LAW.loss(size, tokens, P_post=3), "--", color=colour)
        right.plot([], [], "--", color="0.4", label="rounded to 3 bits")
        right.set(xscale="log", xlabel="training tokens $D$", ylabel="loss")
        for ax in (left, middle, right):
            ax.legend()
    figure.savefig("precision_scaling.png")


if __name__ == "__main__":
    main()
