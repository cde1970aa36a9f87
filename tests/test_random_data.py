"""What random data are marched with: Gauss rules, resolvents in blocks, their memory."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import memory, random_data
from dmftcore.limits.proportional import ProportionalMarch
from dmftcore.quadrature import GaussRules
from dmftcore.resolvents import Resolvents

# -- Gauss rules ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 9, 20])
def test_rules_of_a_gauss_sum_are_gauss_rules(size):
    """A sum that is exact up to the degree 79 has the rules of Legendre, by numpy."""
    many, weights = np.polynomial.legendre.leggauss(40)
    points, found = GaussRules(many, weights, 20).rule(size)
    wanted = np.polynomial.legendre.leggauss(size)
    np.testing.assert_allclose(points, wanted[0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(found, wanted[1], rtol=0, atol=1e-14)


def test_a_rule_is_exact_up_to_its_degree_and_not_beyond():
    rng = np.random.default_rng(0)
    many, weights = 2 * rng.beta(0.3, 2, 500), rng.exponential(size=500)
    points, few = GaussRules(many, weights, 30).rule(12)
    chebyshev = np.polynomial.chebyshev.chebvander
    error = np.abs(few @ chebyshev(points - 1, 24) - weights @ chebyshev(many - 1, 24))
    # Of some hundred terms of order one.
    assert error[:24].max() < 1e-13 * weights.sum() < 1e-9 < error[24]


def test_points_that_coincide_or_do_not_count_are_left_out():
    rules = GaussRules(np.array([1, 2, 1, 3.0]), np.array([0.1, 0.2, 0.3, 0]), 2)
    assert len(rules) == 2
    np.testing.assert_allclose(rules.rule(5), [[1, 2], [0.4, 0.2]])
    nothing = GaussRules(np.ones(3), np.zeros(3), 2)
    assert [a.shape for a in nothing.rule(1)] == [(0,), (0,)]
    # Thirty points of which rounding sees three.
    close = np.repeat([1.0, 2.0, 4.0], 20) * (1 + 1e-16 * np.arange(60))
    points, weights = GaussRules(close, np.ones(60), 20).rule(10)
    for point in (1, 2, 4):
        near = np.abs(points - point) < 1e-13
        assert weights[near].sum() == pytest.approx(20, rel=1e-13)


# -- resolvents -------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 4, 7, 30])
@pytest.mark.parametrize("known", [0, 4, 11])
def test_rows_of_resolvents(length, known):
    """Against inverses of whole matrices; from any row on, and with unread numbers in K."""
    rng = np.random.default_rng(1)
    steps, values = 19, np.array([0.0, 0.3, 1.7])
    strict = np.tril(rng.normal(size=(steps, steps)), -1) / 4
    kernel = np.zeros((21, 21))
    kernel[:steps, :steps] = strict
    kernel[np.arange(steps), np.arange(steps)] = np.nan  # the diagonal counts as zero
    wanted = np.linalg.inv(np.eye(steps) + values[:, None, None] * strict)
    resolvents = Resolvents(kernel, length)
    resolvents.start(values[::-1], 3)
    resolvents.start(values, known)
    for step in range(known, steps):
        rows = resolvents.append(step)
        np.testing.assert_allclose(rows, wanted[:, step, : step + 1], rtol=0, atol=1e-13)
        y = rng.normal(size=(3, step + 1))
        products = np.einsum("kj,kij->ki", y, wanted[:, : step + 1, : step + 1])
        np.testing.assert_allclose(resolvents.times_transposed(y), products, rtol=0, atol=1e-13)


# -- many modes -------------------------------------------------------------------------------

MANY = dc.Spectrum(
    2 * np.random.default_rng(2).beta(0.4, 2, 150),
    np.random.default_rng(3).choice([0, 0.5, 2], 150),
)
LIMIT = dc.ProportionalLinear(2, 0.7, 1.3, gamma=1.2, noise=0.4, spectrum=MANY)


@pytest.mark.parametrize(
    "training",
    [
        dc.GradientDescent(np.linspace(0.12, 0.06, 70), 70, momentum=0.4, weight_decay=0.1),
        dc.OnlineSGD(0.1, 70),
    ],
    ids=["memory", "fresh"],
)
def test_many_modes_are_the_sums_over_all_of_them(monkeypatch, training):
    """Blocks and rules of 33, 65 and 97 points, against whole M_k of all the modes."""
    found = dc.solve(LIMIT, None, training, save="all", method="chain")
    monkeypatch.setattr(random_data, "FEW_MODES", 1000)
    monkeypatch.setattr(GaussRules, "rule", lambda self, size: (self._points, self._weights))
    wanted = dc.solve(LIMIT, None, training, save="all", method="chain")
    for name in ("train_loss", "test_loss", "overlap"):
        a, b = getattr(found, name), getattr(wanted, name)
        # Rounding of sums over up to 71 steps and 150 modes of order one.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
    for name in ("Cp", "CD", "Cv", "H", "G"):
        a, b = found.kernel(name), wanted.kernel(name)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
    assert found.diagnostics["residual"] < 1e-12
    assert found.diagnostics["mode_points"] == 97
    assert wanted.diagnostics["mode_points"] == 150


def test_many_modes_are_those_of_the_growing_network():
    """The other engine has every mode as it is, and neither resolvents nor rules."""
    training = dc.GradientDescent(0.1, 70)
    found = dc.solve(LIMIT, None, training, method="chain")
    wanted = dc.solve(LIMIT, None, training, method="growing", tol=1e-12)
    for name in ("train_loss", "test_loss", "overlap"):
        # The tolerance of the other, for each step.
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=0, atol=7e-11)


@pytest.mark.parametrize("modes", [5, 20, 45, 150])
def test_an_extended_run_of_many_modes_is_the_run(tmp_path, modes):
    """Whether it ends within a block or with one, whatever number of points it had needed."""
    spectrum = dc.Spectrum(MANY.values[:modes], MANY.target[:modes])
    limit, path = dataclasses.replace(LIMIT, spectrum=spectrum), tmp_path / "run.npz"
    options = {"save": "all", "method": "chain"}
    whole = dc.solve(limit, None, dc.GradientDescent(0.1, 75), **options)
    for steps in (2, 20, 31, 40, 75):
        resumed = dc.solve(limit, None, dc.GradientDescent(0.1, steps), checkpoint=path, **options)
    for name in ("train_loss", "test_loss", "overlap"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))
    for name in ("Cp", "CD", "Cv", "H", "G"):
        np.testing.assert_array_equal(resumed.kernel(name), whole.kernel(name))


def test_a_target_of_nothing_is_not_learned():
    spectrum = dc.Spectrum([1.0, 0.5], [0.0, 0.0])
    limit = dc.ProportionalLinear(1, 1.0, 2.0, noise=0.3, spectrum=spectrum)
    found = dc.solve(limit, None, dc.GradientDescent(0.1, 5))
    np.testing.assert_array_equal(found.overlap, 0)
    assert found.test_loss[0] > 0


def test_the_check_sees_a_kernel_that_is_wrong():
    system = ProportionalMarch(LIMIT, dc.GradientDescent(0.1, 40))
    system.advance(np.arange(41))
    assert system.residual() < 1e-12
    for name in system._data.histories:
        if name == "E":  # enters what it is compared with
            continue
        row = system._data.histories[name]
        row[30, 7] += 1e-6
        assert system.residual() > 1e-8, name
        row[30, 7] -= 1e-6


def test_memory_does_not_grow_with_modes_beyond_the_steps():
    held = [sum(random_data.RandomData.count(k, 200).values()) for k in (300, 600)]
    # What is left to grow is the basis from which the rules come: points x modes.
    assert held[1] - held[0] == 300 * 225
    whole = random_data.RandomData.count(8, 200)["modes"]
    assert whole == 8 * (201**2 + 7 * 201)
    # Far below modes x steps^2.
    assert held[1] < 0.12 * 600 * 201**2


@pytest.mark.parametrize(
    ("modes", "steps", "remedy"),
    [(10**6, 1000, "a spectrum of fewer modes"), (8, 10_000, "use fewer steps")],
)
def test_what_does_not_fit_is_refused(monkeypatch, modes, steps, remedy):
    monkeypatch.setattr(memory, "_available_memory", lambda: 10**9)
    limit = dc.ProportionalLinear(1, 1.0, 1.0, spectrum=dc.PowerLaw(0.5, 0.9, modes))
    with pytest.raises(MemoryError, match=remedy):
        dc.solve(limit, None, dc.GradientDescent(0.01, steps), method="chain", kernel_times=[])
