"""Sweeps: the grid of results, its coordinates, failed points, files, and executors."""

from __future__ import annotations

import concurrent.futures
import functools
import json
import multiprocessing
import pickle
import sys

import numpy as np
import pytest

import dmftcore as dc

xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

# The runs that are meant to diverge are warned of.
pytestmark = pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")

DATA = dc.Dataset(gram=[[1.0, 0.3], [0.3, 1.0]], targets=[1.0, -0.5])
GAMMAS, RATES = (0.5, 1.5), (0.1, 0.2, 0.3)
LIMITS = [dc.DeepLinear(depth=2, gamma=gamma) for gamma in GAMMAS]
TRAININGS = [dc.GradientDescent(lr=lr, steps=4) for lr in RATES]
#: Far beyond the edge of stability.
WILD = dc.GradientDescent(lr=30.0, steps=60)


class Counted:
    """`solve`, with a record of its calls; may break off before a call."""

    __module__, __qualname__ = "tests", "counted"

    def __init__(self, stop_before=None):
        self.calls, self.stop_before = [], stop_before

    def __call__(self, limit, data, training):
        if len(self.calls) == self.stop_before:
            raise KeyboardInterrupt
        self.calls.append((limit, training))
        return dc.solve(limit, data, training)


def table(**fields):
    """A result of another kind than a Solution."""
    return xarray.Dataset({name: ("x", np.atleast_1d(value)) for name, value in fields.items()})


# -- the grid ---------------------------------------------------------------------------------


def test_every_point_is_the_result_of_its_nouns():
    grid = dc.sweep(dc.solve, limit=LIMITS, training=TRAININGS, data=DATA, save="H")
    assert grid["train_loss"].dims == ("gamma", "lr", "time")
    np.testing.assert_array_equal(grid["gamma"], GAMMAS)
    np.testing.assert_array_equal(grid["lr"], RATES)
    for gamma, limit in zip(GAMMAS, LIMITS, strict=True):
        for lr, training in zip(RATES, TRAININGS, strict=True):
            point, alone = grid.sel(gamma=gamma, lr=lr), dc.solve(limit, DATA, training, save="H")
            for name, wanted in alone.to_xarray().data_vars.items():
                np.testing.assert_array_equal(point[name], wanted, err_msg=name)
            assert point["error"].item() == ""
            stored = json.loads(point["config"].item())
            assert {k: v for k, v in stored.items() if k != "versions"} == {
                k: v for k, v in alone.config.items() if k != "versions"
            }
            assert json.loads(point["diagnostics"].item())["engine"] == alone.diagnostics["engine"]


def test_the_axes_are_in_the_order_of_the_arguments():
    grid = dc.sweep(dc.solve, training=TRAININGS, data=DATA, limit=LIMITS)
    assert grid["outputs"].dims == ("lr", "gamma", "time", "pattern")


def test_nouns_that_differ_in_several_fields_keep_one_axis():
    limits = [dc.DeepLinear(1, gamma=0.5), dc.DeepLinear(3, gamma=0.5), dc.DeepLinear(3, gamma=1.0)]
    grid = dc.sweep(dc.solve, limit=limits, data=DATA, training=TRAININGS[0])
    assert grid["train_loss"].dims == ("limit", "time")
    assert grid["depth"].dims == grid["gamma"].dims == ("limit",)
    assert grid["depth"].values.tolist() == [1, 3, 3]
    apart = grid.set_index(limit=["depth", "gamma"]).unstack("limit")
    np.testing.assert_array_equal(
        apart["train_loss"].sel(depth=3, gamma=1.0), grid["train_loss"].isel(limit=2)
    )


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([dc.DeepLinear(2), dc.DeepLinear(2, branch_scale=0.5)], ("branch_scale", [np.nan, 0.5])),
        (
            [dc.DeepLinear(3, branch_scale=1.0), dc.DeepLinear(dc.INFINITE, branch_scale=1.0)],
            ("depth", [3, np.inf]),
        ),
        ([dc.DeepLinear(2, readout=r) for r in ("gd", "ntk")], ("readout", ["gd", "ntk"])),
        ([dc.GradientDescent([0.1, 0.2], 2), dc.GradientDescent([0.2, 0.1], 2)], ("noun", None)),
        ([DATA, DATA], ("noun", None)),
        ([4, 8], ("noun", [4, 8])),
        ([(1, 2), (1, 3)], ("noun", None)),
    ],
)
def test_coordinates(values, wanted):
    grid = dc.sweep(lambda noun: table(a=1.0), noun=values)
    (dimension, coordinate) = wanted
    assert grid["a"].dims == (dimension, "x")
    if coordinate is None:
        assert dimension not in grid.coords
    else:
        np.testing.assert_array_equal(grid[dimension], coordinate)


