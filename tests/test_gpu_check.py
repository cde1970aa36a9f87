"""The driver of the check on a GPU machine: it reports and goes on, whatever a stage does."""

from __future__ import annotations

import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DRIVER = ROOT / "bench" / "gpu_check.py"


@pytest.fixture
def gpu_check(monkeypatch, tmp_path):
    """The driver, with a workshop of its own."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench import gpu_check

    monkeypatch.setattr(gpu_check, "WORK", tmp_path / "work")
    monkeypatch.setattr(gpu_check, "SITE", tmp_path / "work" / "site")
    return gpu_check


@pytest.fixture
def run(gpu_check, monkeypatch, tmp_path, capsys):
    """Run these stages, name -> action; exit status, record, what was printed."""

    def run(actions, budget=60.0, weights=None, gpu_only=()):
        stages = {
            name: gpu_check.Stage(action, (weights or {}).get(name, 1), name in gpu_only)
            for name, action in actions.items()
        }
        monkeypatch.setattr(gpu_check, "STAGES", stages)
        with pytest.raises(SystemExit) as exit:
            gpu_check.main(
                *("--out", str(tmp_path / "out"), "--budget", str(budget)),
                *("--stages", ",".join(stages)),
            )
        record = json.loads((tmp_path / "out" / "check.json").read_text())
        return exit.value.code, record, capsys.readouterr().out

    return run


@pytest.fixture
def on_a_gpu(gpu_check, tmp_path):
    """A run that believes to have a GPU and a package that was built."""
    check = gpu_check.Check(tmp_path / "out")
    check.facts = {"devices": [{"name": "Stand-in", "compute_capability": "9.0"}]}
    check.stage, check.deadline = "trial", time.monotonic() + 60
    gpu_check.SITE.mkdir(parents=True)
    return check


def python(check, code, **options):
    return check.run([sys.executable, "-c", code], **options)


def test_a_stage_that_hangs_is_killed_with_its_children(gpu_check, run, tmp_path):
    # The child ignores the request to stop, keeps the output open and would write a file.
    child = (
        "import signal, sys, time; signal.signal(signal.SIGINT, signal.SIG_IGN); "
        "print('child', flush=True); time.sleep(12); open(sys.argv[1], 'w')"
    )
    trace = tmp_path / "trace"
    parent = (
        "import subprocess, sys, time; "
        f"subprocess.Popen([sys.executable, '-c', {child!r}, {str(trace)!r}]); "
        "print('working', flush=True); time.sleep(600)"
    )

    def hang(check):
        done = python(check, parent, share=0.3)
        assert "working" in done.output
        assert "KeyboardInterrupt" in done.output
        return gpu_check.Outcome(done.verdict, "hung")

    begin = time.monotonic()
    status, record, out = run(
        {"hang": hang, "after": lambda check: gpu_check.Outcome(gpu_check.Verdict.PASSED, "fine")},
        budget=30,
    )
    assert time.monotonic() - begin < 27
    assert status == record["exit_status"] == gpu_check.Verdict.KILLED
    assert record["stages"]["hang"]["verdict"] == "killed"
    assert record["stages"]["after"] == {"verdict": "passed", "seconds": 0, "summary": "fine"}
    assert "killed after" in (tmp_path / "out" / "hang.log").read_text()
    assert "after       passed" in out
    time.sleep(max(0.0, begin + 18 - time.monotonic()))
    assert not trace.exists()


def test_the_exit_status_is_that_of_the_worst_stage(gpu_check, run):
    outcomes = {verdict.name: gpu_check.Outcome(verdict, "so") for verdict in gpu_check.Verdict}

    def stages(*names):
        return {name: lambda check, name=name: outcomes[name] for name in names}

    assert run(stages("PASSED"))[0] == 0
    assert run(stages("NOT_RUN", "PASSED"))[0] == 3
    assert run(stages("PASSED", "FAILED", "NOT_RUN"))[0] == 4
    assert run(stages("KILLED", "FAILED"))[0] == 5


def test_a_fault_of_the_driver_ends_one_stage_only(gpu_check, run):
    def broken(check):
        return {}["key"]

    status, record, _ = run(
        {"broken": broken, "next": lambda check: gpu_check.Outcome(gpu_check.Verdict.PASSED, "")}
    )
    assert status == 4
    assert record["stages"]["broken"]["summary"] == "KeyError: 'key'"
    assert record["stages"]["next"]["verdict"] == "passed"


def test_time_that_is_left_over_goes_to_later_stages(gpu_check, run):
    limits = []

    def quick(check):
        limits.append(check.deadline - time.monotonic())
        return gpu_check.Outcome(gpu_check.Verdict.PASSED, "")

    run({"a": quick, "b": quick, "c": quick}, budget=60, weights={"a": 3, "b": 2, "c": 1})
    assert limits == pytest.approx([30, 40, 60], abs=1)
    # Without a GPU no time is set aside for what needs one.
    limits.clear()
    run({"a": quick, "b": quick}, budget=60, gpu_only=["b"])
    assert limits == pytest.approx([60], abs=1)
    status, record, _ = run({"a": quick}, budget=0)
    assert status == 3
    assert record["stages"]["a"]["summary"] == "no time left of 0 s"


def test_what_is_known_is_written_after_each_stage(gpu_check, run, tmp_path):
    def look(check):
        record = json.loads((tmp_path / "out" / "check.json").read_text())
        return gpu_check.Outcome(gpu_check.Verdict.PASSED, ",".join(record["stages"]))

    first = gpu_check.Outcome(gpu_check.Verdict.PASSED, "", {"more": [1, 2]})
    _, record, _ = run({"first": lambda check: first, "look": look})
    assert record["stages"]["look"]["summary"] == "first"
    assert record["stages"]["first"]["more"] == [1, 2]


def test_the_record_has_date_and_versions(gpu_check, tmp_path):
    check = gpu_check.Check(tmp_path)
    check.facts = {
        "nvcc_version": "13.0.88",
        "packages": {"numpy": "2.0"},
        "state": {"driver_version": "580.1"},
    }
    check.save()
    record = json.loads((tmp_path / "check.json").read_text())
    assert (record["nvcc"], record["driver"]) == ("13.0.88", "580.1")
    assert record["packages"] == {"numpy": "2.0"}
    age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(record["date"])
    assert age.total_seconds() < 60


def test_small_cases_are_a_stage_of_their_own(gpu_check, on_a_gpu, monkeypatch, tmp_path):
    cases = tmp_path / "stub" / "bench"
    cases.mkdir(parents=True)
    (cases / "__init__.py").touch()
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path / "stub")
    # Both programs have the same size, and may be written within the same second.
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    for status, verdict in ((0, gpu_check.Verdict.PASSED), (1, gpu_check.Verdict.FAILED)):
        line = f"9 cases, {status} of them wrong"
        (cases / "_small_cases.py").write_text(f"import sys; print({line!r}); sys.exit({status})")
        outcome = gpu_check.small(on_a_gpu)
        assert (outcome.verdict, outcome.summary) == (verdict, line)


def drive(*words, **environment):
    """The driver as a program, outside of the project."""
    return subprocess.run(
        [sys.executable, DRIVER, *words],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
        cwd=Path(sys.prefix),
    )


def test_the_stages_are_listed():
    done = drive("--list")
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert names == [*("facts", "fragments", "build", "small", "tests", "benchmarks", "sanitizer")]


def test_an_unknown_stage_is_refused():
    done = drive("--stages", "facts,lunch")
    assert done.returncode == 2
    assert "no such stage: lunch" in done.stderr


def test_facts_are_written_and_tell_whether_there_is_a_gpu(tmp_path):
    # OUT names the folder, and the facts are taken whatever was chosen.
    done = drive("--stages", "sanitizer", OUT=str(tmp_path / "here"), CUDA_VISIBLE_DEVICES="")
    facts = json.loads((tmp_path / "here" / "facts.json").read_text())
    assert facts["packages"]["numpy"]
    assert facts["cpu"]
    assert facts["devices"] == []
    assert facts["no_device"]
    # The facts were found; that there is nothing to check is told by the status.
    assert done.returncode == 3, done.stdout
    assert f"no GPU: {facts['no_device']}" in done.stdout
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == [
        "check.json",
        "facts.json",
    ]


def test_without_facts_nothing_is_run(gpu_check, run, monkeypatch):
    monkeypatch.setattr(gpu_check.sys, "executable", shutil.which("false"))
    status, record, _ = run(
        {"facts": gpu_check.facts, "tests": gpu_check.tests}, gpu_only=["tests"]
    )
    assert status == 4
    assert record["stages"]["facts"]["verdict"] == "failed"
    assert record["stages"]["tests"]["summary"] == "no GPU: the facts could not be taken"


def test_the_driver_needs_the_standard_library_alone():
    code = (
        "import sys; before = set(sys.modules); import bench.gpu_check; "
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        "print(sorted(new - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True)
    assert done.stdout.decode().strip() == "['bench']", done.stderr.decode()


# -- single stages -----------------------------------------------------------------------------

#: What ptxas 13.0 prints with -v for two instances of a kernel, the second cut down to spill.
PTXAS = """
  [27/38] Building CUDA object CMakeFiles/_core.dir/csrc/cuda/trial.cu.o
  ptxas info    : 0 bytes gmem
  ptxas info    : Compiling entry function '_Z5trialIfEvPKT_' for 'sm_90'
  ptxas info    : Function properties for _Z5trialIfEvPKT_
      0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
  ptxas info    : Used 38 registers, used 0 barriers, 16 bytes smem
  ptxas info    : Compile time = 21.386 ms
  ptxas info    : Compiling entry function '_Z5trialIdEvPKT_' for 'sm_90'
  ptxas info    : Function properties for _Z5trialIdEvPKT_
      96 bytes stack frame, 92 bytes spill stores, 100 bytes spill loads
  ptxas info    : Used 255 registers, used 1 barriers, 96 bytes cumulative stack size
  ptxas info    : Function properties for _Z6helperd
      8 bytes stack frame, 8 bytes spill stores, 8 bytes spill loads
