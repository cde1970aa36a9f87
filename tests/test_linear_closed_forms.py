"""Deep linear theory in the cases that have a closed form, and its exact reductions."""

import numpy as np
import pytest

import dmftcore as dc

ENGINES = {"chain": {"method": "chain"}, "growing": {"method": "growing", "tol": 1e-13}}


@pytest.fixture(params=ENGINES)
def engine(request):
    return ENGINES[request.param]


def random_gram(seed, points):
    x = np.random.default_rng(seed).normal(size=(points, points + 1)) / np.sqrt(points)
    return x @ x.T


def test_start(engine):
    """t = 0: H^l = sigma^{2l} Kx, G^l = sigma^{2(L+1-l)}, f = 0."""
    gram, sigma = random_gram(0, 3), 0.8
    data = dc.Dataset(gram=gram, targets=np.ones((3, 2)))
    limit = dc.DeepLinear(3, init_scale=sigma)
    solution = dc.solve(limit, data, dc.GradientDescent(0.1, 0), **engine)
    assert np.abs(solution.outputs).max() < 1e-15
    for layer in (1, 2, 3):
        np.testing.assert_allclose(solution.kernel("H", layer, 0, 0), sigma ** (2 * layer) * gram)
        expected = sigma ** (2 * (4 - layer)) * np.eye(2)
        np.testing.assert_allclose(solution.kernel("G", layer, 0, 0), expected, atol=1e-15)


def test_first_step_of_top_gradient(engine):
    """G^L(1,1) = s2 + (lr gamma / P)^2 s2^L y^T Kx y."""
    gram, y = random_gram(1, 5), np.cos(np.arange(5.0))
    depth, lr, gamma, sigma = 3, 0.2, 1.7, 0.9
    data = dc.Dataset(gram=gram, targets=y)
    limit = dc.DeepLinear(depth, gamma=gamma, init_scale=sigma)
    solution = dc.solve(limit, data, dc.GradientDescent(lr, 1), **engine)
    expected = sigma**2 + (lr * gamma / 5) ** 2 * sigma ** (2 * depth) * y @ gram @ y
    np.testing.assert_allclose(solution.kernel("G", depth, 1, 1)[0, 0], expected, rtol=1e-13)


@pytest.mark.parametrize("outputs", [1, 2])
def test_one_layer_is_markovian(engine, outputs):
    """L = 1: the covariance of (h_1..h_P, w_1..w_K) moves by Sigma <- M Sigma M^T."""
    points, lr, gamma, sigma, steps = 4, 0.2, 1.4, 0.9, 30
    gram, y = random_gram(2, points), np.random.default_rng(2).normal(size=(points, outputs))
    cov = sigma**2 * np.block(
        [[gram, np.zeros((points, outputs))], [np.zeros((outputs, points)), np.eye(outputs)]]
    )
    expected = []
    for _ in range(steps + 1):
        delta = y - cov[:points, points:] / gamma
        expected.append(delta)
        step = lr * gamma / points
        move = np.block([
            [np.eye(points), step * gram @ delta],
            [step * delta.T, np.eye(outputs)],
        ])  # fmt: skip
        cov = move @ cov @ move.T
    data = dc.Dataset(gram=gram, targets=y)
    limit = dc.DeepLinear(1, gamma=gamma, init_scale=sigma)
    solution = dc.solve(limit, data, dc.GradientDescent(lr, steps), **engine)
    np.testing.assert_allclose(solution.errors, expected, atol=1e-13)


def test_one_layer_one_point_product_formula(engine):
    """f = (s2 / 2 gamma) [ prod(1 + lr gamma Delta_s)^2 - prod(1 - lr gamma Delta_s)^2 ]."""
    lr, gamma, sigma, steps = 0.15, 1.3, 0.8, 25
    limit = dc.DeepLinear(1, gamma=gamma, init_scale=sigma)
    data = dc.Dataset(gram=[[1.0]], targets=[1.2])
    solution = dc.solve(limit, data, dc.GradientDescent(lr, steps), **engine)
    up = down = 1.0
    for t in range(steps + 1):
        f = sigma**2 / (2 * gamma) * (up**2 - down**2)
        assert solution.outputs[t, 0] == pytest.approx(f, abs=1e-13)
        up *= 1 + lr * gamma * (1.2 - f)
        down *= 1 - lr * gamma * (1.2 - f)


@pytest.mark.parametrize("method", [None, "chain", "growing"])
def test_lazy_recursion(method):
    """gamma = 0: Delta(t+1) = Delta - (lr/P) (L+1) s2^L Kx Delta, frozen kernels."""
    points, lr, sigma, depth, steps = 5, 0.3, 0.9, 3, 40
    gram, y = random_gram(3, points + 1), np.random.default_rng(3).normal(size=(points + 1, 2))
    data = dc.Dataset(full_gram=gram, targets=y[:points], test_targets=y[points:])
    solution = dc.solve(
        dc.DeepLinear(depth, gamma=0, init_scale=sigma), data, dc.GradientDescent(lr, steps),
        method=method, save=("H", "G"),
    )  # fmt: skip
    f = np.zeros_like(y)
    for t in range(steps + 1):
        found = np.vstack([solution.outputs[t], solution.test_outputs[t]])
        np.testing.assert_allclose(found, f, atol=1e-13)
        delta = y[:points] - f[:points]
        f = f + lr / points * (depth + 1) * sigma ** (2 * depth) * gram[:, :points] @ delta
    for layer in range(1, depth + 1):
        h = sigma ** (2 * layer) * gram
        np.testing.assert_allclose(solution.kernel("H", layer, 3, 40), h, atol=1e-13)
        g = sigma ** (2 * (depth + 1 - layer)) * np.eye(2)
        np.testing.assert_allclose(solution.kernel("G", layer, 40, 0), g, atol=1e-13)


