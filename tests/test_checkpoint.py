"""Checkpoints: a run that was interrupted or extended is the run, bit for bit."""

from __future__ import annotations

import os
import re
import signal
import threading
import time

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import checkpoint as checkpoints
from dmftcore import march as marches
from dmftcore.checkpoint import Checkpoint
from dmftcore.march import Diverged, march, resumed
from dmftcore.schedule import Schedule


class Chaos:
    """A march that forgets nothing: a logistic map, whose errors double at every step."""

    def __init__(self, seconds=0.0, diverges_at=None, signals_at=()):
        self.step, self.x, self.kernels = 0, np.array([0.3, 0.7]), []
        self._seconds, self._diverges_at, self._signals_at = seconds, diverges_at, signals_at

    def advance(self, stops):
        rows = []
        for stop in stops.tolist():
            while self.step < stop:
                time.sleep(self._seconds)
                for _ in range(self._signals_at.count(self.step)):
                    os.kill(os.getpid(), signal.SIGINT)
                self.step += 1
                if self.step == self._diverges_at:
                    return np.array(rows).reshape(-1, 2, 1)
                self.x = 3.99 * self.x * (1 - self.x)
            rows.append(self.x[:, None])
        return np.array(rows).reshape(-1, 2, 1)

    def store_kernels(self):
        self.kernels.append(self.x)

    def state(self):
        kernels = np.array(self.kernels).reshape(-1, 2)
        return {"step": np.array(self.step), "x": self.x, "kernels": kernels}

    def restore(self, state):
        self.step, self.x = int(state["step"]), state["x"]
        self.kernels = list(state["kernels"])


CONFIG = {
    "limit": {"type": "Chaos", "depth": 2, "gamma": 1.5},
    "data": {"gram": {"shape": [4, 4], "dtype": "float64", "sha256": "1a"}},
    "training": {"type": "GradientDescent", "lr": 0.1, "steps": 300, "momentum": 0.0},
    "solve": {"times": None, "kernel_times": None, "save": ["H"], "tol": None, "method": None},
    "versions": {"date": "today"},
}


def changed(section, **fields):
    return {**CONFIG, section: {**CONFIG[section], **fields}}


def run(path, steps=300, *, times=None, kernel_times=None, stop_at=None, config=CONFIG, lr=0.1,
        tol=1e-8, system=None, at_end=True):  # fmt: skip
    """Outputs, stored kernels, schedule and checkpoint; interrupted when progress says so."""

    def progress(step, loss):
        if stop_at is not None and step >= stop_at:
            raise KeyboardInterrupt

    system = system or Chaos()
    file = None if path is None else Checkpoint(path, at_end=at_end)
    schedule = Schedule.of(steps, times, kernel_times)
    schedule = resumed(schedule, file, config, lr, engine="chaos", tol=tol)
    outputs = march(system, schedule, lambda rows: float(rows.sum()), progress, file)
    return outputs, np.array(system.kernels), schedule, file


