"""Finite perceptrons and residual networks: their training rule and their kernels.

The reference knows the definition of the network alone; its derivatives are complex steps, exact
to rounding.
"""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
import scipy.special

import dmftcore as dc
import fake_cupy
from dmftcore import _arrays, memory
from dmftcore._simulate import nonlinear
from dmftcore._simulate.linear import factor
from dmftcore._simulate.networks import random_weights
from dmftcore._simulate.options import Options
from dmftcore.activations import ACTIVATIONS
from dmftcore.config import Config, read_config, write_config
from dmftcore.errors import DivergenceError
from dmftcore.schedule import Schedule

WIDTH, P, Q, D = 5, 3, 2, 4

PHI = {
    "linear": lambda h: h,
    "relu": lambda h: np.where(np.real(h) > 0, h, 0),
    "tanh": np.tanh,
    "erf": scipy.special.erf,
    "gelu": lambda h: h * scipy.special.ndtr(h),
    "softplus": lambda h: np.log(1 + np.exp(h)),
    "quadratic": lambda h: h * h,
}

LOSS = {
    "square": lambda f, y: 0.5 * np.sum((y - f) ** 2, axis=-1),
    "logistic": lambda f, y: np.log(1 + np.exp(-y * f))[..., 0],
    "softmax": lambda f, y: np.log(np.sum(np.exp(f), axis=-1)) - np.sum(y * f, axis=-1),
}

TARGETS = {
    "square": np.array([0.9, -0.6, 0.4, 0.2, -0.1]),
    "square, two outputs": np.array([[0.9, 0.3], [-0.6, 1.1], [0.4, -0.2], [0.2, 1], [-0.1, 0]]),
    "logistic": np.array([1.0, -1, -1, 1, 1]),
    "softmax": np.eye(3)[[0, 2, 1, 1, 0]],
}


def make_data(kind):
    inputs = np.random.default_rng(7).normal(size=(P + Q, D))
    return dc.Dataset(
        inputs=inputs[:P],
        targets=TARGETS[kind][:P],
        test_inputs=inputs[P:],
        test_targets=TARGETS[kind][P:],
    )


def states(parameters, x, limit, shifts=()):
    """h^1, h^2, ... and the features of one input; `shifts` are added to the states in turn."""
    first, *hidden, _ = parameters
    shifts = dict(shifts)
    phi = PHI[limit.activation]
    h = first @ x + shifts.get(1, 0)
    found, features = [h], []
    if isinstance(limit, dc.MLP):
        for layer, matrix in enumerate(hidden, start=2):
            features.append(phi(h))
            h = matrix @ features[-1] / np.sqrt(WIDTH) + shifts.get(layer, 0)
            found.append(h)
        return found, [*features, phi(h)]
    b = limit.branch_scale * (limit.depth**-0.5 if limit.branch == "sqrt" else 1)
    step = limit.block_layers
    for block in range(limit.depth):
        matrices = hidden[block * step : (block + 1) * step]
        inside = h if step == 1 else matrices[0] @ h / np.sqrt(WIDTH)
        features.append(phi(inside))
        h = h + b * matrices[-1] @ features[-1] / np.sqrt(WIDTH) + shifts.get(block + 2, 0)
        found.append(h)
    return found, [*features, PHI[limit.readout_activation or limit.activation](h)]


def outputs_of(parameters, points, limit, shifts=()):
    rows = [
        parameters[-1] @ states(parameters, x, limit, shifts)[1][-1] / (limit.gamma * WIDTH)
        for x in points
    ]
    return np.array(rows)


def derivatives(function, arrays):
    """d function / d entry of each array, (*array shape, *function shape), by the complex step."""
    step, found = 1e-30, []
    for which, array in enumerate(arrays):
        slots = []
        for index in np.ndindex(array.shape):
            moved = [a.astype(complex) for a in arrays]
            moved[which][index] += 1j * step
            slots.append(np.imag(function(moved)) / step)
        found.append(np.reshape(slots, array.shape + np.shape(slots[0])))
    return found


