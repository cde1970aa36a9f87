"""The causal time loop: what is stored when, progress, divergence, and the memory plan."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.checkpoint import Checkpoint, Saved, deferred_interrupt
from dmftcore.solution import IntArray, TimeArray
from dmftcore.training import GradientFlow, Training

__all__ = [
    "Diverged",
    "Flow",
    "March",
    "Plan",
    "Progress",
    "Schedule",
    "check_memory",
    "follow",
    "march",
    "resumed",
]

#: Silent unless the program that uses the library listens.
_log = logging.getLogger("dmftcore")

#: Called with (step, training loss) as a march advances; in a gradient flow the first is the
#: number of wanted times that have been reached.
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

#: Seconds of wall time after which a march comes back to be interrupted or saved.
PATIENCE = 0.2


@dataclass(frozen=True)
class Segment:
    """Steps to stop at, which of them store curves, and whether the last stores kernels."""

    stops: IntArray
    stored: npt.NDArray[np.bool_]
    with_kernels: bool

    def cut(self, step: int) -> tuple[Segment, Segment | None]:
        """The part up to `step`, which becomes a stop, and the rest."""
        if step >= self.stops[-1]:
            return self, None
        count = int(np.searchsorted(self.stops, step, side="right"))
        stops, stored = self.stops[:count], self.stored[:count]
        if count == 0 or stops[-1] < step:
            stops, stored = np.append(stops, step), np.append(stored, False)
        return (
            Segment(stops, stored, False),
            Segment(self.stops[count:], self.stored[count:], self.with_kernels),
        )


@dataclass(frozen=True)
class Schedule:
    """When a solve stores curves (`times`) and kernels (`kernel_times`): steps, or times tau.

    `explicit` names which of the two were asked for.
    """

    steps: int
    times: TimeArray
    kernel_times: TimeArray
    explicit: tuple[str, ...] = ()

    @classmethod
    def of_training(
        cls,
        training: Training,
        times: npt.ArrayLike | None = None,
        kernel_times: npt.ArrayLike | None = None,
    ) -> Schedule:
        """The steps of gradient descent (see `of`), or the times of a flow.

        Kernels of a flow are stored by default at all of its times, at 64 spread over many; its
        `steps` are the times to be reached.

        Raises
        ------
        TypeError, ValueError
            For what is no choice of steps; if `times` is given for a flow, or `kernel_times` are
            not increasing members of its times.
        """
        if not isinstance(training, GradientFlow):
            return cls.of(training.steps, times, kernel_times)
        wanted = training.times
        if times is not None:
            raise ValueError("times: those of a flow are given as GradientFlow(times=...) alone")
        if kernel_times is not None:
            chosen = _members(kernel_times, wanted)
        elif len(wanted) <= ALL_KERNEL_TIMES:
            chosen = wanted
        else:
            spread = np.linspace(0, len(wanted) - 1, LOG_KERNEL_TIMES)
            chosen = wanted[spread.round().astype(np.int64)]
        return cls(len(wanted), wanted, chosen)

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
        given = {"times": times, "kernel_times": kernel_times}
        return cls(
            steps,
            _chosen("times", times, steps, ALL_TIMES, LOG_TIMES),
            _chosen("kernel_times", kernel_times, steps, ALL_KERNEL_TIMES, LOG_KERNEL_TIMES),
            tuple(name for name, value in given.items() if value is not None),
        )

    def after(self, saved: Saved) -> Schedule:
        """This schedule beyond the step of a saved run, and what that run has stored up to it.

        Raises
        ------
        ValueError
            If the saved run has gone beyond the last step, or did not store what was asked for.
        """
        if self.steps < saved.step:
            raise ValueError(
                f"steps = {self.steps}, but the checkpoint is at step {saved.step} already: "
                "pass more steps, or name another checkpoint"
            )
        return replace(
            self,
            times=self._joined("times", self.times, saved.times, saved),
            kernel_times=self._joined("kernel_times", self.kernel_times, saved.kernel_times, saved),
        )

    def _joined(self, name: str, wanted: TimeArray, stored: TimeArray, saved: Saved) -> TimeArray:
        if name in self.explicit or name in saved.explicit:
            passed = wanted[wanted <= saved.step]
            differing = np.setxor1d(passed, stored)
            if differing.size:
                step = differing[0]
                fault = (
                    f"asks for step {step}, which the run has passed without storing it"
                    if step in passed
                    else f"lacks step {step}, which the run has stored"
                )
                remedy = (
                    f"pass the {name} of that run, and later ones to extend it"
                    if name in saved.explicit
                    else f"leave {name} out to keep what it stored"
                )
                raise ValueError(
                    f"{name} {fault} (the checkpoint is at step {saved.step}): {remedy}, or name "
                    "another checkpoint"
                )
        return np.concatenate([stored, wanted[wanted > saved.step]])

    def segments(self, after: int = -1) -> Iterable[Segment]:
        """Stretches of the march beyond step `after`.

        One ends at a kernel time or where progress is due.
        """
        wanted = np.union1d(self.times, self.kernel_times)
        if len(wanted) == 0:
            return
        reports = np.linspace(0, wanted[-1], REPORTS + 1).astype(np.int64)
        stops = np.union1d(wanted, reports)
        stops = stops[stops > after]
        stored = np.isin(stops, self.times)
        with_kernels = np.isin(stops, self.kernel_times)
        begin = 0
        for end in (np.flatnonzero(with_kernels | np.isin(stops, reports)) + 1).tolist():
            yield Segment(stops[begin:end], stored[begin:end], bool(with_kernels[end - 1]))
            begin = end


def _members(given: npt.ArrayLike, wanted: FloatArray) -> FloatArray:
    """The members of `wanted` that are named by `given`, up to rounding."""
    found = np.asarray(given)
    if found.ndim == 1 and found.size == 0:
        return np.empty(0)
    if found.ndim != 1 or found.dtype.kind not in "fiu":
        raise TypeError(f"kernel_times must be a sequence of times, not {given!r}")
    nearest = np.abs(wanted[:, None] - found).argmin(axis=0)
    members: FloatArray = wanted[nearest]
    if not np.allclose(members, found, rtol=1e-9, atol=0) or np.any(np.diff(members) <= 0):
        raise ValueError(
            f"kernel_times of a GradientFlow must be some of its times, increasing, found {given!r}"
        )
    return members


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
    """A causal system that can be advanced in time.

    Where it stops, or is saved and restored, changes no bit of what it answers.
    """

    @property
    def step(self) -> int:
        """The step whose state is at hand."""

    def advance(self, stops: IntArray) -> FloatArray:
        """Go through the given increasing steps; (len(stops), points, K) outputs.

        Fewer rows than stops say that the loss at `step` was not finite or too large.
        """

    def store_kernels(self) -> None:
        """Keep what the kernels at `step` need."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""


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
    checkpoint: Checkpoint | None = None,
) -> FloatArray:
    """Advance `system` through `schedule`; its outputs (n_times, points, K) at `schedule.times`.

    Parameters
    ----------
    system : March
        At its start.
    schedule : Schedule
        If the checkpoint holds a part of the run, what `Schedule.after` makes of it.
    loss : callable
        Training loss of the outputs (points, K) of a step, for `progress`.
    progress : callable, optional
    checkpoint : Checkpoint, optional
        The run goes on from what it holds, and is saved now and then, when it is interrupted, and
        at the end.

    Raises
    ------
    Diverged
        As soon as the system stops short.
    KeyboardInterrupt
        When the user, or `progress`, interrupts; with a checkpoint the text says how to go on.
    """
    run = _Run(system, schedule, checkpoint)
    try:
        with deferred_interrupt(checkpoint is not None) as interrupted:
            for rows in run.pieces():
                if rows is not None and progress is not None:
                    progress(system.step, loss(rows))
                if interrupted():
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        if checkpoint is None or not run.at_rest or not run.save():
            raise
        raise KeyboardInterrupt(
            f"interrupted at step {system.step} of {schedule.steps}; {checkpoint.path} holds the "
            "run: start it again to go on"
        ) from None
    run.finish()
    return run.outputs()


