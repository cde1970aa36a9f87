"""The verb `solve`: the theory of a limit, by the engine that suits the question."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy.typing as npt

from dmftcore._provenance import describe, provenance
from dmftcore._validate import integer, one_of, positive
from dmftcore._verbs import (
    SAMPLING,
    Limit,
    check_nouns,
    check_progress,
    device_of,
    fields_to_save,
    kind_of,
    named,
    names_to_save,
    unmarched,
)
from dmftcore.checkpoint import Checkpoint, PathLike
from dmftcore.data import Dataset
from dmftcore.limits import (
    attention_solve,
    feature_solve,
    linear,
    linear_flow,
    networks,
    proportional_solve,
    random_features,
    transformers,
)
from dmftcore.limits.adaptive import AdaptiveKernel, solve_adaptive
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.residual import Residual
from dmftcore.limits.scaling import FeatureLearning, RandomFeatures
from dmftcore.limits.transformer import Transformer
from dmftcore.march import Progress, SolveOptions
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.spectrum import AnySpectrum
from dmftcore.training import GradientFlow, Training

__all__ = ["solve"]


class Theory(NamedTuple):
    """What `save` and `method` may name, and what solves it."""

    fields: tuple[str, ...]
    methods: tuple[str, ...]
    solve: Callable[[Any, Any, Any, SolveOptions, dict[str, Any]], Solution]


_FLOW = Theory(linear_flow.FIELDS, linear_flow.METHODS, linear_flow.solve_linear_flow)
_NETWORK = Theory(networks.FIELDS, networks.METHODS, networks.solve_network)

THEORIES: dict[type, Theory] = {
    DeepLinear: Theory(linear.FIELDS, linear.METHODS, linear.solve_deep_linear),
    MLP: _NETWORK,
    Residual: _NETWORK,
    ProportionalLinear: Theory(
        proportional_solve.FIELDS,
        proportional_solve.METHODS,
        proportional_solve.solve_proportional,
    ),
    AttentionCore: Theory(
        attention_solve.FIELDS, attention_solve.METHODS, attention_solve.solve_attention
    ),
    Transformer: Theory(transformers.FIELDS, transformers.METHODS, transformers.solve_transformers),
    RandomFeatures: Theory(
        random_features.FIELDS, random_features.METHODS, random_features.solve_random_features
    ),
    FeatureLearning: Theory(
        feature_solve.FIELDS, feature_solve.METHODS, feature_solve.solve_feature_learning
    ),
}


def solve(
    limit: Limit,
    data: Dataset | AnySpectrum | None,
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
    limit : DeepLinear, MLP, Residual, ProportionalLinear, AttentionCore, Transformer, ...
        Which network, in which limit: one of the nouns of this package.
    data : Dataset, Spectrum, PowerLaw or None
        Training points or sequences, and optionally test points; the spectrum of the population for
        `RandomFeatures` and `FeatureLearning`; None for a `ProportionalLinear`, whose data are
        random.
    training : GradientDescent, GradientFlow or OnlineSGD, optional
        Learning rates, momentum, weight decay and number of steps, or the times of a flow.
        `DeepLinear`, `RandomFeatures` and `FeatureLearning` (with infinitely many features) have a
        flow, `ProportionalLinear` and `RandomFeatures` have `OnlineSGD`. An `AdaptiveKernel` is
        static and has none; of the options it knows `samples` and `seed`, and its solution has the
        single time 0.
    times : sequence of int, optional
        Steps at which outputs and losses are stored: by default all of them up to 10_000 steps,
        1000 log-spaced ones beyond. A flow has its own.
    kernel_times : sequence of int, optional
        Steps of the tangent kernel, the sharpness, the equal-time kernels, order parameters and
        what `save` names: by default all of them up to 256 steps, 64 log-spaced ones beyond; []
        for none. For a flow some of its times tau: by default all of them up to 256, 64 spread
        ones beyond.
    save : str or sequence of str
        Two-time fields to keep, at `kernel_times`; "all" for every one that there is.

        - `DeepLinear`: kernels "H", "G", responses "A" of features, "B" of gradients, and products
          of responses with the noise they answer to, "AG" (A^l G^{l+1}) and "BPhi" (B^l H^l). A
          flow has no responses: they answer to single steps.
        - `MLP`, `Residual`: "H", "Phi", "G", "AG" and "BPhi".
        - `ProportionalLinear`: kernels "Cp", "CD", "Cv", "H", "G" and responses "RD", "A", "B".
        - `RandomFeatures`: "C0", the population error v(t).Lambda v(s) with the noise, and "CD",
          that on the training samples; `FeatureLearning`: "C0" and, per neuron, "C_w" and "C_u" of
          readout and gradient.
        - `AttentionCore`: patterns "S_heads" and scores "A_heads" of every head, for their
          distribution; they go to the order parameters.
        - `Transformer`: kernels "H", "G", "O" (outputs of attention), "P_k", "P_q", "P_v"
          (gradients by keys, queries, values) and, by the chain, responses "Rh", "Rg" (of the
          stream), "Ro", "Rp_k", "Rp_q", "Rp_v" (of the heads), among all tokens; "S_heads" and
          "A_heads" as before. With "all" the other methods keep what they know.
    samples : int, optional
        Size of a sample, where a theory is an average over one. `MLP`, `Residual`: particles that
        stand for the neurons of a layer, by default 2000, in each replica; the error falls as
        1 / sqrt(samples replicas). With ``method="quadrature"`` the number of its nodes, by default
        96^2 or 64^3. `AttentionCore`: heads, in 8 independent groups, by default 2048; for finitely
        many heads the number of networks, by default 8. `Transformer` of finite `key_dim`: heads in
        each replica, by default 2000 / key_dim; of infinite `key_dim` with nonlinear MLP blocks
        their neurons, by default 2000. `AdaptiveKernel`: neurons.
    replicas : int, optional
        Independent runs of the theory of an `MLP`, a `Residual` or a sampled `Transformer`, by
        default 8. The answer is their mean, and with at least two their scatter gives the standard
        errors ``stderr(name)``.
    seed : int
        Start of the random numbers of a sample. A replica r depends on `seed` and r alone.
    tol : float, optional
        Truncation of the growing network: the relative error of the loss is of its order, as
        long as lr * sharpness < 2. By default 1e-8, and down to rounding for short runs; on random
        data 1e-6, for the test loss, and for a smaller training loss of the order of
        tol * sqrt(train_loss test_loss).
        For a flow the wanted error of the outputs, relative to the largest error y - f at the
        same time: by default 1e-6. An estimate of it is in ``diagnostics["error_estimate"]``.
        For a `Transformer` of infinite depth that is not sampled the wanted error of the outputs,
        relative to the largest target, by default 1e-2; its estimate is in
        ``diagnostics["depth_error"]``.
        For particles the part of the mean square of a field that may be dropped: by default 1e-4.
        For a `Residual` of infinite depth at gamma = 0 the wanted error of the outputs, relative to
        the largest target: by default 1e-6. An estimate is in ``diagnostics["depth_error"]``.
        For the growing network of a `Transformer` too: by default 1e-16, which makes errors of
        outputs some 1e-11, 1e-12 some 1e-8.
    method : str, optional
        The engine. By default the one that suits the size and the question;
        ``diagnostics["reason"]`` tells why.

        - "growing" (`DeepLinear`, `ProportionalLinear`, linear `MLP` and `Residual`): the infinite
          network as a small one that grows neurons; cost O(steps L k^2) with k = 20..200 neurons a
          layer. On random data it is for plain networks, full batches and kernels only, there the
          default of more than 400 steps, and may need k = 500.
          (`Transformer` of infinite `key_dim`): exact sources, cost linear in the steps once ranks
          have saturated; the default of long runs.
        - "chain" (the same, and `FeatureLearning`): the exact march of two-time kernels, cost
          O(L steps^3 K^3), memory O(L steps^2 K^2), with tokens in place of K for a `Transformer`.
          The default when responses are asked for.
        - "richardson", "stiff" (flow of a `DeepLinear`): the growing network extrapolated to lr =
          0, at a cost of some 100 tau sharpness steps, or integrated by Radau IIA in some hundred
          steps, whatever tau, for networks without residual blocks. By default the cheaper one.
        - "ensemble" (`MLP`, `Residual`): the infinite network on particles, at a cost O(steps L
          samples replicas k P) with k of about 100 for smooth activations; for "relu" k grows up
          to P steps. (`AttentionCore`): an average over random heads. (`Transformer`): infinitely
          many heads of finite `key_dim`, and nonlinear MLP blocks.
        - "quadrature": deterministic, for ``MLP(depth=1)`` with a smooth activation and a Gram
          matrix whose rank and the number of outputs add up to 3 at most, and for an
          `AttentionCore` whose heads are finitely many and known.
        - "closed" (`FeatureLearning` of infinitely many features): O(modes^2 steps), or
          O(modes log tau) for a flow. "spectral" (`RandomFeatures`): contour integrals whose cost
          does not grow with time.
    dtype : {"float64", "float32"}
        Type of particles; sums and results are of float64.
    device : {"cpu", "cuda"}, optional
        Where to compute: by default where the data are, and with "cuda" on the current device of
        cupy, to which what is needed is copied once. The growing network, the contours, the
        quadrature of neurons and the limit gamma = 0 run on the CPU wherever the data are, because
        their state fits into its caches. Random data, which are nowhere yet, are on the CPU by
        default. What the solution holds is numpy in any case. A device draws the random numbers of
        the CPU.
    estimate_error : bool
        Run the growing network once more, at a hundredth of its tolerance (a hundred times, if
        that would be below rounding), and report the difference of outputs and losses in
        ``diagnostics["error_estimate"]``. The finer run takes up to twice as long as the first.
        The chain on random data, which truncates nothing, runs once more at a learning rate a few
        units in the last place larger: how far rounding has grown. A flow always estimates its
        error.
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
        If the run is to be on a device and there is none, or no cupy.
    DivergenceError
        When the training loss leaves the finite numbers or exceeds 1e8 times its value at step 0
        (1e8, if that is zero); it carries the part already solved.

    Warns
    -----
    StabilityWarning
        If lr exceeds 2 (1 + momentum) / (sharpness + weight_decay) at the start or at one of
        `kernel_times`.
    AccuracyWarning
        If the estimated error of a flow, or of an infinite depth, exceeds `tol`, or a loss of
        `RandomFeatures` has decayed below its accuracy.
    """
    check_nouns("solve", limit, data, training)
    save = names_to_save(save)
    sampling: dict[str, Any] = {
        "samples": samples,
        "replicas": replicas,
        "seed": seed,
        "dtype": dtype,
    }
    _check_sampling(limit, sampling)
    if isinstance(limit, AdaptiveKernel):
        assert isinstance(data, Dataset)
        given = {
            "times": times, "kernel_times": kernel_times, "save": save or None, "tol": tol,
            "method": method, "device": device, "estimate_error": estimate_error or None,
            "progress": progress, "checkpoint": checkpoint,
        }  # fmt: skip
        return _solve_static(limit, data, sampling, given)
    assert training is not None
    check_progress(progress)
    if not isinstance(estimate_error, bool):
        raise TypeError(f"estimate_error must be True or False, not {estimate_error!r}")
    if checkpoint is not None and (why := unmarched(limit, training)):
        raise ValueError(f"checkpoint: {why}; leave checkpoint out")
    theory = THEORIES[type(limit)]
    if isinstance(limit, DeepLinear) and isinstance(training, GradientFlow):
        theory = _FLOW
    schedule = Schedule.of_training(training, times, kernel_times)
    options = SolveOptions(
        schedule=schedule,
        save=fields_to_save(save, theory.fields),
        save_all="all" in save,
        tol=None if tol is None else positive("tol", tol),
        method=None if method is None else one_of("method", method, theory.methods),
        device=device_of(data, device),
        progress=progress,
        checkpoint=Checkpoint.at(checkpoint),
        estimate_error=estimate_error,
        **sampling,
    )
    data = data.on_host if isinstance(data, Dataset) else data
    config = _config(limit, data, training)
    config["solve"] = {
        "times": None if times is None else schedule.times.tolist(),
        "kernel_times": None if kernel_times is None else schedule.kernel_times.tolist(),
        "save": list(options.save),
        **{name: sampling[name] for name in kind_of(limit).sampling},
        "tol": options.tol,
        "method": options.method,
        "device": options.device,
        "estimate_error": options.estimate_error,
    }
    return theory.solve(limit, data, training, options, config)