def trained(limit, training, parameters, points, targets):
    """Parameters and outputs f - f(0) at every step."""
    start = outputs_of(parameters, points, limit)

    def loss(moved):
        f = outputs_of(moved, points[:P], limit) - start[:P]
        return LOSS[training.loss](f, targets).mean()

    path, outputs = [parameters], [np.zeros_like(start)]
    velocities = [np.zeros_like(p) for p in parameters]
    for lr in training.rates:
        velocities = [
            training.momentum * v - limit.gamma**2 * WIDTH * g - training.weight_decay * p
            for v, g, p in zip(velocities, derivatives(loss, parameters), parameters, strict=True)
        ]
        parameters = [p + lr * v for p, v in zip(parameters, velocities, strict=True)]
        path.append(parameters)
        outputs.append(outputs_of(parameters, points, limit) - start)
    return path, np.array(outputs)


def weights_of(limit, data, seeds, seed):
    points, net = factor(data), limit.architecture
    drawn = random_weights(
        net.blocks * net.block_layers, width=WIDTH, rank=points.shape[1], outputs=data.n_outputs,
        seeds=seeds, seed=seed, device="cpu",
    )  # fmt: skip
    return [[weights[s] for weights in drawn.all] for s in range(seeds)], points


NETWORKS = {
    **{f"two layers of {name}": dc.MLP(2, name, gamma=1.3) for name in ACTIVATIONS},
    "one layer": dc.MLP(1, "tanh", gamma=0.8),
    "three layers": dc.MLP(3, "gelu", gamma=1.3),
    "blocks": dc.Residual(2, "tanh", gamma=1.3, branch_scale=1.2),
    "blocks without scaling": dc.Residual(
        2, "erf", gamma=1.3, branch_scale=0.7, branch="none", readout_activation="linear"
    ),
    "two-layer blocks": dc.Residual(2, "softplus", gamma=1.3, branch_scale=0.9, block_layers=2),
    "two-layer blocks, linear readout": dc.Residual(
        1, "relu", readout_activation="linear", block_layers=2
    ),
}
TRAININGS = {
    "square": dc.GradientDescent(0.5, 3),
    "square, two outputs": dc.GradientDescent([0.5, 0.2], 2, momentum=0.6, weight_decay=0.2),
    "logistic": dc.GradientDescent(0.8, 3, loss="logistic", weight_decay=0.2),
    "softmax": dc.GradientDescent(0.5, 3, loss="softmax", momentum=0.6),
}


@pytest.mark.parametrize("kind", TRAININGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_training_is_gradient_descent(name, kind):
    limit, training, data = NETWORKS[name], TRAININGS[kind], make_data(kind)
    result = dc.simulate(limit, data, training, width=WIDTH, seed=3, kernel_times=[])
    (parameters,), points = weights_of(limit, data, 1, 3)
    targets = TARGETS[kind].reshape(P + Q, -1)
    _, expected = trained(limit, training, parameters, points, targets[:P])
    found = np.concatenate([result.outputs, result.test_outputs], axis=1).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-11, atol=1e-13)
    assert np.abs(expected[-1]).max() > 0.005
    losses = LOSS[training.loss](expected, targets)
    np.testing.assert_allclose(result.train_loss, losses[:, :P].mean(axis=1), rtol=1e-11)
    np.testing.assert_allclose(result.test_loss, losses[:, P:].mean(axis=1), rtol=1e-11)

    def total(outputs):
        return LOSS[training.loss](outputs[0], targets[:P]).sum()

    errors = [-derivatives(total, [f[:P]])[0] for f in expected]
    np.testing.assert_allclose(
        result.errors.reshape(-1, P, data.n_outputs), errors, rtol=1e-11, atol=1e-13
    )


