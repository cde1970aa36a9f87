"""What a run stores when: steps of a march, or times of a flow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.checkpoint import Saved
from dmftcore.solution import IntArray, TimeArray
from dmftcore.training import GradientFlow, Training

__all__ = ["Schedule", "Segment"]

#: Curves are stored at every step up to this many, at log-spaced steps beyond.
ALL_TIMES = 10_000
LOG_TIMES = 1_000
#: The same for kernels.
ALL_KERNEL_TIMES = 256
LOG_KERNEL_TIMES = 64


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

    def segments(self, after: int = -1, reports: int = 1) -> Iterable[Segment]:
        """Stretches of the march beyond step `after`.

        One ends at a kernel time, at step 0, and at the last step of each of as many equal parts
        of the run as there are `reports` of progress.
        """
        wanted = _union(self.times, self.kernel_times)
        if len(wanted) == 0:
            return
        ends = _union(self.kernel_times, np.linspace(0, wanted[-1], reports + 1).astype(np.int64))
        stops = _union(wanted, ends)
        stored, with_kernels = _found(stops, self.times), _found(stops, self.kernel_times)
        begin = int(np.searchsorted(stops, after, side="right"))
        for last in np.searchsorted(stops, ends[ends > after]).tolist():
            part = slice(begin, last + 1)
            yield Segment(stops[part], stored[part], bool(with_kernels[last]))
            begin = last + 1


# Several times faster than `numpy.union1d` and `numpy.isin`, which short runs would notice.


def _union(*steps: TimeArray) -> IntArray:
    """All of the steps, increasing."""
    merged: IntArray = np.sort(np.concatenate(steps), kind="stable")
    first = np.ones(len(merged), dtype=bool)
    np.not_equal(merged[1:], merged[:-1], out=first[1:])
    union: IntArray = merged[first]
    return union


def _found(stops: IntArray, some: TimeArray) -> npt.NDArray[np.bool_]:
    """Which of the increasing stops are among some of them."""
    found = np.zeros(len(stops), dtype=bool)
    found[np.searchsorted(stops, some)] = True
    return found


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
