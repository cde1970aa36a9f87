"""How far the features of a perceptron move, and where to, against gamma.

A network of two hidden layers of tanh units learns five points in four dimensions. Left, the
distance of the feature kernels from those of the start, relative to these; right, their alignment
with the targets, <Phi, y y^T> / (|Phi| |y y^T|). Lines are the theory, points networks of width
300 with the scatter of their mean. Features move as gamma^2 where gamma is small, and turn towards
the targets, the last layer first. Writes feature_movement.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.observables import alignment
from dmftcore.plotting import COLOURS, STYLE

GAMMAS = np.geomspace(0.1, 3, 7)
STEPS = 30
SAMPLES = 2000
WIDTH, SEEDS = 300, 8


def movement(kernel: np.ndarray) -> float:
    """Of the last of two kernels from the first, relative to it."""
    return float(np.linalg.norm(kernel[-1] - kernel[0]) / np.linalg.norm(kernel[0]))


def main() -> None:
    rng = np.random.default_rng(4)
    inputs = rng.normal(size=(5, 4))
    targets = np.sign(inputs[:, 0])
    data = dc.Dataset(inputs=inputs, targets=targets)
    training = dc.GradientDescent(lr=0.4, steps=STEPS)
    ends = {"times": [STEPS], "kernel_times": [0, STEPS]}
    limits = [dc.MLP(2, "tanh", gamma=gamma) for gamma in GAMMAS]
    theory = [dc.solve(limit, data, training, samples=SAMPLES, **ends) for limit in limits]
    networks = [
        dc.simulate(limit, data, training, width=WIDTH, seeds=SEEDS, **ends) for limit in limits
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for colour, layer in zip(COLOURS, (1, 2), strict=False):
            label = f"layer {layer}"
            for runs, style in ((theory, {"label": label}), (networks, {"fmt": "o"})):
                kernels = [run.equal_time["Phi"][layer] for run in runs]
                moved = np.array([movement(kernel) for kernel in kernels])
                aligned = np.array([alignment(kernel, targets)[-1] for kernel in kernels])
                # Of the kernel as a whole, relative to that of the start.
                error = [
                    np.linalg.norm(run.stderr("Phi")[layer - 1, -1]) / np.linalg.norm(kernel[0])
                    for run, kernel in zip(runs, kernels, strict=True)
                ]
                bars = error if "fmt" in style else None
                left.errorbar(GAMMAS, moved, bars, color=colour, **style)
                right.plot(GAMMAS, aligned, style.get("fmt", "-"), color=colour)
            print(f"{label}: moved {moved.round(3)}, aligned {aligned.round(3)}")
        left.set(xscale="log", yscale="log", xlabel="$\\gamma$", ylabel="movement of $\\Phi$")
        left.legend()
        right.set(xscale="log", xlabel="$\\gamma$", ylabel="alignment of $\\Phi$ with the targets")
    figure.savefig("feature_movement.png")


if __name__ == "__main__":
    main()
