"""The best learning rate of a small attention layer is that of a large one.

Networks are trained on a retrieval task at many learning rates: the loss after a fixed number of
steps is plotted against the rate, for heads of more and more keys (alpha = 1) and for more and more
heads (alpha = 1/2), together with the limits. In this parameterisation the loss has a limit at
every rate, and so has the best one. Writes attention_rate_transfer.png.
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
RATES = np.geomspace(0.1, 3.0, 18)
STEPS = 60
#: Networks of each size, of whose losses the geometric mean is taken.
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
    by_keys = {f"$N = {n}$": dc.AttentionCore(heads=4, key_dim=n) for n in KEYS}
    by_keys["$N = \\infty$"] = dc.AttentionCore()
    half: dict[str, Any] = {"attention_exponent": 0.5, "key_dim": 8}
    by_heads = {f"$H = {h}$": dc.AttentionCore(heads=h, **half) for h in HEADS}
    by_heads["$H = \\infty$"] = dc.AttentionCore(**half)

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, limits in zip(axes, (by_keys, by_heads), strict=True):
            for colour, (name, limit) in zip(COLOURS, limits.items(), strict=False):
                losses = np.array([final_loss(limit, data, rate) for rate in RATES])
                ax.plot(RATES, losses, color=colour, label=name)
                if np.isfinite(losses).any():
                    best = np.nanargmin(losses)
                    ax.plot(RATES[best], losses[best], "o", color=colour)
                    print(f"{name}: best rate {RATES[best]:.2f}, loss {losses[best]:.3f}")
            ax.set(xscale="log", yscale="log", xlabel="learning rate")
            ax.legend()
        axes[0].set(ylabel=f"loss at step {STEPS}", title="$\\alpha = 1$")
        axes[1].set(title="$\\alpha = 1/2$")
    figure.savefig("attention_rate_transfer.png")


def final_loss(limit: dc.AttentionCore, data: dc.Dataset, rate: float) -> float:
    """Loss after the last step, a typical one of networks; NaN if any of them diverges."""
    training = dc.GradientDescent(lr=rate, steps=STEPS)
    options: dict[str, Any] = {"times": [STEPS], "kernel_times": []}
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
    return float(np.exp(np.mean([np.log(run.train_loss[-1]) for run in runs])))


if __name__ == "__main__":
    main()
