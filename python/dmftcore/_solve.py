"""The verb `solve`: the theory of a limit, by the engine that suits the question."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from dmftcore._provenance import describe, provenance
from dmftcore._validate import integer, one_of, positive
from dmftcore._verbs import check_nouns, device_of, fields_to_save
from dmftcore.checkpoint import Checkpoint, PathLike
from dmftcore.data import Dataset
from dmftcore.limits import linear, linear_flow, networks, proportional_solve
from dmftcore.limits.adaptive import AdaptiveKernel, solve_adaptive
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.residual import Residual
from dmftcore.march import Progress, SolveOptions
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent, GradientFlow, OnlineSGD, Training

__all__ = ["solve"]


def solve(
    limit: DeepLinear | MLP | Residual | ProportionalLinear | AdaptiveKernel,
    data: Dataset | None,
    training: Training | None = None,
    *,
    times: npt.ArrayLike | None = None,
    kernel_times: npt.ArrayLike | None = None,
    save: str | Iterable[str] = (),
    samples: int | None = None,
    replicas: int | None = None,
    seed: int = 0,
    tol: float | None = None,
    method: str | None = None,
    dtype: str = "float64",
    device: str | None = None,
    estimate_error: bool = False,
    progress: Progress | None = None,
    checkpoint: PathLike | Checkpoint | None = None,
) -> Solution:
    """Solve the dynamical mean-field theory of a network.

    Parameters
    ----------
    limit : DeepLinear, MLP, Residual, ProportionalLinear or AdaptiveKernel
        Which network, in which limit.
    data : Dataset or None
        Training points, and optionally test points; None for a `ProportionalLinear`, whose data
        are random.
    training : GradientDescent, GradientFlow or OnlineSGD, optional
        Learning rates, momentum, weight decay and number of steps, or the times of a flow. A
        `ProportionalLinear` has no flow, and only it has `OnlineSGD`. An `AdaptiveKernel` is
        static and has none; of the options it knows `samples` and `seed`, and its solution has the
        single time 0.
    times : sequence of int, optional
        Steps at which outputs and losses are stored: by default all of them up to 10_000 steps,
        1000 log-spaced ones beyond. A flow has its own.
    kernel_times : sequence of int, optional
        Steps of the tangent kernel, the sharpness, the equal-time kernels and what `save` names:
        by default all of them up to 256 steps, 64 log-spaced ones beyond; [] for none. For a flow
        some of its times tau: by default all of them up to 256, 64 spread ones beyond.
    save : {"H", "G", "A", "B", "AG", "BPhi", "all"} or sequence of these
        Two-time kernels (H, G), responses (A of features, B of gradients) and products of
        responses with the noise they answer to (``AG``: A^l G^{l+1}, ``BPhi``: B^l H^l) to keep,
        at `kernel_times`. A flow has no responses: they answer to single steps. On random data:
        kernels "Cp", "CD", "Cv", "H", "G" and responses "RD", "A", "B". Of an `MLP` or `Residual`:
        "H", "Phi", "G", "AG" and "BPhi".
    samples : int, optional
        Particles that stand for the neurons of a layer, in the theory of an `MLP` or `Residual`,
        which is sampled; by default 2000. Sampling errors fall as 1 / sqrt(samples replicas). Of a
        quadrature the number of its nodes, by default 96^2 or 64^3.
    replicas : int, optional
        Independent runs of a sampled theory, by default 8. The answer is their mean, and with at
        least two their scatter gives the standard errors ``stderr(name)``.
    seed : int
        Start of the random numbers of a sampled theory. A replica r depends on `seed` and r alone.
    tol : float, optional
        Truncation of the growing network: the relative error of the loss is of its order, as
        long as lr * sharpness < 2. By default 1e-8, and down to rounding for short runs; on random
        data 1e-6, for the test loss, and for a smaller training loss of the order of
        tol * sqrt(train_loss test_loss).
        For a flow the wanted error of the outputs, relative to the largest error y - f at the
        same time: by default 1e-6. An estimate of it is in ``diagnostics["error_estimate"]``.
        For a sampled theory the part of the mean square of a field that may be dropped: by default
        1e-4.
    method : {"growing", "chain", "richardson", "stiff", "ensemble", "quadrature"}, optional
        "growing": the infinite network as a small one that grows neurons; cost O(steps L k^2)
        with k = 20..200 neurons a layer. "chain": the exact march of its two-time kernels, cost
        O(L steps^3 K^3), memory O(L steps^2 K^2). By default the chain when responses are asked
        for, else the growing network; ``diagnostics["reason"]`` tells. On random data the growing
        network is for plain networks, full batches and kernels only, there the default of more
        than 400 steps, and may need k = 500.
        For a flow: "richardson" extrapolates the growing network to lr = 0, at a cost of some
        100 tau sharpness steps; "stiff" integrates it by Radau IIA in some hundred steps, whatever
        tau, for networks without residual blocks. By default the cheaper one.
        Random data have the chain alone, at a cost O((L + modes) steps^3).
        For an `MLP` or `Residual` "ensemble": the infinite network on particles, at a cost
        O(steps L samples replicas k P) with k of about 100 for smooth activations; for "relu" k
        grows up to P steps. Needing no samples, linear ones with the square loss are solved as a
        `DeepLinear`, and gamma = 0 by descent under the initial tangent kernel. "quadrature" is
        deterministic, for ``MLP(depth=1)`` with a smooth activation and a Gram matrix whose rank
        and the number of outputs add up to 3 at most.
    dtype : {"float64", "float32"}
        Type of the particles of a sampled theory; sums and results are of float64.
    device : {"cpu", "cuda"}, optional
        Where the chain, or the particles of a sampled theory, are marched: by default where the
        data are, and with "cuda" on the current device of cupy, to which what is needed is copied
        once. The other methods run on the CPU wherever the data are, because their state fits into
        its caches. Random data, which are nowhere yet, are on the CPU by default. What the solution
        holds is numpy in any case. A device draws the random numbers of the CPU.
    estimate_error : bool
        Run the growing network once more, at a hundredth of its tolerance (a hundred times, if
        that would be below rounding), and report the difference of outputs and losses in
        ``diagnostics["error_estimate"]``. The finer run takes up to twice as long as the first.
        A flow always estimates its error.
    progress : callable, optional
        Called with (step, training loss); once more from step 0 on for `estimate_error`. For a
        flow the first is the number of its times that have been reached; it starts anew for each
        of the runs that make up the answer.
    checkpoint : path, optional
        File from which the same call goes on after it was interrupted, to the same result bit for
        bit (on the same machine, with the same versions). It is written about once a minute, on
        Ctrl-C, and at the end: the same call with more steps extends a run. An extended run keeps
        what it has by default: its `tol`, and the steps stored so far. Not for a flow.

    Returns
    -------
    Solution

    Raises
    ------
    TypeError, ValueError
        For arguments that make no problem, or that the method cannot answer, and for a checkpoint
        of another run.
    MemoryError
        Before the first step, if the run cannot fit, on the host or on the device.
    CudaError, ImportError
        If a march is to be on a device and there is none, or no cupy.
    DivergenceError
        When the training loss leaves the finite numbers or exceeds 1e8 times its value at step 0;
        it carries the part already solved.

    Warns
    -----
    StabilityWarning
        If lr exceeds 2 (1 + momentum) / (sharpness + weight_decay) at the start or at one of
        `kernel_times`.
    AccuracyWarning
        If the estimated error of a flow exceeds `tol`.
    """
    check_nouns("solve", limit, data, training)
    if isinstance(limit, AdaptiveKernel):
        assert data is not None
        given = {
            "times": times, "kernel_times": kernel_times, "save": save or None,
            "replicas": replicas, "tol": tol, "method": method, "device": device,
            "estimate_error": estimate_error or None, "progress": progress,
            "checkpoint": checkpoint, "dtype": None if dtype == "float64" else dtype,
        }  # fmt: skip
        for name, value in given.items():
            if value is not None:
                raise ValueError(f"{name}: an AdaptiveKernel is static; leave {name} out")
        return _solve_static(limit, data, samples, seed)
    assert training is not None
    if not isinstance(estimate_error, bool):
        raise TypeError(f"estimate_error must be True or False, not {estimate_error!r}")
    if isinstance(training, GradientFlow) and checkpoint is not None:
        raise ValueError("checkpoint: a GradientFlow cannot be resumed; leave checkpoint out")
    schedule = Schedule.of_training(training, times, kernel_times)
    theory: Any = linear_flow if isinstance(training, GradientFlow) else linear
    if isinstance(limit, ProportionalLinear):
        theory = proportional_solve
    if isinstance(limit, MLP | Residual):
        theory = networks
        if isinstance(training, GradientFlow):
            raise TypeError(
                f"training: a {type(limit).__name__} is trained in steps, not by a GradientFlow: "
                "use GradientDescent with a small lr, where tau = lr * step"
            )
    elif (samples, replicas, seed, dtype) != (None, None, 0, "float64"):
        given = {"samples": samples, "replicas": replicas, "seed": seed, "dtype": dtype}
        defaults = {"samples": None, "replicas": None, "seed": 0, "dtype": "float64"}
        name = next(name for name, value in given.items() if value != defaults[name])
        raise ValueError(
            f"{name}: the theory of a {type(limit).__name__} is not sampled, and solved in "
            f"float64; leave {name} out"
        )
    options = SolveOptions(
        schedule=schedule,
        save=fields_to_save(save, theory.FIELDS),
        tol=None if tol is None else positive("tol", tol),
        method=None if method is None else one_of("method", method, theory.METHODS),
        device=device_of(data, device),
        progress=progress,
        checkpoint=Checkpoint.at(checkpoint),
        estimate_error=estimate_error,
        samples=None if samples is None else integer("samples", samples, at_least=2),
        replicas=None if replicas is None else integer("replicas", replicas, at_least=1),
        seed=integer("seed", seed, at_least=0),
        dtype=one_of("dtype", dtype, ("float64", "float32")),
    )
    data = None if data is None else data.on_host
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
            "estimate_error": options.estimate_error,
        },
        "versions": provenance(),
    }
    if isinstance(limit, MLP | Residual):
        assert data is not None
        assert isinstance(training, GradientDescent)
        sampling = ("samples", "replicas", "seed", "dtype")
        config["solve"] |= {name: getattr(options, name) for name in sampling}
        return networks.solve_network(limit, data, training, options, config)
    if isinstance(limit, ProportionalLinear):
        assert not isinstance(training, GradientFlow)
        return proportional_solve.solve_proportional(limit, training, options, config)
    assert data is not None
    assert not isinstance(training, OnlineSGD)
    if isinstance(training, GradientFlow):
        return linear_flow.solve_linear_flow(limit, data, options, config)
    return linear.solve_deep_linear(limit, data, training, options, config)


def _solve_static(limit: AdaptiveKernel, data: Dataset, samples: int | None, seed: int) -> Solution:
    options = {
        "samples": None if samples is None else integer("samples", samples, at_least=2),
        "seed": integer("seed", seed, at_least=0),
    }
    config = {
        "limit": describe(limit),
        "data": describe(data.on_host),
        "solve": options,
        "versions": provenance(),
    }
    return solve_adaptive(limit, data.on_host, samples=samples, seed=seed, config=config)
