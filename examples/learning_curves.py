"""Learning curves of linear models: what more samples, more features and fresh data are good for.

Power-law data with noisy labels. Left: gradient flow on P samples. Test and training loss fall
together until time has resolved what the samples can tell; then the model fits the noise, and the
test loss turns up again. Middle: random features bound both losses from below however long one
trains. Right: one-pass SGD never sees a sample twice and has no gap; it pays with gradient noise
that falls with the batch. Lines are the theory, test full and training loss dashed, six decades of
time at the cost of one; points are models trained on random data. Writes learning_curves.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE
from dmftcore.spectral import learning_curve

DATA = dc.PowerLaw(b=1.1, a=1.6, modes=400)
NOISE_VARIANCE = 0.2
SAMPLES = (50, 200, 800)
FEATURES = (25, 100, 400)
BATCHES = (2, 4, 16)
LR = 0.4
TIMES = np.geomspace(0.1, 1e5, 121)
#: Of the points; models are trained at one size of the data and one of the features.
POINTS = np.geomspace(0.1, 1e5, 13)
DRAWS = 10


def trained_losses(samples: int, features: int | None, draws: int) -> np.ndarray:
    """Test and training loss of gradient flow, means over random data, (2, points)."""
    rng = np.random.default_rng(0)
    losses = np.zeros((2, len(POINTS)))
    for _ in range(draws):
        inputs = rng.normal(size=(samples, DATA.modes)) * np.sqrt(DATA.values)
        target = rng.choice([-1, 1], DATA.modes) * np.sqrt(DATA.target)
        labels = inputs @ target + np.sqrt(NOISE_VARIANCE) * rng.normal(size=samples)
        maps = np.eye(DATA.modes)
        if features is not None:
            maps = rng.normal(size=(DATA.modes, features)) / np.sqrt(features)
        seen = inputs @ maps
        values, vectors = np.linalg.eigh(seen.T @ seen / samples)
        values = np.maximum(values, 1e-14)
        learned = -np.expm1(-np.outer(POINTS, values)) / values
        weights = learned * (vectors.T @ (seen.T @ labels) / samples) @ vectors.T
        losses[0] += (target - weights @ maps.T) ** 2 @ DATA.values + NOISE_VARIANCE
        losses[1] += ((labels - weights @ seen.T) ** 2).mean(axis=1)
    return losses / draws


def main() -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 3.4), layout="constrained")
        by_samples, by_features, one_pass = figure.subplots(1, 3, sharey=True)
        for ax, sizes, label in (
            (by_samples, [(p, np.inf) for p in SAMPLES], "P"),
            (by_features, [(SAMPLES[-1], n) for n in FEATURES], "N"),
        ):
            for colour, (samples, features) in zip(COLOURS, sizes, strict=False):
                curve = learning_curve(TIMES, DATA, samples, features, NOISE_VARIANCE)
                size = samples if label == "P" else features
                ax.plot(TIMES, curve.test, color=colour, label=f"${label} = {size}$")
                ax.plot(TIMES, curve.train, color=colour, linestyle=(0, (4, 1.5)))
        for ax, colour, features in (
            (by_samples, COLOURS[1], None),
            (by_features, COLOURS[1], FEATURES[1]),
        ):
            samples = SAMPLES[1] if features is None else SAMPLES[-1]
            for losses in trained_losses(samples, features, DRAWS):
                ax.plot(POINTS, losses, "o", color=colour, markersize=3)
        steps = np.unique(TIMES.round())[1:]
        for colour, batch in zip(COLOURS, BATCHES, strict=False):
            curve = learning_curve(
                steps, DATA, np.inf, np.inf, NOISE_VARIANCE, "sgd", LR, batch=batch
            )
            one_pass.plot(steps, curve.test, color=colour, label=f"$B = {batch}$")
        one_pass.plot(steps, curve.forcing, color="0.3", linewidth=1, label=r"$B \to \infty$")
        titles = ("linear regression", f"random features, P = {SAMPLES[-1]}", "one-pass SGD")
        for ax, title in zip((by_samples, by_features, one_pass), titles, strict=True):
            ax.axhline(NOISE_VARIANCE, color="0.6", linewidth=0.8, linestyle=(0, (1, 1)))
            ax.set(xscale="log", yscale="log", title=title, ylim=(2e-2, 4))
            ax.set_xlabel("step $t$" if ax is one_pass else "time $t$")
            ax.legend()
        by_samples.set_ylabel("loss")
    figure.savefig("learning_curves.png")


if __name__ == "__main__":
    main()