def interrupt(path, stop_at, **options):
    with pytest.raises(KeyboardInterrupt):
        run(path, stop_at=stop_at, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.npz"


class TestResume:
    @pytest.mark.parametrize("stop_at", [0, 1, 78, 298, 300])
    def test_is_bit_equal(self, path, stop_at):
        whole = run(None)
        interrupt(path, stop_at)
        outputs, kernels, schedule, file = run(path)
        np.testing.assert_array_equal(outputs, whole[0])
        np.testing.assert_array_equal(kernels, whole[1])
        np.testing.assert_array_equal(schedule.times, whole[2].times)
        assert file.resumed_from == ([] if stop_at == 300 else [stop_at])

    def test_many_times(self, path):
        for stop_at in (3, 51, 60, 300):
            interrupt(path, stop_at)
        outputs, _, _, file = run(path)
        np.testing.assert_array_equal(outputs, run(None)[0])
        assert file.resumed_from == [3, 51, 60]

    def test_wherever_it_is_saved(self, path, monkeypatch):
        """Saved after every piece of the march; every one of these files goes on to the same."""
        saves, save = [], Checkpoint.save

        def copied(self, take):
            done = save(self, take)
            saves.append(self.path.read_bytes())
            return done

        monkeypatch.setattr(checkpoints, "INTERVAL", 0.0)
        monkeypatch.setattr(checkpoints, "SHARE", np.inf)
        monkeypatch.setattr(Checkpoint, "save", copied)
        options = {"steps": 90, "times": [0, 7, 60, 90], "kernel_times": [5, 89]}
        whole = run(path, **options)
        monkeypatch.undo()
        assert len(saves) > 80
        for content in saves[::8]:
            path.write_bytes(content)
            outputs, kernels, _, _ = run(path, **options)
            np.testing.assert_array_equal(outputs, whole[0])
            np.testing.assert_array_equal(kernels, whole[1])

    def test_a_complete_run_is_returned_at_once(self, path):
        whole = run(path)
        before = path.read_bytes()
        system = Chaos()
        system.advance = None
        outputs, kernels, _, file = run(path, system=system)
        np.testing.assert_array_equal(outputs, whole[0])
        np.testing.assert_array_equal(kernels, whole[1])
        assert file.resumed_from == []
        assert path.read_bytes() == before

    def test_wall_time_adds_up(self, path):
        interrupt(path, 20, steps=40, system=Chaos(seconds=0.01))
        _, _, _, file = run(path, steps=40, system=Chaos(seconds=0.01))
        assert file.diagnostics()["wall_seconds"] >= 0.4

    def test_nothing_wanted(self, path):
        outputs, _, _, _ = run(path, times=[], kernel_times=[])
        assert len(outputs) == 0
        assert not path.exists()


class TestExtension:
    @pytest.mark.parametrize("stop_at", [None, 120])
    def test_is_bit_equal_to_the_longer_run(self, path, stop_at):
        if stop_at is None:
            run(path)
        else:
            interrupt(path, stop_at)
        outputs, _, schedule, _ = run(path, steps=700)
        np.testing.assert_array_equal(schedule.times, np.arange(701))
        np.testing.assert_array_equal(outputs, run(None, steps=700)[0])

    def test_default_times_keep_what_is_stored(self, path, monkeypatch):
        """All of the 300 steps, then the log-spaced ones of a longer run."""
        monkeypatch.setattr("dmftcore.schedule.ALL_TIMES", 1000)
        monkeypatch.setattr("dmftcore.schedule.LOG_TIMES", 50)
        old, fresh = Schedule.of(300), Schedule.of(1200)
        run(path)
        outputs, kernels, schedule, _ = run(path, steps=1200)
        for name in ("times", "kernel_times"):
            stored, first, default = (getattr(s, name) for s in (schedule, old, fresh))
            np.testing.assert_array_equal(stored, [*first, *default[default > 300]])
        assert len(schedule.times) < 350
        longer = run(None, steps=1200, times=schedule.times, kernel_times=schedule.kernel_times)
        np.testing.assert_array_equal(outputs, longer[0])
        np.testing.assert_array_equal(kernels, longer[1])

    def test_explicit_times_go_on(self, path):
        run(path, times=[0, 100], kernel_times=[100])
        outputs, kernels, _, _ = run(path, steps=400, times=[0, 100, 400], kernel_times=[100, 350])
        longer = run(None, steps=400, times=[0, 100, 400], kernel_times=[100, 350])
        np.testing.assert_array_equal(outputs, longer[0])
        np.testing.assert_array_equal(kernels, longer[1])

    def test_of_a_schedule_of_rates(self, path):
        rates = np.geomspace(0.1, 0.01, 500)
        run(path, lr=rates[:300])
        run(path, steps=500, lr=rates)
        rates[299] *= 1.01
        with pytest.raises(ValueError, match=r"training.lr at update 299 is 0\.0\d+ there and"):
            run(path, steps=500, lr=rates)

    def test_a_run_may_end_earlier_but_not_before_the_checkpoint(self, path):
        interrupt(path, 100)
        with pytest.raises(ValueError, match="steps = 99, but the checkpoint is at step 100"):
            run(path, steps=99)
        outputs, _, _, _ = run(path, steps=150)
        np.testing.assert_array_equal(outputs, run(None, steps=150)[0])


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"config": changed("limit", gamma=2.0)}, "limit.gamma is 1.5 there and 2.0 here"),
            ({"config": changed("training", momentum=0.5)}, "momentum is 0.0 there and 0.5 here"),
            ({"config": changed("solve", save=[])}, r"solve.save is \['H'\] there and \[\] here"),
            ({"config": changed("data", gram={"shape": [4, 4], "dtype": "float64", "sha256": "2"})},
             "data.gram has other values there"),
            ({"config": changed("limit", more=1)}, "limit.more is known to this call only"),
            ({"lr": 0.2}, "training.lr at update 0 is 0.1 there and 0.2 here"),
            ({"tol": 1e-6}, "tol is 1e-08 there and 1e-06 here"),
        ],
    )  # fmt: skip
    def test_another_run(self, path, options, text):
        interrupt(path, 100)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=f"{path} holds another run: .*{text}; .*delete"):
            run(path, **options)
        assert path.read_bytes() == before

    @pytest.mark.parametrize("name", ["times", "kernel_times"])
    def test_steps_that_have_passed(self, path, name):
        interrupt(path, 100, **{name: [0, 50, 300]})
        for steps, text in (
            ([0, 50, 60, 300], f"{name} asks for step 60"),
            ([0, 300], f"{name} lacks step 50"),
            (None, f"{name} (asks for|lacks) step 1"),
        ):
            with pytest.raises(ValueError, match=text):
                run(path, **{name: steps})
        run(path, **{name: [0, 50, 200, 300]})

    def test_chosen_times_after_default_ones(self, path):
        interrupt(path, 100)
        with pytest.raises(ValueError, match=r"lacks step 1, .*leave times out to keep"):
            run(path, times=[0, 300])
        outputs, _, _, _ = run(path, times=[*range(101), 300])
        assert len(outputs) == 102

    def test_another_version(self, path, monkeypatch):
        interrupt(path, 100)
        monkeypatch.setattr(checkpoints.metadata, "version", lambda _: "98.7.6")
        with pytest.raises(ValueError, match=re.escape(f"dmftcore {dc.__version__}, and this is")):
            run(path)

    def test_a_later_patch_is_the_same_series(self, path, monkeypatch):
        interrupt(path, 100)
        major, minor = dc.__version__.split(".")[:2]
        monkeypatch.setattr(checkpoints.metadata, "version", lambda _: f"{major}.{minor}.99")
        run(path)

    def test_damaged_and_foreign_files(self, path, tmp_path):
        interrupt(path, 100)
        whole = path.read_bytes()
        spoilt = bytearray(whole)
        spoilt[whole.index(Chaos().x.tobytes())] ^= 1
        np.savez(tmp_path / "other.npz", a=np.ones(3))
        np.save(tmp_path / "plain.npy", np.ones(3))
        contents = [
            b"",
            b"text",
            whole[: len(whole) // 2],
            bytes(spoilt),
            (tmp_path / "other.npz").read_bytes(),
            (tmp_path / "plain.npy").read_bytes(),
        ]
        for content in contents:
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"{path} is not a checkpoint of dmftcore"):
                run(path)
            assert path.read_bytes() == content

    def test_places_that_cannot_be_written(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"checkpoint: the folder .* does not exist"):
            run(tmp_path / "no" / "run.npz")
        with pytest.raises(PermissionError, match="cannot be written"):
            run(tmp_path)
        with pytest.raises(TypeError, match="checkpoint must be a path, not 3"):
            run(3)


