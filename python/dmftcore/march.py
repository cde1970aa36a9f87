"""The causal time loop: progress, checkpoints, divergence."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.checkpoint import Checkpoint, Saved, deferred_interrupt
from dmftcore.schedule import Schedule, Segment
from dmftcore.solution import IntArray

__all__ = [
    "Diverged",
    "Flow",
    "March",
    "Progress",
    "SolveOptions",
    "Stopwatch",
    "follow",
    "largest_loss",
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
#: An initial loss below is rounding of outputs of order one: there is nothing to learn.
NO_LOSS = 1e-30

#: Progress reports of a run.
REPORTS = 200

#: Seconds of wall time after which a march comes back to be interrupted or saved.
PATIENCE = 0.2


def largest_loss(initial: float) -> float:
    """The loss beyond which a run has diverged, from that at its start.

    Where there is nothing to learn outputs of order one are the scale: the initial ones, of finite
    networks under weight decay, and rounding.
    """
    return DIVERGENCE_FACTOR * (initial if initial > NO_LOSS else 1.0)


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
    run = _Run(system, schedule, checkpoint, REPORTS if progress is not None else 1)
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

    def __init__(
        self, system: March, schedule: Schedule, checkpoint: Checkpoint | None, reports: int
    ) -> None:
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
        self._segments = list(schedule.segments(begin, reports))
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


class Stopwatch:
    """Wall time since its creation, in seconds."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        """How many have passed."""
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
    #: Whether `save` is all that the theory has, of which an engine may know a part.
    save_all: bool = False
    estimate_error: bool = False
    nested: bool = False
    samples: int | None = None
    replicas: int | None = None
    seed: int = 0
    dtype: str = "float64"

    def held(self, name: str, default: Any) -> Any:
        """An option: as given, else as of the run that is gone on with, else the default."""
        found = getattr(self, name)
        if found is None and self.checkpoint is not None:
            found = self.checkpoint.held(name)
        return default if found is None else found

    def known(self, names: tuple[str, ...]) -> SolveOptions:
        """Of everything the part among `names`; what was asked for by name stays."""
        if not self.save_all:
            return self
        return replace(self, save=tuple(name for name in self.save if name in names))
