"""The adaptive kernel: Bayesian networks that learn features."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

import dmftcore as dc
from dmftcore.activations import activation
from dmftcore.limits import adaptive

GRAM = np.array([[1.0, 0.3, -0.2], [0.3, 0.8, 0.4], [-0.2, 0.4, 1.1]])
DATA = dc.Dataset(full_gram=GRAM, targets=[1.0, -0.7], test_targets=[0.2])
TRAIN = GRAM[:2, :2]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_linear_networks_solve_their_equations(depth):
    """Layer by layer, as they stand in the module's docstring, by matrix inversion."""
    gamma, beta = 1.3, 2.0
    solution = dc.solve(dc.AdaptiveKernel(depth, "linear", gamma, beta), DATA)
    delta = solution.errors[0]
    phi = [TRAIN, *(solution.kernel("Phi", layer, 0, 0)[:2, :2] for layer in range(1, depth + 1))]
    q = -((beta * gamma) ** 2) * np.outer(delta, delta)
    for layer in range(depth, 0, -1):
        below = np.linalg.inv(phi[layer - 1])
        np.testing.assert_allclose(phi[layer], np.linalg.inv(below + q), rtol=1e-11)
        q = below - below @ phi[layer] @ below
    np.testing.assert_allclose(solution.outputs[0], beta * phi[depth] @ delta, rtol=1e-12)
    across = solution.kernel("Phi", depth, 0, 0)[2, :2]
    np.testing.assert_allclose(solution.test_outputs[0], beta * across @ delta, rtol=1e-12)
    assert solution.diagnostics["growth"] > 1.1
    assert solution.train_loss[0] == pytest.approx(np.mean(delta**2) / 2)
    assert solution.test_loss[0] == pytest.approx((0.2 - solution.test_outputs[0, 0]) ** 2 / 2)


def test_samples_of_a_linear_network():
    """The sampled equations against the closed form; samples are independent but for their sign."""
    limit = dc.AdaptiveKernel(1, "linear", 1.0, 2.0)
    expected, kernels, _ = adaptive._linear(limit, GRAM, DATA.targets)
    runs = [adaptive._sampled(limit, GRAM, DATA.targets, 20_000, seed) for seed in range(8)]
    for values, exact in (
        ([run[0] for run in runs], expected),
        ([run[1][1] for run in runs], kernels[1]),
    ):
        error = np.std(values, axis=0, ddof=1) / np.sqrt(8)
        z = (np.mean(values, axis=0) - exact) / error
        assert np.sqrt(np.mean(z**2)) < 2
        assert (error < 0.01 * np.abs(exact).max()).all()


def test_standard_errors_are_the_scatter_of_samples():
    """Known to a fifth of themselves by 16 parts, and so are they from 40 runs, to a ninth."""
    limit = dc.AdaptiveKernel(1, "tanh", 1.5, 2.0)
    runs = [dc.solve(limit, DATA, samples=2000, seed=seed) for seed in range(40)]
    for name in ("outputs", "test_outputs", "train_loss", "test_loss", "Phi"):
        values = [run.equal_time["Phi"][1] if name == "Phi" else getattr(run, name) for run in runs]
        errors = np.array([run.stderr(name) for run in runs]).reshape(np.shape(values))
        ratio = np.sqrt(np.mean(errors**2, axis=0)) / np.std(values, axis=0, ddof=1)
        assert np.abs(np.log(ratio)).max() < np.log(1.6), name


@pytest.mark.parametrize("name", ["tanh", "relu"])
def test_one_point_is_an_integral(name):
    """One variable: f = beta <phi^2> (y - f) by a trapezoidal rule and a root."""
    k, y, gamma, beta = 0.8, 1.0, 1.4, 1.5
    h = np.linspace(-12, 12, 20_001) * np.sqrt(k)
    phi = activation(name).value(h)

    def kernel(delta):
        weights = np.exp(-(h**2) / (2 * k) + (beta * gamma * delta * phi) ** 2 / 2)
        return weights @ phi**2 / weights.sum()

    delta = scipy.optimize.brentq(lambda d: y - d - beta * kernel(d) * d, 0.1, 1)
    solution = dc.solve(
        dc.AdaptiveKernel(1, name, gamma, beta), dc.Dataset(gram=[[k]], targets=[y]),
        samples=400_000, seed=2,
    )  # fmt: skip
    # The error of a mean over the effective samples, in units of the spread of phi^2 (below 3).
    tolerance = 4 * 3 * solution.diagnostics["relative_error"]
    assert tolerance < 0.03
    assert solution.errors[0, 0] == pytest.approx(delta, rel=tolerance)
    assert solution.kernel("Phi", 1, 0, 0)[0, 0] == pytest.approx(kernel(delta), rel=tolerance)


def test_networks_drawn_from_the_posterior():
    """Hybrid Monte Carlo of tanh networks of 16 and 32 neurons, extrapolated in 1 / width."""
    gamma, beta = 1.5, 2.0
    theory = dc.solve(dc.AdaptiveKernel(1, "tanh", gamma, beta), DATA, samples=400_000)
    means, errors = zip(*(posterior_mean(n, gamma, beta) for n in (16, 32)), strict=True)
    found = 2 * means[1] - means[0]
    error = np.hypot(2 * errors[1], errors[0])
    expected = np.concatenate([theory.outputs[0], theory.test_outputs[0]])
    assert np.sqrt(np.mean(((found - expected) / error) ** 2)) < 2
    # Far more is seen than what feature learning changes.
    lazy = dc.solve(dc.AdaptiveKernel(1, "tanh", 0.0, beta), DATA, samples=400_000)
    assert np.abs(theory.outputs - lazy.outputs).max() > 10 * error.max()