class TestSaving:
    def test_takes_its_share_of_the_time(self, path, monkeypatch):
        """At intervals, and more rarely where a save takes long."""
        file = Checkpoint(path)
        file.admit(CONFIG, 0.1)
        assert not file.due
        monkeypatch.setattr(checkpoints, "INTERVAL", 0.01)
        time.sleep(0.02)
        assert file.due
        saved = checkpoints.Saved(0, *[np.arange(1)] * 2, (), np.zeros((1, 1, 1)), {})

        def slow():
            time.sleep(0.05)
            return saved

        file.save(slow)
        time.sleep(0.02)
        assert not file.due  # before 0.05 s / SHARE = 1 s

    def test_a_failing_save_keeps_the_older_file_and_the_run(self, path, monkeypatch):
        interrupt(path, 100)
        before = path.read_bytes()

        def full(file, **arrays):
            file.write(b"half")
            raise OSError("no space left on device")

        monkeypatch.setattr(np, "savez", full)
        with pytest.warns(RuntimeWarning, match=r"could not be written: no space left on device"):
            outputs, _, _, _ = run(path)
        np.testing.assert_array_equal(outputs, run(None)[0])
        assert path.read_bytes() == before
        assert [p.name for p in path.parent.iterdir()] == ["run.npz"]

    def test_at_the_end_or_not(self, path):
        run(path, at_end=False)
        assert not path.exists()
        interrupt(path, 100, at_end=False)
        before = path.read_bytes()
        run(path, at_end=False)
        assert path.read_bytes() == before

    def test_a_state_is_not_held_twice(self, path):
        interrupt(path, 100)
        _, _, _, file = run(path)
        assert file.saved is None

    def test_a_diverging_run_leaves_what_was_saved_before(self, path):
        interrupt(path, 100)
        before = path.read_bytes()
        with pytest.raises(Diverged) as caught:
            run(path, system=Chaos(diverges_at=200))
        np.testing.assert_array_equal(caught.value.schedule.times, np.arange(200))
        assert len(caught.value.outputs) == 200
        assert path.read_bytes() == before

    def test_other_faults_pass_through(self, path):
        class Broken(Chaos):
            def advance(self, stops):
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            run(path, system=Broken())
        assert not path.exists()


