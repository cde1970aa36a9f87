"""Transformers of finite width: their training rule, and the limit they approach."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest

import dmftcore as dc
import fake_cupy
from dmftcore import _core
from dmftcore._simulate.options import Options
from dmftcore._simulate.transformer import initial_weights
from dmftcore.schedule import Schedule
from test_attention import PAIR
from test_transformer import random_data
from transformer_reference import network

SMALL = dc.Transformer(2, key_dim=2, heads=2, gamma=1.4, branch_scale=1.2)


def start(limit, data, seeds=1, seed=0):
    """Weights (B, ...) by name, as `simulate` draws them."""
    options = Options(None, seeds, seed, Schedule.of(0), (), None, "cpu")
    width = limit.heads * limit.key_dim
    return initial_weights(
        limit, width=width, rank=data.points.shape[1], outputs=data.n_outputs, options=options
    )


@pytest.mark.parametrize(
    ("fields", "outputs", "training"),
    [
        ({"depth_exponent": 0.7}, None, {}),
        ({"attention_exponent": 0.5, "mask": "causal"}, None, {}),
        ({"attention": "linear", "mask": "causal"}, None, {}),
        ({"attention": "exp", "attention_exponent": 0.8}, None, {}),
        ({"attention": "relu"}, 2, {}),
        ({"mlp_activation": "tanh", "depth_exponent": 0.5}, None, {}),
        ({"mlp_activation": "relu"}, 2, {"momentum": 0.6, "weight_decay": 0.3}),
        ({}, 1, {"lr": [0.05, 0.02]}),
    ],
)
def test_training_is_gradient_descent(fields, outputs, training):
    """Against central differences of the loss, with the learning rates of the definition."""
    limit, steps, h = replace(SMALL, **fields), 2, 1e-6
    data = random_data(train=2, test=1, length=3, dimension=2, outputs=outputs)
    training = dc.GradientDescent(**({"lr": 0.05, "steps": steps} | training))
    experiment = dc.simulate(limit, data, training, seed=3)
    weights = {name: array[0].copy() for name, array in start(limit, data, seed=3).items()}
    architecture = {
        "depth": 2, "heads": 2, "gamma": 1.4, "branch_scale": 1.2,
        "exponent": limit.attention_exponent, "depth_exponent": limit.depth_exponent,
        "attention": limit.attention, "mask": limit.mask, "mlp": limit.mlp_activation,
    }  # fmt: skip
    inputs = np.concatenate([data.inputs, data.test_inputs])
    targets = data.targets.reshape(2, -1)
    centre = network(weights, inputs, **architecture)

    def loss():
        f = network(weights, data.inputs, **architecture) - centre[:2]
        return np.sum((targets - f) ** 2) / 4

    width, kappa = 4, 2 ** (2 * limit.depth_exponent - 1)
    velocities = {name: np.zeros_like(array) for name, array in weights.items()}
    for step in range(steps + 1):
        f = (network(weights, inputs, **architecture) - centre).reshape(3, *data.targets.shape[1:])
        np.testing.assert_allclose(experiment.outputs[step], f[:2], rtol=0, atol=1e-7)
        np.testing.assert_allclose(experiment.test_outputs[step], f[2:], rtol=0, atol=1e-7)
        if step == steps:
            break
        for name, array in weights.items():
            kind = name.partition(" ")[0]
            rate = 1.4**2 * width
            rate *= 1 if kind in ("w", "W_in") else kappa
            rate *= 2 ** (2 * (limit.attention_exponent - 1)) if kind in ("W_K", "W_Q") else 1
            velocities[name] *= training.momentum
            velocities[name] -= training.weight_decay * array
            for i in np.ndindex(array.shape):
                before, sides = array[i], []
                for array[i] in (before + h, before - h):
                    sides.append(loss())
                array[i] = before
                velocities[name][i] -= rate * (sides[0] - sides[1]) / (2 * h)
        for name, array in weights.items():
            array += training.rates[step] * velocities[name]


def test_a_network_depends_on_its_own_seed_alone():
    data, training = random_data(), dc.GradientDescent(0.05, 4)
    few, many = (dc.simulate(SMALL, data, training, seeds=n, seed=7) for n in (2, 5))
    np.testing.assert_allclose(
        few.per_seed["outputs"], many.per_seed["outputs"][:2], rtol=0, atol=1e-14
    )
    other = dc.simulate(SMALL, data, training, seeds=2, seed=8)
    assert np.abs(few.per_seed["outputs"] - other.per_seed["outputs"]).max() > 1e-3
    assert (many.outputs[0] == 0).all()


@pytest.mark.parametrize("exponent", [0.6, 1.0])
def test_the_tangent_kernel_moves_the_outputs(exponent):
    limit = replace(SMALL, attention_exponent=exponent, depth_exponent=0.7)
    rates = np.full(5, 0.05)
    rates[-1] = lr = 1e-7
    data = random_data(test=0)
    solution = dc.simulate(limit, data, dc.GradientDescent(rates, 5))
    moved = (solution.outputs[5] - solution.outputs[4]) / (lr / 2)
    expected = solution.ntk[4] @ solution.errors[4]
    np.testing.assert_allclose(moved, expected, rtol=1e-5)


def test_simulation_goes_on_from_its_checkpoint(tmp_path):
    data, path = random_data(), tmp_path / "run.npz"
    limit = replace(SMALL, mlp_activation="tanh")
    options = {"seeds": 3, "kernel_times": [0, 4], "save": ("H", "P_v")}
    training = {"lr": 0.05, "momentum": 0.5}
    whole = dc.simulate(limit, data, dc.GradientDescent(steps=9, **training), **options)
    dc.simulate(
        limit, data, dc.GradientDescent(steps=5, **training), checkpoint=path, **options
    )  # fmt: skip
    resumed = dc.simulate(
        limit, data, dc.GradientDescent(steps=9, **training), checkpoint=path, **options
    )
    np.testing.assert_array_equal(resumed.per_seed["outputs"], whole.per_seed["outputs"])
    for name in ("H", "P_v"):
        np.testing.assert_array_equal(resumed.kernel(name), whole.kernel(name))
        np.testing.assert_array_equal(resumed.stderr(name), whole.stderr(name))
    for name, values in whole.order_parameters.items():
        np.testing.assert_array_equal(resumed.order_parameters[name], values)


@pytest.mark.parametrize("outputs", [None, 2])
def test_networks_on_a_device(monkeypatch, outputs):
    """Arrays that refuse what cupy refuses."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module())
    monkeypatch.setattr(_core, "cuda_status", lambda: (1, ""))
    limit, data = replace(SMALL, mask="causal", mlp_activation="relu"), random_data(outputs=outputs)
    options, training = {"seeds": 2, "save": "all"}, dc.GradientDescent(0.05, 3, momentum=0.5)
    here, there = (
        dc.simulate(limit, data, training, device=device, **options) for device in ("cpu", "cuda")
    )
    assert there.diagnostics["device"] == "cuda"
    np.testing.assert_allclose(there.outputs, here.outputs, rtol=0, atol=1e-13)
    for name in ("H", "P_q"):
        np.testing.assert_allclose(there.kernel(name), here.kernel(name), rtol=0, atol=1e-13)
    for name, values in here.order_parameters.items():
        np.testing.assert_allclose(there.order_parameters[name], values, rtol=0, atol=1e-13)


