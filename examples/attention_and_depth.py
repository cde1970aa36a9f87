"""What is left of attention in deep transformers: branches of 1/sqrt(L) and of 1/L.

Two sequences of three tokens, infinitely many dimensions of a head, L blocks. With branches of
1/sqrt(L) the stream changes by random increments in every block, and the logits, which all start
at zero, end the smaller the more blocks there are: attention freezes at the mean over positions.
With branches of 1/L, and learning rates within blocks that grow with L, the logits tend to those of
the continuous-depth limit (`depth=dc.INFINITE`, extrapolated from a few finite depths), and
attention keeps moving. The last panel is how far finite depths are from that limit at the end:
outputs, attention and features, all of order 1/L (line). Writes attention_and_depth.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

STEPS = 12
DEPTHS = (4, 8, 16, 32)


def sequences() -> dc.Dataset:
    d, a = np.arange(3)[:, None], np.arange(6)
    x = 2 * np.cos(1.3 * (d + 1) * (a + 1) + 0.7 * d)
    return dc.Dataset(inputs=x.T.reshape(2, 3, 3), targets=[1, -1])


def trained(depth: float, exponent: float) -> dc.Solution:
    limit = dc.Transformer(depth, gamma=2.0, depth_exponent=exponent)
    return dc.solve(limit, sequences(), dc.GradientDescent(lr=0.02, steps=STEPS))


def largest_logit(solution: dc.Solution) -> np.ndarray:
    """At every step, among the blocks at l/L = 0, 1/4, 1/2, 3/4, which all depths have."""
    logits = solution.order_parameters["A_mean"]
    return np.abs(logits[:, :: logits.shape[1] // 4]).max(axis=(1, 2, 3, 4))


def distances(solution: dc.Solution, limit: dc.Solution, depth: int) -> dict[str, float]:
    """From the limit, at the last step and in the middle of the depth, in root mean square."""
    patterns, expected = (s.order_parameters["S_mean"][-1] for s in (solution, limit))
    h, h_limit = solution.kernel("H", depth // 2, STEPS, STEPS), limit.kernel("H", 2, STEPS, STEPS)
    differences = {
        "outputs": solution.outputs[-1] - limit.outputs[-1],
        "attention": patterns[depth // 2] - expected[2],
        "features": (h - h_limit) / np.sqrt(np.mean(h_limit**2)),
    }
    return {name: float(np.sqrt(np.mean(value**2))) for name, value in differences.items()}


def main() -> None:
    limit = trained(dc.INFINITE, 1.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.2), layout="constrained")
        axes = figure.subplots(1, 3)
        axes[1].sharey(axes[0])
        far: dict[str, list[float]] = {}
        for ax, exponent, title in ((axes[0], 0.5, r"1/\sqrt{L}"), (axes[1], 1.0, "1/L")):
            print(f"largest logit after {STEPS} steps, branches of L^-{exponent}")
            for depth, colour in zip(DEPTHS, COLOURS, strict=False):
                solution = trained(depth, exponent)
                logits = largest_logit(solution)
                print(f"  L = {depth:<4} {logits[-1]:.4f}")
                ax.plot(solution.kernel_times, logits, color=colour, label=f"$L = {depth}$")
                if exponent == 1.0:
                    for key, value in distances(solution, limit, depth).items():
                        far.setdefault(key, []).append(value)
            ax.set(xlabel="step", title=f"branches of ${title}$")
        logits = largest_logit(limit)
        print(f"  L = inf  {logits[-1]:.4f}")
        axes[1].plot(limit.kernel_times, logits, "k--", label=r"$L = \infty$")
        axes[0].set_ylabel("largest logit")
        axes[1].legend()
        for (key, values), colour in zip(far.items(), COLOURS, strict=False):
            axes[2].plot(DEPTHS, values, "o", color=colour, label=key)
        scale = far["outputs"][-1] * DEPTHS[-1]
        axes[2].plot(DEPTHS, scale / np.array(DEPTHS), color="0.6", zorder=0)
        axes[2].set(xscale="log", yscale="log", xlabel="depth $L$", title="from infinite depth")
        axes[2].set_xticks(DEPTHS, [str(depth) for depth in DEPTHS])
        axes[2].minorticks_off()
        axes[2].legend()
    figure.savefig("attention_and_depth.png")


if __name__ == "__main__":
    main()
