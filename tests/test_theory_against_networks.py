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
WIDTHS = {8: 12_000, 32: 6_000, 128: 1_600}
#: Largest deviation accepted, in standard errors, of the largest of about a hundred numbers.
SIGMAS = 5.0

POSITIONS = np.arange(4)
GRAM = np.exp(-((POSITIONS[:, None] - POSITIONS) ** 2) / 4.5)
ONE = np.cos(POSITIONS)
TWO = np.stack([np.cos(POSITIONS), np.sin(1 + 2 * POSITIONS)], axis=1)

CASES = {
    "one hidden layer": (dc.DeepLinear(depth=1), ONE, 4, 0.3),
    "two layers, test point": (dc.DeepLinear(depth=2), ONE, 3, 0.25),
    "two layers, two outputs": (dc.DeepLinear(depth=2, gamma=0.7), TWO, 4, 0.2),
    "three layers, rich": (dc.DeepLinear(depth=3, gamma=1.5, init_scale=0.9), ONE, 4, 0.1),
}


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request):
    """The theory, and the networks by width."""
    limit, targets, n_train, lr = CASES[request.param]
    data = dc.Dataset(
        full_gram=GRAM,
        targets=targets[:n_train],
        test_targets=targets[n_train:] if n_train < len(GRAM) else None,
    )
    training = dc.GradientDescent(lr=lr, steps=14)
    keywords = {"times": [1, 2, 5, 9, 14], "kernel_times": [0, 5, 14]}
    theory = dc.solve(limit, data, training, **keywords)
    networks = {
        width: dc.simulate(limit, data, training, width=width, seeds=seeds, **keywords)
        for width, seeds in WIDTHS.items()
    }
    return theory, networks


@pytest.mark.parametrize("field", ["outputs", "test_outputs", "train_loss", "ntk"])
def test_means_approach_the_theory_as_one_over_width(case, field):
    theory, networks = case
    expected = getattr(theory, field)
    if expected is None:
        assert all(getattr(result, field) is None for result in networks.values())
        return
    difference = {n: getattr(result, field) - expected for n, result in networks.items()}
    error = {n: result.stderr(field) for n, result in networks.items()}
    small, middle, large = WIDTHS

    # Enough networks to see the finite width: a theory may be off by less, but not by more.
    assert np.max(np.abs(difference[small]) / error[small]) > 10

    size = {n: np.sqrt(np.mean(d**2)) for n, d in difference.items()}
    assert size[middle] < 0.5 * size[small]
    assert size[large] < 0.5 * size[middle]

    # Linear in 1/N from the two larger widths to N = infinity, and the O(1/N^2) left by it.
    ratio = large / middle
    intercept = (ratio * difference[large] - difference[middle]) / (ratio - 1)
    noise = np.hypot(ratio * error[large], error[middle]) / (ratio - 1)
    second_order = np.abs(difference[small]).max() / ratio**2 / 4
    assert np.all(np.abs(intercept) < SIGMAS * noise + second_order)


@pytest.mark.parametrize("name", ["H", "G"])
def test_kernels_approach_the_theory_as_one_over_width(case, name):
    theory, networks = case
    _, middle, large = WIDTHS
    ratio = large / middle
    for layer, expected in theory.equal_time[name].items():
        found = [result.equal_time[name][layer] for result in networks.values()]
        found.append((ratio * found[2] - found[1]) / (ratio - 1))
        distance = [np.linalg.norm(f - expected) / np.linalg.norm(expected) for f in found]
        assert distance[0] > 0.01
        assert distance[1] < 0.5 * distance[0]
        assert distance[3] < 0.01
