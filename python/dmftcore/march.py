"""The causal time loop: what is stored when, progress, divergence, and the memory plan."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.solution import IntArray

__all__ = ["Diverged", "March", "Plan", "Progress", "Schedule", "check_memory", "march"]

#: Silent unless the program that uses the library listens.
_log = logging.getLogger("dmftcore")

#: Called with (step, training loss) as a march advances.
Progress: TypeAlias = Callable[[int, float], None]

#: A march whose loss exceeds this multiple of its initial value has diverged.
DIVERGENCE_FACTOR = 1e8

#: Curves are stored at every step up to this many, at log-spaced steps beyond.
ALL_TIMES = 10_000
LOG_TIMES = 1_000
#: The same for kernels.
ALL_KERNEL_TIMES = 256
LOG_KERNEL_TIMES = 64

#: Progress reports of a run.
REPORTS = 200


@dataclass(frozen=True)
class Segment:
    """Steps to stop at, which of them store curves, and whether the last stores kernels."""

    stops: IntArray
    stored: npt.NDArray[np.bool_]
    with_kernels: bool


@dataclass(frozen=True)
class Schedule:
    """Steps at which a march stores curves (`times`) and kernels (`kernel_times`)."""

    steps: int
    times: IntArray
    kernel_times: IntArray

    @classmethod
    def of(
        cls,
        steps: int,
        times: npt.ArrayLike | None = None,
        kernel_times: npt.ArrayLike | None = None,
    ) -> Schedule:
        """Defaults where None: every step of short runs, log-spaced steps of long ones.

        Raises
        ------
        TypeError, ValueError
            If the given steps are not increasing integers within 0..steps.
        """
        return cls(
            steps,
            _chosen("times", times, steps, ALL_TIMES, LOG_TIMES),
            _chosen("kernel_times", kernel_times, steps, ALL_KERNEL_TIMES, LOG_KERNEL_TIMES),
        )

    def segments(self) -> Iterable[Segment]:
        """Stretches of the march; one ends at a kernel time or where progress is due."""
        wanted = np.union1d(self.times, self.kernel_times)
        if len(wanted) == 0:
            return
        reports = np.linspace(0, wanted[-1], REPORTS + 1).astype(np.int64)
        stops = np.union1d(wanted, reports)
        stored = np.isin(stops, self.times)
        with_kernels = np.isin(stops, self.kernel_times)
        begin = 0
        for end in (np.flatnonzero(with_kernels | np.isin(stops, reports)) + 1).tolist():
            yield Segment(stops[begin:end], stored[begin:end], bool(with_kernels[end - 1]))
            begin = end


def _chosen(
    name: str, given: npt.ArrayLike | None, steps: int, all_up_to: int, log_count: int
) -> IntArray:
    if given is None:
        if steps <= all_up_to:
            return np.arange(steps + 1)
        spaced = np.geomspace(1, steps, log_count - 1)
        return np.unique(np.concatenate([[0], np.rint(spaced)])).astype(np.int64)
    found = np.asarray(given)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be a sequence of step numbers, not {given!r}")
    chosen = found.astype(np.int64)
    if chosen.size and (np.any(np.diff(chosen) <= 0) or chosen[0] < 0 or chosen[-1] > steps):
        raise ValueError(f"{name} must increase strictly within 0..{steps}, found {given!r}")
    return chosen


class March(Protocol):
    """A causal system that can be advanced in time."""

    @property
    def step(self) -> int:
        """The step whose state is at hand."""

    def advance(self, stops: IntArray) -> FloatArray:
        """Go through the given increasing steps; (len(stops), points, K) outputs.

        Fewer rows than stops say that the loss at `step` was not finite or too large.
        """

    def store_kernels(self) -> None:
        """Keep what the kernels at `step` need."""


class Diverged(Exception):
    """Raised by `march`; carries what was stored before `step`."""

    def __init__(self, step: int, schedule: Schedule, outputs: FloatArray) -> None:
        super().__init__(f"diverged at step {step}")
        self.step = step
        self.schedule = schedule
        self.outputs = outputs


def march(
    system: March,
    schedule: Schedule,
    loss: Callable[[FloatArray], float],
    progress: Progress | None = None,
) -> FloatArray:
    """Advance `system` through `schedule`; its outputs (n_times, points, K) at `schedule.times`.

    Raises
    ------
    Diverged
        As soon as the system stops short.
    """
    times: list[int] = []
    outputs: list[FloatArray] = []
    kernel_times: list[int] = []
    for segment in schedule.segments():
        rows = system.advance(segment.stops)
        stored = segment.stored[: len(rows)]
        times.extend(segment.stops[: len(rows)][stored].tolist())
        outputs.append(rows[stored])
        if len(rows) < len(segment.stops):
            partial = Schedule(
                schedule.steps,
                np.array(times, dtype=np.int64),
                np.array(kernel_times, dtype=np.int64),
            )
            raise Diverged(system.step, partial, np.concatenate(outputs))
        if segment.with_kernels:
            system.store_kernels()
            kernel_times.append(system.step)
        if progress is not None:
            progress(system.step, loss(rows[-1]))
    return np.concatenate(outputs) if outputs else np.empty((0, 0, 0))


@dataclass(frozen=True)
class Plan:
    """Memory a run will need, by part, in bytes."""

    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def of(self, parts: Iterable[str]) -> Plan:
        """These parts alone."""
        return Plan({part: self.parts[part] for part in parts})

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {_readable(size)}" for name, size in self.parts.items() if size)
        return f"{_readable(self.total)} ({sizes})"


def check_memory(plan: Plan, remedies: Mapping[str, str], available: int | None = None) -> None:
    """Log the plan of a run, and refuse one that cannot fit into the available memory.

    Parameters
    ----------
    plan : Plan
        What the run needs.
    remedies : mapping
        For every part of the plan, what to change if it is the largest.
    available : int, optional
        Bytes of a device, for what will lie there; by default the memory of the host.

    Raises
    ------
    MemoryError
        With the sizes and what to change.
    """
    where = "memory" if available is None else "device memory"
    _log.info("planned %s: %s", where, plan)
    if available is None:
        available = _available_memory()
    if plan.total > available:
        remedy = remedies[max(plan.parts, key=lambda part: plan.parts[part])]
        raise MemoryError(
            f"this run needs {plan}, but {_readable(available)} of {where} are available; {remedy}"
        )


def _available_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            for line in lines:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _readable(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


class Stopwatch:
    """Wall time since its creation, in seconds."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start


@dataclass(frozen=True)
class SolveOptions:
    """The checked options of `solve`, as handed to a limit."""

    schedule: Schedule
    save: tuple[str, ...]
    tol: float | None
    method: str | None
    device: str
    progress: Progress | None