def resumed(
    schedule: Schedule,
    checkpoint: Checkpoint | None,
    config: Mapping[str, Any],
    lr: float | FloatArray,
    **in_force: Any,
) -> Schedule:
    """The schedule of a run that may go on from a checkpoint; see `Checkpoint.admit`."""
    if checkpoint is None:
        return schedule
    checkpoint.admit(config, lr, **in_force)
    return schedule if checkpoint.saved is None else schedule.after(checkpoint.saved)


class _Run:
    """A march through a schedule: what it has stored, and its checkpoint.

    Attributes
    ----------
    at_rest : bool
        Whether the march is between two steps, with a state that can be saved.
    """

    def __init__(self, system: March, schedule: Schedule, checkpoint: Checkpoint | None) -> None:
        self._system, self._schedule, self._checkpoint = system, schedule, checkpoint
        self._times: list[int] = []
        self._kernel_times: list[int] = []
        self._outputs: list[FloatArray] = []
        self.at_rest = False
        begin = -1
        if checkpoint is not None and checkpoint.saved is not None:
            # Not held any longer: a state may be as large as the march itself.
            saved, checkpoint.saved = checkpoint.saved, None
            system.restore(saved.state)
            self._times, self._kernel_times = saved.times.tolist(), saved.kernel_times.tolist()
            self._outputs.append(saved.outputs)
            begin = saved.step
        self._segments = list(schedule.segments(after=begin))
        if checkpoint is not None and begin >= 0 and self._segments:
            checkpoint.resumed_from.append(begin)
            _log.info("going on at step %d with the run of %s", begin, checkpoint.path)

    def pieces(self) -> Iterator[FloatArray | None]:
        """Advance for some steps at a time; the present outputs where progress is due."""
        pace = 1
        for segment in self._segments:
            rest: Segment | None = segment
            while rest is not None:
                self.at_rest = False
                begin, watch = self._system.step, Stopwatch()
                piece, rest = rest.cut(begin + pace)
                rows = self._advance(piece)
                # In the time that these steps took, no more than twice as many are taken next.
                within = PATIENCE / max(watch.seconds(), 1e-9) * (self._system.step - begin)
                pace = max(1, int(min(within, 2 * pace)))
                if self._checkpoint is not None and self._checkpoint.due:
                    self.save()
                self.at_rest = True
                yield rows[-1] if rest is None else None

    def _advance(self, piece: Segment) -> FloatArray:
        rows = self._system.advance(piece.stops)
        stored = piece.stored[: len(rows)]
        self._times.extend(piece.stops[: len(rows)][stored].tolist())
        self._outputs.append(rows[stored])
        if len(rows) < len(piece.stops):
            raise Diverged(self._system.step, self._done(), self.outputs())
        if piece.with_kernels:
            self._system.store_kernels()
            self._kernel_times.append(self._system.step)
        return rows

    def outputs(self) -> FloatArray:
        """All that is stored, (n_times, points, K)."""
        return np.concatenate(self._outputs) if self._outputs else np.empty((0, 0, 0))

    def save(self) -> bool:
        """Write the checkpoint; False if that failed."""
        assert self._checkpoint is not None
        return self._checkpoint.save(self._saved)

    def finish(self) -> None:
        """Save the last step, from which the run can be extended."""
        if self._checkpoint is not None and self._checkpoint.at_end and self._segments:
            self.save()

    def _done(self) -> Schedule:
        """The part of the schedule that is done."""
        return replace(
            self._schedule,
            times=np.array(self._times, dtype=np.int64),
            kernel_times=np.array(self._kernel_times, dtype=np.int64),
        )

    def _saved(self) -> Saved:
        done = self._done()
        return Saved(
            step=self._system.step,
            times=done.times,
            kernel_times=done.kernel_times,
            explicit=done.explicit,
            outputs=self.outputs(),
            state=self._system.state(),
        )