"""


def test_registers_and_spills_are_read_from_the_compiler(gpu_check, monkeypatch):
    monkeypatch.setattr(gpu_check, "demangled", lambda kernels: kernels)
    assert gpu_check.registers(PTXAS) == {
        "_Z5trialIfEvPKT_": {"registers": 38, "spills": 0, "stack": 0},
        "_Z5trialIdEvPKT_": {"registers": 255, "spills": 192, "stack": 96},
    }


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt is not installed")
def test_kernels_have_the_names_of_the_source(gpu_check):
    assert list(gpu_check.registers(PTXAS)) == [
        "void trial<float>(float const*)",
        "void trial<double>(double const*)",
    ]


def test_an_editable_install_does_not_come_first(gpu_check, on_a_gpu, monkeypatch, tmp_path):
    installed = tmp_path / "installed"
    installed.mkdir()
    (installed / "_editable_dmftcore.pth").write_text("import _redirect_dmftcore\n/elsewhere\n")
    monkeypatch.setattr(gpu_check.site, "getsitepackages", lambda: [str(installed)])
    gpu_check.shadow_editable_installs()
    assert [path.name for path in gpu_check.SITE.iterdir()] == ["_redirect_dmftcore.py"]


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("412 passed, 3 skipped in 61.20s (0:01:01)", {"passed": 412, "skipped": 3}),
        ("== 1 failed, 2 passed, 1 error in 3.1s ==", {"failed": 1, "passed": 2, "error": 1}),
        ("no tests ran in 0.01s", {}),
    ],
)
def test_counts_of_the_tests(gpu_check, line, counts):
    output = f"....\nFAILED tests/test_x.py::test_y - 5 errors in it\n{line}\n"
    assert gpu_check.count(output) == counts


@pytest.fixture
def suite(gpu_check, on_a_gpu, monkeypatch, tmp_path):
    """Run the stage on these tests, in one process."""
    find = gpu_check.importlib.util.find_spec
    monkeypatch.setattr(
        gpu_check.importlib.util, "find_spec", lambda name: None if name == "xdist" else find(name)
    )

    def suite(text):
        stub = tmp_path / "stub"
        stub.mkdir(exist_ok=True)
        (stub / "test_trial.py").write_text(f"import os, time\nimport pytest\n{text}")
        (stub / "pytest.ini").write_text("[pytest]\nmarkers =\n    gpu: x\n    slow: y\n")
        monkeypatch.setattr(gpu_check, "ROOT", stub)
        return gpu_check.tests(on_a_gpu)

    return suite


def test_the_tests_have_to_use_the_gpu(gpu_check, suite):
    outcome = suite("""
