"""Attention on a device: the kernels on the emulator, alone and through `solve`."""

from __future__ import annotations

import ctypes
import functools
import sys

import numpy as np
import pytest

import dmftcore as dc
import emulated
import fake_cupy
import gpu
from dmftcore import _core
from dmftcore._device import ATTENTIONS
from dmftcore.heads import AttentionMarch
from dmftcore.limits.attention import attention_problem, heads_at_start
from test_emulated import Fault

pytest.importorskip("pybind11", reason="the binding is compiled by the tests")
import emulated_device

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    """The fake library, and the true one where there is a GPU."""
    if request.param == "cuda":
        return gpu.cupy()
    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_core, "cuda", emulated_device.binding().cuda, raising=False)
    monkeypatch.setattr(_core, "cuda_status", lambda: (1, ""))
    return module


def data(dimension, *, length=3, outputs=None):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(5, length, dimension))
    y = rng.normal(size=5 if outputs is None else (5, outputs))
    return dc.Dataset(inputs=x[:3], targets=y[:3], test_inputs=x[3:], test_targets=y[3:])


TRAINING = dc.GradientDescent(0.05, 6)
LIMITS = [
    dc.AttentionCore(gamma=1.5),
    dc.AttentionCore(gamma=1.5, attention="linear", initial_correlations=[0.2, -0.7]),
    dc.AttentionCore(gamma=1.5, attention_exponent=0.5),
    dc.AttentionCore(gamma=1.5, attention_exponent=0.7, attention="exp"),
    dc.AttentionCore(gamma=1.5, key_dim=3, attention_exponent=0.5, attention="relu"),
    dc.AttentionCore(gamma=1.5, key_dim=3, heads=2),
    dc.AttentionCore(gamma=1.5, key_dim=3, mask="causal"),
    dc.AttentionCore(gamma=1.5, attention_exponent=0.5, attention="linear", mask="causal"),
]


def problem_of(limit, dimension, **sizes):
    """Masked attention has two outputs."""
    return data(dimension, outputs=2 if limit.mask else None, **sizes)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("dimension", [2, 20])
def test_solving_on_a_device_is_solving_on_the_host(cupy, limit, dimension):
    samples = {}
    if not limit.is_deterministic:
        samples = {"samples": 2 if limit.is_network else 16}
    problem = problem_of(limit, dimension)
    options = {"kernel_times": [0, 6], "save": "all", **samples}
    expected = dc.solve(limit, problem, TRAINING, **options)
    found = dc.solve(limit, problem, TRAINING, device="cuda", **options)
    assert (expected.diagnostics["device"], found.diagnostics["device"]) == ("cpu", "cuda")
    for name in ("outputs", "test_outputs", "train_loss", "ntk"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-11, atol=1e-13
        )
    for name, values in expected.order_parameters.items():
        np.testing.assert_allclose(
            found.order_parameters[name], values, rtol=1e-11, atol=1e-12, err_msg=name
        )


def test_networks_on_a_device_are_those_on_the_host(cupy):
    for attention in ("softmax", "linear", "exp", "relu"):
        limit = dc.AttentionCore(heads=2, key_dim=3, attention=attention)
        expected, found = (
            dc.simulate(limit, data(4), TRAINING, seeds=2, device=device)
            for device in ("cpu", "cuda")
        )
        np.testing.assert_allclose(
            found.per_seed["outputs"], expected.per_seed["outputs"], rtol=1e-11, atol=1e-13
        )
        for name, values in expected.order_parameters.items():
            np.testing.assert_allclose(
                found.order_parameters[name], values, rtol=1e-11, atol=1e-12, err_msg=name
            )


def test_a_run_on_a_device_goes_on_from_its_checkpoint(cupy, tmp_path):
    path, limit = tmp_path / "run.npz", LIMITS[0]
    whole = dc.solve(limit, data(2), TRAINING, device="cuda")
    dc.solve(limit, data(2), dc.GradientDescent(0.05, 4), device="cuda", checkpoint=path)
    resumed = dc.solve(limit, data(2), TRAINING, device="cuda", checkpoint=path)
    assert resumed.diagnostics["resumed_from"] == [4]
    np.testing.assert_array_equal(resumed.outputs, whole.outputs)


def test_divergence_on_a_device(cupy):
    limit, training = dc.AttentionCore(gamma=2, attention="exp"), dc.GradientDescent(30.0, 30)
    caught = []
    for device in ("cpu", "cuda"):
        with pytest.raises(dc.DivergenceError) as error:
            dc.solve(limit, data(2), training, device=device, kernel_times=[])
        caught.append(error.value)
    assert caught[0].step == caught[1].step
    np.testing.assert_allclose(
        caught[1].partial.train_loss, caught[0].partial.train_loss, rtol=1e-6
    )


# -- planted faults ---------------------------------------------------------------------------

