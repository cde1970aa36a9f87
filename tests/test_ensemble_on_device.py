"""Sampled networks on a device, against the same on the host with the same random numbers.

Without a GPU: arrays of `fake_cupy`, the binding of the compiled core, kernels on the emulator.
"""

import sys

import numpy as np
import pytest
import scipy.special

import dmftcore as dc
import emulated
import fake_cupy
import gpu
from dmftcore import _core
from dmftcore.sampled.ensemble import Ensemble

pytest.importorskip("pybind11", reason="the binding is compiled by the tests")
import emulated_device

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")


@pytest.fixture
def cupy(monkeypatch):
    module = fake_cupy.module()
    functions = fake_cupy.Functions("cupyx.scipy.special", scipy.special)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", functions)
    monkeypatch.setattr(_core, "cuda", emulated_device.binding().cuda, raising=False)
    monkeypatch.setattr(_core, "cuda_status", lambda: (1, ""))
    return module


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def library(request):
    """The fake library, and the true one where there is a GPU."""
    return request.getfixturevalue("cupy") if request.param == "emulated" else gpu.cupy()


RNG = np.random.default_rng(8)
INPUTS, TARGETS = RNG.normal(size=(3, 2)), RNG.normal(size=(3, 2))
ONE = {"inputs": INPUTS, "targets": TARGETS[:, 0], "test_inputs": RNG.normal(size=(1, 2))}
TWO = {"inputs": INPUTS, "targets": TARGETS}
OPTIONS = {"samples": 60, "replicas": 2, "kernel_times": [0, 3], "method": "ensemble"}

#: limit, data, training, options
CASES = {
    "perceptron": (dc.MLP(3, "tanh"), ONE, {}, {"save": "all"}),
    "residual": (dc.Residual(2, "gelu", readout_activation="linear"), ONE, {}, {}),
    "outputs": (dc.Residual(2, "relu"), TWO, {"momentum": 0.5, "weight_decay": 0.1}, {}),
    "blocks": (dc.Residual(1, "erf", block_layers=2), TWO, {}, {}),
    "float32": (dc.MLP(2, "softplus"), ONE, {}, {"dtype": "float32"}),
}


