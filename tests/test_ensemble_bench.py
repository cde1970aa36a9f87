"""The benchmark of the ensemble march: its competitors solve the problem that they are timed on."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc

pytest.importorskip("jax", reason="the competitors are written in JAX")

import jax

from bench import ensemble as bench
from bench.baselines import ensemble_jax, ensemble_naive
from dmftcore.sampled.blocks import Sampling
from dmftcore.sampled.ensemble import Ensemble

POINTS = np.linalg.cholesky(np.array([[1.0, 0.2, -0.1], [0.2, 0.8, 0.3], [-0.1, 0.3, 1.2]]))
TARGETS = np.array([1.0, -1.0, 0.5])
LR, GAMMA, STEPS = 0.3, 1.5, 10
#: Of outputs of order one over some ten steps.
ROUNDING = 1e-11


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_jax_of_one_hidden_layer_has_the_same_steps(activation):
    ours = Ensemble(
        dc.MLP(1, activation, gamma=GAMMA).architecture,
        POINTS,
        TARGETS[:, None],
        dc.GradientDescent(LR, STEPS),
        Sampling(200),
    )
    columns = [layer.columns[0].copy() for layer in (ours._a, ours._w)]
    expected = ours.advance(np.arange(STEPS + 1))[:, 0, :, 0]
    found = ensemble_jax.two_layer(
        POINTS, TARGETS, columns[0], columns[1][0],
        activation=activation, lr=LR, gamma=GAMMA, steps=STEPS,
    )  # fmt: skip
    assert np.abs(expected[-1]).max() > 0.5
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


def test_jax_of_several_layers_is_exact_where_nothing_is_sampled():
    # Matched sources leave no sampling error in linear networks.
    options = {"depth": 2, "size": 150, "activation": "linear", "steps": STEPS, "lr": LR / 3}
    options |= {"gamma": GAMMA, "tol": 1e-20}
    key = jax.random.PRNGKey(1)
    stages = ensemble_jax.plan(POINTS, TARGETS, key, largest=40, most=1, **options)
    found, counts = ensemble_jax.march(POINTS, TARGETS, key, stages=stages, **options)
    assert np.less(counts[0], counts[1]).any()
    exact = dc.solve(
        dc.DeepLinear(2, gamma=GAMMA),
        dc.Dataset(gram=POINTS @ POINTS.T, targets=TARGETS),
        dc.GradientDescent(LR / 3, STEPS),
        method="growing",
        tol=1e-13,
    )
    np.testing.assert_allclose(found, exact.outputs, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_jax_of_several_layers_agrees_within_errors(monkeypatch):
    # At early times: the relative error of the loss grows as the loss falls.
    monkeypatch.setattr(bench, "TIME", 2.0)
    case = bench.Case("tanh", 3, 3, 40, 400, 50, 2)
    ours, (programs, _) = bench.march(case), bench.jax_march(case)
    other = programs[bench.STRONG]()
    error = np.hypot(bench.standard_error(ours), bench.standard_error(other))
    assert error < 0.02
    assert abs(other.mean() / ours.mean() - 1) < 4 * error


def test_jax_of_one_hidden_layer_samples_the_same_network():
    case = bench.Case("tanh", 1, 3, 20, 500, 50, 2)
    ours, (programs, _) = bench.march(case), bench.jax_march(case)
    assert list(programs) == [bench.STRONG, bench.STRONG_QUASI]
    for program in programs.values():
        other = program()
        error = np.hypot(bench.standard_error(ours), bench.standard_error(other))
        assert error < 0.1
        assert abs(other.mean() / ours.mean() - 1) < 5 * error


def test_published_iteration():
    # Of a linear network it samples what the chain knows. Its outputs move by the tangent kernel.
    options = {"activation": "linear", "lr": LR, "gamma": GAMMA, "times": 6, "samples": 1000}
    gram = POINTS @ POINTS.T
    runs = np.array(
        [
            ensemble_naive.two_layer(gram, TARGETS, key, **options)
            for key in jax.random.split(jax.random.PRNGKey(0), 8)
        ]
    )
    exact = dc.solve(
        dc.DeepLinear(1, gamma=GAMMA, readout="ntk"),
        dc.Dataset(gram=gram, targets=TARGETS),
        dc.GradientDescent(LR, 5),
        method="chain",
    ).outputs
    error = runs.std(axis=0, ddof=1) / np.sqrt(len(runs))
    assert error.max() < 0.02 < np.abs(exact[-1]).max()
    # The first step starts at zero.
    z = (runs.mean(axis=0) - exact)[1:] / error[1:]
    assert np.abs(z).max() < 5


def test_times_at_equal_error():
    entries = {
        "ours": {"cpu_seconds": 2.0, "error": 2e-3},
        "other": {"cpu_seconds": 1.0, "error": 4e-3},
    }
    found = bench.at_equal_error(entries)
    assert found["ours"] == pytest.approx({"cpu_seconds": 8.0, "ratio": 1.0})
    assert found["other"] == pytest.approx({"cpu_seconds": 16.0, "ratio": 2.0})
    assert bench.standard_error(np.array([1.0, 3.0])) == pytest.approx(0.5)


def test_a_profile_has_shares():
    shares = bench.profile(bench.Case("tanh", 2, 2, 5, 100, 20, 2))
    assert {"particle_products", "particle_expansion", "rest"} <= set(shares)
    assert sum(shares.values()) == pytest.approx(1)
