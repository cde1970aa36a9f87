"""The two engines against each other and against solutions with every pattern index."""

import numpy as np
import pytest

import dmftcore as dc
from referees import Problem, dense_fixed_point, uncontracted_march

CASES = {
    "one layer": Problem(1, 0.3, 1.0, 1.0, 9, np.eye(4), np.zeros((4, 1)), 4),
    "two layers, two outputs": Problem(2, 0.25, 1.2, 0.9, 8, np.eye(4), np.zeros((4, 2)), 4),
    "three layers": Problem(3, 0.1, 1.5, 1.1, 9, np.eye(3), np.zeros((3, 1)), 3),
    "four layers, three outputs": Problem(4, 0.1, 0.8, 1.0, 6, np.eye(3), np.zeros((3, 3)), 3),
    "a test point": Problem(2, 0.3, 1.0, 1.0, 8, np.eye(5), np.zeros((5, 1)), 4),
    "test points, two outputs": Problem(3, 0.15, 1.3, 0.9, 7, np.eye(5), np.zeros((5, 2)), 3),
    "lazy": Problem(2, 0.2, 0.0, 0.9, 8, np.eye(4), np.zeros((4, 2)), 4),
}


def problem(name):
    """The named case with random correlated data."""
    case = CASES[name]
    rng = np.random.default_rng(sorted(CASES).index(name))
    points, outputs = case.targets.shape
    x = rng.normal(size=(points, points + 2)) / np.sqrt(points)
    return Problem(
        case.depth, case.lr, case.gamma, case.sigma, case.steps, x @ x.T,
        rng.normal(size=(points, outputs)), case.n_train,
    )  # fmt: skip


def nouns(p):
    data = dc.Dataset(
        full_gram=p.gram,
        targets=p.targets[: p.n_train],
        test_targets=p.targets[p.n_train :] if len(p.targets) > p.n_train else None,
    )
    limit = dc.DeepLinear(p.depth, gamma=p.gamma, init_scale=p.sigma)
    return limit, data, dc.GradientDescent(p.lr, p.steps)


def all_errors(p, solution):
    outputs = [solution.outputs]
    if solution.test_outputs is not None:
        outputs.append(solution.test_outputs)
    return p.targets - np.concatenate(outputs, axis=1)


