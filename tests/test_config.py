"""Configuration files: nouns and options survive TOML, and errors name place and remedy."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.config import NOUNS, OPTIONS, Config, ConfigError, read_config, write_config
from dmftcore.demo import digits

PARTS = {
    "limit": 'type = "DeepLinear"\ndepth = 2',
    "data": 'type = "Dataset"\ninputs = [[1.0, 0.5], [0.0, 1.0]]\ntargets = [1, -1]',
    "training": 'type = "GradientDescent"\nlr = 0.1\nsteps = 3',
}


def write(folder: Path, **parts: str | None) -> Path:
    """A configuration file; keywords replace or remove sections of a valid one."""
    sections = {**PARTS, **parts}
    text = "\n".join(f"[{name}]\n{body}\n" for name, body in sections.items() if body is not None)
    path = folder / "run.toml"
    path.write_text(text)
    return path


def assert_equal_nouns(found, wanted):
    assert type(found) is type(wanted)
    for field in dataclasses.fields(wanted):
        a, b = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(b, np.ndarray):
            np.testing.assert_array_equal(a, b, strict=True)
        else:
            assert a == b


def test_reads_nouns_and_defaults(tmp_path):
    config = read_config(write(tmp_path))
    assert config.limit == dc.DeepLinear(depth=2)
    assert config.training == dc.GradientDescent(lr=0.1, steps=3)
    np.testing.assert_array_equal(config.data.inputs, [[1.0, 0.5], [0.0, 1.0]])
    assert config.solve == {}
    assert config.simulate is None
    assert config.plot == {}


def test_options_are_those_of_the_verbs(tmp_path):
    path = write(
        tmp_path,
        solve='kernel_times = [0, 3]\nsave = ["H"]\nmethod = "chain"',
        simulate="width = 8\nseeds = 2",
        plot='output = "run.png"',
    )
    config = read_config(path)
    theory = dc.solve(config.limit, config.data, config.training, **config.solve)
    assert theory.kernel("H", 2, 0, 3).shape == (2, 2)
    experiment = dc.simulate(config.limit, config.data, config.training, **config.simulate)
    assert experiment.per_seed["outputs"].shape == (2, 4, 2)
    assert config.plot == {"output": "run.png"}
    for not_in_files in ("progress", "checkpoint"):
        assert not_in_files not in OPTIONS["solve"] + OPTIONS["simulate"]


def test_steps_may_be_replaced(tmp_path):
    path = write(tmp_path, solve="times = [0, 3]")
    assert read_config(path, steps=7).training == dc.GradientDescent(lr=0.1, steps=7)
    with pytest.raises(ConfigError, match=r"\[solve\] times must increase strictly within 0..2"):
        read_config(path, steps=2)


def test_empty_simulate_section_asks_for_an_experiment(tmp_path):
    assert read_config(write(tmp_path, simulate="")).simulate == {}


def test_arrays_are_read_relative_to_the_file(tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    inputs, targets = np.arange(6.0).reshape(2, 3), np.array([1.0, 2.0])
    np.savez(tmp_path / "sub" / "points.npz", x=inputs)
    np.save(tmp_path / "sub" / "y.npy", targets)
    data = 'type = "Dataset"\ninputs = "points.npz:x"\ntargets = "y.npy"'
    path = write(tmp_path / "sub", data=data)
    monkeypatch.chdir(tmp_path)
    config = read_config(path.relative_to(tmp_path))
    np.testing.assert_array_equal(config.data.inputs, inputs)
    np.testing.assert_array_equal(config.data.targets, targets)


@pytest.mark.parametrize(
    "data",
    [
        dc.Dataset(inputs=[[1.0, 0.1], [0.3, 1 / 3]], targets=[[1.0, 0.0], [0.0, 1.0]]),
        dc.Dataset(gram=[[1.0, 0.2], [0.2, 1.0]], targets=[1.0, -1.0]),
        dc.Dataset(full_gram=np.eye(3), targets=[1.0, -1.0], test_targets=[0.5]),
        dc.Dataset(
            inputs=[[1.0], [2.0]], targets=[1.0, -1.0], test_inputs=[[0.1]], test_targets=[0.2]
        ),
    ],
    ids=["inputs", "gram", "full_gram", "test points"],
)
def test_round_trip(tmp_path, data):
    pytest.importorskip("tomli_w")
    config = Config(
        dc.DeepLinear(depth=3, gamma=1 / 3, init_scale=0.9, readout="ntk"),
        data,
        dc.GradientDescent(lr=1e-3 / 7, steps=50),
        solve={"kernel_times": np.array([0, 10, 50]), "save": ("H", "G"), "tol": None},
        simulate={"width": 30, "seeds": 2},
        plot={"output": "x.pdf"},
    )
    write_config(config, tmp_path / "copy.toml")
    found = read_config(tmp_path / "copy.toml")
    for noun in NOUNS:
        assert_equal_nouns(getattr(found, noun), getattr(config, noun))
    assert found.solve == {"kernel_times": [0, 10, 50], "save": ["H", "G"]}
    assert found.simulate == config.simulate
    assert found.plot == config.plot
    assert {p.name for p in tmp_path.iterdir()} == {"copy.toml", "copy.npz"}


@pytest.mark.parametrize(
    "spectrum",
    [
        None,
        dc.PowerLaw(0.5, 0.9, 30),
        dc.Spectrum([0.5, 2.0], [1.0, 1 / 3], weights=[0.75, 0.25]),
    ],
    ids=["isotropic", "power law", "spectrum"],
)
def test_round_trip_of_random_data(tmp_path, spectrum):
    pytest.importorskip("tomli_w")
    limit = dc.ProportionalLinear(dc.INFINITE, 1.5, 2.0, spectrum=spectrum, branch_scale=1.0)
    config = Config(limit, None, dc.OnlineSGD(0.1, 5))
    write_config(config, tmp_path / "copy.toml")
    found = read_config(tmp_path / "copy.toml")
    assert (found.limit, found.data, found.training) == (limit, None, config.training)


def test_random_data_have_no_section(tmp_path):
    limit = 'type = "ProportionalLinear"\ndepth = 1\nwidth_ratio = 1\nsample_ratio = 2'
    assert read_config(write(tmp_path, limit=limit, data=None)).data is None
    with pytest.raises(ConfigError, match=r"\[data\] must be left out: a ProportionalLinear"):
        read_config(write(tmp_path, limit=limit))
    inner = f'{limit}\nspectrum = {{type = "PowerLow", b = 1, a = 1, modes = 3}}'
    with pytest.raises(ConfigError, match=r"\[limit.spectrum\] unknown type .* 'PowerLaw'\?"):
        read_config(write(tmp_path, limit=inner, data=None))
    inner = f'{limit}\nspectrum = {{type = "PowerLaw", b = 1, a = 1, modes = 0}}'
    with pytest.raises(ConfigError, match=r"\[limit.spectrum\] modes must be an integer >= 1"):
        read_config(write(tmp_path, limit=inner, data=None))


def test_write_config_refuses_nouns_without_a_type(tmp_path):
    pytest.importorskip("tomli_w")
    config = read_config(write(tmp_path))
    with pytest.raises(ConfigError, match=r"\[limit\] cannot hold a str; it holds DeepLinear"):
        write_config(dataclasses.replace(config, limit="deep"), tmp_path / "bad.toml")
    assert not (tmp_path / "bad.toml").exists()


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"limit": None}, r'[limit] is missing: add it with type = "DeepLinear"'),
        ({"limits": ""}, "unknown section 'limits'; did you mean 'limit'?"),
        ({"limit": "depth = 2"}, "[limit] type is missing: one of DeepLinear"),
        ({"limit": 'type = "Deeplinear"'}, "unknown type 'Deeplinear'; did you mean 'DeepLinear'?"),
        ({"limit": PARTS["limit"] + "\ngama = 1"}, "unknown key 'gama'; did you mean 'gamma'?"),
        (
            {"limit": 'type = "DeepLinear"'},
            "[limit] of type DeepLinear: the key 'depth' is missing",
        ),
        ({"limit": PARTS["limit"] + "\ngamma = -1"}, "[limit] gamma must be a number >= 0, not -1"),
        ({"limit": PARTS["limit"] + "\ngamma ="}, "not valid TOML"),
        ({"training": PARTS["training"] + '\nlr = "x"'}, "not valid TOML"),
        (
            {"training": 'type = "GradientDescent"\nlr = 0.1\nsteps = 1.5'},
            "steps must be an integer",
        ),
        ({"solve": "kernel_time = [0]"}, "unknown key 'kernel_time'; did you mean 'kernel_times'?"),
        ({"solve": "kernel_times = [0, 9]"}, "[solve] kernel_times must increase strictly within"),
        ({"simulate": "width = 0"}, "[simulate] width must be an integer >= 1, not 0"),
        ({"simulate": 'seeds = "two"'}, "[simulate] seeds must be an integer, not 'two'"),
        ({"data": 'type = "Dataset"\ninputs = [[1], [2]]'}, "[data] targets is missing"),
        (
            {"data": 'type = "Dataset"\ninputs = [[1], [2, 3]]\ntargets = [1, 2]'},
            "[data] inputs is not a rectangular array",
        ),
        (
            {"data": 'type = "Dataset"\ninputs = "none.npy"\ntargets = [1]'},
            "[data] inputs: there is no file ",
        ),
        (
            {"data": 'type = "Dataset"\ninputs = "a.npz:inputs"\ntargets = [1]'},
            "unknown key 'inputs'; did you mean 'input'? (keys: input, y)",
        ),
        (
            {"data": 'type = "Dataset"\ninputs = "a.npz"\ntargets = [1]'},
            "name an array of",
        ),
        (
            {"data": 'type = "Dataset"\ninputs = "run.npy"\ntargets = [1]'},
            "cannot be read as a numpy file",
        ),
        ({"data": 'type = "Digits"\nclasses = [3, 3]'}, "classes must be two different digits"),
    ],
)
def test_errors_name_file_place_and_remedy(tmp_path, parts, text):
    np.savez(tmp_path / "a.npz", input=np.eye(1), y=[1.0])
    (tmp_path / "run.npy").write_text("no array")
    path = write(tmp_path, **parts)
    with pytest.raises(ConfigError, match=re.escape(text)) as caught:
        read_config(path)
    assert str(caught.value).startswith(str(path))


def test_errors_of_the_file_itself(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot be read"):
        read_config(tmp_path / "absent.toml")
    (tmp_path / "top.toml").write_text("limit = 3\n")
    with pytest.raises(ConfigError, match=r"must be a section, written \[limit\]"):
        read_config(tmp_path / "top.toml")


def test_pickled_arrays_are_not_unpickled(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{}], dtype=object), allow_pickle=True)
    path = write(tmp_path, data='type = "Dataset"\ninputs = "evil.npy"\ntargets = [1]')
    with pytest.raises(ConfigError, match="cannot be read as a numpy file"):
        read_config(path)


def test_digits(tmp_path):
    pytest.importorskip("sklearn")
    path = write(
        tmp_path, data='type = "Digits"\nclasses = [4, 9]\ntrain = 101\ntest = 20\nseed = 3'
    )
    data = read_config(path).data
    assert (data.n_train, data.n_test, data.n_outputs) == (101, 20, 1)
    assert data.targets.sum() == 1
    assert np.all(np.diff(data.targets) <= 0)
    assert data.test_targets.sum() == 0
    np.testing.assert_allclose(data.inputs.mean(axis=0), 0, atol=1e-12)
    assert data.kernel.diagonal()[:101].mean() == pytest.approx(1)
    rows = {row.tobytes() for row in np.vstack([data.inputs, data.test_inputs])}
    assert len(rows) == 121  # Training and test points are disjoint.
    assert_equal_nouns(data, digits((4, 9), 101, 20, seed=3))
    assert np.any(digits((4, 9), 101, 20, seed=4).inputs != data.inputs)
    with pytest.raises(ValueError, match="but there are"):
        digits(train=400)
