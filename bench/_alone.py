"""Runs in processes of their own: their memory, and what a few of them say about longer ones."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench._facts import ROOT


def report_alone(run: Callable[[], Any]) -> None:
    """Run something once, and print its peak memory; a dictionary that it returns comes along.

    The peak is that beyond what the imports of the process have taken.
    """
    # Forgets the peak of the imports. getrusage would even count that of the parent process.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    result = run()
    facts = result if isinstance(result, dict) else {}
    print(json.dumps(facts | {"peak_megabytes": (_status("VmHWM") - before) / 1024}))


def alone(module: str, *arguments: object) -> dict[str, Any]:
    """What `report_alone` prints in a new process that runs a module."""
    child = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    record: dict[str, Any] = json.loads(child.stdout)
    return record


def extrapolated(runs: dict[int, dict[str, float]], times: int) -> dict[str, Any]:
    """Time and memory of `times` times from the two longest runs.

    Time as a power of T. Memory as a constant and T^2, of the kernels over two times.
    """
    shorter, longer = sorted(runs)[-2:]
    first, last = runs[shorter], runs[longer]
    exponent = math.log(last["cpu_seconds"] / first["cpu_seconds"], longer / shorter)
    by_square = (last["peak_megabytes"] - first["peak_megabytes"]) / (longer**2 - shorter**2)
    return {
        "extrapolated": True,
        "cpu_seconds": last["cpu_seconds"] * (times / longer) ** exponent,
        "cpu_seconds_exponent": exponent,
        "peak_megabytes": last["peak_megabytes"] + by_square * (times**2 - longer**2),
    }


def _status(key: str) -> int:
    """An entry of the status of this process, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