def close(found, expected, tolerance):
    """Largest deviation below `tolerance` times the scale of what is expected."""
    return np.abs(found - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_referees_agree(name):
    """The march with pattern indices solves the dense equations."""
    p = problem(name)
    dense, march = dense_fixed_point(p), uncontracted_march(p)
    assert close(march.delta, dense.delta, 1e-12)
    for kind in ("h", "g", "a", "b"):
        for layer, expected in getattr(dense, kind).items():
            assert close(getattr(march, kind)[layer], expected, 1e-12), (kind, layer)


@pytest.mark.parametrize("method", ["chain", "growing"])
@pytest.mark.parametrize("name", CASES)
def test_engines_agree_with_referee(name, method):
    p = problem(name)
    referee = uncontracted_march(p)
    solution = dc.solve(*nouns(p), method=method, tol=1e-13, save=("H", "G"))
    times, points, outputs = p.shape
    assert close(all_errors(p, solution), referee.delta, 1e-12)
    for layer in range(1, p.depth + 1):
        h = referee.h[layer].reshape(times, points, times, points)
        g = referee.g[layer].reshape(times, outputs, times, outputs)
        assert close(solution.kernel("H", layer), h, 1e-12)
        assert close(solution.kernel("G", layer), g, 1e-12)
        equal_time = np.stack([h[t, :, t] for t in range(times)])
        assert close(solution.equal_time["H"][layer], equal_time, 1e-12)


@pytest.mark.parametrize("name", CASES)
def test_responses_agree_with_referee(name):
    p = problem(name)
    referee = uncontracted_march(p)
    solution = dc.solve(*nouns(p), save=("A", "B"))
    times, points, outputs = p.shape
    for layer in range(1, p.depth + 1):
        a = referee.a[layer].reshape(times, points, times, outputs)
        b = referee.b[layer - 1].reshape(times, outputs, times, points)[..., : p.n_train]
        assert close(solution.response("A", layer), a, 1e-12)
        assert close(solution.response("B", layer - 1), b, 1e-12)


def test_tangent_kernel_is_the_first_order_change_of_the_outputs():
    """K(t) of the definition, from the referee's kernels; f moves by it as lr -> 0."""
    p = problem("test points, two outputs")
    limit, data, training = nouns(p)
    solution = dc.solve(limit, data, training, method="chain")
    referee = uncontracted_march(p)
    times, points, outputs = p.shape
    train = slice(p.n_train)
    for t in (0, times - 1):
        expected = np.zeros((p.n_train, outputs, p.n_train, outputs))
        for layer in range(p.depth + 1):
            h = referee.h[layer].reshape(times, points, times, points)[t, train, t, train]
            g = referee.g[layer + 1].reshape(times, outputs, times, outputs)[t, :, t]
            expected += np.einsum("mn,kj->mknj", h, g)
        assert close(solution.ntk[t], expected, 1e-12)
        flat = expected.reshape(p.n_train * outputs, -1)
        largest = np.linalg.eigvalsh(flat)[-1] / p.n_train
        assert solution.sharpness[t] == pytest.approx(largest, rel=1e-12)
    tiny = dc.solve(limit, data, dc.GradientDescent(1e-6, 1))
    moved = (tiny.outputs[1] - tiny.outputs[0]) / 1e-6
    predicted = np.einsum("mknj,nj->mk", tiny.ntk[0], tiny.errors[0]) / p.n_train
    assert close(moved, predicted, 1e-4)


@pytest.mark.parametrize(
    ("depth", "gamma", "sigma", "lr", "outputs"),
    [(1, 2.0, 1.0, 0.1, 1), (2, 1.0, 0.9, 0.1, 3), (3, 1.5, 1.0, 0.05, 1), (4, 1.0, 1.1, 0.02, 2)],
)
def test_growing_agrees_with_chain_on_long_runs(depth, gamma, sigma, lr, outputs):
    """At full rank both engines compute the same discrete gradient descent."""
    rng = np.random.default_rng(depth)
    x = rng.normal(size=(6, 5))
    data = dc.Dataset(inputs=x, targets=rng.normal(size=(6, outputs)), test_inputs=x[:2] + 0.3)
    limit = dc.DeepLinear(depth, gamma=gamma, init_scale=sigma)
    training = dc.GradientDescent(lr, 200)
    options = {"kernel_times": [0, 7, 60, 200], "save": ("H", "G")}
    chain = dc.solve(limit, data, training, method="chain", **options)
    growing = dc.solve(limit, data, training, method="growing", tol=1e-13, **options)
    assert close(growing.outputs, chain.outputs, 1e-12)
    assert close(growing.test_outputs, chain.test_outputs, 1e-12)
    for layer in range(1, depth + 1):
        assert close(growing.kernel("H", layer), chain.kernel("H", layer), 1e-12)
        assert close(growing.kernel("G", layer), chain.kernel("G", layer), 1e-12)
    assert close(growing.ntk, chain.ntk, 1e-12)
    assert chain.diagnostics["residual"] < 1e-12


@pytest.mark.parametrize("outputs", [1, 2])
def test_ntk_readout_agrees_between_engines(outputs):
    """Both against the uncontracted rule f(t+1) = f(t) + (lr/P) K(t) Delta(t)."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(4, 6))
    data = dc.Dataset(inputs=x[:3], targets=rng.normal(size=(3, outputs)), test_inputs=x[3:])
    limit = dc.DeepLinear(2, gamma=1.2, readout="ntk")
    training = dc.GradientDescent(0.1, 12)
    chain = dc.solve(limit, data, training, method="chain")
    growing = dc.solve(limit, data, training, method="growing", tol=1e-13)
    assert close(growing.outputs, chain.outputs, 1e-12)
    assert close(growing.test_outputs, chain.test_outputs, 1e-12)
    moved = np.diff(chain.outputs, axis=0)
    predicted = np.einsum("tmknj,tnj->tmk", chain.ntk, chain.errors) * 0.1 / 3
    assert close(moved, predicted[:-1], 1e-12)


RULES = {
    "schedule": dc.GradientDescent(np.linspace(0.2, 0.02, 25), 25),
    "momentum": dc.GradientDescent(0.08, 25, momentum=0.7),
    "decay": dc.GradientDescent(0.1, 25, weight_decay=0.3),
    "all": dc.GradientDescent(np.linspace(0.2, 0.02, 25), 25, momentum=0.5, weight_decay=0.2),
}
NETWORKS = {
    "three layers": {"depth": 3, "gamma": 1.3, "init_scale": 0.9},
    "one block": {"depth": 2, "branch_scale": 0.9},
    "three blocks": {"depth": 4, "gamma": 1.2, "init_scale": 0.8, "branch_scale": 1.1},
}


def five_points(outputs):
    rng = np.random.default_rng(outputs)
    x = rng.normal(size=(5, 6)) / 2
    y = rng.normal(size=(5, outputs))
    return dc.Dataset(full_gram=x @ x.T, targets=y[:4], test_targets=y[4:])


@pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", NETWORKS)
def test_engines_agree_on_every_rule(network, rule, outputs):
    """Growing network and chain: outputs, two-time kernels and tangent kernels to rounding."""
    limit, data, training = dc.DeepLinear(**NETWORKS[network]), five_points(outputs), RULES[rule]
    options = {"kernel_times": [0, 3, 11, 25], "save": ("H", "G")}
    chain = dc.solve(limit, data, training, method="chain", **options)
    growing = dc.solve(limit, data, training, method="growing", tol=1e-13, **options)
    for field in ("outputs", "test_outputs", "ntk", "sharpness"):
        assert close(getattr(growing, field), getattr(chain, field), 1e-12), field
    for name in ("H", "G"):
        assert close(growing.kernel(name), chain.kernel(name), 1e-12), name


@pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("network", [*NETWORKS, "infinite depth"])
def test_chain_at_gamma_zero_is_the_lazy_limit(network, rule):
    """gamma = 0 is a regular point of the chain; the lazy limit does not know of it.

    At infinite depth the chain resolves the layers by collocation, to about 1e-12.
    """
    fields = NETWORKS.get(network, {"depth": dc.INFINITE, "init_scale": 0.9, "branch_scale": 1.1})
    limit, data = dc.DeepLinear(**(fields | {"gamma": 0})), five_points(2)
    lazy = dc.solve(limit, data, RULES[rule])
    assert lazy.diagnostics["engine"] == "lazy"
    chain = dc.solve(limit, data, RULES[rule], method="chain")
    for field in ("outputs", "test_outputs", "ntk", "sharpness"):
        assert close(getattr(lazy, field), getattr(chain, field), 1e-11), field