def test_nouns_of_different_types_say_so():
    limits = [dc.DeepLinear(2, gamma=0.5), dc.GradientDescent(0.1, 3)]
    grid = dc.sweep(lambda limit: table(a=1.0), limit=limits)
    assert grid["limit_type"].values.tolist() == ["DeepLinear", "GradientDescent"]
    np.testing.assert_array_equal(grid["gamma"], [0.5, np.nan])
    np.testing.assert_array_equal(grid["lr"], [np.nan, 0.1])


def test_names_that_are_taken():
    grid = dc.sweep(
        dc.simulate, limit=LIMITS[0], data=DATA, training=TRAININGS[0], width=4, seed=[5, 6]
    )
    assert grid["per_seed_train_loss"].dims == ("swept_seed", "seed", "time")
    assert grid["swept_seed"].values.tolist() == [5, 6]
    both = dc.sweep(lambda a, b: table(y=1.0), a=LIMITS, b=LIMITS)
    assert both["y"].dims == ("a_gamma", "b_gamma", "x")


def test_lists_in_options_are_not_swept():
    grid = dc.sweep(
        dc.solve, limit=LIMITS, data=DATA, training=TRAININGS[0], options={"times": [0, 3]}
    )
    assert grid["train_loss"].dims == ("gamma", "time")
    assert grid["time"].values.tolist() == [0, 3]


def test_results_on_different_axes_are_put_on_their_union():
    trainings = [dc.GradientDescent(0.1, steps=2), dc.GradientDescent(0.1, steps=4)]
    limits = [dc.DeepLinear(1), dc.DeepLinear(2)]
    grid = dc.sweep(dc.solve, limit=limits, data=DATA, training=trainings)
    assert grid["time"].values.tolist() == [0, 1, 2, 3, 4]
    assert grid["layer_H"].values.tolist() == [1, 2]
    short, long = (grid["train_loss"].sel(depth=2, steps=steps) for steps in (2, 4))
    np.testing.assert_array_equal(short[:3], long[:3])
    assert np.isnan(short[3:]).all()
    assert np.isfinite(long).all()
    assert np.isnan(grid["H"].sel(depth=1, steps=4, layer_H=2)).all()
    assert np.isfinite(grid["H"].sel(depth=2, steps=4)).all()


def test_fields_that_a_point_does_not_have_are_nan():
    tested = dc.Dataset(full_gram=np.eye(3), targets=[1.0, 2.0], test_targets=[0.5])
    grid = dc.sweep(dc.solve, data=[DATA, tested], limit=LIMITS[0], training=TRAININGS[0])
    assert np.isnan(grid["test_loss"].isel(data=0)).all()
    assert np.isfinite(grid["test_loss"].isel(data=1)).all()


def test_results_that_make_no_table():
    two = dc.Dataset(gram=np.eye(2), targets=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"'outputs' has the axes .* sweep the two apart"):
        dc.sweep(dc.solve, data=[DATA, two], limit=LIMITS[0], training=TRAININGS[0])
    with pytest.raises(TypeError, match="fn must return a Solution"):
        dc.sweep(lambda x: x, x=[1, 2])


def test_what_was_called_is_stored():
    solve = functools.partial(dc.solve, data=DATA, kernel_times=[0])
    grid = dc.sweep(solve, limit=LIMITS, training=TRAININGS[0])
    call = json.loads(grid["call"].sel(gamma=1.5).item())
    assert call["arguments"]["limit"]["gamma"] == 1.5
    assert call["arguments"]["training"]["lr"] == 0.1
    assert call["fn"]["partial"] == "dmftcore._solve.solve"
    assert call["fn"]["keywords"]["kernel_times"] == [0]


# -- failures ---------------------------------------------------------------------------------


def test_a_failed_point_carries_its_error():
    grid = dc.sweep(
        dc.solve, limit=LIMITS, data=DATA, training=[TRAININGS[0], WILD], kernel_times=()
    )
    failed, fine = grid.isel(training=1), grid.isel(training=0)
    assert all(text.startswith("DivergenceError: ") for text in failed["error"].values)
    assert np.isnan(failed["train_loss"]).all()
    assert np.isfinite(fine["train_loss"].sel(time=slice(0, 4))).all()
    assert (fine["error"] == "").all()


