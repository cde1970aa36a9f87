"""The finite networks: where they are trained, what a run stores, and what is refused."""

from __future__ import annotations

import json
import sys
import tracemalloc
import types

import numpy as np
import pytest

from dmftcore import _arrays, cuda_status, memory
from dmftcore._simulate import linear, simulate
from dmftcore._simulate.options import Options
from dmftcore._simulate.records import Records
from dmftcore._validate import INFINITE
from dmftcore.errors import CudaError, DivergenceError
from dmftcore.limits.linear import DeepLinear
from dmftcore.schedule import Schedule
from dmftcore.training import GradientDescent
from test_simulate import RULES, WIDTH, D, P, make_data

# -- devices ----------------------------------------------------------------------------------


class DeviceArray:
    """An array that keeps itself apart from the host, as those of cupy do.

    Nothing of numpy takes it, and it takes nothing of numpy but scalars.
    """

    __array_ufunc__ = None

    def __init__(self, values):
        self.values = values

    def __array__(self, *args, **keywords):
        raise TypeError("implicit conversion to a numpy array")

    def __getitem__(self, index):
        return DeviceArray(self.values[index])

    def __setitem__(self, index, value):
        self.values[index] = self.unwrapped(value)

    def __len__(self):
        return len(self.values)

    def __float__(self):
        return float(self.values)

    def __bool__(self):
        return bool(self.values)

    @property
    def shape(self):
        return self.values.shape

    @property
    def T(self):
        return DeviceArray(self.values.T)

    def swapaxes(self, first, second):
        return DeviceArray(self.values.swapaxes(first, second))

    @staticmethod
    def unwrapped(other):
        if isinstance(other, np.ndarray) and other.ndim:
            raise TypeError("a numpy array among device arrays")
        return other.values if isinstance(other, DeviceArray) else other


def operator(name):
    def apply(self, other):
        return DeviceArray(getattr(self.values, name)(DeviceArray.unwrapped(other)))

    def in_place(self, other):
        getattr(self.values, name)(DeviceArray.unwrapped(other))
        return self

    return in_place if name.startswith("__i") else apply


def reduction(name):
    return lambda self, **axes: DeviceArray(getattr(self.values, name)(**axes))


for name in ("add", "sub", "mul", "truediv", "matmul", "pow", "rsub", "rmul", "le", "iadd", "imul"):
    setattr(DeviceArray, f"__{name}__", operator(f"__{name}__"))
for name in ("sum", "max", "all"):
    setattr(DeviceArray, name, reduction(name))


@pytest.fixture
def device(monkeypatch):
    """A device made of host memory: what of cupy the networks may use."""

    def asarray(array):
        return array if isinstance(array, DeviceArray) else DeviceArray(np.array(array))

    library = types.SimpleNamespace(
        ndarray=DeviceArray,
        asarray=asarray,
        asnumpy=lambda array: array.values.copy(),
        zeros_like=lambda array: DeviceArray(np.zeros_like(array.values)),
    )
    monkeypatch.setitem(sys.modules, "cupy", library)
    monkeypatch.setattr(_arrays, "to_device", asarray)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("blocks", [{}, {"branch_scale": 1.2}])
def test_a_device_trains_the_same_networks(device, blocks, rule):
    limit, data = DeepLinear(depth=3, **blocks), make_data(2)
    options = {"width": WIDTH, "seeds": 2, "save": "all"}
    host = simulate(limit, data, RULES[rule], **options)
    there = simulate(limit, data, RULES[rule], device="cuda", **options)
    assert (host.diagnostics["device"], there.diagnostics["device"]) == ("cpu", "cuda")
    for field in ("outputs", "test_outputs", "train_loss", "ntk", "sharpness"):
        assert type(getattr(there, field)) is np.ndarray
        np.testing.assert_allclose(
            getattr(there, field), getattr(host, field), rtol=1e-12, atol=1e-14
        )
    for name in ("H", "G"):
        np.testing.assert_allclose(there.kernel(name), host.kernel(name), rtol=1e-12, atol=1e-14)


def test_a_missing_device_is_named():
    if cuda_status()[0]:
        pytest.skip("there is a CUDA device")
    with pytest.raises(CudaError, match="device='cuda'"):
        simulate(DeepLinear(2), make_data(), GradientDescent(0.1, 3), width=4, device="cuda")


