"""From the march of a nonlinear network to its solution: what every engine reports alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from typing import Any, Protocol

from dmftcore._validate import FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError, StabilityWarning
from dmftcore.march import Diverged, March, SolveOptions, Stopwatch, march
from dmftcore.observables import curves, training_loss
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent
from dmftcore.worth import stability, unstable

__all__ = ["NetworkMarch", "report_stability", "solved", "warn_of_instability"]

#: What to know of a run that has diverged, if its features grow faster than its fields.
SUPERLINEAR = (
    "; the limit of infinite width does not exist for activation 'quadratic', whose largest "
    "neurons are unstable at any lr: fewer samples, or finite networks, may converge"
)


class NetworkMarch(March, Protocol):
    """A march that knows its kernels at the stored steps."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the outputs of a step, (P + Q, K), or (runs, P + Q, K)."""

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernel fields of a `Solution`; two-time kernels are those named by `save`."""

    def diagnostics(self) -> dict[str, Any]:
        """What the answer is worth and took."""


def solved(
    system: NetworkMarch,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
    *,
    report: dict[str, Any],
    watch: Stopwatch,
    curves: Callable[[Dataset, FloatArray, str], dict[str, Any]] = curves,
    stacklevel: int = 6,
    activations: Collection[str] = (),
) -> Solution:
    """March `system`, and report what it found.

    Parameters
    ----------
    system : NetworkMarch
        At its start.
    data, training, options, config
        As in `dmftcore.solve`.
    report : dict
        Diagnostics known before the march: the engine, why it was chosen, its memory.
    watch : Stopwatch
        Started with the solve.
    curves : callable
        Curve fields of a `Solution` from data, outputs (n_times, *shape) and loss; that of
        `dmftcore.observables.curves_of_runs` for a march of several runs.
    stacklevel : int
        How far below the call of the user a warning is raised.
    activations : collection of str
        Those of the network: some diverge at any learning rate.

    Raises
    ------
    DivergenceError
        With what was solved before.
    """

    def solution(schedule: Schedule, outputs: FloatArray) -> Solution:
        # Without any times the march does not know the shape of an output.
        shaped = outputs.reshape(len(schedule.times), *system.shape)
        measured, kernels = curves(data, shaped, training.loss), system.fields(options.save)
        errors = [part.pop("standard_errors", {}) for part in (measured, kernels)]
        result = Solution(
            schedule.times,
            schedule.kernel_times,
            **measured,
            **kernels,
            standard_errors=errors[0] | errors[1],
            diagnostics={**report, **system.diagnostics()},
            config=config,
        )
        report_stability(result, training)
        result.diagnostics["wall_seconds"] = watch.seconds()
        if options.checkpoint is not None:
            result.diagnostics.update(options.checkpoint.diagnostics())
        return result

    loss = training_loss(data, training.loss)
    try:
        outputs = march(system, options.schedule, loss, options.progress, options.checkpoint)
    except Diverged as stop:
        partial = solution(stop.schedule, stop.outputs)
        rate = f"now {training.rates.max():g}"
        edge = partial.diagnostics.get("stability")
        if edge is not None and edge["unstable"] is not None:
            # Where it began: the sharpness of a run that blows up grows with it.
            assert partial.sharpness is not None
            first = edge["unstable"][0]
            (begin,) = partial.sharpness[partial.kernel_times == first]
            rate += f", stable below {edge['bound'] / (begin + training.weight_decay):.3g} at step "
            rate += f"{first}"
        raise DivergenceError(
            f"the training loss diverged at step {stop.step}: lower lr ({rate})"
            + (SUPERLINEAR if "quadratic" in activations else ""),
            step=stop.step,
            partial=partial,
        ) from None
    result = solution(options.schedule, outputs)
    warn_of_instability(result, training, stacklevel=stacklevel)
    return result


def report_stability(result: Solution, training: GradientDescent) -> None:
    """Add to the diagnostics where a run is beyond the edge of stability, if that is known."""
    if result.sharpness is not None and training.steps > 0 and training.loss == "square":
        edge = stability(training, result.kernel_times, result.sharpness)
        result.diagnostics["stability"] = edge


def warn_of_instability(result: Solution, training: GradientDescent, *, stacklevel: int) -> None:
    """Warn of what `report_stability` has found."""
    if "stability" in result.diagnostics:
        warning = unstable(result.diagnostics["stability"], training)
        if warning is not None:
            warnings.warn(warning, StabilityWarning, stacklevel=stacklevel)