def _check_sampling(limit: Limit, sampling: dict[str, Any]) -> None:
    """Check the options of a random sample, and refuse those that the theory does not know."""
    for name in ("samples", "replicas"):
        if sampling[name] is not None:
            sampling[name] = integer(name, sampling[name], at_least=1)
    sampling["seed"] = integer("seed", sampling["seed"], at_least=0)
    one_of("dtype", sampling["dtype"], ("float64", "float32"))
    known = kind_of(limit).sampling
    for name, value in sampling.items():
        if name not in known and value != SAMPLING[name]:
            knows = f"knows {' and '.join(known)} alone" if known else "draws no random numbers"
            raise ValueError(f"{name}: the theory of {named(limit)} {knows}; leave {name} out")


def _config(limit: Limit, data: Any, training: Training | None) -> dict[str, Any]:
    config = {"limit": describe(limit), "data": describe(data), "versions": provenance()}
    return config if training is None else config | {"training": describe(training)}


def _solve_static(
    limit: AdaptiveKernel, data: Dataset, sampling: dict[str, Any], given: dict[str, Any]
) -> Solution:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name}: an AdaptiveKernel is static; leave {name} out")
    options = {name: sampling[name] for name in kind_of(limit).sampling}
    config = _config(limit, data.on_host, None) | {"solve": options}
    return solve_adaptive(limit, data.on_host, **options, config=config)