# -- what is stored ---------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_is_the_uninterrupted_one(rule):
    limit, data, training = DeepLinear(3, branch_scale=1.0), make_data(2), RULES[rule]

    def start():
        options = Options(
            width=WIDTH, seeds=2, seed=1, schedule=Schedule.of(4), save=("H", "G"),
            progress=None, device="cpu",
        )  # fmt: skip
        points = linear.factor(data)
        weights = linear.initial_weights(
            limit, width=WIDTH, rank=points.shape[1], outputs=2, seeds=2, seed=1
        )
        return linear.Networks(
            limit,
            data,
            training,
            weights,
            points,
            Records(linear.sides(limit, data), data, options),
        )

    first, resumed = start(), start()
    for stop in (0, 2):
        first.advance(np.array([stop]))
        first.store_kernels()
    resumed.restore(first.state())
    outputs = []
    for system in (first, resumed):
        outputs.append(system.advance(np.array([3, 4])))
        system.store_kernels()
    np.testing.assert_array_equal(*outputs)
    states = first.state(), resumed.state()
    assert sorted(states[0]) == sorted(states[1])
    for name, part in states[0].items():
        np.testing.assert_array_equal(states[1][name], part, err_msg=name)


def test_stored_steps_are_those_of_the_full_run():
    limit, data, training = DeepLinear(depth=2), make_data(), GradientDescent(0.2, 9)
    full = simulate(limit, data, training, width=WIDTH, seeds=2)
    part = simulate(
        limit, data, training, width=WIDTH, seeds=2, times=[1, 4], kernel_times=[0, 4, 7], save="G"
    )
    assert part.times.tolist() == [1, 4]
    np.testing.assert_array_equal(part.outputs, full.outputs[[1, 4]])
    np.testing.assert_array_equal(part.test_loss, full.test_loss[[1, 4]])
    np.testing.assert_array_equal(part.ntk, full.ntk[[0, 4, 7]])
    np.testing.assert_array_equal(part.kernel("G", 1, 7, 7), full.kernel("G", 1, 7, 7))
    assert list(part.two_time) == ["G"]
    assert not full.two_time


@pytest.mark.parametrize("empty", ["times", "kernel_times"])
def test_nothing_need_be_stored(empty):
    keywords = {empty: []}
    result = simulate(
        DeepLinear(depth=1), make_data(), GradientDescent(0.2, 3), width=WIDTH, save="H", **keywords
    )
    assert len(result.train_loss) == (0 if empty == "times" else 4)
    assert len(result.ntk) == (0 if empty == "kernel_times" else 4)


def test_a_single_network_has_no_standard_errors():
    result = simulate(DeepLinear(depth=1), make_data(), GradientDescent(0.2, 2), width=WIDTH)
    assert not result.standard_errors
    with pytest.raises(KeyError, match="seeds >= 2"):
        result.stderr("train_loss")


def test_progress_reports_the_mean_loss():
    seen = []
    result = simulate(
        DeepLinear(depth=1),
        make_data(),
        GradientDescent(0.2, 150),
        width=WIDTH,
        seeds=2,
        kernel_times=[0],
        progress=lambda step, loss: seen.append((step, loss)),
    )
    assert seen[-1][0] == 150
    assert len(seen) >= 3
    for step, loss in seen:
        assert loss == pytest.approx(result.train_loss[step], rel=1e-12)


def test_the_result_says_what_it_is():
    limit, data, training = DeepLinear(depth=2), make_data(), GradientDescent(0.2, 3)
    result = simulate(limit, data, training, width=WIDTH, seeds=2, seed=4, save=["G", "H"])
    stored = json.loads(json.dumps(result.config))
    assert stored["limit"]["type"] == "DeepLinear"
    assert stored["limit"]["depth"] == 2
    assert stored["training"] == {
        "type": "GradientDescent", "lr": 0.2, "steps": 3, "loss": "square",
        "weight_decay": 0.0, "momentum": 0.0,
    }  # fmt: skip
    assert stored["data"]["inputs"]["shape"] == [P, D]
    assert stored["simulate"] == {
        "width": WIDTH,
        "seeds": 2,
        "seed": 4,
        "times": None,
        "kernel_times": None,
        "save": ["H", "G"],
    }
    assert "numpy" in stored["versions"]
    assert result.diagnostics["engine"] == "simulate"
    assert (result.diagnostics["width"], result.diagnostics["seeds"]) == (WIDTH, 2)
    assert result.diagnostics["memory"] > 0
    assert result.diagnostics["wall_seconds"] > 0


def test_the_result_survives_storage(tmp_path):
    pytest.importorskip("h5netcdf")
    data = make_data(2)
    result = simulate(
        DeepLinear(depth=2), data, GradientDescent(0.2, 3), width=WIDTH, seeds=2, save="all"
    )
    result.save(tmp_path / "run.nc")
    again = type(result).load(tmp_path / "run.nc")
    np.testing.assert_array_equal(again.kernel("H"), result.kernel("H"))
    np.testing.assert_array_equal(again.per_seed["test_outputs"], result.per_seed["test_outputs"])
    for name in ("ntk", "H", "G", "train_loss"):
        np.testing.assert_array_equal(again.stderr(name), result.stderr(name))
    assert again.config == result.config


