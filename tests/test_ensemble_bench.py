"""The benchmark of the ensemble march: its competitors solve the problem that they are timed on."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc

pytest.importorskip("jax", reason="the competitors are written in JAX")

import jax

from bench import ensemble as bench
from bench.baselines import ensemble_jax, ensemble_naive
from dmftcore.ensemble import Ensemble
from dmftcore.sampled_blocks import Sampling

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
    options = {"depth": 3, "size": 150, "activation": "linear", "steps": STEPS, "lr": LR / 3}
    options |= {"gamma": GAMMA, "tol": 1e-20}
    key = jax.random.PRNGKey(1)
    stages = ensemble_jax.plan(POINTS, TARGETS, key, largest=40, most=1, **options)
    found, counts = ensemble_jax.march(POINTS, TARGETS, key, stages=stages, **options)
    assert np.less(counts[0], counts[1]).any()
    exact = dc.solve(
        dc.DeepLinear(3, gamma=GAMMA),
        dc.Dataset(gram=POINTS @ POINTS.T, targets=TARGETS),
        dc.GradientDescent(LR / 3, STEPS),
        method="growing",
        tol=1e-13,
    )
    np.testing.assert_allclose(found, exact.outputs, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_jax_of_several_layers_agrees_within_errors():
    case = bench.Case("tanh", 3, 3, 40, 400, 50, 2)
    ours, (program, _) = bench.march(case), bench.jax_march(case)
    other = program()
    error = np.hypot(bench.standard_error(ours), bench.standard_error(other))
    assert error < 0.01
    assert abs(other.mean() / ours.mean() - 1) < 4 * error


def test_published_iteration():
    case = bench.Case("relu", 1, 3, 8, 400, 50, 2)
    options = {"activation": "relu", "lr": LR / 3, "gamma": 1.0, "times": 9, "samples": 3000}
    gram = POINTS @ POINTS.T
    found = np.asarray(ensemble_naive.two_layer(gram, TARGETS, jax.random.PRNGKey(0), **options))
    exact = dc.solve(
        dc.MLP(1, "relu"),
        dc.Dataset(gram=gram, targets=TARGETS),
        dc.GradientDescent(LR / 3, 8),
        method="ensemble",
        samples=20_000,
        kernel_times=[],
    ).outputs
    # It moves outputs by the tangent kernel, which differs in the second order of lr = 0.1.
    assert np.abs(exact[-1]).max() > 0.2
    np.testing.assert_allclose(found, exact, rtol=0, atol=0.05)
    assert case.title == "relu L=1 P=3 T=8 S=8x400"


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
