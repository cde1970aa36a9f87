"""The competitors of the benchmarks solve the problem that they are timed on."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc

pytest.importorskip("jax", reason="the competitors are written in JAX")

import jax

from bench import attention, backend, linear_baselines, proportional, transformer
from bench._harness import Report
from bench.baselines import chain_jax, growing_jax, naive, proportional_jax, spectral_numpy
from dmftcore import _core

#: Of kernels of order one, over some ten steps and two or three layers.
ROUNDING = 1e-12
LR, GAMMA, TIMES = 0.1, 1.5, 10

X = np.random.default_rng(3).normal(size=(4, 5))
TARGETS = np.array([1.0, -1.0, 0.5, 2.0])
DATA = dc.Dataset(inputs=X, targets=TARGETS)
GRAM = X @ X.T / 5


def solved(depth, *, times=TIMES, method="chain", readout="gd"):
    """Errors by the engine that is not the competitor's."""
    return dc.solve(
        dc.DeepLinear(depth, gamma=GAMMA, readout=readout),
        DATA,
        dc.GradientDescent(LR, times - 1),
        method=method,
        tol=1e-13 if method == "growing" else None,
        kernel_times=[],
    ).errors


def jax_growing(depth, *, tol, times=TIMES, stops=None):
    options = {"depth": depth, "lr": LR, "gamma": GAMMA, "steps": times, "tol": tol}
    stages = growing_jax.plan(GRAM, TARGETS, **options, largest=40, stops=stops)
    return np.asarray(growing_jax.run(GRAM, TARGETS, **options, stages=stages)), stages


@pytest.mark.parametrize("sizes", [(TIMES,), (4, TIMES)], ids=str)
def test_jax_chain(sizes):
    found = chain_jax.run(GRAM, TARGETS, depth=2, lr=LR, gamma=GAMMA, sizes=sizes)
    np.testing.assert_allclose(found, solved(2, method="growing"), rtol=0, atol=ROUNDING)


def test_jax_growing_network_keeps_every_direction():
    found, stages = jax_growing(2, tol=1e-13, stops=(3, TIMES))
    np.testing.assert_allclose(found, solved(2), rtol=0, atol=ROUNDING)
    # Its arrays grow with it.
    assert np.less(stages[0].capacity.neurons, stages[1].capacity.neurons).any()


def test_jax_growing_network_truncates_and_skips_checks():
    times, tol = 60, 1e-6
    found, stages = jax_growing(2, tol=tol, times=times)
    exact = solved(2, times=times)
    # Twice as many neurons as steps would keep everything.
    assert max(stages[-1].capacity.neurons) < times
    assert 0 < np.abs(found - exact).max() < tol * np.abs(TARGETS).max()


def test_published_iteration():
    # Every iteration is exact for one more step at least: it ends at the solution.
    errors, iterations = naive.solve(
        GRAM, TARGETS, depth=3, lr=LR, gamma=GAMMA, steps=TIMES, tol=1e-14
    )
    exact = solved(3, readout="ntk")
    np.testing.assert_allclose(errors, exact, rtol=0, atol=ROUNDING)
    assert np.abs(exact - solved(3)).max() > 1e-3
    # The iteration counts: few of them are far from the solution.
    early, few = naive.solve(GRAM, TARGETS, depth=3, lr=LR, gamma=GAMMA, steps=TIMES, largest=3)
    assert few == 3 < iterations
    assert np.abs(early - exact).max() > 1e-3