def test_small_gamma_tends_to_lazy(engine):
    """The distance to gamma = 0 falls as gamma^2."""
    data = dc.Dataset(gram=random_gram(4, 4), targets=np.cos(np.arange(4)))
    training = dc.GradientDescent(0.2, 30)
    lazy = dc.solve(dc.DeepLinear(2, gamma=0), data, training).outputs
    near, nearer = (
        np.abs(dc.solve(dc.DeepLinear(2, gamma=g), data, training, **engine).outputs - lazy).max()
        for g in (1e-2, 1e-3)
    )
    assert nearer / near == pytest.approx(1e-2, rel=1e-3)


def test_eigenvectors_without_target_decouple(engine):
    """Only eigendirections of Kx that carry target enter; lr / P keeps the original P."""
    rng = np.random.default_rng(5)
    basis, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    values = np.array([0.5, 0.8, 1.1, 1.5, 2.0, 2.6])
    components = np.array([0.0, 1.0, 0.0, 0.7, 0.0, -0.5])
    data = dc.Dataset(gram=basis * values @ basis.T, targets=basis @ components)
    kept = components != 0
    reduced = dc.Dataset(gram=np.diag(values[kept]), targets=components[kept])
    limit, steps = dc.DeepLinear(2, gamma=1.3), 20
    full = dc.solve(limit, data, dc.GradientDescent(0.2, steps), **engine)
    small = dc.solve(limit, reduced, dc.GradientDescent(0.1, steps), **engine)
    np.testing.assert_allclose(full.errors @ basis[:, kept], small.errors, atol=1e-13)
    np.testing.assert_allclose(full.errors @ basis[:, ~kept], 0, atol=1e-13)
    dropped = basis[:, ~kept].T @ full.kernel("H", 2, steps, steps) @ basis
    np.testing.assert_allclose(dropped[:, ~kept], np.diag(values[~kept]), atol=1e-12)
    np.testing.assert_allclose(dropped[:, kept], 0, atol=1e-12)


def test_whitened_data_is_one_scalar_problem(engine):
    """Kx = kappa I, one output: Delta(t) = Delta_s(t) y / |y|, and the same G."""
    y = np.array([1.0, -2.0, 0.5])
    size = np.linalg.norm(y)
    limit, steps = dc.DeepLinear(3, gamma=1.2), 15
    data, reduced = dc.Dataset(gram=0.7 * np.eye(3), targets=y), dc.Dataset([[0.7**0.5]], [size])
    full = dc.solve(limit, data, dc.GradientDescent(0.15, steps), **engine)
    scalar = dc.solve(limit, reduced, dc.GradientDescent(0.05, steps), **engine)
    np.testing.assert_allclose(full.errors, scalar.errors * y / size, atol=1e-13)
    np.testing.assert_allclose(full.equal_time["G"][1], scalar.equal_time["G"][1], rtol=1e-12)


def test_whitened_data_with_outputs_splits_into_singular_modes(engine):
    """Kx = I, K outputs: every singular vector pair of y is an independent scalar problem."""
    y = np.random.default_rng(6).normal(size=(4, 2))
    left, values, right = np.linalg.svd(y, full_matrices=False)
    limit, steps = dc.DeepLinear(2, gamma=0.9), 15
    full = dc.solve(
        limit, dc.Dataset(gram=np.eye(4), targets=y), dc.GradientDescent(0.4, steps), **engine
    )
    rotated = left.T @ full.errors @ right.T
    for mode, value in enumerate(values):
        reduced = dc.Dataset(gram=[[1.0]], targets=[value])
        scalar = dc.solve(limit, reduced, dc.GradientDescent(0.1, steps), **engine)
        np.testing.assert_allclose(rotated[:, mode, mode], scalar.errors[:, 0], atol=1e-13)
    np.testing.assert_allclose(rotated[:, 0, 1], 0, atol=1e-13)


def test_inputs_and_their_gram_matrix_are_the_same_problem(engine):
    x = np.random.default_rng(7).normal(size=(6, 4))
    y = np.sin(np.arange(6.0))
    by_inputs = dc.Dataset(inputs=x[:4], targets=y[:4], test_inputs=x[4:], test_targets=y[4:])
    by_gram = dc.Dataset(full_gram=x @ x.T / 4, targets=y[:4], test_targets=y[4:])
    limit, training = dc.DeepLinear(2), dc.GradientDescent(0.1, 30)
    first, second = (dc.solve(limit, data, training, **engine) for data in (by_inputs, by_gram))
    np.testing.assert_allclose(first.outputs, second.outputs, atol=1e-12)
    np.testing.assert_allclose(first.test_outputs, second.test_outputs, atol=1e-12)
    h = [s.equal_time["H"][2] for s in (first, second)]
    np.testing.assert_allclose(*h, atol=1e-12)
