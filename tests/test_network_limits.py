"""Networks with activations where their theory is known by other means."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import dmftcore as dc

GRAM = np.array([[1.0, 0.3], [0.3, 0.8]])
DATA = dc.Dataset(gram=GRAM, targets=[1.0, -0.5])


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        (lambda gamma: dc.MLP(1, "tanh", gamma=gamma), {"method": "quadrature"}),
        (lambda gamma: dc.MLP(1, "softplus", gamma=gamma), {"method": "quadrature"}),
        (lambda gamma: dc.Residual(3, "linear", gamma=gamma), {}),
    ],
    ids=["tanh", "softplus", "linear blocks"],
)
def test_feature_learning_is_of_second_order(limit, options):
    """Of two engines that share no line: the lazy one has the kernel of the start alone."""
    training = dc.GradientDescent(0.2, 8)
    lazy = dc.solve(limit(0), DATA, training, kernel_times=[])
    distances = [
        np.abs(
            dc.solve(limit(g), DATA, training, kernel_times=[], **options).outputs - lazy.outputs
        )
        for g in (0.1, 0.05, 0.025)
    ]
    largest = [distance.max() for distance in distances]
    # The next order is gamma^4, 1e-2 and less of it.
    assert largest[0] / largest[1] == pytest.approx(4, rel=0.02)
    assert largest[1] / largest[2] == pytest.approx(4, rel=0.02)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_blocks_that_are_switched_off(gamma):
    """What is left are two layers, without those that weigh nothing."""
    options = {"samples": 300, "replicas": 2, "method": "ensemble"} if gamma else {}
    training = dc.GradientDescent(0.4, 6, momentum=0.4)
    blocks = dc.Residual(3, "tanh", gamma=gamma, branch_scale=0)
    deep = dc.solve(blocks, DATA, training, **options)
    shallow = dc.solve(dc.MLP(1, "tanh", gamma=gamma), DATA, training, **options)
    if gamma:
        # The same particles: those of the first layer and of the readout are drawn first.
        tolerance = {"atol": 4 * np.hypot(deep.stderr("outputs"), shallow.stderr("outputs")).max()}
        exact = dc.solve(dc.MLP(1, "tanh"), DATA, training, method="quadrature")
        assert_allclose(deep.outputs, exact.outputs, **tolerance)
    else:
        tolerance = {"atol": 1e-12}
    assert_allclose(deep.outputs, shallow.outputs, **tolerance)


@pytest.mark.parametrize("steps", [10])
def test_one_point_without_blocks(steps):
    """A linear one is three numbers: <a a>, <b b> and <a b> of its two layers."""
    k, y, lr, gamma = 0.7, 1.2, 0.3, 0.8
    data = dc.Dataset(gram=[[k]], targets=[y])
    limit = dc.Residual(2, "linear", gamma=gamma, branch_scale=0)
    found = dc.solve(limit, data, dc.GradientDescent(lr, steps), samples=50, replicas=1, tol=1e-14)
    a, b, s, outputs = 1.0, 1.0, 0.0, [0.0]
    for _ in range(steps):
        e = lr * gamma * np.sqrt(k) * (y - outputs[-1])
        a, b, s = a + 2 * e * s + e**2 * b, b + 2 * e * s + e**2 * a, s + e * (a + b) + e**2 * s
        outputs.append(np.sqrt(k) * s / gamma)
    assert_allclose(found.outputs[:, 0], outputs, atol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_scales_of_branches_are_names_of_one_factor(gamma):
    options = {"samples": 200, "replicas": 2} if gamma else {}
    training = dc.GradientDescent(0.3, 4)

    def outputs(depth, **branch):
        limit = dc.Residual(depth, "gelu", gamma=gamma, **branch)
        return dc.solve(limit, DATA, training, **options).outputs

    assert_allclose(outputs(4, branch="none", branch_scale=0.5), outputs(4), rtol=1e-12)
    assert_allclose(outputs(1, branch="none"), outputs(1), rtol=1e-12)
    assert np.abs(outputs(2, branch="none") - outputs(2)).max() > 0.01


# -- trained networks at a second data set --------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "gelu", "erf"])
def test_networks_approach_the_theory(activation):
    """Single networks come nearer with width; at the largest one their mean is the theory."""
    rng = np.random.default_rng(11)
    inputs = rng.normal(size=(4, 6))
    data = dc.Dataset(
        inputs=inputs[:3], targets=[0.8, -0.6, 1.1], test_inputs=inputs[3:], test_targets=[0.2]
    )
    limit, training = dc.Residual(2, activation, branch_scale=0.9), dc.GradientDescent(0.3, 8)
    theory = dc.solve(limit, data, training, samples=1000, kernel_times=[8])
    scatter = {}
    for width, seeds in ((64, 24), (512, 12)):
        networks = dc.simulate(limit, data, training, width=width, seeds=seeds, kernel_times=[8])
        distance = networks.per_seed["outputs"] - theory.outputs
        scatter[width] = np.sqrt(np.mean(distance**2))
    # As width^(-1/2): 2.8, with 12 networks within a factor of 1.5.
    assert 1.9 < scatter[64] / scatter[512] < 4.3
    for name in ("outputs", "test_outputs", "ntk", "H", "Phi", "G"):
        pair = [
            np.stack(list(s.equal_time[name].values()))
            if name in s.equal_time
            else getattr(s, name)
            for s in (theory, networks)
        ]
        error = np.hypot(theory.stderr(name), networks.stderr(name)).reshape(pair[0].shape)
        known = error > 1e-12
        z = (pair[0] - pair[1])[known] / error[known]
        # With eleven degrees of freedom, and correlated.
        assert np.sqrt(np.mean(z**2)) < 2.2, name


# -- weight decay, and activations without a limit -------------------------------------------------


@pytest.mark.parametrize(("depth", "decay"), [(2, 0.1), (3, 0.05)])
def test_weight_decay_ends_at_a_kernel_predictor(depth, decay):
    """f = K (K + lambda n P)^-1 y with the tangent kernel K of the end, of degree n in weights."""
    gram = np.array([[1.0, 0.2], [0.2, 0.8]])
    data = dc.Dataset(gram=gram, targets=[1.0, -1.0])
    training = dc.GradientDescent(0.1, 3000, weight_decay=decay)
    found = dc.solve(dc.MLP(depth, "linear"), data, training, times=[3000], kernel_times=[3000])
    kernel, ridge = found.ntk[0], 2 * decay * (depth + 1)
    predicted = kernel @ np.linalg.solve(kernel + ridge * np.eye(2), data.targets)
    assert_allclose(found.outputs[0], predicted, rtol=1e-5)


def test_quadratic_units_diverge_in_the_tail():
    """However small the rate, some node of a fine enough quadrature lies beyond its stability."""
    data = dc.Dataset(gram=[[1, 0.5], [0.5, 1]], targets=[1.0, -0.4])
    limit = dc.MLP(1, "quadratic", gamma=1.5)
    with pytest.raises(dc.DivergenceError, match=r"diverged at step .* lower lr") as stop:
        dc.solve(limit, data, dc.GradientDescent(0.2, 20), method="quadrature")
    assert np.isfinite(stop.value.partial.outputs).all()
    found = dc.solve(limit, data, dc.GradientDescent(0.05, 12), samples=2000)
    assert np.isfinite(found.outputs).all()


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        (dc.Residual(2, "gelu", gamma=0), {}),
        (dc.MLP(1, "erf"), {"method": "quadrature"}),
        (dc.MLP(2, "relu"), {"samples": 200, "replicas": 2, "tol": 1e-6}),
    ],
    ids=["lazy", "quadrature", "ensemble"],
)
def test_repeated_points(limit, options):
    """Copies of a point are answered alike, and weigh as one of twice the weight."""
    gram = GRAM[np.ix_([0, 1, 1], [0, 1, 1])]
    data = dc.Dataset(gram=gram, targets=[1.0, -0.5, -0.5])
    found = dc.solve(limit, data, dc.GradientDescent(0.3, 6), **options)
    assert_allclose(found.outputs[:, 1], found.outputs[:, 2], atol=1e-9)