def posterior_mean(width, gamma, beta, chains=200, trajectories=80):
    """Mean outputs of all points, and their standard errors."""
    rng, y = np.random.default_rng(width), DATA.targets
    x, tanh = np.linalg.cholesky(GRAM), np.tanh
    a, w = rng.normal(size=(chains, width, 3)), rng.normal(size=(chains, width))

    def outputs(a, w):
        return (w[:, None] @ tanh(a @ x.T))[:, 0] / (gamma * width)

    def energy(a, w, pa, pw):
        misfit = beta * width * gamma**2 * ((y - outputs(a, w)[:, :2]) ** 2).sum(axis=1)
        kinetic = (pa**2).sum(axis=(1, 2)) + (pw**2).sum(axis=1)
        return ((a**2).sum(axis=(1, 2)) + (w**2).sum(axis=1) + misfit + kinetic) / 2

    def gradient(a, w):
        phi = tanh(a @ x[:2].T)
        e = beta * gamma * (y - (w[:, None] @ phi)[:, 0] / (gamma * width))
        back = w[:, :, None] * (1 - phi**2) * e[:, None]
        return a - back @ x[:2], w - (phi @ e[:, :, None])[:, :, 0]

    kept, step = [], 0.25
    for trajectory in range(trajectories):
        pa, pw = rng.normal(size=a.shape), rng.normal(size=w.shape)
        before, new = energy(a, w, pa, pw), (a.copy(), w.copy())
        force = gradient(*new)
        for _ in range(8):
            pa, pw = pa - step / 2 * force[0], pw - step / 2 * force[1]
            new = new[0] + step * pa, new[1] + step * pw
            force = gradient(*new)
            pa, pw = pa - step / 2 * force[0], pw - step / 2 * force[1]
        accepted = np.log(rng.uniform(size=chains)) < before - energy(*new, pa, pw)
        a = np.where(accepted[:, None, None], new[0], a)
        w = np.where(accepted[:, None], new[1], w)
        if trajectory >= 20:
            kept.append(outputs(a, w))
    by_chain = np.mean(kept, axis=0)
    return by_chain.mean(axis=0), by_chain.std(axis=0) / np.sqrt(chains)


def test_without_feature_learning_the_prior_stays():
    solution = dc.solve(dc.AdaptiveKernel(3, "linear", 0.0, 1.5), DATA)
    np.testing.assert_allclose(solution.kernel("Phi", 3, 0, 0), GRAM, rtol=1e-14)
    expected = TRAIN @ np.linalg.solve(TRAIN + np.eye(2) / 1.5, DATA.targets)
    np.testing.assert_allclose(solution.outputs[0], expected, rtol=1e-13)


def test_a_solution_is_stored(tmp_path):
    solution = dc.solve(dc.AdaptiveKernel(1, "tanh", 1.0, 1.0), DATA, samples=1000)
    solution.save(tmp_path / "adaptive.nc")
    back = dc.Solution.load(tmp_path / "adaptive.nc")
    np.testing.assert_array_equal(back.kernel("Phi", 1, 0, 0), solution.kernel("Phi", 1, 0, 0))
    for name in ("outputs", "Phi"):
        np.testing.assert_array_equal(back.stderr(name), solution.stderr(name))
    assert back.config == solution.config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dc.AdaptiveKernel(2, "tanh", 1.0, 1.0), "verified for activation='linear' only"),
        (lambda: dc.AdaptiveKernel(1, "tanh", 1.0, 0.0), "beta must be a number > 0"),
        (lambda: dc.AdaptiveKernel(0, "linear", 1.0, 1.0), "depth must be an integer >= 1"),
        (lambda: dc.AdaptiveKernel(1, "quadratic", 1.0, 1.0), "has no adaptive kernel"),
    ],
)
def test_what_the_noun_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_what_solve_refuses():
    limit = dc.AdaptiveKernel(1, "tanh", 1.0, 1.0)
    with pytest.raises(TypeError, match="training must be None: an AdaptiveKernel is static"):
        dc.solve(limit, DATA, dc.GradientDescent(0.1, 3))
    with pytest.raises(ValueError, match="method: an AdaptiveKernel is static; leave method out"):
        dc.solve(limit, DATA, method="chain")
    with pytest.raises(ValueError, match="leave samples out"):
        dc.solve(dc.AdaptiveKernel(1, "linear", 1.0, 1.0), DATA, samples=100)
    with pytest.raises(ValueError, match="leave seed out"):
        dc.solve(dc.AdaptiveKernel(1, "linear", 1.0, 1.0), DATA, seed=1)
    with pytest.raises(MemoryError, match="pass fewer samples"):
        dc.solve(limit, DATA, samples=10**12)
    with pytest.raises(ValueError, match="has one output, found 2"):
        dc.solve(limit, dc.Dataset(gram=TRAIN, targets=np.eye(2)))
    with pytest.raises(ArithmeticError, match="samples of the prior count as"):
        dc.solve(dc.AdaptiveKernel(1, "tanh", 2.0, 2.0), DATA, samples=200)
    with pytest.raises(TypeError, match="training must be a GradientDescent"):
        dc.solve(dc.MLP(1, "tanh"), DATA)
