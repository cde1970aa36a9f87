"""The finite networks: their training rule, their kernels and their data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dmftcore._simulate import linear, simulate
from dmftcore.data import Dataset
from dmftcore.limits.linear import DeepLinear
from dmftcore.training import GradientDescent

WIDTH = 5
P, Q, D = 3, 2, 4


def make_data(outputs=None, *, test=True, dimension=D):
    rng = np.random.default_rng(7)
    inputs = rng.normal(size=(P + Q, dimension))
    targets = rng.normal(size=(P + Q,) if outputs is None else (P + Q, outputs))
    return Dataset(
        inputs=inputs[:P],
        targets=targets[:P],
        test_inputs=inputs[P:] if test else None,
        test_targets=targets[P:] if test else None,
    )


# -- the reference: derivatives by the complex step, from the definition of f alone -----------


def reference_features(parameters, x, limit, width):
    """h^1..h^L of one input, from the definition of the network."""
    *matrices, _ = parameters
    features = [matrices[0] @ x]
    for matrix in matrices[1:]:
        through = matrix @ features[-1] / np.sqrt(width)
        if limit.branch_factor is not None:
            through = features[-1] + limit.branch_factor * through
        features.append(through)
    return features


def reference_outputs(parameters, points, limit, width):
    rows = [
        parameters[-1] @ reference_features(parameters, x, limit, width)[-1] / (limit.gamma * width)
        for x in points
    ]
    return np.array(rows)


def derivatives(function, parameters):
    """d function / d parameter, one array per parameter: (*parameter shape, *function shape).

    The complex step has no subtraction and no truncation error: exact to rounding, and it needs
    nothing but the function.
    """
    step = 1e-30
    gradient = []
    for which, parameter in enumerate(parameters):
        slots = []
        for index in np.ndindex(parameter.shape):
            moved = [p.astype(complex) for p in parameters]
            moved[which][index] += 1j * step
            slots.append(np.imag(function(moved)) / step)
        gradient.append(np.reshape(slots, parameter.shape + np.shape(slots[0])))
    return gradient


def reference_training(limit, training, parameters, points, targets):
    """Parameters and outputs f - f(0) at every step of the training of f - f(0).

    The rule is ``v <- m v - gamma^2 N grad - lambda theta``, ``theta <- theta + lr v``.
    """
    width = parameters[-1].shape[1]
    start = reference_outputs(parameters, points, limit, width)

    def loss(moved):
        outputs = reference_outputs(moved, points[: len(targets)], limit, width)
        return np.sum((targets - (outputs - start[: len(targets)])) ** 2) / (2 * len(targets))

    states, outputs = [parameters], [np.zeros_like(start)]
    velocities = [np.zeros_like(p) for p in parameters]
    for lr in training.rates:
        gradient = derivatives(loss, parameters)
        velocities = [
            training.momentum * v - limit.gamma**2 * width * g - training.weight_decay * p
            for v, g, p in zip(velocities, gradient, parameters, strict=True)
        ]
        parameters = [p + lr * v for p, v in zip(parameters, velocities, strict=True)]
        states.append(parameters)
        outputs.append(reference_outputs(parameters, points, limit, width) - start)
    return states, np.array(outputs)


def weights_of(limit, data, *, seeds, seed, width=WIDTH):
    """What `simulate` starts from: the parameters of every network, and the rows they act on."""
    points = linear.factor(data)
    weights = linear.initial_weights(
        limit,
        width=width,
        rank=points.shape[1],
        outputs=data.n_outputs,
        seeds=seeds,
        seed=seed,
    )
    networks = [
        [weights.first[s], *(matrix[s] for matrix in weights.hidden), weights.readout[s]]
        for s in range(seeds)
    ]
    return networks, points


CASES = list(itertools.product((1, 2, 3), (None, 1, 2)))


@pytest.mark.parametrize(("depth", "outputs"), CASES)
def test_training_is_gradient_descent(depth, outputs):
    limit = DeepLinear(depth=depth, gamma=1.3, init_scale=1.1)
    training = GradientDescent(lr=1.0, steps=4)
    data = make_data(outputs)
    targets = data.targets.reshape(P, -1)
    result = simulate(limit, data, training, width=WIDTH, seeds=2, seed=3)
    networks, points = weights_of(limit, data, seeds=2, seed=3)
    for s, parameters in enumerate(networks):
        _, expected = reference_training(limit, training, parameters, points, targets)
        found = np.concatenate(
            [result.per_seed["outputs"][s], result.per_seed["test_outputs"][s]], axis=1
        )
        assert found.shape == (5, P + Q) if outputs is None else (5, P + Q, outputs)
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-11, atol=1e-13)
        assert np.abs(expected[-1]).max() > 0.05


RULES = {
    "schedule": GradientDescent([1.0, 0.6, 0.3, 0.1], 4),
    "momentum": GradientDescent(0.6, 4, momentum=0.7),
    "decay": GradientDescent(0.6, 4, weight_decay=0.3),
    "all": GradientDescent([0.8, 0.6, 0.3, 0.1], 4, momentum=0.6, weight_decay=0.2),
}


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("blocks", [{}, {"branch_scale": 1.2}])
def test_training_follows_its_rule(blocks, rule, outputs):
    limit = DeepLinear(depth=3, gamma=1.3, init_scale=1.1, **blocks)
    data = make_data(outputs)
    result = simulate(limit, data, RULES[rule], width=WIDTH, seeds=1, seed=3)
    (parameters,), points = weights_of(limit, data, seeds=1, seed=3)
    _, expected = reference_training(
        limit, RULES[rule], parameters, points, data.targets.reshape(P, -1)
    )
    found = np.concatenate([result.outputs, result.test_outputs], axis=1).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
    assert np.abs(expected[-1]).max() > 0.05


@pytest.mark.parametrize(
    ("depth", "outputs", "branch"), [(1, None, None), (2, 2, None), (3, None, None), (3, 2, 0.9)]
)
def test_kernels_are_those_of_the_networks(depth, outputs, branch):
    limit = DeepLinear(depth=depth, gamma=1.3, init_scale=0.8, branch_scale=branch)
    training = GradientDescent(lr=0.3, steps=3)
    data = make_data(outputs)
    width, k = WIDTH, data.n_outputs
    result = simulate(limit, data, training, width=width, seeds=2, seed=3, save="all")
    networks, points = weights_of(limit, data, seeds=2, seed=3)
    features, gradients, tangents = [], [], []
    for parameters in networks:
        states, _ = reference_training(
            limit, training, parameters, points, data.targets.reshape(P, -1)
        )
        features.append(
            [[reference_features(state, x, limit, width) for x in points] for state in states]
        )
        gradients.append([reference_gradients(state, limit, width) for state in states])
        tangents.append([reference_tangent(state, points[:P], limit, width) for state in states])
    features = np.moveaxis(np.array(features), 3, 0)  # layer, seed, time, point, neuron
    gradients = np.moveaxis(np.array(gradients), 2, 0)  # layer, seed, time, output, neuron
    for name, vectors in (("H", features), ("G", gradients)):
        for layer in range(1, depth + 1):
            kernel = np.einsum("stai,subi->taub", vectors[layer - 1], vectors[layer - 1])
            kernel /= 2 * width
            np.testing.assert_allclose(result.kernel(name, layer), kernel, rtol=1e-11, atol=1e-13)
            by_network = np.einsum("stai,stui->stau", vectors[layer - 1], vectors[layer - 1])
            by_network /= width
            for t in result.kernel_times:
                np.testing.assert_allclose(
                    result.equal_time[name][layer][t], kernel[t, :, t], rtol=1e-11, atol=1e-13
                )
            deviation = np.abs(by_network[0] - by_network[1]) / 2
            found = result.stderr(name)[layer - 1]
            np.testing.assert_allclose(found, deviation, rtol=1e-7, atol=1e-13)
    tangents = np.array(tangents)
    shape = (P, P) if outputs is None else (P, k, P, k)
    assert result.ntk.shape == (4, *shape)
    np.testing.assert_allclose(result.ntk.reshape(4, P * k, P * k), tangents.mean(axis=0), 1e-11)
    sharpness = np.linalg.eigvalsh(tangents)[..., -1] / P
    np.testing.assert_allclose(result.sharpness, sharpness.mean(axis=0), 1e-11)
    deviation = np.abs(sharpness[0] - sharpness[1]) / 2  # standard error of the mean of two
    np.testing.assert_allclose(result.stderr("sharpness"), deviation, 1e-7)
    deviation = np.abs(tangents[0] - tangents[1]) / 2
    np.testing.assert_allclose(result.stderr("ntk").reshape(deviation.shape), deviation, 1e-7)


def reference_gradients(parameters, limit, width):
    """g^1..g^L of all outputs: N gamma df_k / dh^l, by back-propagation of w_k."""
    *matrices, readout = parameters
    gradients = [readout]
    for matrix in reversed(matrices[1:]):
        through = np.array([matrix.T @ g for g in gradients[0]]) / np.sqrt(width)
        if limit.branch_factor is not None:
            through = gradients[0] + limit.branch_factor * through
        gradients.insert(0, through)
    return gradients


def reference_tangent(parameters, points, limit, width):
    """gamma^2 N sum over parameters of df df', patterns and outputs as one index."""

    def outputs(moved):
        return reference_outputs(moved, points, limit, width).ravel()

    columns = [slope.reshape(-1, slope.shape[-1]) for slope in derivatives(outputs, parameters)]
    jacobian = np.concatenate(columns)
    return limit.gamma**2 * width * jacobian.T @ jacobian


