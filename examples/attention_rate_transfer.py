"""Is the best learning rate of a small attention layer that of a large one?

Networks are trained on a retrieval task at many learning rates; plotted is the typical loss over
the last steps against the rate. Left, alpha = 1: four heads of N keys. Middle, alpha = 1/2:
infinitely many heads of N keys. Right, alpha = 1/2: H heads of eight keys. In all of them the best
rates are at the edge of stability, where the loss is ragged, and within a factor of two of each
other. At alpha = 1/2 the curves fall onto that of the limit soon. At alpha = 1 more keys learn
later at the same rate: heads start the more alike the more keys they have, and training needs
longer to tell them apart, in the limit forever. Writes attention_rate_transfer.png.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

KEYS = (2, 8, 32, 128)
HEADS = (1, 4, 16, 64)
RATES = np.geomspace(0.1, 4.0, 19)
STEPS = 60
#: The part of them over which the logarithm of the loss is averaged.
LAST = 20
#: Networks of each size.
NETWORKS = 12
#: Heads that stand for infinitely many.
SAMPLES = 512


def retrieval(count: int, length: int = 4) -> dc.Dataset:
    """Tokens (1, cue, number, ...); the target is the number beside the largest cue."""
    tokens = np.random.default_rng(0).normal(size=(count, length, 5))
    tokens[..., 0] = 1
    largest = tokens[..., 1].argmax(axis=1)
    return dc.Dataset(inputs=tokens, targets=tokens[np.arange(count), largest, 2])


def main() -> None:
    data = retrieval(24)
    panels = {
        "$\\alpha = 1$, $H = 4$": {
            **{f"$N = {n}$": dc.AttentionCore(heads=4, key_dim=n) for n in KEYS},
            "$N = \\infty$": dc.AttentionCore(),
        },
        "$\\alpha = 1/2$, $H = \\infty$": {
            **{f"$N = {n}$": half(key_dim=n) for n in KEYS},
            "$N = \\infty$": half(),
        },
        "$\\alpha = 1/2$, $N = 8$": {
            **{f"$H = {h}$": half(heads=h, key_dim=8) for h in HEADS},
            "$H = \\infty$": half(key_dim=8),
        },
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        axes = figure.subplots(1, 3, sharey=True)
        for ax, (title, limits) in zip(axes, panels.items(), strict=True):
            for colour, (name, limit) in zip(COLOURS, limits.items(), strict=False):
                losses = np.array([final_loss(limit, data, rate) for rate in RATES])
                ax.plot(RATES, losses, color=colour, label=name)
                best = np.nanargmin(losses)
                ax.plot(RATES[best], losses[best], "o", color=colour)
                print(f"{title} {name}: best rate {RATES[best]:.2f}, loss {losses[best]:.4f}")
            ax.set(xscale="log", yscale="log", xlabel="learning rate", title=title)
            ax.legend()
        axes[0].set(ylabel=f"loss of the last {LAST} of {STEPS} steps")
    figure.savefig("attention_rate_transfer.png")


def half(**sizes: int) -> dc.AttentionCore:
    """A layer with scores over the root of the number of keys."""
    return dc.AttentionCore(attention_exponent=0.5, **sizes)


def final_loss(limit: dc.AttentionCore, data: dc.Dataset, rate: float) -> float:
    """Geometric mean of the loss of the last steps, of all networks; NaN if any diverges."""
    training = dc.GradientDescent(lr=rate, steps=STEPS)
    options: dict[str, Any] = {"times": range(STEPS - LAST, STEPS + 1), "kernel_times": []}
    if limit.is_network:
        options["samples"] = 1
        seeds: Any = range(NETWORKS)
    else:
        seeds = [0]
        if not limit.is_deterministic:
            options["samples"] = SAMPLES
    try:
        runs = [dc.solve(limit, data, training, seed=seed, **options) for seed in seeds]
    except dc.DivergenceError:
        return np.nan
    return float(np.exp(np.mean([np.log(run.train_loss) for run in runs])))


if __name__ == "__main__":
    main()