class TestInterrupt:
    @pytest.fixture(autouse=True)
    def ordinary_handler(self):
        """A shell may have started the tests with signals ignored."""
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        yield
        signal.signal(signal.SIGINT, before)

    def test_leaves_a_checkpoint_and_says_so(self, path):
        options = {"steps": 2000, "times": [0, 2000], "kernel_times": []}
        whole = run(None, **options)[0]
        text = rf"interrupted at step \d+ of 2000; {path} holds the run"
        with pytest.raises(KeyboardInterrupt, match=text):
            run(path, system=Chaos(signals_at=[700]), **options)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        outputs, _, _, file = run(path, **options)
        np.testing.assert_array_equal(outputs, whole)
        assert 700 < file.resumed_from[0] < 2000

    def test_comes_within_a_moment_in_long_segments(self, path, monkeypatch):
        """One segment of 20 s is cut where the clock says, after 0.2 s or twice as many steps."""
        monkeypatch.setattr(marches, "REPORTS", 1)
        system = Chaos(seconds=0.001, signals_at=[300])
        with pytest.raises(KeyboardInterrupt, match="holds the run"):
            run(path, 20_000, times=[20_000], kernel_times=[], system=system)
        assert 300 < system.step < 1000

    def test_twice_stops_at_once(self, path):
        """In the middle of a step: no state is at hand to be saved."""
        system = Chaos(signals_at=[100, 100])
        with pytest.raises(KeyboardInterrupt):
            run(path, system=system)
        assert system.step == 100
        assert not path.exists()

    def test_without_a_checkpoint_stops_at_once(self):
        system = Chaos(signals_at=[100])
        with pytest.raises(KeyboardInterrupt):
            run(None, system=system)
        assert system.step == 100

    def test_at_the_last_step_is_not_forgotten(self, path):
        with pytest.raises(KeyboardInterrupt):
            run(path, system=Chaos(signals_at=[299]))
        run(path)

    def test_other_handlers_are_left_alone(self, path):
        seen = []
        signal.signal(signal.SIGINT, lambda *_: seen.append(1))
        run(path, 100, system=Chaos(signals_at=[50]))
        assert seen == [1]

    def test_threads_have_no_signals(self, path):
        thread = threading.Thread(target=run, args=(path,))
        thread.start()
        thread.join()
        assert path.exists()


def test_pieces_do_not_change_a_march(monkeypatch):
    whole = run(None, 900, times=[0, 300, 900], kernel_times=[150])
    for patience in (0.0, 1e-5, 10.0):
        monkeypatch.setattr(marches, "PATIENCE", patience)
        outputs, kernels, _, _ = run(None, 900, times=[0, 300, 900], kernel_times=[150])
        np.testing.assert_array_equal(outputs, whole[0])
        np.testing.assert_array_equal(kernels, whole[1])


@pytest.mark.parametrize("engine", ["growing", "chain", "lazy", "simulate"])
def test_pieces_do_not_change_a_solution(engine, monkeypatch):
    """Products of many points at many steps: BLAS rounds them by their shape."""
    x, y = np.random.default_rng(1).normal(size=(60, 33)), np.ones(60)
    options = {"times": range(0, 201), "kernel_times": []}
    options |= {"width": 20} if engine == "simulate" else {}
    options |= {"method": engine} if engine in ("growing", "chain") else {}
    verb = dc.simulate if engine == "simulate" else dc.solve
    limit = dc.DeepLinear(2, gamma=0.0 if engine == "lazy" else 1.0)
    found = []
    for patience, reports in ((0.0, 200), (100.0, 1)):
        monkeypatch.setattr(marches, "PATIENCE", patience)
        monkeypatch.setattr(marches, "REPORTS", reports)
        solution = verb(
            limit, dc.Dataset(inputs=x, targets=y), dc.GradientDescent(0.02, 200), **options
        )
        found.append(solution.outputs)
    np.testing.assert_array_equal(*found)
