"""Timing of competitors side by side in one process, and the record of it.

A case is a set of functions that compute the same thing. They are called in turn, round after
round, so that whatever else the machine does meets all of them; ratios are medians over rounds.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench._facts import ROOT, commit, cpu_model
from bench._record import WIDTH, Target, case_lines, ceilings_line, head_line

#: For XLA_FLAGS, before JAX is imported.
ONE_THREAD_OF_XLA = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")


def restart_on_one_core() -> None:
    """Run this program again with BLAS limited to one thread, on one core.

    The libraries read these variables when they are loaded, which is now in the past.
    """
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | ONE_THREAD)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


class Device(Protocol):
    """An accelerator with a clock of its own."""

    name: str

    def seconds(self, function: Callable[[], Any], calls: int) -> float:
        """Time of one call, by the clock of the device, when `calls` of them are queued."""

    def release(self) -> None:
        """Give memory that is not in use back to the device."""

    def facts(self) -> dict[str, Any]:
        """What the numbers depend on, the ceilings measured in this run among it."""


@dataclass
class Timing:
    """Seconds of each call; `device` is empty where only the processor is timed."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)

    @property
    def clock(self) -> str:
        """Which of the three clocks counts."""
        return "device" if self.device else "cpu"

    @property
    def counted(self) -> list[float]:
        return self.device or self.cpu


def interleave(
    competitors: dict[str, Callable[[], Any]],
    rounds: int,
    calls: int,
    device: Device | None = None,
) -> dict[str, Timing]:
    """`rounds` times all competitors in turn, each timed over `calls` calls."""
    timings = {name: Timing() for name in competitors}
    for _ in range(rounds):
        for name, function in competitors.items():
            wall, cpu = time.perf_counter(), time.process_time()
            if device is None:
                for _ in range(calls):
                    function()
            else:
                timings[name].device.append(device.seconds(function, calls))
            timings[name].wall.append((time.perf_counter() - wall) / calls)
            timings[name].cpu.append((time.process_time() - cpu) / calls)
    return timings


def plan(once: list[float], seconds: float) -> tuple[int, int]:
    """Rounds and calls that time competitors, which take `once` a call, in about `seconds`.

    Calls are queued until the fastest competitor is busy for 2 ms, which a clock resolves to a
    fraction of a percent. Three rounds are the least that has a median and a spread.
    """
    calls = min(100, max(1, math.ceil(2e-3 / max(min(once), 1e-9))))
    calls = min(calls, max(1, int(seconds / (3 * sum(once)))))
    return min(15, max(3, int(seconds / (calls * sum(once))))), calls