@pytest.mark.gpu
def test_device():
    assert os.environ["DMFTCORE_REQUIRE_GPU"] == "1"
    assert os.environ["PYTHONPATH"].split(os.pathsep)[0].endswith("site")

def test_host():
    pass

@pytest.mark.slow
def test_patience():
    raise AssertionError
""")
    assert outcome.verdict == gpu_check.Verdict.PASSED, outcome
    assert outcome.details["counts"] == {"passed": 2}
    assert "without the slow ones" in outcome.summary
    outcome = suite("def test_host():\n    raise AssertionError\n")
    assert outcome.verdict == gpu_check.Verdict.FAILED
    assert outcome.details["counts"] == {"failed": 1}
    assert outcome.details["failed"] == ["test_trial.py::test_host"]
    assert "none is marked 'gpu'" in outcome.summary


def test_tests_that_hang_are_stopped_and_named(gpu_check, on_a_gpu, suite):
    on_a_gpu.deadline = time.monotonic() + 24
    outcome = suite("""
@pytest.mark.gpu
@pytest.mark.parametrize("size", [1, 2])
def test_device(size):
    time.sleep(600 * (size == 2))

def test_host():
    pass
""")
    assert outcome.verdict == gpu_check.Verdict.KILLED
    assert outcome.details["counts"] == {"passed": 2}
    assert outcome.details["unfinished"] == ["test_trial.py::test_device[2]"]
    assert "in one process: pytest-xdist is missing" in outcome.summary


def test_unfinished_tests_of_several_processes(gpu_check):
    output = """
