"""The best learning rate of a transformer against its depth: branches of 1/L and of 1/sqrt(L).

Random sequences of three tokens, infinitely many dimensions of a head: the training loss after a
few steps as a function of the learning rate, for more and more blocks. The learning rates within
blocks are depth^(2 depth_exponent - 1) times that of the readout, so that what all blocks learn
together does not grow with their number. With branches of 1/L the curves tend to that of infinite
depth (dashed, extrapolated from finite depths where that is accurate to 5 %), and from two blocks
on the best rate stays where it is. With branches of 1/sqrt(L) it falls, slowly. Marks are the
minima, which are printed. Writes transformer_learning_rate.png.
"""

from __future__ import annotations

import math
import warnings

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

STEPS = 8
DEPTHS = (1, 2, 4, 8, 16)
RATES = np.geomspace(0.03, 0.9, 18)


def sequences() -> dc.Dataset:
    generator = np.random.default_rng(3)
    return dc.Dataset(inputs=generator.normal(size=(4, 3, 8)), targets=[1, -1, 1, -1])


def final_losses(depth: float, exponent: float) -> np.ndarray:
    """Training loss after STEPS steps at all rates; NaN where it diverges, or is not known well."""
    limit = dc.Transformer(depth, gamma=1.5, depth_exponent=exponent)
    losses = []
    for rate in RATES:
        try:
            training = dc.GradientDescent(lr=rate, steps=STEPS)
            solution = dc.solve(limit, sequences(), training, kernel_times=[])
            known = solution.diagnostics.get("depth_error", 0.0) < 0.05
            losses.append(solution.train_loss[-1] if known else math.nan)
        except dc.DivergenceError:
            losses.append(math.nan)
    return np.array(losses)


def main() -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, exponent, title in ((axes[0], 1.0, "1/L"), (axes[1], 0.5, r"1/\sqrt{L}")):
            depths = (*DEPTHS, dc.INFINITE) if exponent == 1.0 else DEPTHS
            print(f"branches of L^-{exponent}: best learning rate after {STEPS} steps")
            for depth, colour in zip(depths, COLOURS, strict=False):
                # Large rates are on the grid by intention, and their limit is hard to reach.
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", dc.AccuracyWarning)
                    losses = final_losses(depth, exponent)
                best = int(np.nanargmin(losses))
                print(f"  L = {depth:<4g} {RATES[best]:.3f}, loss {losses[best]:.2e}")
                name = r"\infty" if depth == dc.INFINITE else str(depth)
                style = "--" if depth == dc.INFINITE else "-"
                ax.plot(RATES, losses, style, color=colour, label=f"$L = {name}$")
                ax.plot(RATES[best], losses[best], "v", color=colour)
            ax.set(xscale="log", yscale="log", xlabel="learning rate", ylim=(3e-3, 2))
            ax.set_title(f"branches of ${title}$")
            ax.set_xticks([0.03, 0.1, 0.3, 0.9], ["0.03", "0.1", "0.3", "0.9"])
            ax.minorticks_off()
        axes[0].set_ylabel(f"training loss after {STEPS} steps")
        axes[0].legend()
    figure.savefig("transformer_learning_rate.png")


if __name__ == "__main__":
    main()
