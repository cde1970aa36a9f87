"""The result type: access to kernels, and storage that gives back what was put in."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

import dmftcore as dc

h5py = pytest.importorskip("h5py")
xarray = pytest.importorskip("xarray")
pytest.importorskip("h5netcdf")

STEPS = 5
LIMIT = dc.DeepLinear(depth=2, gamma=1.2)
TRAINING = dc.GradientDescent(lr=0.05, steps=STEPS)


def dataset(outputs=None, tests=2):
    generator = np.random.default_rng(1)
    axis = () if outputs is None else (outputs,)
    return dc.Dataset(
        inputs=generator.normal(size=(4, 3)),
        targets=generator.normal(size=(4, *axis)),
        test_inputs=generator.normal(size=(tests, 3)) if tests else None,
        test_targets=generator.normal(size=(tests, *axis)) if tests else None,
    )


@pytest.fixture(scope="module")
def chain():
    return dc.solve(LIMIT, dataset(), TRAINING, method="chain", save="all")


SOLUTIONS = {
    "chain": lambda: dc.solve(LIMIT, dataset(2), TRAINING, method="chain", save="all"),
    "growing": lambda: dc.solve(LIMIT, dataset(), TRAINING, method="growing", save="H"),
    "lazy": lambda: dc.solve(dc.DeepLinear(2, gamma=0), dataset(tests=0), TRAINING),
    "curves": lambda: dc.solve(LIMIT, dataset(), TRAINING, kernel_times=[]),
    "one seed": lambda: dc.simulate(LIMIT, dataset(2), TRAINING, width=8),
    "seeds": lambda: dc.simulate(LIMIT, dataset(2), TRAINING, width=8, seeds=3, save="all"),
}


def assert_same(found, wanted, path=""):
    assert type(found) is type(wanted), path
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys(), path
        for key, value in wanted.items():
            assert_same(found[key], value, f"{path}/{key}")
    elif isinstance(wanted, np.ndarray):
        assert found.dtype == wanted.dtype, path
        np.testing.assert_array_equal(found, wanted, strict=True, err_msg=path)
    else:
        assert found == wanted, path


def fields(solution):
    return {f.name: getattr(solution, f.name) for f in dataclasses.fields(solution)}


@pytest.mark.parametrize("name", SOLUTIONS)
def test_files_give_back_every_field(name, tmp_path):
    solution = SOLUTIONS[name]()
    solution.save(tmp_path / "result.nc")
    assert_same(fields(dc.Solution.load(tmp_path / "result.nc")), fields(solution))
    assert [path.name for path in tmp_path.iterdir()] == ["result.nc"]


def test_files_give_back_fields_that_other_theories_fill(chain, tmp_path):
    extended = dataclasses.replace(
        chain,
        overlap=np.linspace(0, 1, STEPS + 1),
        order_parameters={"S_mean": np.eye(3), "V_mean": np.arange(4.0)},
    )
    extended.save(tmp_path / "result.nc")
    assert_same(fields(dc.Solution.load(tmp_path / "result.nc")), fields(extended))


def test_xarray_names_the_axes(chain):
    table = chain.to_xarray()
    assert table["outputs"].dims == ("time", "pattern")
    assert table["ntk"].dims == ("t", "pattern", "pattern_")
    assert table["H"].dims == ("layer_H", "t", "point", "point_")
    assert table["H_two_time"].dims == ("layer_H_two_time", "t", "point", "s", "point_")
    assert table["B_response"].dims == ("layer_B_response", "t", "output", "s", "pattern")
    assert table["layer_B_response"].values.tolist() == [0, 1]
    np.testing.assert_array_equal(
        table["H_two_time"].sel(layer_H_two_time=2, t=3, s=1), chain.kernel("H", 2, 3, 1)
    )


def test_groups_live_side_by_side_and_are_replaced_one_by_one(chain, tmp_path):
    path = tmp_path / "both.nc"
    experiment = dc.simulate(LIMIT, dataset(), TRAINING, width=8)
    chain.save(path, group="theory")
    experiment.save(path, group="experiment")
    assert_same(fields(dc.Solution.load(path, group="theory")), fields(chain))

    other = dc.solve(LIMIT, dataset(2, tests=3), dc.GradientDescent(lr=0.05, steps=3))
    other.save(path, group="theory")
    assert_same(fields(dc.Solution.load(path, group="theory")), fields(other))
    assert_same(fields(dc.Solution.load(path, group="experiment")), fields(experiment))


@pytest.mark.parametrize("group", [None, "theory"])
def test_an_interrupted_write_leaves_the_old_file(chain, tmp_path, monkeypatch, group):
    path = tmp_path / "result.nc"
    chain.save(path, group=group)
    before = path.read_bytes()

    def fail(self, file, **_):
        with open(file, "wb") as stream:
            stream.write(b"half a fi")
        raise OSError("no space left on device")

    monkeypatch.setattr(xarray.Dataset, "to_netcdf", fail)
    with pytest.raises(OSError, match="no space"):
        chain.save(path, group=group)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


@pytest.mark.parametrize("module", ["xarray", "h5netcdf", "h5py"])
def test_missing_storage_names_the_extra(chain, tmp_path, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "dmftcore\[io\]"'):
        chain.save(tmp_path / "result.nc")


def test_partial_results_of_a_diverged_run_can_be_stored(tmp_path):
    data = dataset()
    with (
        pytest.warns(dc.StabilityWarning),
        pytest.raises(dc.DivergenceError) as caught,
    ):
        dc.solve(LIMIT, data, dc.GradientDescent(lr=50.0, steps=20))
    partial = caught.value.partial
    assert 0 < len(partial.times) <= caught.value.step
    partial.save(tmp_path / "partial.nc")
    assert_same(fields(dc.Solution.load(tmp_path / "partial.nc")), fields(partial))


def test_kernel_selects_times_and_layers(chain):
    full = chain.kernel("H", 2)
    assert full.shape == (STEPS + 1, 6, STEPS + 1, 6)
    np.testing.assert_array_equal(chain.kernel("H", 2, t=3), full[3])
    np.testing.assert_array_equal(chain.kernel("H", 2, s=1), full[:, :, 1])
    np.testing.assert_array_equal(chain.kernel("H", 2, 3, 1), full[3, :, 1])
    np.testing.assert_allclose(chain.kernel("H", 2, 4, 4), full[4, :, 4], rtol=1e-12)
    np.testing.assert_array_equal(chain.kernel("H")[1], full)
    np.testing.assert_array_equal(chain.response("A")[0], chain.response("A", 1))


def test_kernel_says_how_to_get_what_is_missing(chain):
    equal = dc.solve(LIMIT, dataset(), TRAINING, kernel_times=[0, 2, 5])
    assert equal.kernel("H", 1, 2, 2).shape == (6, 6)
    for solution, arguments, text in (
        (equal, ("H", 1), r"save=\('H',\)"),
        (equal, ("H", 1, 2, 5), r"save=\('H',\)"),
        (equal, ("H", 1, 3, 3), "step 3 were not stored: pass kernel_times"),
        (equal, ("Q", 1, 2, 2), "no kernel named 'Q'; there are G, H"),
        (equal, ("H", 3, 2, 2), "'H' has no layer 3; there are 1, 2"),
        (chain, ("H", 1, 99, 0), "step 99 were not stored"),
    ):
        with pytest.raises(KeyError, match=text):
            solution.kernel(*arguments)


def test_responses_say_what_was_saved(chain):
    with pytest.raises(KeyError, match=r"'C' was not saved \(saved: A, B\)"):
        chain.response("C")
    with pytest.raises(KeyError, match="'A' has no layer 7; there are 1, 2"):
        chain.response("A", 7)


def test_standard_errors_exist_for_measurements_only(chain):
    with pytest.raises(KeyError, match=r"there are none.*deterministic"):
        chain.stderr("train_loss")
    measured = dc.simulate(LIMIT, dataset(), TRAINING, width=8, seeds=3)
    curves = measured.per_seed["train_loss"]
    np.testing.assert_allclose(
        measured.stderr("train_loss"), curves.std(axis=0, ddof=1) / np.sqrt(3), rtol=1e-12
    )
