"""The verb `solve`: the theory of a limit, by the engine that suits the question."""

from __future__ import annotations

from collections.abc import Iterable

import numpy.typing as npt

from dmftcore._provenance import describe, provenance
from dmftcore._validate import one_of, positive
from dmftcore._verbs import check_nouns, fields_to_save
from dmftcore.data import Dataset
from dmftcore.limits import linear
from dmftcore.limits.linear import DeepLinear
from dmftcore.march import Progress, Schedule, SolveOptions
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["solve"]

METHODS = ("growing", "chain")
DEVICES = ("cpu", "cuda")


def solve(
    limit: DeepLinear,
    data: Dataset,
    training: GradientDescent,
    *,
    times: npt.ArrayLike | None = None,
    kernel_times: npt.ArrayLike | None = None,
    save: str | Iterable[str] = (),
    tol: float | None = None,
    method: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> Solution:
    """Solve the dynamical mean-field theory of a network at infinite width.

    Parameters
    ----------
    limit : DeepLinear
        Which network, in which limit.
    data : Dataset
        Training points, and optionally test points.
    training : GradientDescent
        Learning rate and number of steps.
    times : sequence of int, optional
        Steps at which outputs and losses are stored: by default all of them up to 10_000 steps,
        1000 log-spaced ones beyond.
    kernel_times : sequence of int, optional
        Steps of the tangent kernel, the sharpness, the equal-time kernels and what `save` names:
        by default all of them up to 256 steps, 64 log-spaced ones beyond; [] for none.
    save : {"H", "G", "A", "B", "AG", "BPhi", "all"} or sequence of these
        Two-time kernels (H, G), responses (A of features, B of gradients) and products of
        responses with the noise they answer to (``AG``: A^l G^{l+1}, ``BPhi``: B^l H^l) to keep,
        at `kernel_times`.
    tol : float, optional
        Truncation of the growing network: the relative error of the loss is of its order, as
        long as lr * sharpness < 2. By default 1e-8, and down to rounding for short runs.
    method : {"growing", "chain"}, optional
        "growing": the infinite network as a small one that grows neurons; cost O(steps L k^2)
        with k = 20..200 neurons a layer. "chain": the exact march of its two-time kernels, cost
        O(L steps^3 K^3), memory O(L steps^2 K^2). By default the chain when responses are asked
        for, else the growing network; ``diagnostics["reason"]`` tells.
    device : {"cpu", "cuda"}, optional
        Where the chain is marched: by default where the data are, and with "cuda" on the current
        device of cupy, to which the data are copied once. The other methods run on the CPU
        wherever the data are, because their state fits into its caches. What the solution holds is
        numpy in any case.
    progress : callable, optional
        Called with (step, training loss).

    Returns
    -------
    Solution

    Raises
    ------
    TypeError, ValueError
        For arguments that make no problem, or that the method cannot answer.
    MemoryError
        Before the first step, if the run cannot fit, on the host or on the device.
    CudaError, ImportError
        If the chain is to be marched on a device and there is none, or no cupy.
    DivergenceError
        When the training loss leaves the finite numbers or exceeds 1e8 times its value at step 0;
        it carries the part already solved.

    Warns
    -----
    StabilityWarning
        If lr exceeds 2 / sharpness at the start or at one of `kernel_times`.
    """
    check_nouns("solve", limit, data, training)
    schedule = Schedule.of(training.steps, times, kernel_times)
    options = SolveOptions(
        schedule=schedule,
        save=fields_to_save(save, (*linear.KERNELS, *linear.RESPONSES, *linear.PRODUCTS)),
        tol=None if tol is None else positive("tol", tol),
        method=None if method is None else one_of("method", method, METHODS),
        device=data.device if device is None else one_of("device", device, DEVICES),
        progress=progress,
    )
    data = data.on_host
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
            "device": options.device,
        },
        "versions": provenance(),
    }
    return linear.solve_deep_linear(limit, data, training, options, config)
