"""Random features: their learning curves, from the two-point functions of `dmftcore.spectral`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dmftcore import spectral
from dmftcore._validate import FloatArray
from dmftcore.limits.scaling import RandomFeatures
from dmftcore.march import SolveOptions, Stopwatch
from dmftcore.memory import Plan, check_memory
from dmftcore.solution import Layers, Solution
from dmftcore.spectrum import AnySpectrum
from dmftcore.training import GradientDescent, GradientFlow, OnlineSGD, Training

__all__ = ["FIELDS", "KERNELS", "METHODS", "check_training", "solve_random_features"]

#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS = KERNELS = ("C0", "CD")
METHODS = ("spectral",)

#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "curves": "pass fewer times",
    "kernels": "pass fewer kernel_times (kernel_times=[] stores none)",
}


def solve_random_features(
    limit: RandomFeatures,
    spectrum: AnySpectrum,
    training: Training,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Integrate the resolvent of `limit` along contours; see `dmftcore.solve`."""
    watch = Stopwatch()
    if options.tol is not None:
        raise ValueError("tol: the contours of method 'spectral' have one accuracy; leave it out")
    curve = _curve(limit, spectrum, training, options.device)
    times, slots = options.schedule.times, options.schedule.kernel_times
    counts = {"curves": 8 * (len(times) + len(slots)), "kernels": 4 * len(slots) ** 2}
    plan = Plan({part: 8 * count for part, count in counts.items()})
    check_memory(plan, _REMEDIES)
    wanted = np.union1d(times, slots).astype(np.float64)
    found = curve(wanted, False)
    equal: dict[str, Layers] = {
        name: {0: values[np.searchsorted(wanted, slots)]}
        for name, values in (("C0", found.test), ("CD", found.train))
    }
    two: dict[str, Layers] = {}
    if options.save and len(slots):
        tables = curve(slots.astype(np.float64), True)
        assert tables.test_two_time is not None
        assert tables.train_two_time is not None
        both = {"C0": tables.test_two_time, "CD": tables.train_two_time}
        if isinstance(training, OnlineSGD):
            # No two steps share a sample.
            both["CD"] = np.diag(np.diag(tables.test_two_time))
        two = {name: {0: both[name]} for name in options.save}
    at = np.searchsorted(wanted, times)
    test, train = found.test[at] / 2, found.train[at] / 2
    if options.progress is not None and len(times):
        options.progress(options.schedule.steps, float(train[-1]))
    return Solution(
        times,
        slots,
        train,
        test_loss=test,
        equal_time=equal,
        two_time=two,
        diagnostics={
            "engine": "spectral",
            "reason": found.engine,
            "device": options.device,
            "memory": plan.total,
            "error_estimate": {
                "test_loss": _relative(found.error_estimate[at] / 2, test),
                "train_loss": _relative(found.train_error_estimate[at] / 2, train),
            },
            "wall_seconds": watch.seconds(),
        },
        config=config,
    )


def check_training(limit: RandomFeatures, training: Training) -> None:
    """Refuse what does not go with random features.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if isinstance(training, OnlineSGD):
        if training.batch is None:
            raise ValueError("batch: a RandomFeatures needs the samples of a step; pass batch")
        if np.isfinite(limit.samples):
            raise ValueError(
                "samples: an OnlineSGD never sees a sample twice; pass samples=INFINITE"
            )
    elif isinstance(training, GradientDescent) and training.weight_decay:
        raise ValueError("weight_decay: a RandomFeatures is trained without; leave it out")


def _curve(
    limit: RandomFeatures, spectrum: AnySpectrum, training: Training, device: str
) -> Callable[[FloatArray, bool], spectral.LearningCurve]:
    """The learning curve of a limit at times still to be named, and whether with its tables."""
    check_training(limit, training)
    how: dict[str, Any]
    if isinstance(training, GradientFlow):
        how = {"method": "gradient_flow"}
    elif isinstance(training, OnlineSGD):
        how = {"method": "sgd", "lr": training.lr, "batch": training.batch}
    else:
        how = {"method": "gradient_descent", "lr": training.lr, "momentum": training.momentum}

    def curve(times: FloatArray, two_time: bool) -> spectral.LearningCurve:
        return spectral.learning_curve(
            times,
            spectrum,
            limit.samples,
            limit.features,
            limit.noise_variance,
            two_time=two_time,
            device=device,
            **how,
        )

    return curve


def _relative(errors: FloatArray, losses: FloatArray) -> float:
    """The largest error as a part of its loss."""
    return float(np.max(errors / np.maximum(losses, 1e-300), initial=0.0))
