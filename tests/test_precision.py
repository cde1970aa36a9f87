"""The precision law: printed values, recovery of known constants, and optima against a search."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import dmftcore as dc

INF = np.inf
LAW = dc.PrecisionLaw(
    A=4e3,
    alpha=0.5,
    B=2e4,
    beta=0.5,
    E=1.8,
    gamma=(2.7, 2.2, 1.0),
    C_T=0.06,
    gamma_D=0.5,
    gamma_N=0.5,
    gamma_post=0.6,
)
UNIFIED = replace(LAW, effective_size=True, overlap=(0.5, 0.4, 0.3))


# -- the printed tables of the reference ---------------------------------------------------------


def test_values():
    assert LAW.effective(1e9, 8, 8, 8) == pytest.approx(923037948.081, rel=1e-12)
    assert LAW.loss(1e9, 2e10, 8, 8, 8) == pytest.approx(2.0730802535, rel=1e-10)
    assert LAW.loss(1e9, 2e10, 8, 8, 8, 4) == pytest.approx(2.07342173698, rel=1e-11)
    assert UNIFIED.loss(1e9, 2e10, 8, 8, 8, 4) == pytest.approx(2.07325165845, rel=1e-11)


def test_optima():
    found = LAW.optimum([1e20, 1e22])
    np.testing.assert_allclose(found.P, 3.5136041473, rtol=1e-10)
    np.testing.assert_allclose(found.N, [2.32177e9, 2.32177e10], rtol=3e-6)
    np.testing.assert_allclose(found.loss, [2.0212391330, 1.8699619568], rtol=1e-10)
    np.testing.assert_allclose(found.P / 16 * 6 * found.N * found.D, [1e20, 1e22], rtol=1e-12)


def test_equal_sensitivities_have_a_universal_optimum():
    equal = replace(LAW, gamma=(1.7, 1.7, 1.7))
    assert pytest.approx(1.9038136944 * 1.7, rel=1e-10) == equal.optimum(1e21).P


# -- against direct minimisation -----------------------------------------------------------------


@pytest.mark.parametrize("quantised", [("w", "a", "kv"), ("a", "kv")])
def test_the_optimum_is_the_minimum(quantised):
    cost = 1e21
    found = LAW.optimum(cost, quantised=quantised, lowest=0.01)

    def loss(logs):
        bits, size = np.exp(logs)
        tokens = cost * 16 / (6 * bits * size)
        return LAW.loss(size, tokens, **{f"P_{name}": bits for name in quantised})

    best = scipy.optimize.minimize(
        loss, np.log([4.0, 1e9]), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-16}
    )
    # A minimum is flat: its place is known to the square root of the rounding of the loss.
    np.testing.assert_allclose(np.exp(best.x), [found.P, found.N], rtol=1e-6)
    assert found.loss <= best.fun + 1e-15


def test_bits_at_fixed_size_grow_with_the_logarithm_of_the_budget():
    budgets = 10.0 ** np.arange(20, 24)
    found = LAW.optimum(budgets, N=1e9)
    for cost, bits in zip(budgets, found.P, strict=True):
        best = scipy.optimize.minimize_scalar(
            lambda p, cost=cost: LAW.loss(1e9, cost * 16 / (6 * p * 1e9), p, p, p),
            bounds=(1, 40),
            method="bounded",
            options={"xatol": 1e-10},
        )
        assert bits == pytest.approx(best.x, rel=1e-6)
    # The limit of many bits: the kept part of N is lost as exp(-P/gamma) with the largest gamma.
    growth = np.diff(found.P)
    assert growth[-1] == pytest.approx(LAW.beta * LAW.gamma[0] * np.log(10), rel=0.05)


def test_a_single_quantised_part_wants_the_fewest_bits():
    found = LAW.optimum(1e21, quantised=("w",), lowest=2.0)
    assert found.P == 2.0
    fewer = LAW.optimum(1e21, quantised=("w",), lowest=1.5)
    assert fewer.loss < found.loss


# -- the form ------------------------------------------------------------------------------------


def test_full_precision_is_the_law_of_size_and_data():
    size, tokens = np.array([1e8, 1e9]), np.array([[1e9], [1e10]])
    plain = LAW.A * size**-LAW.alpha + LAW.B * tokens**-LAW.beta + LAW.E
    np.testing.assert_allclose(LAW.loss(size, tokens), plain, rtol=1e-15)
    for law in (LAW, UNIFIED):
        np.testing.assert_allclose(law.loss(size, tokens, INF, INF, INF, INF), plain, rtol=1e-15)


def test_rounding_to_the_bits_of_training_is_free_in_the_unified_form():
    assert UNIFIED.loss(1e9, 2e10, 4, 4, 4, 4) == UNIFIED.loss(1e9, 2e10, 4, 4, 4)
    # Weights of full precision lose the most.
    assert LAW.loss(1e9, 2e10, P_post=4) == pytest.approx(UNIFIED.loss(1e9, 2e10, P_post=4))


# -- the fit -------------------------------------------------------------------------------------


def runs(count, seed=0):
    generator = np.random.default_rng(seed)
    size, tokens = 10 ** generator.uniform([[7], [9]], [[10], [12]], (2, count))
    return size, tokens, *generator.choice([3.0, 4.0, 6.0, 8.0, 12.0, INF], (3, count))


def constants(law):
    return np.array([law.A, law.alpha, law.B, law.beta, law.E, *law.gamma])


@pytest.mark.parametrize(
    "law",
    [
        LAW,
        dc.PrecisionLaw(60.0, 0.3, 900.0, 0.28, 1.2, (0.8, 3.1, 0.6)),
        dc.PrecisionLaw(2e5, 0.75, 300.0, 0.2, 2.5, (1.4, 1.3, 2.4)),
    ],
)
def test_known_constants_are_recovered(law):
    arguments = runs(60)
    fitted = dc.PrecisionLaw.fit(*arguments, law.loss(*arguments))
    np.testing.assert_allclose(constants(fitted), constants(law), rtol=1e-4)
    assert np.abs(fitted.residuals).max() < 1e-8


def test_errors_are_those_of_repeated_fits():
    """The scatter of fits to fresh noise is what each of them states as its error."""
    arguments = runs(60)
    generator = np.random.default_rng(1)
    exact, repeats, noise = LAW.loss(*arguments), 24, 2e-4
    fits = [
        dc.PrecisionLaw.fit(*arguments, exact * np.exp(noise * generator.standard_normal(60)))
        for _ in range(repeats)
    ]
    deviations = np.array([(constants(f) - constants(LAW)) / list(f.errors.values()) for f in fits])
    # Sums of 24 squares of standard normals; eight of them, one in 10^4 tests fails by chance.
    low, high = scipy.stats.chi2.ppf([6e-6, 1 - 6e-6], repeats)
    spread = (deviations**2).sum(axis=0)
    assert np.all((low < spread) & (spread < high))


def test_an_outlier_does_not_move_the_fit():
    arguments = runs(60)
    losses = LAW.loss(*arguments)
    losses[7] *= 1.3
    fitted = dc.PrecisionLaw.fit(*arguments, losses)
    # A Huber residual pulls with HUBER, whatever its size: as one run with an error of 1e-3.
    np.testing.assert_allclose(fitted.alpha, LAW.alpha, rtol=5e-3)
    assert np.argmax(np.abs(fitted.residuals)) == 7


def test_a_single_precision_is_not_identifiable():
    size, tokens, bits, *_ = runs(40)
    losses = LAW.loss(size, tokens, bits)
    with pytest.warns(UserWarning, match="gamma_(a|kv) cannot be identified") as caught:
        fitted = dc.PrecisionLaw.fit(size, tokens, bits, INF, INF, losses)
    assert len(caught) == 2
    assert fitted.gamma[0] == pytest.approx(LAW.gamma[0], rel=1e-4)
    assert fitted.errors["gamma_a"] == INF
    assert np.isfinite(fitted.errors["gamma_w"])


def test_traded_parameters_are_named():
    """Size and data that change together cannot tell their two equal power laws apart."""
    size, _, *bits = runs(40)
    bits = [np.full(40, 8.0)] * 3
    losses = LAW.loss(size, 20 * size, *bits)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dc.PrecisionLaw.fit(size, 20 * size, *bits, losses)
    assert any("do not determine all parameters" in str(found.message) for found in caught)


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": 0.0}, "A must be a number > 0"),
        ({"E": -1.0}, "E must be a number > 0"),
        ({"gamma": (1.0, 2.0)}, "gamma must hold three numbers > 0"),
        ({"gamma": (1.0, 2.0, 0.0)}, "gamma must hold three numbers > 0"),
        ({"gamma_D": None}, "gamma_D is missing"),
        ({"overlap": (1.0, -1.0, 1.0)}, "overlap must hold three numbers > 0"),
    ],
)
def test_bad_constants(change, message):
    with pytest.raises(ValueError, match=message):
        replace(LAW, **change)


PLAIN = dc.PrecisionLaw(1.0, 1.0, 1.0, 1.0, 1.0, (1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: replace(PLAIN, effective_size=True), "effective_size is about rounding"),
        (lambda: PLAIN.loss(1e9, 1e9, P_post=4), "no rounding after training"),
        (lambda: PLAIN.loss(0, 1e9), "N must be > 0"),
        (lambda: PLAIN.loss(1e9, INF), "D must be > 0 and finite"),
        (lambda: PLAIN.loss(1e9, 1e9, P_w=[4, -1]), r"P_w must be > 0, found -1 at \(1,\)"),
        (lambda: PLAIN.optimum([1e20, 1e22], N=[1, 2, 3]), "budget and N do not fit"),
        (lambda: PLAIN.optimum(-1.0), "budget must be > 0"),
        (lambda: PLAIN.optimum(1.0, quantised=()), "quantised must name some"),
        (lambda: PLAIN.optimum(1.0, quantised=("x",)), "quantised must be one of"),
        (lambda: PLAIN.fit([1, 2], [1, 2, 3], 4, 4, 4, 1), "do not fit"),
        (lambda: PLAIN.fit([1, 2], [1, 2], [3, 4], [4, 3], [4, 3], [1, 2]), "2 runs cannot"),
        (lambda: PLAIN.fit([1, 2], 3, [3, 4], [4, 3], [4, 3], [1, 2]), "D takes a single value"),
        (lambda: PLAIN.fit(1, [1, 2], 4, 4, 4, [1, 2]), "N and all bits take a single value"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_integers_of_any_size_and_single_names():
    assert PLAIN.loss(10**25, 10**24) == PLAIN.loss(1e25, 1e24)
    with pytest.raises(TypeError, match="N must hold real numbers"):
        PLAIN.loss([None], 1e24)
    assert PLAIN.optimum(1e20, quantised="kv") == PLAIN.optimum(1e20, quantised=("kv",))