def test_two_time_kernels_contain_those_of_equal_times():
    options = {"kernel_times": [0, 2, 4], "save": "all", "seeds": 2}
    solution = dc.simulate(SMALL, random_data(), dc.GradientDescent(0.05, 4), **options)
    for name, layers in solution.two_time.items():
        for layer, kernel in layers.items():
            for i, t in enumerate((0, 2, 4)):
                np.testing.assert_allclose(
                    kernel[i, :, i], solution.kernel(name, layer, t, t), rtol=1e-12
                )
    assert solution.stderr("H").shape == (3, 3, 9, 9)
    assert solution.stderr("ntk").shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("fields", "options", "text"),
    [
        ({"heads": dc.INFINITE, "key_dim": dc.INFINITE}, {"width": 4}, "says neither"),
        ({"heads": 3, "key_dim": dc.INFINITE}, {"width": 4}, "not a multiple of heads=3"),
        ({"key_dim": dc.INFINITE}, {}, "width is missing"),
        ({"depth": dc.INFINITE}, {}, "simulate needs a finite depth"),
        ({"responses": "head"}, {}, "is an approximation of the theory"),
    ],
)
def test_what_makes_no_network(fields, options, text):
    with pytest.raises(ValueError, match=text):
        dc.simulate(replace(SMALL, **fields), PAIR, dc.GradientDescent(0.1, 2), **options)


def test_divergence_of_a_network():
    with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
        dc.simulate(SMALL, PAIR, dc.GradientDescent(20.0, 50))
    assert np.isfinite(caught.value.partial.train_loss).all()


def test_too_large_networks():
    with pytest.raises(MemoryError, match="lower width or seeds"):
        dc.simulate(dc.Transformer(2, heads=1), PAIR, dc.GradientDescent(0.1, 2), width=10**7)


# -- the limit --------------------------------------------------------------------------------

