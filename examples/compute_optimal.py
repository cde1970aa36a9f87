"""How to spend compute: the frontier of random features on a hard and an easy task.

The variance of direction k falls as k^-b, the part of the target it holds as k^-a. Grey lines are
models of N = 10 ... 10^6 features in training, against the compute C = N t; colours are the
compute-optimal loss, and on the right the number of features that reaches it. A hard task,
a - 1 < b, balances the loss of finite time with the floor of finite size and has N* ~ C^(1/(1+b)),
L* ~ C^-(a-1)/(1+b). In an easy one the transient N^-1 t^-(1-1/b) of finite size outlasts the
floor: the naive balance would put N* ~ C^((a-1)/(a-1+b^2)) = C^0.58 and L* ~ C^-0.70 here, the
solution has N* ~ C^((a-b)/a) = C^0.6 and L* ~ C^-(a-1)/a = C^-0.67. The exponents of the legends,
and those printed, are measured on the last decade. Writes compute_optimal.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore import spectral
from dmftcore.plotting import COLOURS, STYLE

#: Name, decay b of the variance, decay a of the target.
TASKS = (("hard", 1.5, 1.9), ("easy", 1.2, 3.0))
MODES = 10**14
BUDGETS = np.geomspace(1e3, 1e10, 15)
SIZES = 10.0 ** np.arange(1, 7)


def exponent(budgets: np.ndarray, values: np.ndarray) -> float:
    """Slope over the last decade."""
    late = budgets >= budgets[-1] / 10.01
    return np.polyfit(np.log(budgets[late]), np.log(values[late]), 1)[0]


def main() -> None:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.4), layout="constrained")
        *left, right = figure.subplots(1, len(TASKS) + 1)
        for ax, colour, (name, b, a) in zip(left, COLOURS, TASKS, strict=False):
            task = dc.PowerLaw(b, a, MODES).grouped()
            for size in SIZES:
                times = np.geomspace(1.0, BUDGETS[-1] / size, 40)
                limit = dc.RandomFeatures(dc.INFINITE, size)
                theory = dc.solve(limit, task, dc.GradientFlow(times), kernel_times=[])
                ax.plot(size * times, theory.test_loss, color="0.75", linewidth=1)
            best = spectral.compute_optimal(BUDGETS, task)
            laws = exponent(BUDGETS, best.loss), exponent(BUDGETS, best.features)
            # Solutions hold half of the squared error.
            label = rf"$L^* \sim C^{{{laws[0]:.3f}}}$"
            ax.plot(BUDGETS, best.loss / 2, "o-", color=colour, markersize=3, label=label)
            label = rf"{name}: $N^* \sim C^{{{laws[1]:.3f}}}$"
            right.plot(BUDGETS, best.features, "o-", color=colour, markersize=3, label=label)
            ax.set(xscale="log", yscale="log", title=f"{name}: $b = {b}$, $a = {a}$")
            ax.set(xlabel="compute $C = N t$", xlim=(BUDGETS[0] / 30, BUDGETS[-1]))
            ax.set_ylim(bottom=best.loss[-1] / 4)
            ax.legend(loc="lower left")
            print(f"{name}: L* ~ C^{laws[0]:.4f}, N* ~ C^{laws[1]:.4f}")
        left[0].set_ylabel("loss")
        right.set(xscale="log", yscale="log", xlabel="compute $C$", ylabel="features $N^*$")
        right.legend()
    figure.savefig("compute_optimal.png")


if __name__ == "__main__":
    main()