@pytest.mark.parametrize("kind", ["square", "softmax"])
@pytest.mark.parametrize("name", ["three layers", "blocks", "two-layer blocks"])
def test_kernels_are_those_of_the_networks(name, kind):
    limit, training, data = NETWORKS[name], TRAININGS[kind], make_data(kind)
    result = dc.simulate(
        limit, data, training, width=WIDTH, seeds=2, seed=3, save="all", kernel_times=[0, 2, 3]
    )
    networks, points = weights_of(limit, data, 2, 3)
    k, depth = data.n_outputs, limit.architecture.depth
    targets = TARGETS[kind].reshape(P + Q, -1)
    fields, tangents = {"H": [], "Phi": [], "G": []}, []
    for parameters in networks:
        path, _ = trained(limit, training, parameters, points, targets[:P])
        path = [path[t] for t in (0, 2, 3)]
        h, phi = zip(*(zip(*(states(p, x, limit) for x in points), strict=True) for p in path),
                     strict=True)  # fmt: skip
        fields["H"].append(np.array(h))  # time, point, layer, neuron
        fields["Phi"].append(np.array(phi))
        fields["G"].append([gradients(p, points[:P], limit, depth) for p in path])
        tangents.append([tangent(p, points[:P], limit) for p in path])
    for name, vectors in fields.items():
        rows = np.moveaxis(np.array(vectors), 3, 0)  # layer, seed, time, row, neuron
        side = data.targets[:P].shape if name == "G" else (P + Q,)
        for layer in range(1, depth + 1):
            v = rows[layer - 1]
            across = np.einsum("stai,subi->staub", v, v) / WIDTH
            kernel = across.mean(axis=0).reshape(3, *side, 3, *side)
            np.testing.assert_allclose(result.kernel(name, layer), kernel, rtol=1e-10, atol=1e-12)
            deviation = np.abs(across[0] - across[1]).reshape(kernel.shape) / 2
            found = result.stderr(f"{name}_two_time")[layer - 1]
            np.testing.assert_allclose(found, deviation, rtol=1e-7, atol=1e-12)
            by_network = np.einsum("stai,stbi->stab", v, v) / WIDTH
            found = result.equal_time[name][layer]
            expected = by_network.mean(axis=0).reshape(found.shape)
            np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
            deviation = np.abs(by_network[0] - by_network[1]) / 2
            found = result.stderr(name)[layer - 1]
            np.testing.assert_allclose(found, deviation.reshape(found.shape), 1e-7, atol=1e-12)
    tangents = np.array(tangents)
    expected = tangents.mean(axis=0)
    np.testing.assert_allclose(result.ntk.reshape(expected.shape), expected, rtol=1e-10, atol=1e-12)
    sharpness = np.linalg.eigvalsh(tangents)[..., -1].mean(axis=0) / P
    np.testing.assert_allclose(result.sharpness, sharpness, 1e-10)
    assert result.ntk.shape == (3, P, k, P, k) if k > 1 else (3, P, P)


def gradients(parameters, points, limit, depth):
    """g^l_{mu k} = gamma N df_{mu k} / dh^l: (rows mu k, layer, neuron)."""
    zeros = [np.zeros(WIDTH)] * depth
    rows = []
    for x in points:

        def outputs(shifts, x=x):
            return outputs_of(parameters, [x], limit, enumerate(shifts, start=1))[0]

        slopes = np.array(derivatives(outputs, zeros))  # layer, neuron, k
        rows.append(limit.gamma * WIDTH * np.moveaxis(slopes, 2, 0))
    return np.concatenate(rows)


def tangent(parameters, points, limit):
    """gamma^2 N sum over parameters of df df', patterns and outputs as one index."""

    def outputs(moved):
        return outputs_of(moved, points, limit).ravel()

    columns = [slope.reshape(-1, slope.shape[-1]) for slope in derivatives(outputs, parameters)]
    jacobian = np.concatenate(columns)
    return limit.gamma**2 * WIDTH * jacobian.T @ jacobian


@pytest.mark.parametrize("kind", ["square", "square, two outputs"])
@pytest.mark.parametrize(
    ("linear", "limit"),
    [
        (dc.DeepLinear(3, gamma=1.2), dc.MLP(3, "linear", gamma=1.2)),
        (
            dc.DeepLinear(4, gamma=1.2, branch_scale=0.8),
            dc.Residual(3, "linear", gamma=1.2, branch_scale=0.8),
        ),
    ],
)
def test_linear_networks_are_the_same_networks(linear, limit, kind):
    """From the same weights, by another way of summing."""
    options = {"width": 20, "seeds": 2, "save": ("H", "G")}
    training, data = dc.GradientDescent(0.3, 6, momentum=0.4, weight_decay=0.05), make_data(kind)
    expected = dc.simulate(linear, data, training, **options)
    found = dc.simulate(limit, data, training, **options)
    for name in ("outputs", "test_outputs", "train_loss", "ntk", "sharpness"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-12, atol=1e-14
        )
    np.testing.assert_allclose(found.kernel("H"), expected.kernel("H"), rtol=1e-12, atol=1e-14)
    of_outputs, k = expected.kernel("G"), data.n_outputs
    of_patterns = found.kernel("G").reshape(*of_outputs.shape[:2], P, k, -1, P, k)
    for mu, nu in np.ndindex(P, P):
        block = of_patterns[:, :, mu, :, :, nu]
        np.testing.assert_allclose(block, of_outputs, rtol=1e-12, atol=1e-14)