def differences(found, expected, tolerance):
    for name in ("outputs", "train_loss", "ntk", "sharpness"):
        wanted = getattr(expected, name)
        if wanted is None:
            continue
        np.testing.assert_allclose(
            getattr(found, name), wanted, rtol=0, atol=tolerance * np.abs(wanted).max()
        )
    for kind in ("equal_time", "two_time"):
        for name, layers in getattr(expected, kind).items():
            for layer, wanted in layers.items():
                one = getattr(found, kind)[name][layer]
                atol = tolerance * max(1.0, np.abs(wanted).max())
                np.testing.assert_allclose(one, wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_the_ensemble_on_a_device_is_that_on_the_host(library, name):
    limit, arrays, changes, options = CASES[name]
    training = dc.GradientDescent(0.1, 3, **changes)
    options = OPTIONS | options
    expected = dc.solve(limit, dc.Dataset(**arrays), training, **options)
    on_device = dc.Dataset(**{key: library.asarray(array) for key, array in arrays.items()})
    found = dc.solve(limit, on_device, training, **options)
    assert (expected.diagnostics["device"], found.diagnostics["device"]) == ("cpu", "cuda")
    assert found.diagnostics["ranks"] == expected.diagnostics["ranks"]
    # Rounding of sums over 60 particles, amplified by dropping all that is below 1e-4.
    differences(found, expected, 1e-4 if options.get("dtype") == "float32" else 1e-9)


SEQUENCES = {"inputs": RNG.normal(size=(2, 3, 4)), "test_inputs": RNG.normal(size=(1, 3, 4))}

#: limit, outputs, training, options
TRANSFORMERS = {
    "heads": ({"depth": 2, "key_dim": 2, "mask": "causal"}, 1, {}, {"samples": 10, "replicas": 2}),
    "neurons": (
        {"key_dim": 2, "attention": "relu", "mlp_activation": "tanh"}, 2,
        {"momentum": 0.5, "weight_decay": 0.1}, {"samples": 10, "replicas": 2},
    ),
    "exact": ({"attention": "linear", "mlp_activation": "linear"}, 1, {}, {}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:attention='relu'")
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_on_a_device_is_that_on_the_host(library, tmp_path, name):
    fields, outputs, changes, options = TRANSFORMERS[name]
    limit = dc.Transformer(gamma=1.5, **{"depth": 1, **fields})
    targets = TARGETS[:2, 0] if outputs == 1 else TARGETS[:2]
    data = dc.Dataset(**SEQUENCES, targets=targets)
    short, long = (dc.GradientDescent(0.1, steps, **changes) for steps in (2, 3))
    options = options | {"save": "all"}
    expected = dc.solve(limit, data, long, kernel_times=[0, 3], **options)
    options |= {"device": "cuda", "checkpoint": tmp_path / "march"}
    dc.solve(limit, data, short, kernel_times=[0], **options)
    found = dc.solve(limit, data, long, kernel_times=[0, 3], **options)
    assert found.diagnostics["resumed_from"] == [2]
    assert (expected.diagnostics["device"], found.diagnostics["device"]) == ("cpu", "cuda")
    assert found.diagnostics["ranks"] == expected.diagnostics["ranks"]
    differences(found, expected, 1e-9)
    for name, wanted in expected.order_parameters.items():
        np.testing.assert_allclose(found.order_parameters[name], wanted, rtol=0, atol=1e-9)


def test_a_device_is_chosen_by_name_and_gone_on_with(library, tmp_path):
    limit, data = dc.MLP(2, "tanh"), dc.Dataset(**ONE)
    options = OPTIONS | {"kernel_times": [], "device": "cuda"}
    whole = dc.solve(limit, data, dc.GradientDescent(0.1, 4), **options)
    options["checkpoint"] = tmp_path / "march"
    dc.solve(limit, data, dc.GradientDescent(0.1, 2), **options)
    resumed = dc.solve(limit, data, dc.GradientDescent(0.1, 4), **options)
    np.testing.assert_array_equal(resumed.outputs, whole.outputs)


def test_a_network_too_large_for_the_device_is_refused(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module(free_bytes=1000))
    with pytest.raises(MemoryError, match=r"bases .* of device memory are available; lower sam"):
        dc.solve(dc.MLP(2, "tanh"), dc.Dataset(**ONE), dc.GradientDescent(0.1, 2), device="cuda")


@pytest.fixture
def waits(monkeypatch, cupy):
    """What the host has waited for: arrays that came from the device."""
    found = []
    get = fake_cupy.ndarray.get
    monkeypatch.setattr(
        fake_cupy.ndarray, "get", lambda array: (found.append(array.shape), get(array))[1]
    )
    return found


def test_a_step_waits_twice_while_no_basis_grows(waits):
    counts = {}
    for steps in (3, 7):
        waits.clear()
        options = OPTIONS | {"kernel_times": [], "times": [steps], "tol": 0.5, "device": "cuda"}
        dc.solve(dc.MLP(3, "tanh"), dc.Dataset(**ONE), dc.GradientDescent(1e-6, steps), **options)
        counts[steps] = len(waits)
    # Levels of both interfaces with the outputs after the forward pass, levels after the backward.
    assert counts[7] - counts[3] == 4 * (2 + 1)


@pytest.mark.usefixtures("cupy")
def test_a_basis_that_grows_after_a_pause_is_seen(monkeypatch):
    # Coarse, so that steps without a new direction lie between those with one.
    options = OPTIONS | {"kernel_times": [], "tol": 0.01, "device": "cuda"}
    limit, data, training = dc.MLP(2, "tanh"), dc.Dataset(**ONE), dc.GradientDescent(0.3, 10)
    passes, propagate = [], Ensemble._propagate
    monkeypatch.setattr(
        Ensemble, "_propagate", lambda march: (passes.append(1), propagate(march))[0]
    )
    found = dc.solve(limit, data, training, **options)
    assert len(passes) > 11, "no pass was made twice"
    monkeypatch.setattr(Ensemble, "_through_interfaces", lambda march, carry: carry())
    expected = dc.solve(limit, data, training, **options)
    np.testing.assert_array_equal(found.outputs, expected.outputs)
    for name in ("ranks", "dropped"):
        assert found.diagnostics[name] == expected.diagnostics[name]