tests/test_a.py::test_hang 
tests/test_a.py::test_ok[1] 
[gw1] [ 25%] PASSED tests/test_a.py::test_ok[1] 
tests/test_b.py::test_ok[x y] 
[gw1] [ 50%] SKIPPED tests/test_b.py::test_ok[x y] Timeout (0:01:00)!
tests/test_b.py::test_bad 
[gw1] [ 75%] FAILED tests/test_b.py::test_bad 
"""  # noqa: W291
    assert gpu_check.unfinished(output) == ["tests/test_a.py::test_hang"]


def tool(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def sanitize(gpu_check, on_a_gpu, monkeypatch, tmp_path):
    """The stage with this program for compute-sanitizer, and small cases that do nothing."""

    def sanitize(script):
        path = script and tool(tmp_path / "tools", "compute-sanitizer", script)
        monkeypatch.setattr(gpu_check, "toolkit", lambda name: path)
        tool(gpu_check.WORK, "fragments", "echo fine")
        # Found before the real ones.
        cases = tmp_path / "stub" / "bench"
        cases.mkdir(parents=True, exist_ok=True)
        (cases / "__init__.py").touch()
        (cases / "_small_cases.py").write_text("print('3 cases, 0 of them wrong')\n")
        monkeypatch.setattr(gpu_check, "ROOT", tmp_path / "stub")
        return gpu_check.sanitizer(on_a_gpu)

    return sanitize


def test_a_sanitizer_that_is_missing_or_not_allowed_is_no_failure(gpu_check, sanitize):
    outcome = sanitize(None)
    assert outcome.verdict == gpu_check.Verdict.PASSED
    assert outcome.summary == "not checked: compute-sanitizer is not installed"
    outcome = sanitize("echo 'Device not supported'; exit 1")
    assert outcome.verdict == gpu_check.Verdict.PASSED
    assert "does not work here (Device not supported)" in outcome.summary


def test_what_the_sanitizer_finds_is_a_failure(gpu_check, sanitize):
    outcome = sanitize("echo '========= ERROR SUMMARY: 0 errors'")
    assert outcome.verdict == gpu_check.Verdict.PASSED
    assert outcome.summary == "memcheck: 0 errors; racecheck: 0 errors; initcheck: 0 errors"
    # The stand-alone program is clean, the operations are not.
    outcome = sanitize(
        'case "$*" in *small_cases*) echo "= ERROR SUMMARY: 7 errors"; exit 86;; esac'
    )
    assert outcome.verdict == gpu_check.Verdict.FAILED
    assert outcome.details["racecheck"] == {"verdict": "failed", "summary": "7 errors"}


def test_layouts_are_reported(gpu_check, on_a_gpu, monkeypatch, tmp_path):
    answer = '{"m8n8k4": {"probes": 64, "wrong": 0}, "m16n8k16": %s}'
    compiler = 'while [ "$1" != -o ]; do shift; done; cp "$(dirname "$0")/program" "$2"'
    monkeypatch.setattr(
        gpu_check, "toolkit", lambda name: tool(tmp_path / "tools", "nvcc", compiler)
    )
    right = answer % '{"probes": 384, "wrong": 0}'
    tool(tmp_path / "tools", "program", f"echo '{right}'")
    outcome = gpu_check.fragments(on_a_gpu)
    assert outcome.verdict == gpu_check.Verdict.PASSED
    assert outcome.summary == "m8n8k4 as assumed; m16n8k16 as assumed"
    wrong = answer % '{"probes": 384, "wrong": 5, "first_wrong": "A row 1 column 2"}'
    tool(tmp_path / "tools", "program", f"echo '{wrong}'; exit 1")
    outcome = gpu_check.fragments(on_a_gpu)
    assert outcome.verdict == gpu_check.Verdict.FAILED
    assert "m16n8k16: 5 of 384 elements lie elsewhere, the first is A row 1" in outcome.summary
    tool(tmp_path / "tools", "program", 'echo \'{"error": "no"}\'; exit 2')
    assert gpu_check.fragments(on_a_gpu).verdict == gpu_check.Verdict.FAILED


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_the_layout_program_compiles(gpu_check, on_a_gpu):
    on_a_gpu.facts = {"devices": [], "no_device": "it is a test"}
    outcome = gpu_check.fragments(on_a_gpu)
    assert outcome.verdict == gpu_check.Verdict.NOT_RUN
    assert outcome.summary == "compiled for sm_90; no GPU: it is a test"


def test_benchmarks_are_gathered_and_filed(gpu_check, on_a_gpu, monkeypatch, tmp_path):
    """One writes its record and fails, one hangs after its first case, one is fine."""
    stub = tmp_path / "stub"
    (stub / "bench").mkdir(parents=True)
    (stub / "bench" / "__main__.py").write_text("""
