"""Learning curves against linear models that are trained on random data.

Averages over experiments differ from the theory by O(1/D), here some 1e-3 of the loss, below the
standard errors. The spectrum is flat: where one mode carries most of the trace, finite-P
corrections of its own do not vanish with D. A training loss far below 1e-2 is not compared, which
in small matrices is ruled by fluctuations of the smallest eigenvalue.
"""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.spectral import learning_curve, spectral_edge

INF = np.inf
#: Largest deviation accepted, in standard errors, of the largest of about twenty numbers.
SIGMAS = 4.5
DIMENSION = 100
VALUES = np.linspace(0.5, 1.5, DIMENSION)
SPECTRUM = dc.Spectrum(VALUES, np.full(DIMENSION, 1 / DIMENSION))
SIZES = {
    "few samples": (50, INF, 0.1),
    "few samples, random features": (50, 75, 0.1),
    "many samples, few features": (200, 25, 0.0),
}


def draw(rng, samples, features, noise_variance):
    """Data, labels, the target and the features of one experiment."""
    x = rng.normal(size=(samples, DIMENSION)) * np.sqrt(VALUES)
    target = rng.normal(size=DIMENSION) / np.sqrt(DIMENSION)
    labels = x @ target + np.sqrt(noise_variance) * rng.normal(size=samples)
    if features == INF:
        return x, labels, target, np.eye(DIMENSION)
    return x, labels, target, rng.normal(size=(DIMENSION, features)) / np.sqrt(features)


def trained(filters, seeds, samples, features, noise_variance):
    """Test and training losses at the times of some filters, (seeds, 2, n_times).

    The predictor of a full-batch method is a function of the Gram matrix of the features.
    """
    rng = np.random.default_rng(7)
    losses = np.zeros((seeds, 2, len(filters)))
    for seed in range(seeds):
        x, labels, target, maps = draw(rng, samples, features, noise_variance)
        seen = x @ maps
        values, vectors = np.linalg.eigh(seen.T @ seen / samples)
        values = np.maximum(values, 1e-12)
        start = vectors.T @ (seen.T @ labels) / samples
        learned = np.array([(1 - left(values)) / values for left in filters])
        weights = (learned * start) @ vectors.T
        error = target - weights @ maps.T
        losses[seed, 0] = error**2 @ VALUES + noise_variance
        losses[seed, 1] = ((labels - weights @ seen.T) ** 2).mean(axis=1)
    return losses


def deviations(losses, curves):
    """Differences from the theory in standard errors, where the training loss is not tiny."""
    mean = losses.mean(axis=0)
    error = losses.std(axis=0, ddof=1) / np.sqrt(len(losses))
    kept = np.array([np.ones(mean.shape[1], bool), mean[1] > 1e-2])
    return np.abs((mean - curves) / error)[kept]


@pytest.mark.parametrize("name", SIZES)
def test_gradient_flow_and_descent(name):
    samples, features, noise = SIZES[name]
    times = np.array([0.5, 2.0, 8.0, 40.0])
    lr = 1.5 / spectral_edge(SPECTRUM, samples, features)
    steps = np.array([1, 3, 10, 60])
    filters = [lambda x, t=t: np.exp(-x * t) for t in times]
    filters += [lambda x, t=t: (1 - lr * x) ** t for t in steps]
    losses = trained(filters, 150, samples, features, noise)
    flow = learning_curve(times, SPECTRUM, samples, features, noise)
    descent = learning_curve(steps, SPECTRUM, samples, features, noise, "gradient_descent", lr)
    found = deviations(losses[..., :4], [flow.test, flow.train])
    assert found.max() < SIGMAS
    found = deviations(losses[..., 4:], [descent.test, descent.train])
    assert found.max() < SIGMAS
    # Errors are small enough to notice half as many samples and features more.
    wrong = learning_curve(times, SPECTRUM, 1.5 * samples, 1.5 * features, noise)
    assert deviations(losses[..., :4], [wrong.test, wrong.train]).max() > 2 * SIGMAS


@pytest.mark.parametrize("features", [INF, 50])
def test_one_pass_sgd(features):
    batch, noise, steps, seeds = 20, 0.05, 50, 300
    lr = 0.3 / spectral_edge(SPECTRUM, INF, features)
    rng = np.random.default_rng(3)
    losses = np.zeros((seeds, steps + 1))
    for seed in range(seeds):
        _, _, target, maps = draw(rng, 1, features, noise)
        weights = np.zeros(maps.shape[1])
        for t in range(steps + 1):
            error = target - maps @ weights
            losses[seed, t] = error**2 @ VALUES + noise
            x = rng.normal(size=(batch, DIMENSION)) * np.sqrt(VALUES)
            residual = x @ error + np.sqrt(noise) * rng.normal(size=batch)
            weights += lr / batch * maps.T @ (x.T @ residual)
    curve = learning_curve(
        np.arange(steps + 1), SPECTRUM, INF, features, noise, "sgd", lr, batch=batch
    )
    mean, error = losses.mean(axis=0), losses.std(axis=0, ddof=1) / np.sqrt(seeds)
    assert np.abs((mean - curve.test) / error)[[0, 1, 3, 10, 25, 50]].max() < SIGMAS
    # The noise of SGD is seen: the loss without it is far off.
    assert np.abs((mean - curve.forcing) / error).max() > 2 * SIGMAS