def test_losses_and_errors_follow_from_the_outputs():
    data = make_data(2)
    result = simulate(DeepLinear(depth=2), data, GradientDescent(0.2, 6), width=WIDTH, seeds=3)
    for name, targets in (("", data.targets), ("test_", data.test_targets)):
        outputs = result.per_seed[name + "outputs"]
        expected = 0.5 * np.sum((targets - outputs) ** 2, axis=-1).mean(axis=-1)
        kind = "test_loss" if name else "train_loss"
        np.testing.assert_allclose(result.per_seed[kind], expected)
        np.testing.assert_allclose(getattr(result, kind), expected.mean(axis=0))
        spread = np.sqrt(((expected - expected.mean(axis=0)) ** 2).sum(axis=0) / 2)
        np.testing.assert_allclose(result.stderr(kind), spread / np.sqrt(3), atol=1e-16)
        np.testing.assert_allclose(
            result.stderr(name + "outputs"), outputs.std(axis=0, ddof=1) / np.sqrt(3), atol=1e-16
        )
    np.testing.assert_array_equal(result.outputs[0], 0)
    np.testing.assert_allclose(result.errors, data.targets - result.outputs)


# -- the data ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [2, 9])
def test_a_gram_matrix_stands_for_its_inputs(dimension, monkeypatch):
    data = make_data(dimension=dimension)
    by_gram = Dataset(full_gram=data.kernel, targets=data.targets, test_targets=data.test_targets)
    rows, points = linear.factor(by_gram), linear.factor(data)
    assert rows.shape == (P + Q, min(dimension, P + Q))
    np.testing.assert_allclose(rows @ rows.T, data.kernel, rtol=1e-12, atol=1e-14)

    limit, training = DeepLinear(depth=2), GradientDescent(0.2, 5)
    options = {"width": WIDTH, "seeds": 2, "save": "all"}
    expected = simulate(limit, by_gram, training, **options)
    # The first layer that acts on the inputs as that of the Gram network does on its factor.
    rotation = np.linalg.pinv(points) @ rows
    draw = linear.initial_weights

    def rotated(*args, rank, **keywords):
        weights = draw(*args, rank=rows.shape[1], **keywords)
        return linear.Weights(weights.first @ rotation.T, weights.hidden, weights.readout)

    monkeypatch.setattr(linear, "initial_weights", rotated)
    found = simulate(limit, data, training, **options)
    np.testing.assert_allclose(found.outputs, expected.outputs, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.test_loss, expected.test_loss, rtol=1e-10)
    np.testing.assert_allclose(found.kernel("H"), expected.kernel("H"), rtol=1e-10, atol=1e-12)


