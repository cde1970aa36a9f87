"""How fast attention networks approach their limits, in keys and in heads.

Left, alpha = 1: networks of two heads against the limit of infinitely many keys N, in which the
number of heads does not matter. Right, alpha = 1/2: networks of four keys a head against the limit
of infinitely many heads H. The mean of many networks differs from the limit by order 1/N or 1/H,
single networks scatter around it by the square root of that; the lines have these slopes. Numbers
are losses averaged over time, with the standard errors of the mean over networks. Writes
attention_convergence.png.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

KEYS = (16, 32, 64, 128, 256, 512)
HEADS = (4, 8, 16, 32, 64, 128)
#: Networks of each size: they show the 1/N beside the scatter.
NETWORKS = 400
#: Heads that stand for infinitely many.
SAMPLES = 160_000


def main() -> None:
    rng = np.random.default_rng(0)
    data = dc.Dataset(inputs=1.5 * rng.normal(size=(3, 3, 4)), targets=[1.0, -1.0, 0.5])
    training = dc.GradientDescent(lr=0.15, steps=20)
    in_keys, in_heads = (
        dc.AttentionCore(heads=2),
        dc.AttentionCore(key_dim=4, attention_exponent=0.5),
    )

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        theory = dc.solve(in_keys, data, training, kernel_times=[])
        panel(left, "keys $N$", KEYS, [
            deviation(theory, in_keys, data, training, 2 * keys) for keys in KEYS
        ])  # fmt: skip
        theory = dc.solve(in_heads, data, training, kernel_times=[], samples=SAMPLES)
        panel(right, "heads $H$", HEADS, [
            deviation(theory, in_heads, data, training, 4 * heads) for heads in HEADS
        ])  # fmt: skip
        left.set(ylabel="deviation of the loss")
        left.legend()
    figure.savefig("attention_convergence.png")


def deviation(
    theory: dc.Solution,
    limit: dc.AttentionCore,
    data: dc.Dataset,
    training: dc.GradientDescent,
    width: int,
) -> tuple[float, float, float]:
    """Bias of the mean loss, its standard error, and the scatter of single networks."""
    networks = dc.simulate(limit, data, training, width=width, seeds=NETWORKS, kernel_times=[])
    difference = networks.per_seed["train_loss"] - theory.train_loss
    number = difference.mean(axis=1) / theory.train_loss[0]
    scatter = float(number.std(ddof=1))
    return abs(float(number.mean())), scatter / np.sqrt(NETWORKS), scatter


def panel(ax: Any, name: str, sizes: tuple[int, ...], found: list[Any]) -> None:
    """Both against the size, with lines of the expected slopes through the larger ones."""
    bias, error, scatter = np.transpose(found)
    ax.errorbar(sizes, bias, yerr=error, fmt="o", color=COLOURS[0], label="mean of networks")
    ax.plot(sizes, scatter, "s", color=COLOURS[1], label="scatter of networks")
    large = slice(len(sizes) // 2, None)
    for values, power, colour in ((bias, 1.0, COLOURS[0]), (scatter, 0.5, COLOURS[1])):
        level = np.exp(np.mean(np.log(values[large]) + power * np.log(sizes[large])))
        ax.plot(sizes, level * np.array(sizes) ** -power, color=colour, linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel=name)
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()


if __name__ == "__main__":
    main()