@pytest.mark.parametrize(("depth", "sizes"), [(1, (TIMES,)), (2, (3, 7, TIMES))])
def test_jax_march_on_random_data(depth, sizes):
    alpha, nu, gamma, noise = 1.5, 0.6, 0.8, 0.4
    spectrum = dc.Spectrum([1.5, 1.0, 0.3], [0.5, 1.0, 2.0], weights=[0.2, 0.5, 0.3])
    constants = proportional_jax.Constants(
        spectrum.values,
        spectrum.weights,
        spectrum.values,
        spectrum.weights * spectrum.target,
        alpha=alpha,
        nu=nu,
        kap=gamma * nu**0.5,
        noise2=noise**2,
        lr=LR,
    )
    curves = np.asarray(proportional_jax.run(constants, depth=depth, sizes=sizes))
    solution = dc.solve(
        dc.ProportionalLinear(depth, nu, alpha, gamma=gamma, noise=noise, spectrum=spectrum),
        None,
        dc.GradientDescent(LR, TIMES - 1),
        kernel_times=[],
    )
    expected = np.stack([2 * solution.test_loss, 2 * solution.train_loss, solution.overlap], axis=1)
    # Nothing in it stands still.
    assert (np.ptp(expected, axis=0) > 0.1).all()
    np.testing.assert_allclose(curves, expected, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("all_modes", [False, True])
def test_the_benchmark_of_random_data_runs_one_problem(all_modes):
    # More modes than times, where Gauss points take their place.
    ours = proportional.march(6, 20)
    found = proportional.jax_march(6, 20, 1, all_modes)[0]()
    np.testing.assert_allclose(found, ours, rtol=0, atol=ROUNDING)


def test_jax_march_of_a_transformer():
    size = (6, 2, 1)
    ours, jax = transformer.march(*size), transformer.jax_march(*size, 2)[0]()
    # Nothing in it stands still.
    assert (np.ptp(ours, axis=0) > 0.03).all()
    np.testing.assert_allclose(jax, ours, rtol=0, atol=ROUNDING)


def test_extrapolation_of_the_published_iteration():
    runs = {t: {"cpu_seconds": 2.0 * t**3, "peak_megabytes": 7 + 5.0 * t**2} for t in (50, 100)}
    runs[25] = {"cpu_seconds": 1e9, "peak_megabytes": 1e9}  # the shortest run has no say
    entry = linear_baselines.extrapolated(runs, 1000)
    assert entry["extrapolated"] is True
    assert entry["cpu_seconds"] == pytest.approx(2e9)
    assert entry["peak_megabytes"] == pytest.approx(7 + 5e6)


def test_attention_in_jax_and_numpy():
    limit, data = attention.problem(heads=3, sequences=4, length=5)
    expected = attention.ours(limit, data, steps=7)
    # They move: by more than a tenth of the targets.
    assert np.abs(expected[-1]).max() > 0.1
    np.testing.assert_array_equal(expected[0], 0)
    for found in (attention.in_numpy(limit, data, 7), attention.in_jax(limit, data, 7)[0]()):
        np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def test_random_matrices_in_numpy():
    rng = np.random.default_rng(0)
    lam, mu = np.arange(1, 101.0) ** -1.2, np.full(100, 3.0)
    z = 10 ** rng.uniform(-4, 1, 200) * np.exp(1j * rng.uniform(0, 3.1, 200))
    found, sums = spectral_numpy.kappa(z, lam, lam * mu, 80.0, 60.0)
    np.testing.assert_allclose(found, _core.spectral_kappa(z, lam, mu, 80.0, 60.0), rtol=1e-12)
    # Each z takes two sums at least, and not many.
    assert 2 * len(z) < sums < 20 * len(z)


@pytest.mark.parametrize("title", ["causal_matmul", "resolvent", "congruence", "causal_solve"])
def test_operations_under_other_programs(title):
    arguments, functions = backend.operations(20)[title]
    error = backend.relative_to([functions["jnp"](*arguments)])
    for function in functions.values():
        assert error([jax.jit(function)(*arguments)]) < ROUNDING


@pytest.mark.slow
def test_the_gradients_and_programs_of_the_benchmark_agree():
    report = Report("backend")
    # A difference above the bound of a case ends the run.
    backend.gradients(report, 20, seconds=0.01)
    backend.notebook(report, 4, seconds=0.01)
    backend.p_spin(report, 20, seconds=0.01)
    titles = [case["title"] for case in report.cases]
    assert "gradient of congruence n=20" in titles
    assert titles[-2:] == ["notebook times=4", "p-spin steps=20"]