def test_points_at_the_origin_have_no_outputs():
    data = Dataset(gram=np.zeros((2, 2)), targets=[1.0, 2.0])
    result = simulate(DeepLinear(2), data, GradientDescent(0.1, 2), width=WIDTH)
    assert not result.outputs.any()


def test_test_points_do_not_change_the_training():
    limit, training = DeepLinear(depth=2), GradientDescent(0.2, 5)
    alone = simulate(limit, make_data(test=False), training, width=WIDTH)
    beside = simulate(limit, make_data(), training, width=WIDTH)
    np.testing.assert_allclose(alone.outputs, beside.outputs, rtol=1e-12)
    np.testing.assert_allclose(alone.ntk, beside.ntk, rtol=1e-12)
    assert alone.test_outputs is None
    assert alone.test_loss is None


def test_test_points_without_targets_have_outputs_and_no_loss():
    given = make_data()
    data = Dataset(inputs=given.inputs, targets=given.targets, test_inputs=given.test_inputs)
    result = simulate(DeepLinear(depth=1), data, GradientDescent(0.2, 2), width=WIDTH, seeds=2)
    assert result.test_outputs.shape == (3, Q)
    assert result.test_loss is None
    with pytest.raises(KeyError, match="test_loss"):
        result.stderr("test_loss")