def test_other_errors_are_recorded_too():
    def reciprocal(x):
        return table(y=1 / x)

    grid = dc.sweep(reciprocal, x=[0, 2])
    assert grid["error"].values.tolist() == ["ZeroDivisionError: division by zero", ""]
    np.testing.assert_array_equal(grid["y"].values[:, 0], [np.nan, 0.5])


def test_a_sweep_that_fails_everywhere():
    grid = dc.sweep(dc.solve, limit=LIMITS, data=DATA, training=WILD, kernel_times=())
    assert grid.data_vars.keys() == {"error", "call"}
    assert grid["error"].shape == (2,)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"limit": []}, ValueError, "limit is an empty list"),
        ({"limit": LIMITS, "trainin": 1}, TypeError, "fn cannot be called with limit, trainin:"),
        ({"limit": LIMITS, "options": {"limit": 1}}, TypeError, "both give limit"),
        ({"limit": LIMITS, "data": DATA, "training": print}, TypeError, "training cannot be swept"),
    ],
)
def test_precise_errors(arguments, error, text):
    with pytest.raises(error, match=text):
        dc.sweep(dc.solve, **arguments)


def test_without_xarray(monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(ImportError, match=r'sweep needs xarray.*pip install "dmftcore\[io\]"'):
        dc.sweep(dc.solve, limit=LIMITS, data=DATA, training=TRAININGS)


# -- files ------------------------------------------------------------------------------------


def load(path):
    with xarray.open_dataset(path, engine="h5netcdf") as file:
        return file.load()


def without_dates(grid):
    """Only what is the same for two runs of the same sweep."""
    return grid.drop_vars(["config", "diagnostics"])


def test_the_file_holds_the_result(tmp_path):
    path = tmp_path / "grid.nc"
    trainings = [*TRAININGS, WILD]
    grid = dc.sweep(
        dc.solve, limit=LIMITS, data=DATA, training=trainings, kernel_times=(), path=path
    )
    xarray.testing.assert_identical(load(path), grid)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.nc"]


def test_an_interrupted_sweep_goes_on(tmp_path):
    path = tmp_path / "grid.nc"
    nouns = {"limit": LIMITS, "data": DATA, "training": [*TRAININGS, WILD]}
    whole = dc.sweep(Counted(), **nouns)
    first, second, third = Counted(stop_before=5), Counted(), Counted()
    with pytest.raises(KeyboardInterrupt, match="interrupted after 5 of 8 points"):
        dc.sweep(first, **nouns, path=path)
    partial = load(path)["error"].values.ravel()
    assert (partial == "not run").sum() == 3
    resumed = dc.sweep(second, **nouns, path=path)
    assert len(first.calls) == 5
    assert [limit.gamma for limit, _ in second.calls] == [1.5] * 3
    xarray.testing.assert_identical(without_dates(resumed), without_dates(whole))
    xarray.testing.assert_identical(dc.sweep(third, **nouns, path=path), resumed)
    assert third.calls == []


def test_a_larger_grid_keeps_what_is_there(tmp_path):
    path = tmp_path / "grid.nc"
    dc.sweep(Counted(), limit=LIMITS[0], data=DATA, training=TRAININGS[:2], path=path)
    fn = Counted()
    nouns = {"limit": LIMITS, "data": DATA, "training": TRAININGS}
    larger = dc.sweep(fn, **nouns, path=path)
    assert len(fn.calls) == 4
    xarray.testing.assert_identical(
        without_dates(larger), without_dates(dc.sweep(Counted(), **nouns))
    )


def test_diverged_points_are_finished_others_are_tried_again(tmp_path):
    path = tmp_path / "grid.nc"
    broken = [True]
    calls = []

    def fn(lr):
        calls.append(lr)
        if lr > 1:
            raise dc.DivergenceError("too fast", step=3)
        if broken[0]:
            raise OSError("no space")
        return table(a=lr)

    first = dc.sweep(fn, lr=[0.5, 2.0], path=path)
    assert first["error"].values.tolist() == ["OSError: no space", "DivergenceError: too fast"]
    broken[0] = False
    second = dc.sweep(fn, lr=[0.5, 2.0], path=path)
    assert second["error"].values.tolist() == ["", "DivergenceError: too fast"]
    assert calls == [0.5, 2.0, 0.5]


def test_a_file_of_another_sweep_is_not_overwritten(tmp_path):
    path = tmp_path / "grid.nc"
    dc.sweep(dc.solve, limit=LIMITS, data=DATA, training=TRAININGS[0], path=path)
    before = path.read_bytes()
    other = dc.Dataset(gram=np.eye(2), targets=[1.0, 0.0])
    for nouns in ({"limit": LIMITS[:1], "data": DATA}, {"limit": LIMITS, "data": other}):
        with pytest.raises(ValueError, match="holds results that are no part of this sweep"):
            dc.sweep(dc.solve, **nouns, training=TRAININGS[0], path=path)
    dc.solve(LIMITS[0], DATA, TRAININGS[0]).save(tmp_path / "solution.nc")
    with pytest.raises(ValueError, match="was not written by sweep"):
        dc.sweep(
            dc.solve, limit=LIMITS, data=DATA, training=TRAININGS, path=tmp_path / "solution.nc"
        )
    assert path.read_bytes() == before


def test_the_file_is_written_as_the_sweep_advances(tmp_path, monkeypatch):
    monkeypatch.setattr("dmftcore._sweep.SAVE_SECONDS", 0)
    monkeypatch.setattr("dmftcore._sweep.SAVE_RATIO", 0)
    path, seen = tmp_path / "grid.nc", []

    def progress(done, total):
        seen.append((done, total, int((load(path)["error"] == "").sum())))

    dc.sweep(dc.solve, limit=LIMITS, data=DATA, training=TRAININGS[0], path=path, progress=progress)
    assert seen == [(1, 2, 1), (2, 2, 2)]


# -- executors --------------------------------------------------------------------------------


def test_processes_give_the_same_table(tmp_path):
    nouns = {"limit": LIMITS, "data": DATA, "training": [TRAININGS[0], WILD], "kernel_times": ()}
    # Spawned: a fork would not have the threads that the libraries of this process count on. One
    # process: an editable install looks for changes to compile when it is imported.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        parallel = dc.sweep(dc.solve, **nouns, executor=pool, path=tmp_path / "grid.nc")
    serial = dc.sweep(dc.solve, **nouns)
    xarray.testing.assert_identical(without_dates(parallel), without_dates(serial))


class Reversed(concurrent.futures.Executor):
    """Finishes the points in reverse order, or breaks after some of them."""

    def __init__(self, points, breaks_after=None):
        self.points, self.waiting = points, []
        self.breaks_after = points if breaks_after is None else breaks_after

    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        self.waiting.append((future, functools.partial(fn, *args, **kwargs)))
        if len(self.waiting) == self.points:
            for done, (later, call) in enumerate(reversed(self.waiting)):
                if done < self.breaks_after:
                    later.set_result(call())
                else:
                    later.set_exception(concurrent.futures.BrokenExecutor("a process died"))
        return future


def test_the_order_does_not_depend_on_the_executor():
    nouns = {"limit": LIMITS, "data": DATA, "training": TRAININGS}
    backwards = dc.sweep(dc.solve, **nouns, executor=Reversed(6))
    xarray.testing.assert_identical(
        without_dates(backwards), without_dates(dc.sweep(dc.solve, **nouns))
    )


def test_a_broken_executor_is_no_result(tmp_path):
    path = tmp_path / "grid.nc"
    nouns = {"limit": LIMITS, "data": DATA, "training": TRAININGS}
    with pytest.raises(concurrent.futures.BrokenExecutor, match="a process died"):
        dc.sweep(dc.solve, **nouns, executor=Reversed(6, breaks_after=4), path=path)
    if path.exists():
        assert set(load(path)["error"].values.ravel()) <= {"", "not run"}
    assert (dc.sweep(dc.solve, **nouns, path=path)["error"] == "").all()


def test_nouns_and_results_pickle():
    training = dc.GradientDescent(lr=[0.1, 0.2], steps=2)
    flow = dc.GradientFlow(times=[0.0, 1.0])
    for noun in (LIMITS[0], training, flow):
        assert pickle.loads(pickle.dumps(noun)) == noun
    data = pickle.loads(pickle.dumps(DATA))
    solution = dc.solve(LIMITS[0], DATA, training)
    np.testing.assert_array_equal(dc.solve(LIMITS[0], data, training).outputs, solution.outputs)
    again = pickle.loads(pickle.dumps(solution))
    np.testing.assert_array_equal(again.ntk, solution.ntk)
    with pytest.raises(dc.DivergenceError) as caught:
        dc.solve(LIMITS[0], DATA, WILD, kernel_times=())
    error = pickle.loads(pickle.dumps(caught.value))
    assert str(error) == str(caught.value)
    assert error.step == caught.value.step
    np.testing.assert_array_equal(error.partial.outputs, caught.value.partial.outputs)
