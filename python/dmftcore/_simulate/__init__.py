"""The verb `simulate`: train finite networks by the rule whose limit `solve` computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy.typing as npt

from dmftcore._provenance import describe, provenance
from dmftcore._simulate import attention, linear, nonlinear, proportional, scaling, transformer
from dmftcore._simulate.options import Options
from dmftcore._validate import integer
from dmftcore._verbs import Limit, check_nouns, check_progress, device_of, fields_to_save, named
from dmftcore.checkpoint import Checkpoint, PathLike
from dmftcore.data import Dataset
from dmftcore.limits import feature_learning, random_features
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.residual import Residual
from dmftcore.limits.scaling import FeatureLearning, RandomFeatures
from dmftcore.limits.transformer import Transformer
from dmftcore.march import Progress
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.spectrum import AnySpectrum
from dmftcore.training import GradientDescent, OnlineSGD

__all__ = ["simulate"]


class Experiment(NamedTuple):
    """What `save` may name, and what takes (limit, data, training, options, config)."""

    fields: tuple[str, ...]
    train: Callable[[Any, Any, Any, Options, dict[str, Any]], Solution]
    #: Whether `width` says how many neurons there are, may say it, or must not.
    width: str = "needed"


_NONLINEAR = Experiment(nonlinear.KERNELS, nonlinear.train)

EXPERIMENTS: dict[type, Experiment] = {
    DeepLinear: Experiment(linear.KERNELS, linear.train),
    MLP: _NONLINEAR,
    Residual: _NONLINEAR,
    ProportionalLinear: Experiment(proportional.KERNELS, proportional.train),
    AttentionCore: Experiment(attention.FIELDS, attention.train, width="optional"),
    Transformer: Experiment(transformer.FIELDS, transformer.train, width="optional"),
    RandomFeatures: Experiment(random_features.KERNELS, scaling.train, width="refused"),
    FeatureLearning: Experiment(feature_learning.KERNELS, scaling.train, width="refused"),
}


def simulate(
    limit: Limit,
    data: Dataset | AnySpectrum | None,
    training: GradientDescent | OnlineSGD,
    *,
    width: int | None = None,
    seeds: int = 1,
    seed: int = 0,
    times: npt.ArrayLike | None = None,
    kernel_times: npt.ArrayLike | None = None,
    save: str | Iterable[str] = (),
    progress: Progress | None = None,
    device: str | None = None,
    checkpoint: PathLike | Checkpoint | None = None,
) -> Solution:
    """Train finite networks and measure what `solve` predicts for infinite width.

    The fields of the result are means over networks that differ in their initial weights;
    their single curves are in ``per_seed``, and with ``seeds >= 2`` the standard errors of the
    means in ``stderr(name)``. As in the theory, training acts on f - f(0), the output minus its
    value at the start; but on f itself for a `ProportionalLinear`, whose networks also have
    samples and a target of their own each. Their test loss is that of the whole population.

    Parameters
    ----------
    limit : DeepLinear, MLP, Residual, ProportionalLinear, AttentionCore, Transformer, ...
        Which network, of finite depth, with ``gamma > 0`` and ``readout="gd"``. `RandomFeatures`
        and `FeatureLearning` name whole numbers of samples and features. Of attention the heads or
        the keys are finite, or both; an `AttentionCore` of given `parameters` is trained on f
        itself.
    data : Dataset, Spectrum, PowerLaw or None
        Training points or sequences, and optionally test points; the spectrum of the population
        for `RandomFeatures` and `FeatureLearning`, whose every direction is simulated; None for a
        `ProportionalLinear`.
    training : GradientDescent or OnlineSGD
        Learning rates, momentum, weight decay and number of steps. `OnlineSGD`, which draws
        ``sample_ratio * D`` fresh samples at every step, is for a `ProportionalLinear`, and with a
        batch for `RandomFeatures` of infinitely many samples. For a gradient flow take a small lr:
        its error is of order lr.
    width : int
        Number N of neurons in every hidden layer. A `ProportionalLinear` has
        ``D = width / width_ratio`` inputs and ``P = sample_ratio * D`` samples, which must be whole
        numbers; the modes of its spectrum have their parts of the D directions, rounded. For
        attention the number N H of all components of keys, which tells the one of heads and keys
        that the limit leaves infinite. `RandomFeatures` and `FeatureLearning` have their number of
        features instead.
    seeds : int
        Number of networks.
    seed : int
        Start of the random numbers. Network r of a run depends on `seed` and r alone, not on
        how many networks are trained beside it.
    times : sequence of int, optional
        Steps at which outputs and losses are stored: by default all of them up to 10_000 steps,
        1000 log-spaced ones beyond.
    kernel_times : sequence of int, optional
        Steps of the tangent kernel, the sharpness and the equal-time kernels: by default all of
        them up to 256 steps, 64 log-spaced ones beyond.
    save : str or sequence of str
        Two-time kernels to keep, at `kernel_times`; "all" for every one there is: "H" and "G", of
        an `MLP` or a `Residual` also "Phi"; of a `ProportionalLinear` also "Cp", "CD" and "Cv"; of
        a `Transformer` also "O", "P_k", "P_q" and "P_v"; of random features "C0" and "CD", of
        learned ones "C0", "C_w" and "C_u". Of every head of an `AttentionCore` or a `Transformer`,
        the patterns "S_heads" and the scores "A_heads", which go to the order parameters.
    progress : callable, optional
        Called with (step, mean training loss).
    device : {"cpu", "cuda"}, optional
        Where the networks are trained; "cuda" needs cupy. Random numbers are drawn on the host
        wherever that is, so that runs on both agree up to rounding. By default where the data are.
    checkpoint : path, optional
        As in `solve`. The file holds all weights.

    Returns
    -------
    Solution

    Raises
    ------
    TypeError, ValueError
        For arguments that make no network, and for a checkpoint of another run.
    MemoryError
        Before the first step, if the run cannot fit.
    CudaError, ImportError
        For ``device="cuda"`` without a CUDA device, or without cupy.
    DivergenceError
        When the training loss of any of the networks leaves the finite numbers or exceeds 1e8
        times its value at step 0.
    """
    check_nouns("simulate", limit, data, training)
    check_progress(progress)
    experiment = EXPERIMENTS[type(limit)]
    if experiment.width == "refused" and width is not None:
        raise ValueError(f"width: {named(limit)} has its number of features; leave width out")
    if experiment.width == "needed" and width is None:
        raise ValueError("width is missing: pass the number of neurons per hidden layer")
    options = Options(
        width=None if width is None else integer("width", width, at_least=1),
        seeds=integer("seeds", seeds, at_least=1),
        seed=integer("seed", seed, at_least=0),
        schedule=Schedule.of(training.steps, times, kernel_times),
        save=fields_to_save(save, experiment.fields),
        progress=progress,
        device=device_of(data, device),
        checkpoint=Checkpoint.at(checkpoint),
    )
    data = data.on_host if isinstance(data, Dataset) else data
    schedule = options.schedule
    config = {
        "limit": describe(limit),
        "data": describe(data),
        "training": describe(training),
        "simulate": {
            "width": options.width,
            "seeds": options.seeds,
            "seed": options.seed,
            "times": None if times is None else schedule.times.tolist(),
            "kernel_times": None if kernel_times is None else schedule.kernel_times.tolist(),
            "save": list(options.save),
        },
        "versions": provenance(),
    }
    return experiment.train(limit, data, training, options, config)
