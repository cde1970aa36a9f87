"""The chain asks nothing of its arrays but the functions of their own library.

A second array library is played by numpy: its arrays refuse numpy's functions and mixing with
numpy's arrays, as those on a device do, and count how often the host waits for a number.
"""

from contextlib import contextmanager
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import _arrays, twotime
from dmftcore.chain import HiddenChain, ResidualChain
from dmftcore.limits.linear_marches import ChainMarch
from dmftcore.limits.proportional import FIELDS, ProportionalMarch
from dmftcore.modes import LinearProblem


@pytest.fixture(autouse=True)
def no_recording(monkeypatch):
    """The rows of numpy are computed one by one too, for the same bits; see test_recording."""
    for chain in (HiddenChain, ResidualChain):
        monkeypatch.setattr(chain, "repeats", False)


class OnDevice(np.ndarray):
    """An array of the second library."""

    reads = 0

    def __array_function__(self, function, types, args, kwargs):
        raise AssertionError(f"numpy.{function.__name__} was called on a device array")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        for value in inputs:
            if type(value) is np.ndarray and value.ndim:
                raise AssertionError(f"numpy.{ufunc.__name__} mixes host and device")
        if "out" in kwargs:
            kwargs["out"] = tuple(map(to_host, kwargs["out"]))
        return to_device(getattr(ufunc, method)(*map(to_host, inputs), **kwargs))

    def __setitem__(self, key, value):
        assert type(value) is not np.ndarray, "a host array is assigned to a device array"
        super().__setitem__(key, value)

    def __float__(self):
        OnDevice.reads += 1
        return float(to_host(self))

    def __bool__(self):
        OnDevice.reads += 1
        return bool(to_host(self))


def to_host(value):
    return value.view(np.ndarray) if isinstance(value, OnDevice) else value


def to_device(value):
    if isinstance(value, (tuple, list)):
        return type(value)(map(to_device, value))
    return (
        np.asarray(value).view(OnDevice) if isinstance(value, (np.ndarray, np.generic)) else value
    )


def transfer(value):
    """`_arrays.to_host` of the second library."""
    OnDevice.reads += 1
    return np.array(to_host(value))


def unwrapped(value):
    return (
        type(value)(map(unwrapped, value)) if isinstance(value, (tuple, list)) else to_host(value)
    )


def on_device(function):
    return lambda *args, **kwargs: to_device(function(*map(unwrapped, args), **kwargs))


class Library:
    """The namespace of the second library: functions of numpy on its own arrays."""

    linalg = SimpleNamespace(inv=on_device(np.linalg.inv), norm=on_device(np.linalg.norm))

    def __getattr__(self, name):
        return on_device(getattr(np, name))


@contextmanager
def second_library():
    """The second library, with operations and transfers of its own."""
    operations = {
        name: on_device(getattr(twotime, name)) for name in twotime.__all__ if name[:4] == "rows"
    }
    with (
        mock.patch.multiple(twotime, **operations),
        mock.patch.object(_arrays, "to_host", transfer),
    ):
        yield Library()


STEPS = 30


def problem(depth, branch, readout="gd"):
    rng = np.random.default_rng(2)
    memory = {} if readout == "ntk" else {"momentum": 0.4, "weight_decay": 0.1}
    return LinearProblem(
        dc.Dataset(rng.normal(size=(5, 3)), rng.normal(size=(5, 2)), test_inputs=np.ones((1, 3))),
        depth=depth, gamma=1.1, init_scale=0.9, branch=branch,
        training=dc.GradientDescent(np.linspace(0.03, 0.05, STEPS), STEPS, **memory),
        follow_ntk=readout == "ntk", loss_limit=1e9,
    )  # fmt: skip


