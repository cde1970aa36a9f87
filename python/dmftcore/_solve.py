"""The verb `solve`: the theory of a limit, by the engine that suits the question."""

from __future__ import annotations

from collections.abc import Iterable

import numpy.typing as npt

from dmftcore._provenance import describe, provenance
from dmftcore._validate import one_of, positive
from dmftcore._verbs import check_nouns, fields_to_save
from dmftcore.data import Dataset
from dmftcore.limits import linear, linear_flow
from dmftcore.limits.linear import DeepLinear
from dmftcore.march import Progress, Schedule, SolveOptions
from dmftcore.solution import Solution
from dmftcore.training import GradientFlow, Training

__all__ = ["solve"]


def solve(
    limit: DeepLinear,
    data: Dataset,
    training: Training,
    *,
    times: npt.ArrayLike | None = None,
    kernel_times: npt.ArrayLike | None = None,
    save: str | Iterable[str] = (),
    tol: float | None = None,
    method: str | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Solve the dynamical mean-field theory of a network at infinite width.

    Parameters
    ----------
    limit : DeepLinear
        Which network, in which limit.
    data : Dataset
        Training points, and optionally test points.
    training : GradientDescent or GradientFlow
        Learning rate and number of steps, or the times of a flow.
    times : sequence of int, optional
        Steps at which outputs and losses are stored: by default all of them up to 10_000 steps,
        1000 log-spaced ones beyond. A flow has its own.
    kernel_times : sequence of int, optional
        Steps of the tangent kernel, the sharpness, the equal-time kernels and what `save` names:
        by default all of them up to 256 steps, 64 log-spaced ones beyond; [] for none. For a flow
        some of its times tau: by default all of them up to 256, 64 spread ones beyond.
    save : {"H", "G", "A", "B", "all"} or sequence of these
        Two-time kernels (H, G) and responses (A, B) to keep, at `kernel_times`. A flow has no
        responses: they answer to single steps.
    tol : float, optional
        Truncation of the growing network: the relative error of the loss is of its order, as
        long as lr * sharpness < 2. By default 1e-8, and down to rounding for short runs.
        For a flow the wanted error of the outputs, relative to the largest error y - f at the
        same time: by default 1e-6. An estimate of it is in ``diagnostics["error_estimate"]``.
    method : {"growing", "chain", "richardson", "stiff"}, optional
        "growing": the infinite network as a small one that grows neurons; cost O(steps L k^2)
        with k = 20..200 neurons a layer. "chain": the exact march of its two-time kernels, cost
        O(L steps^3 K^3), memory O(L steps^2 K^2). By default the chain when responses are asked
        for, else the growing network; ``diagnostics["reason"]`` tells.
        For a flow: "richardson" extrapolates the growing network to lr = 0, at a cost of some
        100 tau sharpness steps; "stiff" integrates it by Radau IIA in some hundred steps, whatever
        tau, for networks without residual blocks. By default the cheaper one.
    progress : callable, optional
        Called with (step, training loss). For a flow the first is the number of its times that
        have been reached; it starts anew for each of the runs that make up the answer.

    Returns
    -------
    Solution

    Raises
    ------
    TypeError, ValueError
        For arguments that make no problem, or that the method cannot answer.
    MemoryError
        Before the first step, if the run cannot fit.
    DivergenceError
        When the training loss leaves the finite numbers or exceeds 1e8 times its value at step 0;
        it carries the part already solved.

    Warns
    -----
    StabilityWarning
        If lr exceeds 2 / sharpness at the start or at one of `kernel_times`.
    AccuracyWarning
        If the estimated error of a flow exceeds `tol`.
    """
    check_nouns("solve", limit, data, training)
    schedule = Schedule.of_training(training, times, kernel_times)
    theory = linear_flow if isinstance(training, GradientFlow) else linear
    options = SolveOptions(
        schedule=schedule,
        save=fields_to_save(save, theory.FIELDS),
        tol=None if tol is None else positive("tol", tol),
        method=None if method is None else one_of("method", method, theory.METHODS),
        progress=progress,
    )
    config = {
        "limit": describe(limit),
        "data": describe(data),
        "training": describe(training),
        "solve": {
            "times": None if times is None else schedule.times.tolist(),
            "kernel_times": None if kernel_times is None else schedule.kernel_times.tolist(),
            "save": list(options.save),
            "tol": options.tol,
            "method": options.method,
        },
        "versions": provenance(),
    }
    if isinstance(training, GradientFlow):
        return linear_flow.solve_linear_flow(limit, data, options, config)
    return linear.solve_deep_linear(limit, data, training, options, config)
