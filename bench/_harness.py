"""Timing of competitors side by side in one process, and the record of it.

A case is a set of functions that compute the same thing. They are called in turn, round after
round, so that whatever else the machine does meets all of them; ratios are medians over rounds.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")


def restart_on_one_core() -> None:
    """Run this program again with BLAS limited to one thread, on one core.

    The libraries read these variables when they are loaded, which is now in the past.
    """
    if any(os.environ.get(name) != value for name, value in ONE_THREAD.items()):
        os.execve(sys.executable, sys.orig_argv, os.environ | ONE_THREAD)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


@dataclass
class Timing:
    """Seconds of each call."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def interleave(
    competitors: dict[str, Callable[[], Any]], rounds: int, calls: int
) -> dict[str, Timing]:
    """`rounds` times all competitors in turn, each timed over `calls` calls."""
    timings = {name: Timing() for name in competitors}
    for _ in range(rounds):
        for name, function in competitors.items():
            wall, cpu = time.perf_counter(), time.process_time()
            for _ in range(calls):
                function()
            timings[name].wall.append((time.perf_counter() - wall) / calls)
            timings[name].cpu.append((time.process_time() - cpu) / calls)
    return timings


class Report:
    """Cases of one benchmark; prints each as it comes, and writes all as JSON."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cases: list[dict[str, Any]] = []
        print(f"{'case':34} {'competitor':22} {'ms':>10} {'spread':>7} {'ratio':>7} {'error':>9}")

    def case(
        self,
        title: str,
        competitors: dict[str, Callable[[], Any]],
        *,
        error: Callable[[Any], float] | None = None,
        flops: float | None = None,
        traffic: float | None = None,
        rounds: int = 9,
        calls: int = 1,
    ) -> dict[str, Any]:
        """Time competitors; the first is ours, and the ratios are times relative to it.

        Times are CPU times of the process: with one thread the wall time of a quiet machine, whose
        medians are recorded too. `flops` and `traffic` (bytes) count what the first must do.
        """
        # The first call of each warms up, too.
        results = {name: function() for name, function in competitors.items()}
        errors = {name: error(result) for name, result in results.items()} if error else {}
        del results
        timings = interleave(competitors, rounds, calls)
        ours = next(iter(timings.values()))
        record: dict[str, Any] = {"title": title, "rounds": rounds, "calls": calls}
        if flops is not None:
            record["gflops"] = flops / median(ours.cpu) / 1e9
        if traffic is not None:
            record["gbytes_per_s"] = traffic / median(ours.cpu) / 1e9
        record["competitors"] = {}
        for name, timing in timings.items():
            middle = median(timing.cpu)
            entry = {
                "cpu_seconds": middle,
                "wall_seconds": median(timing.wall),
                "cpu_seconds_least": min(timing.cpu),
                "cpu_seconds_most": max(timing.cpu),
                "ratio": median(t / o for t, o in zip(timing.cpu, ours.cpu, strict=True)),
            }
            if name in errors:
                entry["error"] = errors[name]
            record["competitors"][name] = entry
            spread = (max(timing.cpu) - min(timing.cpu)) / middle
            print(
                f"{title if timing is ours else '':34} {name:22} {middle * 1e3:10.4g} "
                f"{spread:7.0%} {entry['ratio']:7.2f} "
                + (f"{errors[name]:9.1e}" if name in errors else "")
            )
        rates = [
            f"{record[key]:.4g} {unit}"
            for key, unit in (("gflops", "GFLOP/s"), ("gbytes_per_s", "GB/s"))
            if key in record
        ]
        if rates:
            print(f"{'':34} {', '.join(rates)}", flush=True)
        self.cases.append(record)
        return record

    def write(self) -> Path:
        facts = machine()
        path = ROOT / "bench" / "results" / slug(facts["cpu"]) / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": facts, "cases": self.cases}, indent=1) + "\n")
        print(f"written: {path.relative_to(ROOT)}")
        return path


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    import numpy
    import scipy

    from dmftcore import _core

    def git(*command: str) -> str:
        answer = subprocess.run(
            ["git", "-C", ROOT, *command], capture_output=True, text=True, check=False
        )
        return answer.stdout.strip()

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
        "commit": git("rev-parse", "--short", "HEAD"),
        "uncommitted_changes": bool(git("status", "--porcelain", "--untracked-files=no")),
    }


def cpu_model() -> str:
    """Name of the processor; the bare name of a virtual machine gets its family and model."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""

    def entry(key: str) -> str | None:
        found = re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE)
        return found[1] if found else None

    name = entry("model name") or platform.processor() or platform.machine()
    if not re.search(r"\d", name) and entry("model"):
        name += f" family {entry('cpu family')} model {entry('model')}"
    return name


def slug(text: str) -> str:
    plain = re.sub(r"\((R|TM|C)\)", "", text, flags=re.IGNORECASE).lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