def everything(system):
    """All results of a march, and its state."""
    outputs = system.advance(np.arange(10))
    system.store_kernels()
    outputs = [outputs, system.advance(np.arange(10, STEPS + 1))]
    system.store_kernels()
    targets = np.zeros((5, 2))
    return [
        *outputs,
        *system.kernels(),
        system.two_time_features(),
        system.two_time_gradients(),
        system.feature_responses(),
        system.gradient_responses(targets),
        system.feature_noise_products(),
        system.gradient_noise_products(),
        system.residual(),
        system.state(),
    ]


def contains_device_arrays(value):
    if isinstance(value, dict):
        return any(map(contains_device_arrays, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(contains_device_arrays, value))
    return isinstance(value, OnDevice)


@pytest.mark.parametrize(
    ("depth", "branch", "readout"),
    [(3, None, "gd"), (2, None, "ntk"), (3, 0.8, "gd"), (dc.INFINITE, 1.0, "gd")],
)
def test_results_are_those_of_numpy(depth, branch, readout):
    p = problem(depth, branch, readout)
    expected = everything(ChainMarch(p, STEPS))
    with second_library() as xp:
        found = everything(ChainMarch(p, STEPS, xp=xp))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_equal(one, other)
        assert not contains_device_arrays(one)


def random_data(branch, xp=np, *, fresh=False, depth=3, modes=4):
    limit = dc.ProportionalLinear(
        depth, 0.8, 1.5, noise=0.3, branch_scale=branch, spectrum=dc.PowerLaw(0.5, 0.9, modes)
    )
    training = dc.GradientDescent(0.05, STEPS, momentum=0.4, weight_decay=0.1)
    training = dc.OnlineSGD(0.05, STEPS) if fresh else training
    return ProportionalMarch(limit, training, with_responses=True, xp=xp)


@pytest.mark.parametrize(
    ("depth", "branch", "fresh", "modes"),
    [
        (3, None, False, 4),
        (3, 0.8, True, 4),
        (dc.INFINITE, 1.0, False, 4),
        # Blocks, and Gauss rules that are renewed.
        (2, None, False, 60),
    ],
)
def test_random_data_are_those_of_numpy(monkeypatch, depth, branch, fresh, modes):
    for name in ("BLOCK", "DEVICE_BLOCK"):
        monkeypatch.setattr(f"dmftcore.random_data.{name}", 8)

    def everything(system):
        curves = [system.advance(np.arange(10))]
        system.store_kernels()
        curves.append(system.advance(np.arange(10, STEPS + 1)))
        system.store_kernels()
        return [*curves, system.fields(FIELDS), system.residual(), system.state()]

    expected = everything(random_data(branch, depth=depth, fresh=fresh, modes=modes))
    with second_library() as xp:
        found = everything(random_data(branch, xp, depth=depth, fresh=fresh, modes=modes))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_equal(one, other)
        assert not contains_device_arrays(one)


@pytest.mark.parametrize("branch", [None, 0.8])
def test_the_host_waits_once_a_step_of_random_data(branch):
    with second_library() as xp:
        system = random_data(branch, xp)
        system.advance(np.array([20]))
        OnDevice.reads = 0
        system.advance(np.array([30]))
    assert OnDevice.reads == 10


@pytest.mark.parametrize("branch", [None, 0.8])
def test_the_host_waits_once_a_step(branch):
    """Once all directions are visited: three inputs, and nothing of the targets outside of them."""
    with second_library() as xp:
        system = ChainMarch(problem(3, branch), STEPS, xp=xp)
        system.advance(np.array([20]))
        OnDevice.reads = 0
        system.advance(np.array([30]))
    # Ten steps, and the outputs at the end.
    assert OnDevice.reads == 11


def test_the_host_waits_once_a_sweep_in_depth():
    with second_library() as xp:
        system = ChainMarch(problem(dc.INFINITE, 1.0), STEPS, xp=xp)
        system.advance(np.array([20]))
        before, OnDevice.reads = system.chain.sweeps, 0
        system.advance(np.array([25]))
        assert OnDevice.reads == 6 + system.chain.sweeps - before