def test_networks_of_a_run_do_not_depend_on_their_number():
    data, training = make_data("square"), TRAININGS["square"]
    one = dc.simulate(NETWORKS["blocks"], data, training, width=WIDTH, seeds=1, seed=2)
    three = dc.simulate(NETWORKS["blocks"], data, training, width=WIDTH, seeds=3, seed=2)
    np.testing.assert_array_equal(one.per_seed["outputs"][0], three.per_seed["outputs"][0])
    assert np.abs(three.per_seed["outputs"][1] - three.per_seed["outputs"][0]).max() > 1e-3


@pytest.mark.parametrize("kind", ["square", "softmax"])
def test_a_resumed_run_is_the_uninterrupted_one(kind, tmp_path):
    limit, data = NETWORKS["two-layer blocks"], make_data(kind)
    training = dc.GradientDescent(0.3, 6, loss=kind, momentum=0.5)
    options = {"width": WIDTH, "seeds": 2, "save": "all"}
    path = tmp_path / "run.ckpt"

    def interrupt(step, loss):
        if step >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dc.simulate(limit, data, training, checkpoint=path, progress=interrupt, **options)
    resumed = dc.simulate(limit, data, training, checkpoint=path, **options)
    assert resumed.diagnostics["resumed_from"] == [3]
    whole = dc.simulate(limit, data, training, **options)
    np.testing.assert_array_equal(resumed.outputs, whole.outputs)
    for name in ("H", "Phi", "G"):
        np.testing.assert_array_equal(resumed.kernel(name), whole.kernel(name))
        np.testing.assert_array_equal(resumed.stderr(name), whole.stderr(name))


@pytest.mark.parametrize("kind", ["square", "softmax"])
def test_a_solution_comes_back_from_its_file(kind, tmp_path):
    result = dc.simulate(
        NETWORKS["three layers"], make_data(kind), TRAININGS[kind], width=WIDTH, seeds=2, save="all"
    )
    result.save(tmp_path / "run.nc")
    back = dc.Solution.load(tmp_path / "run.nc")
    for name in ("H", "Phi", "G"):
        np.testing.assert_array_equal(back.kernel(name), result.kernel(name))
        np.testing.assert_array_equal(back.stderr(name), result.stderr(name))
    table = result.to_xarray()
    output = ("output",) if kind == "softmax" else ()
    marked = tuple(f"{name}_" for name in ("pattern", *output))
    assert table["G"].dims == ("layer_G", "t", "pattern", *output, *marked)
    assert table["Phi_two_time"].dims == ("layer_Phi_two_time", "t", "point", "s", "point_")


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (dc.MLP(2, "tanh", gamma=0), "needs gamma > 0"),
        (dc.Residual(dc.INFINITE, "tanh"), "needs a finite depth"),
    ],
)
def test_what_no_network_can_be(limit, message):
    with pytest.raises(ValueError, match=message):
        dc.simulate(limit, make_data("square"), TRAININGS["square"], width=WIDTH)


def test_divergence_stops_the_run():
    with pytest.raises(DivergenceError, match="lower lr") as caught:
        dc.simulate(
            dc.MLP(2, "quadratic"), make_data("square"), dc.GradientDescent(50.0, 30), width=WIDTH
        )
    assert len(caught.value.partial.train_loss) == caught.value.step > 0


def test_the_plan_covers_what_is_allocated(monkeypatch):
    """Everything that a run keeps and works with, measured on a run that is not tiny."""
    limit, data = dc.Residual(3, "tanh", block_layers=2), make_data("softmax")
    plans = []
    monkeypatch.setattr(nonlinear, "check_memory", lambda plan, remedies: plans.append(plan))
    training = dc.GradientDescent(0.1, 40, loss="softmax", momentum=0.5)
    tracemalloc.start()
    dc.simulate(limit, data, training, width=120, seeds=2, save="all")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * plans[0].total < peak < 1.2 * plans[0].total


