"""`solve` with data on a device, against the same on the host.

Without a GPU: arrays of `fake_cupy`, the binding of the compiled core, kernels on the emulator.
"""

import sys

import numpy as np
import pytest

import dmftcore as dc
import emulated
import fake_cupy
import gpu
from dmftcore import _core
from dmftcore.errors import CudaError

pytest.importorskip("pybind11", reason="the binding is compiled by the tests")
import emulated_device

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")


@pytest.fixture
def cupy(monkeypatch):
    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_core, "cuda", emulated_device.binding().cuda, raising=False)
    monkeypatch.setattr(_core, "cuda_status", lambda: (1, ""))
    return module


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def library(request):
    """The fake library, and the true one where there is a GPU."""
    return request.getfixturevalue("cupy") if request.param == "emulated" else gpu.cupy()


RNG = np.random.default_rng(4)
ARRAYS = {
    "inputs": RNG.normal(size=(4, 3)),
    "targets": RNG.normal(size=(4, 2)),
    "test_inputs": RNG.normal(size=(1, 3)),
    "test_targets": RNG.normal(size=(1, 2)),
}
GRAM = {"gram": ARRAYS["inputs"] @ ARRAYS["inputs"].T / 3, "targets": ARRAYS["targets"][:, 0]}
LIMIT = dc.DeepLinear(depth=2, gamma=1.2)
TRAINING = dc.GradientDescent(lr=0.05, steps=4)


def assert_equal_to_rounding(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal_to_rounding(found[key], expected[key])
    elif expected is not None:
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)


RESULTS = ("outputs", "test_outputs", "train_loss", "test_loss", "errors", "ntk", "sharpness")


@pytest.mark.parametrize("arrays", [ARRAYS, GRAM], ids=["inputs", "gram"])
def test_the_chain_on_a_device_is_that_on_the_host(library, arrays):
    options = {"kernel_times": [0, 4], "save": "all", "method": "chain"}
    expected = dc.solve(LIMIT, dc.Dataset(**arrays), TRAINING, **options)
    on_device = dc.Dataset(**{name: library.asarray(array) for name, array in arrays.items()})
    for data, device in ((on_device, None), (dc.Dataset(**arrays), "cuda")):
        found = dc.solve(LIMIT, data, TRAINING, device=device, **options)
        assert found.diagnostics["device"] == "cuda"
        for name in RESULTS:
            assert_equal_to_rounding(getattr(found, name), getattr(expected, name))
        for name in ("equal_time", "two_time", "responses"):
            assert_equal_to_rounding(getattr(found, name), getattr(expected, name))
    assert expected.diagnostics["device"] == "cpu"


