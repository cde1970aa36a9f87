"""Exponents of scaling laws, measured from the solvers on spectra without end.

The printed local slopes are those of the reference tables; they depend on how the modes are grouped
in their third or fourth digit, except where the grouping is finer than what is printed.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import spectral

INF = dc.INFINITE
MODES = 10**14

#: (b, a): two hard tasks, a - 1 < b, apart by how they meet the bounds of the exponents.
HARD, EASY, SUPER_EASY = (1.5, 1.9), (1.2, 3.0), (1.2, 4.5)
SIZES = 50.0 * 4.0 ** np.arange(5)


def spectrum(b, a, exact=100, per=8):
    return dc.PowerLaw(b, a, MODES).grouped(exact, per)


def slopes(x, y):
    return np.diff(np.log(y)) / np.diff(np.log(x))


def final_loss(task, samples, features):
    """L at t = infinity."""
    found = spectral.two_point(np.array([0.0]), np.array([0.0]), task, samples, features)
    return found.test[0, 0].real


# -- random features -------------------------------------------------------------------------------


@pytest.mark.parametrize("b_a", [HARD, EASY, SUPER_EASY])
def test_time(b_a):
    b, a = b_a
    times = np.geomspace(1e2, 1e4, 5)
    task = spectrum(b, a, exact=300, per=24)
    theory = dc.solve(dc.RandomFeatures(INF, INF), task, dc.GradientFlow(times))
    # Corrections to the law are exponentially small. Those of groups of width 1/24 are of the order
    # of its square, 2e-3, over 24, per unit of log t.
    np.testing.assert_allclose(slopes(times, theory.test_loss), -(a - 1) / b, rtol=1e-3)


@pytest.mark.parametrize(
    ("b_a", "printed"),
    [
        (HARD, [-0.859, -0.883, -0.893, -0.897]),
        (EASY, [-1.094, -1.163, -1.188, -1.197]),
        (SUPER_EASY, [-1.149, -1.190, -1.199, -1.201]),
    ],
)
def test_features(b_a, printed):
    task = spectrum(*b_a)
    found = slopes(SIZES, [final_loss(task, INF, n) for n in SIZES])
    np.testing.assert_allclose(found, printed, atol=1.5e-3)
    b, a = b_a
    assert found[-1] == pytest.approx(-min(a - 1, b), abs=4e-3)


@pytest.mark.parametrize(
    ("b_a", "printed"),
    [
        (HARD, [-0.890, -0.897, -0.899, -0.900]),
        (EASY, [-1.816, -1.914, -1.956, -1.977]),
        (SUPER_EASY, [-2.247, -2.357, -2.390, -2.400]),
    ],
)
def test_data(b_a, printed):
    task = spectrum(*b_a)
    found = slopes(SIZES, [final_loss(task, p, INF) for p in SIZES])
    np.testing.assert_allclose(found, printed, atol=1.5e-3)
    b, a = b_a
    assert found[-1] == pytest.approx(-min(a - 1, 2 * b), abs=0.03)


def test_finite_size_shows_as_its_inverse_early_in_training():
    task, sizes = spectrum(*HARD), np.array([100.0, 200.0, 400.0, 800.0])
    flow = dc.GradientFlow([5.0])
    limit = dc.solve(dc.RandomFeatures(INF, INF), task, flow).test_loss[0]
    gaps = [dc.solve(dc.RandomFeatures(INF, n), task, flow).test_loss[0] - limit for n in sizes]
    # The next order is relatively 1/N: three digits at N = 800, and less than half for twice N.
    beyond = slopes(sizes, gaps) + 1
    assert np.all(beyond[1:] < 0.55 * beyond[:-1])
    assert 0 < beyond[-1] < 1e-3


# -- compute-optimal training ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("b_a", "first", "sizes", "losses"),
    [
        (HARD, 4, [0.4078, 0.4023, 0.4008], [-0.3542, -0.3582, -0.3594]),
        # Here the printed slopes are those of a coarser search of the same minima, good to 1e-3.
        (EASY, 5, [0.5998, 0.5981, 0.5993], [-0.6638, -0.6659, -0.6665]),
    ],
)
def test_the_compute_optimal_frontier(b_a, first, sizes, losses):
    budgets = 10.0 ** np.arange(first, first + 8, 2)
    found = spectral.compute_optimal(budgets, spectrum(*b_a))
    np.testing.assert_allclose(found.features * found.times, budgets, rtol=1e-12)
    np.testing.assert_allclose(slopes(budgets, found.features), sizes, atol=1.5e-3)
    np.testing.assert_allclose(slopes(budgets, found.loss), losses, atol=1e-3)
    b, a = b_a
    hard = a - 1 < b
    size_law, loss_law = (1 / (1 + b), (a - 1) / (1 + b)) if hard else ((a - b) / a, (a - 1) / a)
    assert slopes(budgets, found.features)[-1] == pytest.approx(size_law, abs=2e-3)
    assert slopes(budgets, found.loss)[-1] == pytest.approx(-loss_law, abs=1e-3)


def test_the_compute_optimum_is_the_minimum():
    task, budget = spectrum(*HARD), 3e5
    found = spectral.compute_optimal(budget, task)
    sizes = found.features * np.exp([-3.0, -0.3, -0.01, 0.0, 0.01, 0.3, 3.0])
    losses = [
        2 * dc.solve(dc.RandomFeatures(INF, n), task, dc.GradientFlow([budget / n])).test_loss[0]
        for n in sizes
    ]
    assert np.argmin(losses) == 3
    assert losses[3] == pytest.approx(found.loss, rel=1e-9)
    # The parabola through the neighbours has its vertex at the minimum, up to the cubic term.
    left, mid, right = np.log(losses[2:5])
    assert abs((left - right) / (left + right - 2 * mid) / 2 * 0.01) < 1e-4


def test_budgets_are_independent_of_each_other():
    task = spectrum(*EASY)
    together = spectral.compute_optimal([[1e5], [1e9]], task)
    assert together.loss.shape == (2, 1)
    alone = spectral.compute_optimal(1e9, task)
    # A scan shared with other budgets has other points: the same minimum, to its accuracy.
    assert together.features[1, 0] == pytest.approx(alone.features, rel=1e-4)
    assert together.loss[1, 0] == pytest.approx(alone.loss, rel=1e-9)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (0.0, "budget must be > 0"),
        ([1e5, -1.0], "budget must be > 0"),
        (1e-6, "has no minimum at an N between"),
        (1e9, "features decays to nothing, below its accuracy .* a spectrum of more modes"),
    ],
)
def test_bad_budgets(budget, message):
    with pytest.raises(ValueError, match=message):
        spectral.compute_optimal(budget, dc.PowerLaw(1.5, 1.9, 100))


# -- learned features ------------------------------------------------------------------------------


def learned_slopes(beta, gamma, last=7):
    times = 10.0 ** np.arange(last - 3, last + 0.1, 0.5)
    task = spectrum(1.5, 1 + 1.5 * beta)
    theory = dc.solve(dc.FeatureLearning(INF, gamma), task, dc.GradientFlow(times), tol=1e-7)
    return slopes(times, theory.test_loss)


@pytest.mark.parametrize("beta", [0.25, 0.5, 0.75, 1.25])
def test_lazy_networks_follow_the_task(beta):
    np.testing.assert_allclose(learned_slopes(beta, 0.0), -beta, rtol=2e-3)


def test_learned_features_speed_up_hard_tasks():
    """The printed slopes; they tend to -2 beta / (1 + beta)."""
    printed = [-0.6628, -0.6639, -0.6648, -0.6654, -0.6658, -0.6662]
    found = learned_slopes(0.5, 1.0)
    np.testing.assert_allclose(found, printed, atol=3e-4)
    gaps = found + 2 / 3
    assert np.all(np.diff(gaps) < 0)
    assert abs(gaps[-1]) < 1e-3
    # The other hard tasks, before the printed ones meet the end of their spectra.
    for beta in (0.25, 0.75):
        assert learned_slopes(beta, 1.0)[0] == pytest.approx(-2 * beta / (1 + beta), abs=5e-3)


def test_learned_features_leave_easy_tasks():
    printed = [-1.2584, -1.2561, -1.2545, -1.2534, -1.2525, -1.2520]
    found = learned_slopes(1.25, 1.0)
    np.testing.assert_allclose(found, printed, atol=2e-3)
    assert np.all(np.diff(found) > 0)
    assert found[-1] == pytest.approx(-1.25, abs=3e-3)


def test_hard_tasks_become_easier_by_growing_weights():
    """The mechanism: C_w grows as tau^((1 - beta)/2), tau = int (1 + gamma C_w) dt."""
    beta, times = 0.5, 10.0 ** np.arange(4, 7.1, 0.5)
    theory = dc.solve(
        dc.FeatureLearning(INF, 1.0), spectrum(1.5, 1 + 1.5 * beta), dc.GradientFlow(times)
    )
    growth = slopes(times, theory.equal_time["C_w"][0])
    # dtau/dt = C_w, and so C_w ~ t^((1 - beta) / (1 + beta)).
    assert growth[-1] == pytest.approx((1 - beta) / (1 + beta), abs=5e-3)
    assert math.isclose(growth[-1], growth[-2], abs_tol=2e-3)