import json, os, sys, time
from pathlib import Path
name, flag, seconds = sys.argv[1:]
assert flag == "--seconds" and float(seconds) > 0
target = {"competitor": "other", "at_least": 4.0, "reached": 4.5, "met": True}
record = {
    "machine": {"device": {"name": "Stand-in (R) 9000"}},
    "cases": [{"title": f"case of {name}", "target": target, "competitors": {}}],
}
path = Path(os.environ["DMFTCORE_BENCH_RESULTS"], "stand-in-9000", f"{name}.json")
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(record))
if name == "fails":
    sys.exit("failed: resolvent")
if name == "hangs":
    time.sleep(600)
""")
    monkeypatch.setattr(gpu_check, "ROOT", stub)
    monkeypatch.setattr(gpu_check, "BENCHMARKS", {"fails": 1, "hangs": 1, "fine": 1})
    on_a_gpu.deadline = time.monotonic() + 24
    outcome = gpu_check.benchmarks(on_a_gpu)
    assert outcome.verdict == gpu_check.Verdict.KILLED
    # What each has measured was written when it ended, and lies in the output folder.
    record = json.loads((on_a_gpu.out / "check.json").read_text())
    assert record["stages"]["trial"]["summary"] == outcome.summary
    assert (on_a_gpu.out / "results" / "stand-in-9000" / "hangs.json").exists()
    assert "fails 1 cases, failed (failed: resolvent); hangs 1 cases, killed" in outcome.summary
    assert outcome.summary.endswith("fine 1 cases")
    assert outcome.details["targets"][0] == "case of fails: target 4 x other: met (4.50 x)"
    assert len(outcome.details["targets"]) == 3
    gpu_check.keep(on_a_gpu.out)
    folder = stub / "bench" / "results" / "stand-in-9000"
    assert sorted(path.name for path in folder.iterdir()) == [
        "fails.json",
        "fine.json",
        "hangs.json",
    ]