class Flow(Protocol):
    """A causal system in continuous time."""

    def flow(self, time: float, accepted: Callable[[], None]) -> None:
        """Move to the time tau; `accepted` is called after every step of the integrator."""

    def outputs(self) -> FloatArray:
        """Outputs (points, K) at the time reached."""

    def store_kernels(self) -> None:
        """Keep what the kernels at the time reached need."""


def follow(
    system: Flow,
    schedule: Schedule,
    loss: Callable[[FloatArray], float],
    progress: Progress | None = None,
) -> FloatArray:
    """Move `system` through the times of a flow; its outputs (n_times, points, K) there."""
    rows: list[FloatArray] = []

    def report() -> None:
        if progress is not None:
            progress(len(rows), loss(system.outputs()))

    for tau in schedule.times.tolist():
        system.flow(tau, report)
        rows.append(system.outputs())
        if tau in schedule.kernel_times:
            system.store_kernels()
        report()
    return np.array(rows)


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


def check_memory(
    plan: Plan,
    remedies: Mapping[str, str],
    available: int | None = None,
    *,
    nested: bool = False,
) -> None:
    """Log the plan of a run, and refuse one that cannot fit into the available memory.

    Parameters
    ----------
    plan : Plan
        What the run needs.
    remedies : mapping
        For every part of the plan, what to change if it is the largest.
    available : int, optional
        Bytes of a device, for what will lie there; by default the memory of the host.
    nested : bool
        The run is a part of another, whose plan has been logged.

    Raises
    ------
    MemoryError
        With the sizes and what to change.
    """
    where = "memory" if available is None else "device memory"
    if not nested:
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
    checkpoint: Checkpoint | None = None
    estimate_error: bool = False
    nested: bool = False