def test_small_gamma_is_the_lazy_limit():
    limit, data, training = DeepLinear(depth=2, gamma=1e-5), make_data(), GradientDescent(0.3, 8)
    result = simulate(limit, data, training, width=WIDTH, kernel_times=[0])
    outputs = np.zeros(P)
    for found in result.outputs:
        np.testing.assert_allclose(found, outputs, atol=1e-4)
        outputs = outputs + 0.3 / P * result.ntk[0] @ (data.targets - outputs)


# -- random numbers ---------------------------------------------------------------------------


def test_initial_weights_are_independent_normals():
    limit = DeepLinear(depth=3, init_scale=0.7)
    weights = linear.initial_weights(limit, width=40, rank=40, outputs=40, seeds=2, seed=5)
    layers = np.array([weights.first, *weights.hidden, weights.readout]).reshape(8, -1)
    count = layers.shape[1]
    np.testing.assert_allclose(layers.mean(axis=1), 0, atol=5 * 0.7 / np.sqrt(count))
    covariance = np.cov(layers) / 0.7**2
    np.testing.assert_allclose(covariance, np.eye(8), atol=5 * np.sqrt(2 / count))


def test_a_network_does_not_depend_on_the_networks_beside_it():
    limit, data, training = DeepLinear(depth=3), make_data(), GradientDescent(0.2, 5)
    many = simulate(limit, data, training, width=20, seeds=4, seed=11).per_seed["outputs"]
    few = simulate(limit, data, training, width=20, seeds=2, seed=11).per_seed["outputs"]
    other = simulate(limit, data, training, width=20, seeds=2, seed=12).per_seed["outputs"]
    np.testing.assert_allclose(many[:2], few, rtol=1e-12)
    distinct = np.concatenate([many, other])[:, -1, 0]
    assert len(np.unique(distinct.round(6))) == len(distinct)