@pytest.mark.parametrize(
    ("limit", "training"),
    [
        (dc.DeepLinear(depth=3, branch_scale=0.7), dc.GradientDescent(0.05, 3)),
        (LIMIT, dc.GradientDescent(0.05, 3, momentum=0.5, weight_decay=0.1)),
        (dc.DeepLinear(depth=2, readout="ntk"), dc.GradientDescent([0.05, 0.04, 0.03], 3)),
        pytest.param(
            dc.DeepLinear(depth=dc.INFINITE, branch_scale=1.0),
            dc.GradientDescent(0.05, 2),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["residual", "momentum", "ntk", "infinite"],
)
def test_every_chain_runs_on_a_device(library, limit, training):
    options = {"kernel_times": [], "method": "chain"}
    expected = dc.solve(limit, dc.Dataset(**GRAM), training, **options)
    found = dc.solve(limit, dc.Dataset(**GRAM), training, device="cuda", **options)
    assert_equal_to_rounding(found.outputs, expected.outputs)


SPECTRUM = dc.Spectrum([1.5, 1.0, 0.4], [1.0, 0.5, 2.0], weights=[0.2, 0.5, 0.3])


@pytest.mark.parametrize(
    ("limit", "training"),
    [
        ({"depth": 2}, dc.GradientDescent(0.05, 4)),
        ({"depth": 2}, dc.GradientDescent(0.05, 3, momentum=0.5, weight_decay=0.1)),
        ({"depth": 1}, dc.OnlineSGD(0.05, 3)),
        ({"depth": 3, "branch_scale": 0.7}, dc.GradientDescent(0.05, 3)),
    ],
    ids=["plain", "momentum", "online", "residual"],
)
def test_random_data_on_a_device_are_those_on_the_host(library, limit, training):
    options = {"kernel_times": [0, 3], "save": "all"}
    problem = dc.ProportionalLinear(
        width_ratio=0.5, sample_ratio=2.0, noise=0.3, spectrum=SPECTRUM, **limit
    )
    expected = dc.solve(problem, None, training, **options)
    found = dc.solve(problem, None, training, device="cuda", **options)
    assert (expected.diagnostics["device"], found.diagnostics["device"]) == ("cpu", "cuda")
    for name in ("train_loss", "test_loss", "overlap", "equal_time", "two_time", "responses"):
        assert_equal_to_rounding(getattr(found, name), getattr(expected, name))


def test_random_data_too_large_for_the_device_are_refused(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module(free_bytes=1000))
    problem = dc.ProportionalLinear(1, width_ratio=1.0, sample_ratio=1.0)
    with pytest.raises(MemoryError, match="of device memory are available; use fewer steps"):
        dc.solve(problem, None, dc.GradientDescent(0.05, 4), device="cuda")


def test_data_on_a_device_can_be_solved_on_the_host(cupy):
    data = dc.Dataset(**{name: cupy.asarray(array) for name, array in GRAM.items()})
    found = dc.solve(LIMIT, data, TRAINING, method="chain", device="cpu")
    assert found.diagnostics["device"] == "cpu"
    expected = dc.solve(LIMIT, dc.Dataset(**GRAM), TRAINING, method="chain")
    np.testing.assert_array_equal(found.outputs, expected.outputs)


def test_the_growing_network_stays_on_the_cpu_and_says_so(cupy):
    found = dc.solve(LIMIT, dc.Dataset(**GRAM), TRAINING, device="cuda")
    assert found.diagnostics["engine"] == "growing"
    assert found.diagnostics["device"] == "cpu"
    assert "runs on the CPU" in found.diagnostics["reason"]


def test_a_chain_too_large_for_the_device_is_refused(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy.module(free_bytes=1000))
    with pytest.raises(MemoryError, match=r"chain .* of device memory are available; use method="):
        dc.solve(LIMIT, dc.Dataset(**GRAM), TRAINING, method="chain", device="cuda")


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(_core, "cuda_status", lambda: (0, "no driver"))
    with pytest.raises(CudaError, match="device='cuda' cannot be used: no driver"):
        dc.solve(LIMIT, dc.Dataset(**GRAM), TRAINING, method="chain", device="cuda")
    with pytest.raises(ValueError, match="device must be one of 'cpu', 'cuda'"):
        dc.solve(LIMIT, dc.Dataset(**GRAM), TRAINING, device="gpu")


# -- data on a device ---------------------------------------------------------------------------


def test_data_stay_on_their_device(cupy):
    data = dc.Dataset(**{name: cupy.asarray(array) for name, array in ARRAYS.items()})
    host = dc.Dataset(**ARRAYS)
    assert data.device == "cuda"
    assert host.device == "cpu"
    assert host.on_host is host
    for name, array in ARRAYS.items():
        assert isinstance(getattr(data, name), cupy.ndarray)
        np.testing.assert_array_equal(getattr(data.on_host, name), array)
    np.testing.assert_allclose(data.kernel.get(), host.kernel, rtol=1e-14)
    assert data.largest_eigenvalue == host.largest_eigenvalue
    assert (data.n_train, data.n_test, data.n_outputs) == (4, 1, 2)


def test_data_are_copied(cupy):
    inputs, targets = cupy.asarray(ARRAYS["inputs"]), cupy.asarray(ARRAYS["targets"])
    data = dc.Dataset(inputs=inputs, targets=targets)
    inputs[...] = 0.0
    np.testing.assert_array_equal(data.inputs.get(), ARRAYS["inputs"])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"targets": np.zeros((3, 2))}, ValueError, "targets has 3 rows, but inputs has 4"),
        ({"inputs": np.full((4, 3), np.nan)}, ValueError, r"inputs holds a non-finite .* \(0, 0\)"),
        ({"inputs": np.zeros((4, 3), complex)}, TypeError, "inputs must hold real numbers"),
        ({"inputs": np.zeros(4)}, ValueError, "inputs must have 2 or 3 axes"),
    ],
)
def test_wrong_data_are_refused_as_on_the_host(cupy, change, error, message):
    wrong = {**ARRAYS, **change}
    with pytest.raises(error, match=message):
        dc.Dataset(**wrong)
    with pytest.raises(error, match=message):
        dc.Dataset(**{name: cupy.asarray(array) for name, array in wrong.items()})


def test_an_indefinite_gram_matrix_is_refused(cupy):
    with pytest.raises(ValueError, match="gram is not positive semi-definite"):
        dc.Dataset(gram=cupy.asarray(-np.eye(2)), targets=cupy.asarray(np.ones(2)))


def test_data_on_host_and_device_do_not_mix(cupy):
    with pytest.raises(TypeError, match="inputs is a numpy array but targets is a cupy array"):
        dc.Dataset(inputs=ARRAYS["inputs"], targets=cupy.asarray(ARRAYS["targets"]))
