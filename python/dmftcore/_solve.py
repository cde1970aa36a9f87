"""The verb `solve`: the theory of a limit, by the engine that suits the question."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from dmftcore._provenance import describe, provenance
from dmftcore._validate import INFINITE, integer, one_of, positive
from dmftcore._verbs import check_nouns, device_of, fields_to_save
from dmftcore.checkpoint import Checkpoint, PathLike
from dmftcore.data import Dataset
from dmftcore.limits import (
    attention_solve,
    linear,
    linear_flow,
    proportional_solve,
    transformer_depth,
    transformer_solve,
)
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.transformer import Transformer
from dmftcore.march import Progress, SolveOptions
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientFlow, OnlineSGD, Training

__all__ = ["solve"]


def solve(
    limit: DeepLinear | ProportionalLinear | AttentionCore | Transformer,
    data: Dataset | None,
    training: Training,
    *,
    times: npt.ArrayLike | None = None,
    kernel_times: npt.ArrayLike | None = None,
    save: str | Iterable[str] = (),
    samples: int | None = None,
    seed: int = 0,
    tol: float | None = None,
    method: str | None = None,
    device: str | None = None,
    estimate_error: bool = False,
    progress: Progress | None = None,
    checkpoint: PathLike | Checkpoint | None = None,
) -> Solution:
    """Solve the dynamical mean-field theory of a network.

    Parameters
    ----------
    limit : DeepLinear, ProportionalLinear, AttentionCore or Transformer
        Which network, in which limit.
    data : Dataset or None
        Training points, and optionally test points; None for a `ProportionalLinear`, whose data
        are random.
    training : GradientDescent, GradientFlow or OnlineSGD
        Learning rates, momentum, weight decay and number of steps, or the times of a flow. A
        `ProportionalLinear` has no flow, and only it has `OnlineSGD`.
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
        kernels "Cp", "CD", "Cv", "H", "G" and responses "RD", "A", "B". An `AttentionCore` has
        none: its order parameters at `kernel_times` say all. Of a `Transformer`: kernels "H", "G",
        "O" (outputs of attention), "P_k", "P_q", "P_v" (gradients by keys, queries, values) and
        responses "Rh", "Rg" (of the stream), "Ro", "Rp_k", "Rp_q", "Rp_v" (of the heads), among
        all tokens.
    samples : int, optional
        Where heads of attention are random: their number, in 8 independent groups (2048 by
        default), whose scatter gives the standard errors. For finitely many heads the number of
        networks (8 by default).
    seed : int
        Start of their random numbers.
    tol : float, optional
        Truncation of the growing network: the relative error of the loss is of its order, as
        long as lr * sharpness < 2. By default 1e-8, and down to rounding for short runs; on random
        data 1e-6, for the test loss, and for a smaller training loss of the order of
        tol * sqrt(train_loss test_loss).
        For a flow the wanted error of the outputs, relative to the largest error y - f at the
        same time: by default 1e-6. An estimate of it is in ``diagnostics["error_estimate"]``.
        For a `Transformer` of infinite depth the wanted error of the outputs, relative to the
        largest target, by default 1e-2; its estimate is in ``diagnostics["depth_error"]``.
    method : {"growing", "chain", "richardson", "stiff", "quadrature", "ensemble"}, optional
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
        An `AttentionCore` has "quadrature", where its heads are finitely many and known, and else
        "ensemble", an average over random heads. A `Transformer` has the chain alone, at a cost
        O(L (steps P S)^3).
    device : {"cpu", "cuda"}, optional
        Where the chain is marched: by default where the data are, and with "cuda" on the current
        device of cupy, to which the data are copied once. The other methods run on the CPU
        wherever the data are, because their state fits into its caches. Random data, which are
        nowhere yet, are on the CPU by default. What the solution holds is numpy in any case.
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
        If the chain is to be marched on a device and there is none, or no cupy.
    DivergenceError
        When the training loss leaves the finite numbers or exceeds 1e8 times its value at step 0;
        it carries the part already solved.

    Warns
    -----
    StabilityWarning
        If lr exceeds 2 (1 + momentum) / (sharpness + weight_decay) at the start or at one of
        `kernel_times`.
    AccuracyWarning
        If the estimated error of a flow, or of an infinite depth, exceeds `tol`.
    """
    check_nouns("solve", limit, data, training)
    if not isinstance(estimate_error, bool):
        raise TypeError(f"estimate_error must be True or False, not {estimate_error!r}")
    if isinstance(training, GradientFlow) and checkpoint is not None:
        raise ValueError("checkpoint: a GradientFlow cannot be resumed; leave checkpoint out")
    schedule = Schedule.of_training(training, times, kernel_times)
    theory: Any = linear_flow if isinstance(training, GradientFlow) else linear
    if isinstance(limit, ProportionalLinear):
        theory = proportional_solve
    if isinstance(limit, Transformer):
        theory = transformer_solve
    if isinstance(limit, AttentionCore):
        theory = attention_solve
    elif samples is not None or seed != 0:
        name = "seed" if samples is None else "samples"
        raise ValueError(f"{name}: a {type(limit).__name__} draws nothing; leave {name} out")
    options = SolveOptions(
        schedule=schedule,
        save=fields_to_save(save, theory.FIELDS),
        tol=None if tol is None else positive("tol", tol),
        method=None if method is None else one_of("method", method, theory.METHODS),
        device=device_of(data, device),
        progress=progress,
        checkpoint=Checkpoint.at(checkpoint),
        estimate_error=estimate_error,
        samples=None if samples is None else integer("samples", samples, at_least=1),
        seed=integer("seed", seed, at_least=0),
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
            "samples": options.samples,
            "seed": options.seed,
            "tol": options.tol,
            "method": options.method,
            "device": options.device,
            "estimate_error": options.estimate_error,
        },
        "versions": provenance(),
    }
    if isinstance(limit, ProportionalLinear):
        assert not isinstance(training, GradientFlow)
        return proportional_solve.solve_proportional(limit, training, options, config)
    assert data is not None
    assert not isinstance(training, OnlineSGD)
    if isinstance(training, GradientFlow):
        assert isinstance(limit, DeepLinear)
        return linear_flow.solve_linear_flow(limit, data, options, config)
    if isinstance(limit, AttentionCore):
        return attention_solve.solve_attention(limit, data, training, options, config)
    if isinstance(limit, Transformer):
        if limit.depth == INFINITE:
            return transformer_depth.solve_infinite_depth(limit, data, training, options, config)
        return transformer_solve.solve_transformer(limit, data, training, options, config)
    return linear.solve_deep_linear(limit, data, training, options, config)
