"""The competitors of the benchmark of learning curves solve the problem that they are timed on."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax", reason="a competitor is written in JAX")

from bench import learning_curves


def test_jax_has_the_same_flow():
    times = np.geomspace(0.1, 1e6, 30)
    program, _ = learning_curves.jax_flow(100, times)
    ours = learning_curves.flow(100, times)
    # Its divided differences lose up to three digits more than ours.
    np.testing.assert_allclose(program(), ours, rtol=0, atol=1e-9 * ours.max())


def test_numpy_has_the_same_flow():
    times = np.geomspace(0.1, 1e6, 30)
    ours = learning_curves.flow(100, times)
    found = learning_curves.numpy_flow(100, times)
    np.testing.assert_allclose(found, ours, rtol=0, atol=1e-9 * ours.max())


def test_transforms_have_the_same_sgd():
    steps = np.arange(5001)
    found = learning_curves.by_transforms(5000, 100)
    np.testing.assert_allclose(found, learning_curves.one_pass(steps, 100), rtol=1e-11)
