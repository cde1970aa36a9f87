"""The command line: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import dmftcore as dc

pytest.importorskip("typer")
pytest.importorskip("psutil")
pytest.importorskip("h5netcdf")
from rich.console import Console
from typer.testing import CliRunner

from dmftcore import _commands, cli
from dmftcore._progress import reporting
from dmftcore.config import read_config
from dmftcore.demo import demo_config
from dmftcore.memory import readable

CONFIG = """
[limit]
type = "DeepLinear"
depth = 2
gamma = 1.2
[data]
type = "Dataset"
inputs = [[1.0, 0.5, 0.0], [0.0, 1.0, -0.3], [-1.0, 0.2, 1.0]]
targets = [1, -1, 1]
test_inputs = [[0.4, 0.1, 0.2]]
test_targets = [1]
[training]
type = "GradientDescent"
lr = {lr}
steps = 20
[solve]
kernel_times = [0, 5, 20]
save = ["H"]
"""
SIMULATE = "[simulate]\nwidth = 16\nseeds = 2\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(text=CONFIG + SIMULATE, lr=0.1, name="run.toml"):
    Path(name).write_text(text.format(lr=lr))


def run(*arguments):
    return CliRunner().invoke(_commands.app, list(map(str, arguments)))


def assert_refused(result, *texts):
    """Exit status 1 and one line on stderr (below progress and warnings) that holds the texts."""
    assert result.exit_code == 1, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("dmftcore: error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.output
    for text in texts:
        assert text in errors[0]


def files():
    return sorted(path.name for path in Path().iterdir())


def test_solve_writes_theory_and_experiment():
    write()
    result = run("solve", "run.toml", "-o", "out.nc")
    assert result.exit_code == 0, result.output
    config = read_config("run.toml")
    theory = dc.solve(config.limit, config.data, config.training, **config.solve)
    stored = dc.Solution.load("out.nc", group="theory")
    np.testing.assert_array_equal(stored.train_loss, theory.train_loss)
    np.testing.assert_array_equal(stored.kernel("H", 2), theory.kernel("H", 2))
    experiment = dc.Solution.load("out.nc", group="experiment")
    assert experiment.per_seed["outputs"].shape == (2, 21, 3)
    assert f"-> {theory.train_loss[-1]:.4g}" in result.stdout
    assert "wrote out.nc" in result.stdout
    assert files() == ["out.nc", "run.toml"]


def test_solve_without_simulate_section_writes_theory_only():
    write(CONFIG)
    assert run("solve", "run.toml", "-o", "out.nc").exit_code == 0
    dc.Solution.load("out.nc", group="theory")
    with pytest.raises(OSError, match="experiment"):
        dc.Solution.load("out.nc", group="experiment")


def test_simulate_writes_experiment_only():
    write()
    assert run("simulate", "run.toml", "-o", "out.nc").exit_code == 0
    assert dc.Solution.load("out.nc", group="experiment").diagnostics["width"] == 16
    with pytest.raises(OSError, match="theory"):
        dc.Solution.load("out.nc", group="theory")


def test_simulate_needs_its_section():
    write(CONFIG)
    assert_refused(run("simulate", "run.toml", "-o", "out.nc"), "run.toml: [simulate] is missing")


def test_pictures_by_option_and_by_section(folder):
    write(CONFIG + '[plot]\noutput = "beside.png"\n')
    (folder / "results").mkdir()
    assert run("solve", "run.toml", "-o", "results/out.nc").exit_code == 0
    assert (folder / "results" / "beside.png").read_bytes().startswith(b"\x89PNG")
    result = run("solve", "run.toml", "-o", "out.nc", "--plot", "here.pdf")
    assert result.exit_code == 0
    assert "wrote here.pdf" in result.stdout
    assert files() == ["here.pdf", "out.nc", "results", "run.toml"]


def test_report_is_one_page_with_theory_against_experiment():
    write()
    run("solve", "run.toml", "-o", "out.nc")
    result = run("report", "out.nc", "-o", "out.html")
    assert result.exit_code == 0, result.output
    assert "wrote out.html" in result.stdout
    page = Path("out.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == []
    theory, experiment = (dc.Solution.load("out.nc", group=g) for g in ("theory", "experiment"))
    # The deviation of the last training loss, of the numbers in the file.
    error = experiment.stderr("train_loss")[-1]
    deviation = (experiment.train_loss[-1] - theory.train_loss[-1]) / error
    last = next(line for line in page.splitlines() if line.startswith("<tr><td>20</td>"))
    cells = re.findall("<td>(.*?)</td>", last)
    assert cells[1:4] == [
        f"{theory.train_loss[-1]:.4g}",
        f"{experiment.train_loss[-1]:.4g} \N{PLUS-MINUS SIGN} {error:.1g}",
        f"{deviation:.2f}",
    ]
    for text in ("depth = 2", "method: growing: ", "stable: ", "H, layer 2", "width = 16", "numpy"):
        assert text in page


def test_report_of_a_theory_alone():
    write(CONFIG)
    run("solve", "run.toml", "-o", "out.nc")
    assert run("report", "out.nc", "-o", "out.html").exit_code == 0
    page = Path("out.html").read_text()
    assert "deviation" not in page
    assert "alignment of H, layer 2" in page


def test_report_of_a_run_without_stored_times():
    none = {"times": [], "kernel_times": []}
    data = dc.Dataset(inputs=np.eye(2), targets=np.ones(2))
    dc.solve(dc.DeepLinear(1), data, dc.GradientDescent(0.1, 2), **none).save("out.nc")
    assert run("report", "out.nc", "-o", "out.html").exit_code == 0
    assert "no times are stored" in Path("out.html").read_text()


def test_report_refuses_what_is_no_page_or_no_result():
    write()
    assert_refused(run("report", "run.toml", "-o", "out.pdf"), "choose a name that ends in .html")
    assert_refused(run("report", "run.toml", "-o", "out.html"), "run.toml is not a result")
    assert_refused(run("report", "none.nc", "-o", "out.html"), "there is no file none.nc")
    assert files() == ["run.toml"]


def test_plot_overlays_any_number_of_files(monkeypatch):
    write()
    write(CONFIG, lr=0.05, name="slow.toml")
    run("solve", "run.toml", "-o", "run.nc")
    run("solve", "slow.toml", "-o", "slow.nc")
    dc.Solution.load("slow.nc", group="theory").save("plain.nc")
    drawn = []

    def keep(solutions, path):
        drawn.append(list(solutions))

    with monkeypatch.context() as patch:
        patch.setattr(_commands, "_save_picture", keep)
        run("plot", "run.nc", "-o", "a.png")
        run("plot", "plain.nc", "-o", "a.png")
        run("plot", "run.nc", "slow.nc", "plain.nc", "-o", "a.png")
    assert drawn == [
        ["theory", "experiment"],
        ["plain"],
        ["run theory", "run experiment", "slow theory", "plain"],
    ]
    assert run("plot", "run.nc", "slow.nc", "-o", "both.png").exit_code == 0
    assert Path("both.png").read_bytes().startswith(b"\x89PNG")


def test_divergence_saves_the_part_before_and_says_so():
    write(lr=50.0)
    result = run("solve", "run.toml", "-o", "out.nc")
    assert_refused(result, "diverged at step", "lr = 50", "is saved in out.nc")
    assert "dmftcore: warning: lr = 50 exceeds" in result.stderr
    partial = dc.Solution.load("out.nc", group="theory")
    assert 0 < len(partial.times) < 21


def test_a_complete_result_is_not_replaced_by_a_partial_one():
    write()
    assert run("solve", "run.toml", "-o", "out.nc").exit_code == 0
    before = Path("out.nc").read_bytes()
    write(lr=50.0)
    assert_refused(run("solve", "run.toml", "-o", "out.nc"), "is saved in out.partial.nc")
    assert Path("out.nc").read_bytes() == before
    assert len(dc.Solution.load("out.partial.nc", group="theory").times) < 21
    assert files() == ["out.nc", "out.partial.nc", "run.toml"]


def test_interrupting_the_experiment_keeps_the_theory(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    write()
    monkeypatch.setattr(_commands, "simulate", interrupt)
    result = run("solve", "run.toml", "-o", "out.nc")
    assert result.exit_code == 130
    assert "dmftcore: error: interrupted; what was solved until then is saved in" in result.stderr
    assert len(dc.Solution.load("out.nc", group="theory").times) == 21


def test_interrupting_the_theory_leaves_nothing(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    write()
    monkeypatch.setattr(_commands, "solve", interrupt)
    assert run("solve", "run.toml", "-o", "out.nc").exit_code == 130
    assert files() == ["run.toml"]


class TestCheckpoints:
    @pytest.fixture
    def interrupting(self, monkeypatch):
        """Runs of the given kind are interrupted at a step."""

        @contextmanager
        def at(group, stop):
            def progress(step, loss):
                if step == stop:
                    raise KeyboardInterrupt

            @contextmanager
            def reporting(description, steps, console):
                yield progress if description.strip() == group else lambda step, loss: None

            with monkeypatch.context() as patch:
                patch.setattr(_commands, "reporting", reporting)
                yield

        return at

    def assert_interrupted(self, result, *texts):
        assert result.exit_code == 130, result.output
        (line,) = [x for x in result.stderr.splitlines() if x.startswith("dmftcore: error: ")]
        for text in texts:
            assert text in line

    def test_ctrl_c_leaves_one_and_the_same_command_resumes(self, interrupting):
        write(CONFIG)
        with interrupting("theory", 8):
            result = run("solve", "run.toml", "-o", "out.nc")
        self.assert_interrupted(
            result, "interrupted at step 8 of 20; out.checkpoint.npz holds the run: start it again"
        )
        assert files() == ["out.checkpoint.npz", "run.toml"]
        result = run("solve", "run.toml", "-o", "out.nc")
        assert "going on at step 8 with the run of out.checkpoint.npz" in result.stderr
        assert files() == ["out.nc", "run.toml"]
        config = read_config("run.toml")
        whole = dc.solve(config.limit, config.data, config.training, **config.solve)
        stored = dc.Solution.load("out.nc", group="theory")
        np.testing.assert_array_equal(stored.outputs, whole.outputs)
        np.testing.assert_array_equal(stored.kernel("H"), whole.kernel("H"))
        assert stored.diagnostics["resumed_from"] == [8]

    def test_the_experiment_is_resumed_and_the_theory_kept(self, interrupting, monkeypatch):
        write()
        with interrupting("experiment", 8):
            result = run("solve", "run.toml", "-o", "out.nc")
        self.assert_interrupted(
            result, "at step 8 of 20; out.checkpoint.experiment.npz holds", "is saved in out.nc"
        )
        assert files() == ["out.checkpoint.experiment.npz", "out.checkpoint.npz", "out.nc",
                           "run.toml"]  # fmt: skip
        result = run("solve", "run.toml", "-o", "out.nc")
        assert result.exit_code == 0, result.output
        assert "theory      step" not in result.stderr
        assert files() == ["out.nc", "run.toml"]
        config = read_config("run.toml")
        whole = dc.simulate(config.limit, config.data, config.training, **config.simulate)
        stored = dc.Solution.load("out.nc", group="experiment")
        np.testing.assert_array_equal(stored.outputs, whole.outputs)

    def test_steps_extend_a_run_that_is_kept(self):
        write()
        options = ["-o", "out.nc", "--checkpoint", "kept.npz"]
        assert run("solve", "run.toml", *options).exit_code == 0
        assert files() == ["kept.experiment.npz", "kept.npz", "out.nc", "run.toml"]
        result = run("solve", "run.toml", *options, "--steps", 30)
        assert result.exit_code == 0, result.output
        assert "going on at step 20 with the run of kept.npz" in result.stderr
        assert "going on at step 20 with the run of kept.experiment.npz" in result.stderr
        config = read_config("run.toml", steps=30)
        assert config.training.steps == 30
        whole = dc.solve(config.limit, config.data, config.training, **config.solve)
        stored = dc.Solution.load("out.nc", group="theory")
        np.testing.assert_array_equal(stored.times, np.arange(31))
        np.testing.assert_array_equal(stored.outputs, whole.outputs)

    def test_steps_without_a_checkpoint(self):
        write(CONFIG)
        assert run("solve", "run.toml", "-o", "out.nc", "--steps", 25).exit_code == 0
        assert dc.Solution.load("out.nc", group="theory").times[-1] == 25
        assert_refused(
            run("solve", "run.toml", "-o", "out.nc", "--steps", 10), "kernel_times must increase"
        )

    def test_simulate_has_its_own(self, interrupting):
        write()
        with interrupting("experiment", 8):
            result = run("simulate", "run.toml", "-o", "out.nc")
        self.assert_interrupted(result, "out.checkpoint.npz holds the run")
        assert run("simulate", "run.toml", "-o", "out.nc").exit_code == 0
        assert files() == ["out.nc", "run.toml"]

    def test_another_configuration_is_refused(self, interrupting):
        write(CONFIG)
        with interrupting("theory", 8):
            run("solve", "run.toml", "-o", "out.nc")
        write(CONFIG, lr=0.05)
        assert_refused(
            run("solve", "run.toml", "-o", "out.nc"),
            "out.checkpoint.npz holds another run: training.lr at update 0 is 0.1 there and 0.05",
            "delete the file",
        )

    def test_a_diverging_run_leaves_none(self, interrupting):
        write(lr=50.0)
        with interrupting("theory", 0):
            run("solve", "run.toml", "-o", "out.nc")
        assert "out.checkpoint.npz" in files()
        assert_refused(run("solve", "run.toml", "-o", "out.nc"), "diverged at step")
        assert files() == ["out.nc", "run.toml"]

    def test_a_signal_stops_a_real_process(self):
        """Ctrl-C as the shell sends it, in the middle of a compiled march."""
        text = CONFIG.replace("steps = 20", "steps = 1_000_000")
        write(
            text.replace("kernel_times = [0, 5, 20]", "kernel_times = []").replace("{lr}", "0.01")
        )
        command = [sys.executable, "-m", "dmftcore.cli", "solve", "run.toml", "-o", "out.nc"]
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )  # fmt: skip
        assert process.stderr is not None
        for line in process.stderr:
            if "step 100000/1000000" in line:
                break
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        assert process.returncode == 130, rest
        assert "dmftcore: error: interrupted at step" in rest
        assert "Traceback" not in rest
        assert files() == ["out.checkpoint.npz", "run.toml"]
        assert run("solve", "run.toml", "-o", "out.nc").exit_code == 0
        config = read_config("run.toml")
        whole = dc.solve(config.limit, config.data, config.training, **config.solve)
        stored = dc.Solution.load("out.nc", group="theory")
        assert 0 < stored.diagnostics["resumed_from"][0] < 1_000_000
        np.testing.assert_array_equal(stored.outputs, whole.outputs)


def test_summary_tells_stability_and_error():
    write(CONFIG.replace("[solve]", "[solve]\nestimate_error = true\ntol = 1e-5"))
    lines = run("solve", "run.toml", "-o", "out.nc").stdout.splitlines()
    assert lines[1].startswith("theory      stable: lr * sharpness stays below 2, at most 0.")
    assert lines[2].startswith("theory      truncation error: outputs ")
    stored = dc.Solution.load("out.nc", group="theory").diagnostics["error_estimate"]
    assert f"outputs {stored['outputs']:.1e}, relative training loss" in lines[2]


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["solve", "run.toml", "-o", "out.nc", "--checkpoint", "run.toml"], ["is also an input"]),
        (["solve", "run.toml", "-o", "out.nc", "--checkpoint", "no/c.npz"], ["the folder no of"]),
        (["solve", "run.toml", "-o", "out.nc", "--steps", "-1"], ["steps must be an integer >= 0"]),
        (["solve", "none.toml", "-o", "out.nc"], ["none.toml: cannot be read"]),
        (["solve", "run.toml", "-o", "no/out.nc"], ["the folder no of no/out.nc does not exist"]),
        (["solve", "run.toml", "-o", "run.toml"], ["run.toml is also an input"]),
        (["solve", "run.toml", "-o", "."], [". is a folder: name a file"]),
        (["solve", "run.toml", "-o", "out.nc", "--plot", "a.xyz"], ["no picture has the ending"]),
        (["solve", "run.toml", "-o", "out.nc", "--plot", "no/a.png"], ["folder no of no/a.png"]),
        (["solve", "run.toml", "-o", "out.nc", "--plot", "out.nc"], ["out.nc is also an input"]),
        (["plot", "none.nc", "-o", "a.png"], ["there is no file none.nc"]),
        (["plot", "run.toml", "-o", "a.png"], ["run.toml is not a result of dmftcore"]),
        (["plot", "other.nc", "-o", "a.png"], ["other.nc is not a result of dmftcore"]),
    ],
)
def test_refusals_come_before_the_work(arguments, texts, monkeypatch):
    def never(*_, **__):
        raise AssertionError("the run was started")

    write()
    import h5netcdf

    with h5netcdf.File("other.nc", "w") as file:
        file.dimensions = {"x": 1}
    monkeypatch.setattr(_commands, "solve", never)
    assert_refused(run(*arguments), *texts)
    assert files() == ["other.nc", "run.toml"]


def test_traceback_is_shown_on_request():
    write(lr=-1)
    assert_refused(run("solve", "run.toml", "-o", "out.nc"), "[training] lr must be a number > 0")
    result = run("solve", "run.toml", "-o", "out.nc", "--traceback")
    assert result.exit_code == 1
    assert isinstance(result.exception, ValueError)


def test_defects_are_not_hidden(monkeypatch):
    def defect(*_, **__):
        raise AssertionError("a defect")

    write()
    monkeypatch.setattr(_commands, "solve", defect)
    assert isinstance(run("solve", "run.toml", "-o", "out.nc").exception, AssertionError)


@pytest.mark.parametrize(
    ("module", "extra"), [("h5netcdf", "io"), ("h5py", "io"), ("matplotlib.figure", "plot")]
)
def test_missing_storage_or_plots_are_noticed_before_the_work(monkeypatch, module, extra):
    def never(*_, **__):
        raise AssertionError("the run was started")

    write()
    monkeypatch.setattr(_commands, "solve", never)
    monkeypatch.setitem(sys.modules, module, None)
    result = run("solve", "run.toml", "-o", "out.nc", "--plot", "a.png")
    assert_refused(result, f'pip install "dmftcore[{extra}]"')


@pytest.mark.parametrize("module", ["typer", "rich", "psutil"])
def test_missing_command_line_packages_name_the_extra(monkeypatch, capsys, module):
    for name in list(sys.modules):
        if name.partition(".")[0] == module or name in ("dmftcore._commands", "dmftcore._progress"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    line = capsys.readouterr().err
    assert line.startswith("dmftcore: error: the command line needs ")
    assert line.endswith('pip install "dmftcore[cli]"\n')


def test_main_runs_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dmftcore", "--version"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"{dc.__version__}\n"


@pytest.mark.parametrize("command", ["solve", "simulate", "plot", "info", "demo"])
def test_help(command):
    assert command in run("--help").stdout
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"dmftcore {command}" in result.stdout or f" {command} [OPTIONS]" in result.stdout


def test_help_keeps_section_names():
    assert "[simulate]" in run("solve", "--help").stdout


def test_info_tells_what_can_run(monkeypatch):
    def version(name):
        if name == "matplotlib":
            raise _commands.metadata.PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(_commands.metadata, "version", version)
    lines = dict(line.split(maxsplit=1) for line in run("info").stdout.splitlines())
    assert lines["xarray"] == "1.2.3"
    assert lines["matplotlib"] == 'missing: pip install "dmftcore[plot]"'
    assert lines["instructions"].split()[0] in ("baseline", "v3", "v4")
    assert lines["threads"].startswith(f"{dc.get_num_threads()} of ")
    count, reason = dc.cuda_status()
    assert (reason if count == 0 else f"{count} device") in run("info").stdout


def console(terminal):
    return Console(file=io.StringIO(), force_terminal=terminal, width=150)


def test_progress_off_a_terminal_is_a_line_at_every_tenth():
    output = console(False)
    with reporting("theory", 1000, output) as progress:
        for step in range(0, 1001, 20):
            progress(step, 1 / (1 + step))
    lines = output.file.getvalue().splitlines()
    assert [int(line.split()[2].partition("/")[0]) for line in lines] == list(range(0, 1001, 100))
    assert lines[5].startswith("theory  step 500/1000  loss 1.996e-03  ")
    assert re.search(r"steps/s  \d+ s left  [\d.]+ [kMGT]?B$", lines[5])


def test_progress_on_a_terminal_is_a_bar():
    output = console(True)
    with reporting("theory", 1000, output) as progress:
        progress(0, 0.5)
        progress(1000, 0.125)
    text = output.file.getvalue()
    for part in ("theory", "1000/1000", "loss 1.250e-01", "steps/s", "left"):
        assert part in text
    assert re.search(r"[\d.]+ [kMGT]?B\b", text)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (999_400_000, "999 MB"), (999_600_000, "1 GB"), (2.5e13, "25 TB")],
)
def test_memory_is_told_in_the_unit_that_fits(size, text):
    assert readable(size) == text


def test_progress_of_a_resumed_run_counts_from_where_it_begins():
    output = console(False)
    with reporting("theory", 1000, output) as progress:
        progress(500, 0.5)
        time.sleep(0.05)
        progress(600, 0.4)
    first, second = output.file.getvalue().splitlines()
    assert "starting" in first
    rate = float(second.split(" steps/s")[0].split()[-1].replace(",", ""))
    assert 0 < rate <= 100 / 0.05


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_the_planned_memory(terminal):
    output = console(terminal)
    with reporting("theory", 20, output) as progress:
        dc.solve(
            dc.DeepLinear(1),
            dc.Dataset(gram=[[1.0]], targets=[1.0]),
            dc.GradientDescent(0.1, 20),
            progress=progress,
        )
    assert "theory  planned memory: " in output.file.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_of_no_steps(terminal):
    output = console(terminal)
    with reporting("theory", 0, output) as progress:
        progress(0, 0.5)
    assert "loss 5.000e-01" in output.file.getvalue()


def test_demo_is_a_sensible_configuration():
    pytest.importorskip("sklearn")
    config = read_config(demo_config())
    assert config.data.n_train >= 100
    assert config.data.n_test > 0
    theory = dc.solve(config.limit, config.data, config.training, **config.solve)
    assert config.training.lr < theory.diagnostics["stability_bound"] / 3
    assert config.training.lr * theory.sharpness.max() < 2
    assert theory.train_loss[-1] < theory.train_loss[0] / 10
    before, after = (theory.kernel("H", 3, t, t) for t in theory.kernel_times[[0, -1]])
    assert np.linalg.norm(after - before) > np.linalg.norm(before)


def test_demo(folder):
    pytest.importorskip("sklearn")
    result = run("demo", "-o", "new")
    assert result.exit_code == 0, result.output
    theory = dc.Solution.load(folder / "new" / "digits.nc", group="theory")
    experiment = dc.Solution.load(folder / "new" / "digits.nc", group="experiment")
    deviation = np.abs(experiment.train_loss - theory.train_loss)
    assert deviation.max() < 0.02
    assert sorted(p.name for p in (folder / "new").iterdir()) == ["digits.nc", "digits.png"]
    assert str(demo_config()) in result.stdout.replace("\n", "")