# -- runs that cannot be made -----------------------------------------------------------------


def test_divergence_stops_the_run_and_keeps_what_came_before():
    limit, data = DeepLinear(depth=2), make_data()
    keywords = {"width": WIDTH, "seeds": 3, "save": "H"}
    with pytest.raises(DivergenceError, match="lower lr") as caught:
        simulate(limit, data, GradientDescent(lr=50.0, steps=100), **keywords)
    step, partial = caught.value.step, caught.value.partial
    assert 1 <= step < 20
    assert partial.times.tolist() == list(range(step))
    assert partial.kernel_times.tolist() == list(range(step))
    before = simulate(limit, data, GradientDescent(lr=50.0, steps=step - 1), **keywords)
    np.testing.assert_allclose(partial.outputs, before.outputs, rtol=1e-12)
    np.testing.assert_allclose(partial.kernel("H"), before.kernel("H"), rtol=1e-12)
    np.testing.assert_allclose(partial.ntk, before.ntk, rtol=1e-12)
    for values in (partial.outputs, partial.ntk, partial.sharpness, partial.kernel("H")):
        assert np.isfinite(values).all()
    assert partial.per_seed["train_loss"].max() <= 1e8 * partial.train_loss[0]
    assert partial.config["simulate"]["seeds"] == 3


def test_one_diverging_network_is_enough():
    # At this learning rate some of the networks are stable and some are not.
    limit, data = DeepLinear(depth=2), make_data()
    training, keywords = GradientDescent(lr=2.5, steps=400), {"width": WIDTH, "kernel_times": []}
    with pytest.raises(DivergenceError) as caught:
        simulate(limit, data, training, seeds=8, **keywords)
    final = caught.value.partial.per_seed["train_loss"][:, -1]
    assert final.max() > 1e3
    assert final.min() < 1


def test_a_run_that_cannot_fit_is_refused_before_it_starts(monkeypatch):
    def never(*args, **keywords):
        raise AssertionError("weights were drawn")

    monkeypatch.setattr(linear, "initial_weights", never)
    monkeypatch.setattr(memory, "_available_memory", lambda: 10**6)
    data, training = make_data(), GradientDescent(0.1, 100)
    with pytest.raises(MemoryError, match=r"weights 8\.\d+ MB.*1 MB.*lower width or seeds"):
        simulate(DeepLinear(depth=2), data, training, width=1000)
    with pytest.raises(MemoryError, match=r"two-time kernels .*fewer kernel_times"):
        simulate(DeepLinear(depth=2), data, training, width=100, save="H")


@pytest.mark.parametrize(
    ("width", "steps", "options"),
    [
        (400, 3, {"kernel_times": []}),
        (20, 5_000, {"kernel_times": [], "times": np.arange(5_001)}),
        (50, 100, {"save": "all"}),
    ],
)
def test_the_memory_plan_covers_what_is_used(width, steps, options):
    tracemalloc.start()
    try:
        result = simulate(
            DeepLinear(depth=3),
            make_data(),
            GradientDescent(1e-3, steps),
            width=width,
            seeds=2,
            **options,
        )
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.5 * peak < result.diagnostics["memory"] < 2 * peak


GOOD = {"limit": DeepLinear(depth=2), "training": GradientDescent(0.1, 3), "width": 4}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"limit": DeepLinear(depth=2, gamma=0.0)}, ValueError, r"gamma > 0.*gamma=1e-2"),
        ({"limit": DeepLinear(depth=2, readout="ntk")}, ValueError, "readout='gd'"),
        ({"limit": DeepLinear(INFINITE, branch_scale=1.0)}, ValueError, "finite depth.*depth=64"),
        ({"device": "gpu"}, ValueError, "device must be one of 'cpu', 'cuda', not 'gpu'"),
        ({"limit": "DeepLinear"}, TypeError, "limit"),
        ({"data": np.eye(3)}, TypeError, "data must be a Dataset"),
        ({"training": 0.1}, TypeError, "training must be a GradientDescent"),
        ({"width": None}, ValueError, "width is missing"),
        ({"width": 0}, ValueError, "width must be an integer >= 1"),
        ({"width": 10.5}, TypeError, "width must be an integer"),
        ({"seeds": 0}, ValueError, "seeds must be an integer >= 1"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"save": "A"}, ValueError, "save must be one of 'H', 'G', 'all'"),
        ({"save": ("H", "Phi")}, ValueError, "not 'Phi'"),
        ({"times": [0, 4]}, ValueError, r"times must increase strictly within 0\.\.3"),
        ({"kernel_times": [0.5]}, TypeError, "kernel_times"),
    ],
)
def test_bad_arguments_are_named(change, error, text):
    arguments = {**GOOD, "data": make_data(), **change}
    with pytest.raises(error, match=text):
        simulate(**arguments)
