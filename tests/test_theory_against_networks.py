"""The theory of infinite width against networks of finite width.

Averages over networks of width N differ from the theory by O(1/N). The test does not only ask
that they come near: with enough networks the difference is many standard errors at small width,
falls in proportion to 1/N, and extrapolates to zero within the standard errors. A theory with a
learning rate wrong by three per cent fails it.
"""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc

#: Widths, and networks per width: the bias falls as 1/N, the spread as 1/sqrt(N).
WIDTHS = {8: 6_000, 32: 5_000, 128: 1_500}
#: Largest deviation accepted, in standard errors, of the largest of about a hundred numbers.
SIGMAS = 5.0

POSITIONS = np.arange(4)
GRAM = np.exp(-((POSITIONS[:, None] - POSITIONS) ** 2) / 4.5)
ONE = np.cos(POSITIONS)
TWO = np.stack([np.cos(POSITIONS), np.sin(1 + 2 * POSITIONS)], axis=1)

GD = dc.GradientDescent

CASES = {
    "one hidden layer": (dc.DeepLinear(depth=1), ONE, 4, GD(0.3, 14)),
    "two layers, test point": (dc.DeepLinear(depth=2), ONE, 3, GD(0.25, 14)),
    "two layers, two outputs": (dc.DeepLinear(depth=2, gamma=0.7), TWO, 4, GD(0.2, 14)),
    "three layers, rich": (
        dc.DeepLinear(depth=3, gamma=1.5, init_scale=0.9), ONE, 4, GD(0.1, 14),
    ),
    "two layers, momentum and decay": (
        dc.DeepLinear(depth=2), ONE, 4, GD(0.1, 14, momentum=0.6, weight_decay=0.3),
    ),
    "two blocks": (dc.DeepLinear(depth=3, branch_scale=0.8), ONE, 3, GD(0.15, 14)),
    "one block, two outputs, all": (
        dc.DeepLinear(depth=2, gamma=0.8, branch_scale=0.9), TWO, 4,
        GD(np.linspace(0.15, 0.05, 14), 14, momentum=0.5, weight_decay=0.2),
    ),
}  # fmt: skip


SLOW = {"one block, two outputs, all"}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW else []) for case in CASES]
)
def test_networks_approach_the_theory_as_one_over_width(case):
    limit, targets, n_train, training = CASES[case]
    data = dc.Dataset(
        full_gram=GRAM,
        targets=targets[:n_train],
        test_targets=targets[n_train:] if n_train < len(GRAM) else None,
    )
    keywords = {"times": [1, 2, 5, 9, 14], "kernel_times": [0, 5, 14], "save": ("H", "G")}
    theory = dc.solve(limit, data, training, **keywords)
    networks = {
        width: dc.simulate(limit, data, training, width=width, seeds=seeds, **keywords)
        for width, seeds in WIDTHS.items()
    }
    for field in ("outputs", "train_loss", "ntk", "test_outputs", "test_loss"):
        if data.n_test or not field.startswith("test"):
            check_mean(theory, networks, field)
    for name, layers in theory.two_time.items():
        for layer in layers:
            check_kernel(theory, networks, name, layer)


def check_mean(theory, networks, field):
    """A field that comes with standard errors."""
    difference = {n: getattr(r, field) - getattr(theory, field) for n, r in networks.items()}
    error = {n: result.stderr(field) for n, result in networks.items()}
    small, middle, large = WIDTHS

    # There are enough networks to see the finite width.
    assert np.max(np.abs(difference[small]) / error[small]) > 7, field

    size = {n: np.sqrt(np.mean(d**2)) for n, d in difference.items()}
    assert size[middle] < 0.5 * size[small], field
    assert size[large] < 0.5 * size[middle], field

    # Linear in 1/N from the two larger widths to N = infinity, up to the O(1/N^2) left by it.
    intercept, noise = extrapolated(difference), extrapolated_error(error)
    second_order = np.abs(difference[small]).max() / (large / middle) ** 2 / 4
    assert np.all(np.abs(intercept) < SIGMAS * noise + second_order), field


def check_kernel(theory, networks, name, layer):
    """A two-time kernel: relative distances in place of standard errors."""
    expected = theory.kernel(name, layer)
    found = {n: result.kernel(name, layer) for n, result in networks.items()}
    small, middle, _ = WIDTHS

    def distance(kernel):
        return np.linalg.norm(kernel - expected) / np.linalg.norm(expected)

    assert distance(found[small]) > 0.01, (name, layer)
    assert distance(found[middle]) < 0.5 * distance(found[small]), (name, layer)
    assert distance(extrapolated(found)) < 0.01, (name, layer)


def extrapolated(by_width):
    """Straight line in 1/N through the two larger widths, at 1/N = 0."""
    _, middle, large = by_width
    return (large * by_width[large] - middle * by_width[middle]) / (large - middle)


def extrapolated_error(by_width):
    """Standard error of `extrapolated`."""
    _, middle, large = by_width
    return np.hypot(large * by_width[large], middle * by_width[middle]) / (large - middle)
