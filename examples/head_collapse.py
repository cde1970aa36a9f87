"""Do the heads of an attention layer learn different things, or all the same?

Sequences of tokens, with the task to report the number on the token that has the largest cue. The
scores of a head are divided by N^alpha for N keys. At alpha = 1/2 heads are diverse however many
keys they have. At alpha = 1 the variance of attention patterns among the heads is 1/N at the start,
and all heads are one in the limit; but training amplifies what difference there is, exponentially
at first, so that at the end of a run it falls with N much slower than 1/N. Lines are averages over
infinitely many heads of N keys, dashed is the limit N = infinity. Writes head_collapse.png.
"""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import dmftcore as dc
from dmftcore.plotting import COLOURS, STYLE

KEYS = (4, 16, 64, 256)
STEPS = 75
#: Heads that stand for infinitely many.
SAMPLES = 512


def retrieval(count: int, length: int = 4) -> dc.Dataset:
    """Tokens (1, cue, number, ...); the target is the number beside the largest cue."""
    tokens = np.random.default_rng(0).normal(size=(count, length, 5))
    tokens[..., 0] = 1
    largest = tokens[..., 1].argmax(axis=1)
    return dc.Dataset(inputs=tokens, targets=tokens[np.arange(count), largest, 2])


def main() -> None:
    data, training = retrieval(32), dc.GradientDescent(lr=0.8, steps=STEPS)
    wanted = {"kernel_times": np.unique(np.linspace(0, STEPS, 16).astype(int))}

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        curves, ends = figure.subplots(1, 2)
        for exponent, colour in ((1.0, COLOURS[0]), (0.5, COLOURS[1])):
            limit = dc.AttentionCore(attention_exponent=exponent)
            samples = {} if exponent == 1 else {"samples": SAMPLES}
            infinite = dc.solve(limit, data, training, **samples, **wanted)
            runs = [
                dc.solve(
                    dc.AttentionCore(key_dim=keys, attention_exponent=exponent),
                    data,
                    training,
                    samples=SAMPLES,
                    **wanted,
                )
                for keys in KEYS
            ]
            for keys, run in zip(KEYS, runs, strict=True):
                strength = 0.25 + 0.75 * np.log(keys) / np.log(max(KEYS))
                variance = run.diagnostics["collapse"]
                curves.plot(run.kernel_times, variance, color=colour, alpha=strength)
            for slot, style, when in ((0, "o--", "before"), (-1, "o-", "after")):
                variances = [run.diagnostics["collapse"][slot] for run in runs]
                label = f"$\\alpha = {exponent:g}$, {when} training"
                ends.plot(KEYS, variances, style, color=colour, label=label)
            if exponent < 1:
                curves.plot(
                    infinite.kernel_times, infinite.diagnostics["collapse"], "k--", linewidth=1
                )
            else:
                assert max(infinite.diagnostics["collapse"]) == 0
        curves.set(yscale="log", xlabel="step", ylabel="variance of patterns among heads")
        ends.set(xscale="log", yscale="log", xlabel="keys $N$")
        ends.set_xticks(KEYS, [str(keys) for keys in KEYS])
        ends.minorticks_off()
        ends.legend()
    figure.savefig("head_collapse.png")


if __name__ == "__main__":
    main()