class Report:
    """Cases of one benchmark; prints each as it comes, and writes all as JSON.

    With a device, times are those of its clock, each case is written as soon as it is done, and a
    competitor that fails is recorded with its error instead of ending the run. `packages` are
    distributions whose versions matter here, beside those of every report.
    """

    def __init__(
        self, name: str, device: Device | None = None, packages: tuple[str, ...] = ()
    ) -> None:
        self.name = name
        self.device = device
        self.packages = packages
        self.cases: list[dict[str, Any]] = []
        #: Titles of cases that were not run, with the reason.
        self.left_out: dict[str, str] = {}
        self._machine: dict[str, Any] | None = None
        if device is not None:
            print(f"{device.name}: {ceilings_line(device.facts())}")
        print(head_line())

    def case(
        self,
        title: str,
        competitors: dict[str, Callable[[], Any]],
        *,
        error: Callable[[Any], float] | None = None,
        flops: float | None = None,
        traffic: float | None = None,
        floor: float | None = None,
        bound: float | None = None,
        target: Target | None = None,
        rounds: int = 9,
        calls: int = 1,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        """Time competitors; the first is ours, and the ratios are times relative to it.

        Times are CPU times of the process: with one thread the wall time of a quiet machine, whose
        medians are recorded too; with a device they are times on its clock. `flops` and `traffic`
        (bytes) count what the first must do, `floor` is the shortest time in which the machine
        could do it. Who errs by more than `bound` has failed. `seconds` sets rounds and calls to
        fill about that time.
        """
        # The first call of each warms up, too.
        running, errors, failures = dict(competitors), {}, {}
        for name, function in competitors.items():
            try:
                result = function()
                if error:
                    errors[name] = error(result)
                    # Also if it is not a number.
                    if bound is not None and not errors[name] <= bound:
                        raise ArithmeticError(f"error {errors[name]:.1e}, allowed {bound:.1e}")
            except Exception as failure:
                if self.device is None:
                    raise
                failures[name] = f"{type(failure).__name__}: {failure}"
                del running[name]
            result = None
        if seconds is not None and running:
            first = interleave(running, 1, 1, self.device)
            rounds, calls = plan([timing.counted[0] for timing in first.values()], seconds)
        timings = interleave(running, rounds, calls, self.device)
        record: dict[str, Any] = {"title": title, "rounds": rounds, "calls": calls}
        # Without ours there is nothing to be relative to, and no rate.
        ours = timings.get(next(iter(competitors)))
        if ours is not None:
            middle = median(ours.counted)
            if flops is not None:
                record["gflops"] = flops / middle / 1e9
            if traffic is not None:
                record["gbytes_per_s"] = traffic / middle / 1e9
            if floor is not None:
                record["floor_seconds"] = floor
                record["fraction_of_floor"] = floor / middle
        record["competitors"] = {}
        for name in competitors:
            if name in failures:
                record["competitors"][name] = {"failed": failures[name]}
            else:
                entry = entry_of(timings[name], ours)
                if name in errors:
                    entry["error"] = errors[name]
                record["competitors"][name] = entry
        if target is not None:
            record["target"] = target.against(record)
        print(case_lines(record), flush=True)
        self.cases.append(record)
        if self.device is not None:
            self.save()
            self.device.release()
        return record

    def note(self, text: str) -> None:
        """Print more about the last case."""
        print(f"{'':{WIDTH}} {text}", flush=True)

    def leave_out(self, title: str, reason: str) -> None:
        """Record that a case was not run."""
        self.left_out[title] = reason
        print(f"{title:{WIDTH}} not run: {reason}", flush=True)

    @property
    def failed(self) -> list[str]:
        """Titles of the cases in which ours failed."""
        return [c["title"] for c in self.cases if "failed" in next(iter(c["competitors"].values()))]

    def save(self) -> Path:
        """Write what there is, to bench/results or the folder DMFTCORE_BENCH_RESULTS."""
        if self._machine is None:
            self._machine = machine()
            self._machine |= {name: importlib.metadata.version(name) for name in self.packages}
            if self.device is not None:
                self._machine["device"] = self.device.facts()
        folder = Path(os.environ.get("DMFTCORE_BENCH_RESULTS", ROOT / "bench" / "results"))
        name = self._machine["cpu"] if self.device is None else self.device.name
        path = folder / slug(name) / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = {"machine": self._machine, "cases": self.cases}
        if self.left_out:
            record["left_out"] = self.left_out
        # Replaced at once: who is killed while writing leaves the record before.
        draft = path.with_suffix(".part")
        draft.write_text(json.dumps(record, indent=1) + "\n")
        draft.replace(path)
        return path

    def write(self) -> Path:
        path = self.save()
        print(f"written: {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
        return path


def entry_of(timing: Timing, ours: Timing | None) -> dict[str, float]:
    """The record of one competitor."""
    clock, counted = timing.clock, timing.counted
    entry = {
        f"{clock}_seconds": median(counted),
        "wall_seconds": median(timing.wall),
        f"{clock}_seconds_least": min(counted),
        f"{clock}_seconds_most": max(counted),
    }
    if ours is not None:
        entry["ratio"] = median(t / o for t, o in zip(counted, ours.counted, strict=True))
    return entry


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    import numpy
    import scipy

    from dmftcore import _core

    blas = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "instruction_set": _core.isa(),
        "threads": _core.get_num_threads(),
        "blas": f"{blas['name']} {blas['version']}",
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **commit(),
    }


def slug(text: str) -> str:
    plain = re.sub(r"\((R|TM|C)\)", "", text, flags=re.IGNORECASE).lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