BARRIERS = {
    "rows_normalised_too_early": "__syncthreads(); // all scores are there",
    "patterns_read_too_early": "__syncthreads(); // all patterns are there",
    "outputs_summed_too_early": "__syncthreads(); // what is read of all tokens is there",
    "errors_read_too_early": "__syncthreads(); // all errors are there",
    "errors_overwritten": "__syncthreads(); // the errors of the head before have been read",
    "values_moved_too_early": "__syncthreads(); // the values of the old state have been read",
    "read_out_moved_too_early": "__syncthreads(); // the read-out of the old state has been read, "
    "and new queries are there",
    "demand_read_too_early": "__syncthreads(); // the demand of all tokens is there",
    "slopes_read_too_early": "__syncthreads(); // all slopes are there",
    "half_overwritten": "__syncthreads(); // the half of the sequence before has been read",
    "half_read_too_early": "__syncthreads(); // the half is there",
}
PLANTED = [
    *(Fault("attention", "attention.cuh", text) for text in BARRIERS.values()),
    Fault("attention", "attention.cuh", "other < (group + 1) * each", "other < p.heads"),
    Fault("attention", "attention.cuh", "i / values * a.columns + last + k", "k"),
    Fault("attention", "attention.cuh", "!masked || t <= s", "!masked || t < s"),
    Fault("attention", "attention.cuh", "masked ? s % length + 1 : length", "length"),
    Fault("attention", "attention.cuh", "!p.causal || t <= s % length", "true"),
    Fault("attention", "attention.cuh", "f[t * outputs + i % outputs]", "f[t * outputs]"),
]
FAULTY = emulated.Variant(
    flags=("-include", str(emulated.CPP / "planted.hpp")),
    changes=tuple(fault.planted(number) for number, fault in enumerate(PLANTED, start=1)),
)

SIZES = ("sequences", "train", "length", "outputs", "rank", "groups", "heads", "keys", "values")
ARRAYS = ("kernel", "tokens", "transposed", "targets", "weight", "centre")
ARRAYS += ("query", "key", "score", "value", "readout")


class Problem(ctypes.Structure):
    """AttentionOnDevice of ops.hpp."""

    _fields_ = [
        ("attention", ctypes.c_int),
        ("causal", ctypes.c_int),
        *((name, ctypes.c_ssize_t) for name in SIZES),
        ("gamma", ctypes.c_double),
        ("scale", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ARRAYS),
    ]


@functools.cache
def library(variant):
    sources = [
        *sorted((emulated.CSRC / "emulate").glob("*.cpp")),
        emulated.CSRC / "cuda" / "attention.cu",
        emulated.CSRC / "cuda" / "product.cu",
        emulated.CPP / "attention.cpp",
    ]
    functions = ctypes.CDLL(str(emulated.link(sources, variant, "-shared", suffix=".so")))
    functions.attention_run.restype = ctypes.c_char_p
    return functions


def run(functions, limit, order):
    """Outputs of five updates, of groups of several heads."""
    problem = attention_problem(limit, problem_of(limit, 20, length=7))
    heads = heads_at_start(limit, problem, groups=4, size=4, seed=0)
    arrays = {**problem.for_device(np), **heads.chunks(fake_cupy.module())}
    arrays = {k: getattr(v, "_host", v) for k, v in arrays.items()}
    groups = len(heads.readout)
    shape = groups, problem.sequences, problem.outputs
    arrays["centre"] = np.zeros(shape)
    outputs = np.full((6, *shape), np.nan)
    fields = Problem(
        ATTENTIONS.index(limit.attention), limit.mask is not None, problem.sequences, 3,
        problem.length, problem.outputs, problem.rank,
        groups, len(arrays["value"]), 0 if heads.query is None else heads.query.shape[3],
        heads.value.shape[3], limit.gamma, problem.scale,
    )  # fmt: skip
    for name in ARRAYS:
        if arrays[name] is not None:
            setattr(fields, name, arrays[name].ctypes.data)
    rates = np.full(5, 0.05)
    functions.set_order(ctypes.c_ssize_t(emulated.ORDERS.index(order)))
    error = functions.attention_run(
        ctypes.byref(fields), ctypes.c_void_p(rates.ctypes.data), ctypes.c_ssize_t(5),
        ctypes.c_void_p(outputs.ctypes.data),
    )  # fmt: skip
    assert error is None, error
    return outputs


CASES = [
    dc.AttentionCore(gamma=1.5, attention_exponent=0.5),
    dc.AttentionCore(gamma=1.5, key_dim=3, mask="causal"),
    dc.AttentionCore(gamma=1.5, key_dim=3, attention="linear", mask="causal"),
]


@functools.cache
def expected(limit):
    """The same by the core on the host."""
    problem = attention_problem(limit, problem_of(limit, 20, length=7))
    heads = heads_at_start(limit, problem, groups=4, size=4, seed=0)
    system = AttentionMarch(problem, heads, dc.GradientDescent(0.05, 5), centred=False, pooled=True)
    return system.advance(np.arange(6))


def wrong_cases():
    for limit in CASES:
        for order in emulated.ORDERS:
            try:
                outputs = run(library(FAULTY), limit, order)
                np.testing.assert_allclose(outputs, expected(limit), rtol=1e-10, atol=1e-12)
            except AssertionError:
                yield limit, order


@pytest.mark.skipif(bool(emulated.MORE_FLAGS), reason="a sanitizer ends the process at a fault")
@pytest.mark.parametrize("number", range(1, len(PLANTED) + 1))
def test_a_planted_fault_is_found(number):
    planted = ctypes.c_int.in_dll(library(FAULTY), "planted")
    planted.value = number
    try:
        assert any(wrong_cases()), PLANTED[number - 1].right
    finally:
        planted.value = 0


def test_nothing_is_found_where_no_fault_acts():
    assert list(wrong_cases()) == []


def test_bits_do_not_depend_on_the_order_of_threads():
    for limit in CASES:
        results = {run(library(FAULTY), limit, order).tobytes() for order in emulated.ORDERS}
        assert len(results) == 1