STEPS = 11
KERNELS = ("H", "G", "O", "P_k", "P_q", "P_v")
COMPARED = ("outputs", "test_outputs", "ntk", "S_mean", "A_mean", *KERNELS)


def deviations(theory, experiment):
    """By name: the difference of both, in root mean square, and its standard error."""
    found = {}
    for name in COMPARED:
        if name in theory.equal_time:
            a, b = (np.stack(list(s.equal_time[name].values())) for s in (theory, experiment))
        elif name in theory.order_parameters:
            a, b = (s.order_parameters[name] for s in (theory, experiment))
        else:
            a, b = (getattr(s, name) for s in (theory, experiment))
        if a is None:
            continue
        error = np.sqrt(np.mean(experiment.stderr(name) ** 2))
        found[name] = np.sqrt(np.mean((a - b) ** 2)), error
    return found


PROBLEMS = {
    "deep": (dc.Transformer(2, heads=1, gamma=2), None, {}),
    "wide branches, mask": (
        dc.Transformer(2, heads=2, gamma=2, depth_exponent=0.5, mask="causal"), None, {},
    ),
    "linear attention, two outputs": (
        dc.Transformer(1, heads=1, gamma=2, attention="linear"), 2, {},
    ),
    "momentum, decay, schedule": (
        dc.Transformer(2, heads=1, gamma=2), None,
        {"lr": np.linspace(0.01, 0.02, STEPS), "momentum": 0.5, "weight_decay": 0.5},
    ),
}  # fmt: skip


def problem(name):
    limit, outputs, training = PROBLEMS[name]
    targets = PAIR.targets if outputs is None else np.array([[1.0, 0.3], [-1.0, 0.5]])
    test_inputs = np.random.default_rng(0).normal(size=(1, 3, 3))
    data = dc.Dataset(inputs=PAIR.inputs, targets=targets, test_inputs=test_inputs)
    return limit, data, dc.GradientDescent(**({"lr": 0.02, "steps": STEPS} | training))


def assert_networks_approach(name, small, large):
    """The deviation is far from zero at the small width, and falls by more than the root of both.

    It is of order 1/width in the end, but saturates at small widths.
    """
    limit, data, training = problem(name)
    options = {"kernel_times": [0, STEPS]}
    theory = dc.solve(limit, data, training, **options)
    far, near = (
        deviations(theory, dc.simulate(limit, data, training, width=w, seeds=n, **options))
        for w, n in (small, large)
    )
    ratio = np.sqrt(small[0] / large[0])
    for quantity, (difference, error) in near.items():
        before, error_before = far[quantity]
        assert difference < ratio * before + 3 * (error + ratio * error_before), quantity
    assert sum(before > 3 * error for before, error in far.values()) >= 4


@pytest.mark.parametrize("name", PROBLEMS)
def test_networks_approach_the_limit(name):
    assert_networks_approach(name, (8, 400), (64, 200))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_wide_networks_approach_the_limit(name):
    assert_networks_approach(name, (32, 1000), (256, 400))


def test_two_time_kernels_of_networks():
    """H, G, O and P between the first and the last step, where responses matter most."""
    limit, data, training = problem("deep")
    options = {"kernel_times": [0, STEPS], "save": "all"}
    theory = dc.solve(limit, data, training, kernel_times=[0, STEPS], save=KERNELS)
    far, near = (
        dc.simulate(limit, data, training, width=width, seeds=seeds, **options)
        for width, seeds in ((8, 400), (64, 200))
    )
    for name in KERNELS:
        expected = theory.kernel(name, t=STEPS, s=0)
        distances = [
            np.sqrt(np.mean((s.kernel(name, t=STEPS, s=0) - expected) ** 2)) for s in (far, near)
        ]
        # Errors of networks are about those of the same kernel at equal times.
        errors = [np.sqrt(np.mean(s.stderr(name) ** 2)) for s in (far, near)]
        ratio = np.sqrt(8 / 64)
        assert distances[1] < ratio * distances[0] + 3 * (errors[1] + ratio * errors[0]), name


def test_the_limit_that_does_not_exist():
    """At alpha = 1/2 the gradients that pass keys and queries grow with the number of these."""
    growth = {}
    for exponent in (0.5, 1.0):
        squares = []
        for keys in (16, 256):
            limit = dc.Transformer(1, key_dim=keys, heads=2, gamma=4, branch_scale=2,
                                   attention_exponent=exponent)  # fmt: skip
            solution = dc.simulate(
                limit, PAIR, dc.GradientDescent(0.02, 1), seeds=20, kernel_times=[1]
            )
            squares.append(np.trace(solution.kernel("G", 0, 1, 1)))
        growth[exponent] = squares[1] / squares[0]
    assert growth[0.5] > 2
    assert growth[1.0] < 1.2