def test_every_part_of_the_plan_has_a_remedy(monkeypatch):
    monkeypatch.setattr(memory, "_available_memory", lambda: 10_000)
    with pytest.raises(MemoryError, match="lower width or seeds"):
        dc.simulate(dc.MLP(3, "tanh"), make_data("square"), TRAININGS["square"], width=100)
    options = Options(WIDTH, 1, 0, Schedule.of(3), (), None, "cpu")
    plan = nonlinear.memory_plan(
        NETWORKS["blocks"].architecture, make_data("square"), TRAININGS["square"], options, rank=D
    )
    assert plan.parts.keys() == nonlinear._REMEDIES.keys()


class TestNouns:
    def test_the_family(self):
        assert dc.MLP(3, "tanh").architecture.blocks == 2
        net = dc.Residual(4, "tanh", branch_scale=1.5).architecture
        assert (net.blocks, net.skip, net.branch, net.depth) == (4, 1, 0.75, 5)
        assert dc.Residual(4, "tanh", branch_scale=1.5, branch="none").architecture.branch == 1.5
        assert not dc.Residual(4, "linear", readout_activation="tanh").architecture.is_linear
        assert dc.Residual(4, "linear").architecture.is_linear

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: dc.MLP(0, "tanh"), "depth must be an integer >= 1"),
            (lambda: dc.MLP(dc.INFINITE, "tanh"), r"use Residual\(depth=INFINITE"),
            (lambda: dc.MLP(2, "sine"), "activation must be one of 'linear', 'relu'"),
            (lambda: dc.MLP(2, "tanh", gamma=-1), "gamma must be a number >= 0"),
            (lambda: dc.Residual(2, "tanh", branch_scale=-1), "branch_scale must be"),
            (lambda: dc.Residual(2, "tanh", branch="log"), "branch must be one of"),
            (lambda: dc.Residual(2, "tanh", block_layers=3), "block_layers must be 1 or 2"),
            (lambda: dc.Residual(2, "tanh", readout_activation="x"), "readout_activation must be"),
            (lambda: dc.Residual(dc.INFINITE, "tanh", branch="none"), 'pass branch="sqrt"'),
            (lambda: dc.Residual(dc.INFINITE, "tanh").architecture, "take a finite depth"),
        ],
    )
    def test_what_they_refuse(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()

    def test_they_are_written_to_files_and_read(self, tmp_path):
        for limit in (*NETWORKS.values(), dc.Residual(dc.INFINITE, "relu")):
            config = Config(limit, make_data("square"), TRAININGS["square"])
            write_config(config, tmp_path / "net.toml")
            assert read_config(tmp_path / "net.toml").limit == limit


@pytest.mark.parametrize("name", ["two layers of gelu", "blocks without scaling"])
@pytest.mark.parametrize("kind", ["logistic", "softmax"])
def test_a_device_trains_the_same_networks(name, kind, monkeypatch):
    """On the stand-in for cupy, which refuses what cupy refuses."""
    cupy = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    functions = fake_cupy.Functions("cupyx.scipy.special", scipy.special)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", functions)
    monkeypatch.setattr(_arrays, "to_device", cupy.asarray)
    call = NETWORKS[name], make_data(kind), TRAININGS[kind]
    options = {"width": WIDTH, "seeds": 2, "save": "all"}
    here, there = dc.simulate(*call, **options), dc.simulate(*call, device="cuda", **options)
    assert (here.diagnostics["device"], there.diagnostics["device"]) == ("cpu", "cuda")
    for field in ("outputs", "test_outputs", "train_loss", "errors", "ntk"):
        assert type(getattr(there, field)) is np.ndarray
        np.testing.assert_allclose(
            getattr(there, field), getattr(here, field), rtol=1e-12, atol=1e-14
        )
    for kernel in ("H", "Phi", "G"):
        np.testing.assert_allclose(there.kernel(kernel), here.kernel(kernel), 1e-12, atol=1e-14)
