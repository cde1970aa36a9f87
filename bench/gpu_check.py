"""One call on a machine with a GPU: is everything right there, and how fast is it?

    python bench/gpu_check.py [--out FOLDER] [--budget SECONDS] [--stages NAME,NAME]

It is over within 25 minutes, whatever hangs. The stages run one after another: facts about the
machine, layout of the matrix instructions, build (without network, all kernels at once for the
architecture that was found), every operation on small arrays, all tests with a GPU required (those
that need it first), benchmarks (what matters most first, each with a limit of its own), small cases
under compute-sanitizer. Each is a process of its own that is killed when its time is over; what is
left over goes to those after it. Where a command may not take so long, give the stages to several:

    python bench/gpu_check.py --budget 570 --stages fragments,build,small
    python bench/gpu_check.py --budget 570 --stages tests
    python bench/gpu_check.py --budget 570 --stages benchmarks,sanitizer

The package as it was built stays under build/gpu_check, where later calls find it. The output
folder ($OUT, or a dated one under build/) always holds what is known so far, also after a kill:

    check.json    date, versions, verdict of every stage, with registers, test counts, targets
    facts.json    the machine
    results/      records of the benchmarks, each case written as soon as it is measured
    bench.json    the same in one file; `--keep FOLDER` files them under bench/results
    *.log         what each stage printed

Without a GPU the layout program and the package are compiled, for sm_90, where there is an nvcc;
all that needs the device is reported as not run, with the reason, and the exit status is 3.

Needs Python alone; a stage says what it misses. The exit status is the worst of all stages:
0 passed, 3 not run (no GPU, no time, a tool is missing), 4 failed, 5 killed because it hung.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import enum
import importlib.util
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Run as a file, this folder is where Python looks for modules; the project is one above.
sys.path.insert(0, str(Path(__file__).parents[1]))

from bench._facts import ROOT, toolkit
from bench._record import target_text

WORK = ROOT / "build" / "gpu_check"
#: The package as the build stage installed it; a later call finds it there.
SITE = WORK / "site"

#: What the sanitizer looks for, and what it returns when it found something.
SANITIZER_TOOLS = ("memcheck", "racecheck", "initcheck")
SANITIZER_STATUS = 86


class Verdict(enum.IntEnum):
    PASSED = 0
    NOT_RUN = 3
    FAILED = 4
    KILLED = 5

    def __str__(self) -> str:
        return self.name.lower().replace("_", " ")


@dataclass
class Outcome:
    """What became of a stage: a line for people, and details for the record."""

    verdict: Verdict
    summary: str
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Finished:
    """A process that ended, or was ended."""

    returncode: int
    killed: bool
    output: str

    @property
    def verdict(self) -> Verdict:
        if self.killed:
            return Verdict.KILLED
        return Verdict.FAILED if self.returncode else Verdict.PASSED


class Check:
    """The state of a run: where to write, how much time is left, what is known."""

    def __init__(self, out: Path, *, slow: bool = False) -> None:
        self.out = out
        self.slow = slow
        self.facts: dict[str, Any] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.stage = ""
        self.deadline = 0.0
        out.mkdir(parents=True, exist_ok=True)
        WORK.mkdir(parents=True, exist_ok=True)

    @property
    def no_gpu(self) -> str:
        """Why there is nothing to run on; empty with a GPU."""
        reason = self.facts.get("no_device", "the facts could not be taken")
        return "" if self.facts.get("devices") else f"no GPU: {reason}"

    @property
    def architecture(self) -> str:
        """Of the device; that of the H200 where there is none."""
        devices = self.facts.get("devices") or [{"compute_capability": "9.0"}]
        return devices[0]["compute_capability"].replace(".", "")

    def environment(self, **more: str) -> dict[str, str]:
        """Of a process that uses the package as it was built, from this checkout's tests."""
        path = os.pathsep.join([str(SITE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        # jax would otherwise take most of the memory of the device for itself.
        return os.environ | {"PYTHONPATH": path, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"} | more

    def run(
        self,
        command: Sequence[str | Path],
        *,
        share: float = 1.0,
        env: dict[str, str] | None = None,
    ) -> Finished:
        """Run a process within `share` of what is left to the stage; its output joins the log."""
        limit = max(1.0, share * (self.deadline - time.monotonic()))
        words = [str(word) for word in command]
        with (self.out / f"{self.stage}.log").open("a+b") as log:
            log.write(f"$ {' '.join(words)}\n".encode())
            log.flush()
            begin = log.tell()
            # A group of its own: what it started ends with it. It writes to the file by itself:
            # a grandchild that keeps a pipe open would be waited for.
            process = subprocess.Popen(
                words,
                cwd=ROOT,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A shell that runs the check in the background has it ignore the request to stop.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
            killed = False
            try:
                process.wait(limit)
            except subprocess.TimeoutExpired:
                killed = True
                end_group(process)
            except BaseException:  # this process is being ended, and nobody else would end that one
                end_group(process)
                raise
            log.seek(begin)
            output = log.read().decode(errors="replace")
            if killed:
                log.write(f"\nkilled after {limit:.0f} s\n".encode())
        # None: it is waiting for the device and cannot even be killed.
        returncode = -signal.SIGKILL if process.returncode is None else process.returncode
        return Finished(returncode, killed, output)

    def save(self) -> None:
        record = {
            "date": self.date,
            "exit_status": int(worst(self.outcomes)),
            "devices": [device["name"] for device in self.facts.get("devices", [])],
            "commit": self.facts.get("commit"),
            "nvcc": self.facts.get("nvcc_version"),
            "driver": self.facts.get("state", {}).get("driver_version"),
            "packages": self.facts.get("packages", {}),
            "stages": {
                name: {
                    "verdict": str(outcome.verdict),
                    "seconds": round(outcome.seconds, 1),
                    "summary": outcome.summary,
                    **outcome.details,
                }
                for name, outcome in self.outcomes.items()
            },
        }
        write_json(self.out / "check.json", record)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and what it started: ask first, so that Python says where it hangs."""
    for number, patience in ((signal.SIGINT, 5), (signal.SIGKILL, 10)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(patience)
            if number == signal.SIGINT:
                # Its children may not have listened.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            return


def worst(outcomes: dict[str, Outcome]) -> Verdict:
    return max((outcome.verdict for outcome in outcomes.values()), default=Verdict.PASSED)


def write_json(path: Path, record: Any) -> None:
    """Replaced at once: who is killed while writing leaves the record before."""
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(record, indent=1) + "\n")
    draft.replace(path)


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


# -- stages -------------------------------------------------------------------------------------


def facts(check: Check) -> Outcome:
    """Device, driver, compilers, versions, commit."""
    done = check.run([sys.executable, "-m", "bench._facts"])
    if done.verdict:
        return Outcome(done.verdict, last_line(done.output))
    # Warnings may come first.
    check.facts = json.loads(done.output[done.output.index("{") :])
    write_json(check.out / "facts.json", check.facts)
    (check.out / "facts.log").unlink()
    if check.no_gpu:
        return Outcome(Verdict.NOT_RUN, check.no_gpu)
    device = check.facts["devices"][0]
    driver = check.facts["state"].get("driver_version", "unknown")
    return Outcome(
        Verdict.PASSED,
        f"{device['name']}, {device['memory_bytes'] / 2**30:.0f} GiB, driver {driver}, "
        f"nvcc {check.facts['nvcc_version'] or 'missing'}, commit {check.facts['commit']}",
    )


def fragments(check: Check) -> Outcome:
    """Layout of the operands of the FP64 matrix instructions."""
    nvcc = toolkit("nvcc")
    if nvcc is None:
        return Outcome(Verdict.NOT_RUN, "nvcc was not found")
    program = WORK / "fragments"
    source = ROOT / "bench" / "fragments.cu"
    architecture = f"-arch=sm_{check.architecture}"
    done = check.run([nvcc, "-std=c++17", architecture, "-o", program, source], share=0.7)
    if done.verdict:
        return Outcome(done.verdict, f"not compiled: {last_line(done.output)}")
    if check.no_gpu:
        return Outcome(Verdict.NOT_RUN, f"compiled for sm_{check.architecture}; {check.no_gpu}")
    done = check.run([program])
    answer = last_line(done.output)
    if done.returncode not in (0, 1) or done.killed:
        return Outcome(max(done.verdict, Verdict.FAILED), answer)
    layouts = json.loads(answer)
    text = "; ".join(
        f"{name} as assumed"
        if not found["wrong"]
        else f"{name}: {found['wrong']} of {found['probes']} elements lie elsewhere, the first is "
        f"{found['first_wrong']}"
        for name, found in layouts.items()
    )
    return Outcome(done.verdict, text, {"layouts": layouts})


def build(check: Check) -> Outcome:
    """The package, from source, with nothing fetched; registers and spills of its kernels."""
    nvcc = toolkit("nvcc")
    if nvcc is None:
        return Outcome(Verdict.NOT_RUN, "nvcc was not found")
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.rmtree(WORK / "cmake", ignore_errors=True)
    defines = {
        "DMFTCORE_CUDA": "ON",
        "CMAKE_CUDA_COMPILER": nvcc,
        "CMAKE_CUDA_ARCHITECTURES": f"{check.architecture}-real",
        "CMAKE_CUDA_FLAGS": "-Xptxas=-v",
    }
    done = check.run(
        [
            *(sys.executable, "-m", "pip", "install", "--verbose", "--disable-pip-version-check"),
            *("--no-build-isolation", "--no-deps", "--no-index", ".", "--target", SITE),
            f"-Cbuild-dir={WORK / 'cmake'}",
            *(f"-Ccmake.define.{name}={value}" for name, value in defines.items()),
        ],
        share=0.9,
        # All at once, whichever tool builds.
        env=os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)},
    )
    kernels = registers(done.output)
    details = {"kernels": kernels}
    if done.verdict:
        return Outcome(done.verdict, f"not built: {last_line(done.output)}", details)
    shadow_editable_installs()
    question = "import dmftcore; print(dmftcore.__file__); print(*dmftcore.cuda_status())"
    done = check.run([sys.executable, "-c", question], env=check.environment())
    if done.verdict:
        return Outcome(done.verdict, f"cannot be imported: {last_line(done.output)}", details)
    where = done.output.splitlines()[0]
    if not Path(where).is_relative_to(SITE):
        text = f"another dmftcore is found first, {where}: pip uninstall dmftcore"
        return Outcome(Verdict.FAILED, text, details)
    spilling = [name for name, kernel in kernels.items() if kernel["spills"]]
    most = max((kernel["registers"] for kernel in kernels.values()), default=0)
    text = f"{len(kernels)} kernels for sm_{check.architecture}, at most {most} registers"
    if spilling:
        return Outcome(Verdict.FAILED, f"{text}; spills in {', '.join(spilling)}", details)
    return Outcome(Verdict.PASSED, f"{text}, no spills", details)


def shadow_editable_installs() -> None:
    """Keep an editable install of the package from being found before the one that was built.

    It announces itself by a .pth file that imports a module; an empty one of that name, found
    first, takes its place.
    """
    for folder in map(Path, site.getsitepackages()):
        for path in folder.glob("*dmftcore*.pth"):
            for name in re.findall(r"^import (\w*dmftcore\w*)", path.read_text(), re.MULTILINE):
                (SITE / f"{name}.py").write_text("")


def registers(log: str) -> dict[str, dict[str, int]]:
    """Registers, spilled bytes and stack of each kernel, from what ptxas says with -v."""
    found: dict[str, dict[str, int]] = {}
    kernel = None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = found.setdefault(match[1], {"registers": 0, "spills": 0, "stack": 0})
        elif kernel is None:
            continue
        elif match := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            kernel["stack"] = int(match[1])
            kernel["spills"] = int(match[2]) + int(match[3])
        elif match := re.search(r"Used (\d+) registers", line):
            kernel["registers"] = int(match[1])
            # What follows until the next entry belongs to no kernel.
            kernel = None
    return demangled(found)


def demangled(kernels: dict[str, dict[str, int]]) -> dict[str, dict[str, int]]:
    """Names as they are in the source, where the tool for it is installed."""
    tool = toolkit("cu++filt") or shutil.which("c++filt")
    if tool is None or not kernels:
        return kernels
    answer = subprocess.run([tool, *kernels], capture_output=True, text=True, check=False)
    names = answer.stdout.splitlines()
    if answer.returncode or len(names) != len(kernels) or len(set(names)) != len(names):
        return kernels
    return dict(zip(names, kernels.values(), strict=True))


def tests(check: Check) -> Outcome:
    """The test suite; a skip for want of a GPU is a failure."""
    missing = [name for name in ("pytest", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        return Outcome(Verdict.NOT_RUN, f"not installed: {', '.join(missing)}")
    if not SITE.exists():
        return Outcome(Verdict.NOT_RUN, "the package was not built")
    command = [
        # Verbose: the log tells which tests were running when it ends.
        *(sys.executable, "-m", "pytest", "-v", "-rfE", "--tb=short", "-p", "no:cacheprovider"),
        # Which versions are installed here is not the tests' choice.
        *("-W", "default::DeprecationWarning", "-W", "default::PendingDeprecationWarning"),
        *("-o", "faulthandler_timeout=60"),
    ]
    notes = [] if check.slow else ["without the slow ones"]
    if importlib.util.find_spec("xdist"):
        command += ["-p", "xdist.plugin", "-n", str(min(16, os.cpu_count() or 1))]
    else:
        notes.append("in one process: pytest-xdist is missing")
    # Plugins that happen to be installed would take part unasked; some of them warn.
    env = check.environment(
        DMFTCORE_REQUIRE_GPU="1", OPENBLAS_NUM_THREADS="1", PYTEST_DISABLE_PLUGIN_AUTOLOAD="1"
    )
    verdict, counts, failed, running = Verdict.PASSED, Counter[str](), [], []
    # Those that need the device come first: the time may end before the others do.
    for mark, share in (("gpu", 0.6), ("not gpu", 1.0)):
        expression = mark if check.slow else f"{mark} and not slow"
        done = check.run([*command, "-m", expression], share=share, env=env)
        if done.returncode == PYTEST_NO_TESTS:
            notes.append(f"none is marked {mark!r}")
            continue
        verdict = max(verdict, done.verdict)
        counts += count(done.output)
        failed += re.findall(r"^(?:FAILED|ERROR) (\S+)", done.output, re.MULTILINE)
        running += unfinished(done.output) if done.killed else []
    text = ", ".join(f"{n} {what}" for what, n in counts.items()) or last_line(done.output)
    if failed:
        text += f": {', '.join(failed[:3])}{', ...' if len(failed) > 3 else ''}"
    if running:
        notes.append(f"running when the time was over: {', '.join(running)}")
    if notes:
        text += f" ({'; '.join(notes)})"
    details = {"counts": counts, "failed": failed[:50], "unfinished": running}
    return Outcome(verdict, text, details)


#: What pytest returns when it found no test.
PYTEST_NO_TESTS = 5


def count(output: str) -> Counter[str]:
    """What pytest counted: passed, failed, skipped ..."""
    lines = [line for line in output.splitlines() if re.search(r"\d+ \w+.* in [\d.]+s", line)]
    pattern = r"(\d+) (passed|failed|skipped|xfailed|xpassed|error)"
    return Counter({what: int(n) for n, what in re.findall(pattern, lines[-1] if lines else "")})


def unfinished(output: str) -> list[str]:
    """Tests that were begun, on a line of their own, and of which no outcome was printed."""
    outcomes = ("PASSED", "FAILED", "SKIPPED", "ERROR", "XFAIL", "XPASS")
    return [
        name
        for name in re.findall(r"^(\S+\.py::.*?) ?$", output, re.MULTILINE)
        if not any(f" {word}" in name or f"{word} {name}" in output for word in outcomes)
    ]


def small(check: Check) -> Outcome:
    """Every operation on small arrays, against the processor."""
    if not SITE.exists():
        return Outcome(Verdict.NOT_RUN, "the package was not built")
    cases = [sys.executable, "-m", "bench._small_cases"]
    done = check.run(cases, env=check.environment())
    return Outcome(done.verdict, last_line(done.output))


def sanitizer(check: Check) -> Outcome:
    """Every operation on small arrays under compute-sanitizer; no failure where it cannot run."""
    tool = toolkit("compute-sanitizer")
    if tool is None:
        return Outcome(Verdict.PASSED, "not checked: compute-sanitizer is not installed")
    if not SITE.exists():
        return Outcome(Verdict.NOT_RUN, "the package was not built")
    cases = [sys.executable, "-m", "bench._small_cases"]
    # A program that uses nothing of this package tells whether the sanitizer works here at all.
    program = WORK / "fragments"
    if program.exists():
        done = check.run([tool, "--tool", "memcheck", program], share=0.2)
        if done.verdict:
            return Outcome(
                Verdict.PASSED,
                f"not checked: compute-sanitizer does not work here ({last_line(done.output)})",
            )
    verdict, parts, details = Verdict.PASSED, [], {}
    for done_before, name in enumerate(SANITIZER_TOOLS):
        done = check.run(
            [tool, "--tool", name, "--error-exitcode", str(SANITIZER_STATUS), *cases],
            share=1 / (len(SANITIZER_TOOLS) - done_before),
            env=check.environment(),
        )
        summaries = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (.*)", done.output)
        found = summaries[-1] if summaries else last_line(done.output)
        details[name] = {"verdict": str(done.verdict), "summary": found}
        parts.append(f"{name}: {'killed' if done.killed else found}")
        verdict = max(verdict, done.verdict)
    return Outcome(verdict, "; ".join(parts), details)


#: Benchmarks, with their parts of the time; what matters most comes first.
BENCHMARKS = {
    "gpu_operations": 3,
    "gpu_rows": 2,
    "gpu_chain": 2,
    "gpu_particles": 2,
    "gpu_spectral": 2,
    "gpu_attention": 2,
    "gpu_proportional": 2,
    "gpu_jax": 1,
}


def benchmarks(check: Check) -> Outcome:
    """Times beside cupy and jax."""
    if not SITE.exists():
        return Outcome(Verdict.NOT_RUN, "the package was not built")
    # Where what is measured outlives this process.
    folder = check.out / "results"
    shutil.rmtree(folder, ignore_errors=True)
    env = check.environment(DMFTCORE_BENCH_RESULTS=str(folder))
    verdict, parts, waiting = Verdict.PASSED, [], dict(BENCHMARKS)
    targets: list[str] = []
    for name in BENCHMARKS:
        share = waiting[name] / sum(waiting.values())
        del waiting[name]
        # It stops by itself before it is stopped.
        seconds = 0.8 * share * (check.deadline - time.monotonic())
        command = [sys.executable, "-m", "bench", name, "--seconds", f"{seconds:.0f}"]
        done = check.run(command, share=share, env=env)
        verdict = max(verdict, done.verdict)
        records = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*/*.json"))}
        write_json(check.out / "bench.json", records)
        record = records.get(name, {})
        cases, left_out = record.get("cases", []), record.get("left_out", {})
        parts.append(f"{name} {len(cases)} cases" + (f", {done.verdict}" if done.verdict else ""))
        if done.verdict:
            parts[-1] += f" ({last_line(done.output)})"
        elif left_out:
            parts[-1] += f", {len(left_out)} not run ({next(iter(left_out.values()))})"
        targets += [
            f"{case['title']}: {target_text(case['target'])}" for case in cases if "target" in case
        ]
        # This stage is not over, but what is known of it is.
        check.outcomes[check.stage] = Outcome(verdict, "; ".join(parts), {"targets": targets})
        check.save()
    return Outcome(verdict, "; ".join(parts), {"targets": targets})


@dataclass(frozen=True)
class Stage:
    """What to do, its part of the time, and whether there is anything to do without a GPU."""

    action: Callable[[Check], Outcome]
    weight: float
    needs_gpu: bool = False


#: In the order in which they run.
STAGES = {
    "facts": Stage(facts, 15),
    "fragments": Stage(fragments, 30),
    "build": Stage(build, 360),
    "small": Stage(small, 60, needs_gpu=True),
    "tests": Stage(tests, 420, needs_gpu=True),
    "benchmarks": Stage(benchmarks, 500, needs_gpu=True),
    "sanitizer": Stage(sanitizer, 100, needs_gpu=True),
}


# -- the call -----------------------------------------------------------------------------------


def run_stages(check: Check, names: Sequence[str], budget: float) -> None:
    """Run stages in order; each may use its part of the time that is left."""
    end = time.monotonic() + budget
    for position, name in enumerate(names):
        begin = time.monotonic()
        weights = [
            0.0 if STAGES[waiting].needs_gpu and check.no_gpu else STAGES[waiting].weight
            for waiting in names[position:]
        ]
        (check.out / f"{name}.log").unlink(missing_ok=True)
        if not weights[0]:
            outcome = Outcome(Verdict.NOT_RUN, check.no_gpu)
        elif begin >= end:
            outcome = Outcome(Verdict.NOT_RUN, f"no time left of {budget:.0f} s")
        else:
            check.stage = name
            check.deadline = begin + weights[0] / sum(weights) * (end - begin)
            try:
                outcome = STAGES[name].action(check)
            except Exception as error:  # a stage must not take the others with it
                outcome = Outcome(Verdict.FAILED, f"{type(error).__name__}: {error}")
        outcome.seconds = time.monotonic() - begin
        check.outcomes[name] = outcome
        check.save()
        print(f"{name:11} {outcome.verdict!s:8} {outcome.seconds:6.1f} s  {outcome.summary}")
        sys.stdout.flush()


def summary(check: Check) -> str:
    """The end of the output: targets, then the verdict."""
    lines = []
    for outcome in check.outcomes.values():
        lines += outcome.details.get("targets", [])
    status = worst(check.outcomes)
    lines.append(f"{status}, exit status {int(status)}; written: {check.out}")
    return "\n".join(lines)


def keep(folder: Path) -> None:
    """File the records of a run under bench/results, one folder for each device."""
    from bench._harness import slug

    for name, record in json.loads((folder / "bench.json").read_text()).items():
        path = ROOT / "bench" / "results" / slug(record["machine"]["device"]["name"])
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / f"{name}.json", record)
        print(f"written: {(path / name).relative_to(ROOT)}.json")


def default_out() -> Path:
    stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H%M%S")
    return Path(os.environ.get("OUT") or ROOT / "build" / f"gpu-check-{stamp}")


def main(*arguments: str) -> None:
    parser = argparse.ArgumentParser(
        prog="gpu_check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, help="output folder")
    parser.add_argument("--budget", type=float, default=1480, help="seconds for all stages (1480)")
    parser.add_argument("--stages", default=",".join(STAGES), help="some of them, by name")
    parser.add_argument("--slow", action="store_true", help="run the slow tests, too")
    parser.add_argument("--list", action="store_true", help="list the stages and stop")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="file its benchmarks and stop")
    options = parser.parse_args(arguments)
    if options.list:
        for name, stage in STAGES.items():
            print(f"{name:11} {(stage.action.__doc__ or '').strip()}")
        return
    if options.keep:
        keep(options.keep)
        return
    chosen = set(options.stages.split(","))
    if unknown := chosen - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    # The others depend on what kind of machine this is.
    names = [name for name in STAGES if name in chosen | {"facts"}]
    check = Check((options.out or default_out()).resolve(), slow=options.slow)
    run_stages(check, names, options.budget)
    print(summary(check))
    sys.exit(worst(check.outcomes))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(Verdict.KILLED))
    main(*sys.argv[1:])
