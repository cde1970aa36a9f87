"""The verb `simulate`: train finite networks by the rule whose limit `solve` computes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy.typing as npt

from dmftcore._provenance import describe, provenance
from dmftcore._simulate import attention, linear, proportional, transformer
from dmftcore._simulate.options import Options
from dmftcore._validate import integer
from dmftcore._verbs import check_nouns, device_of, fields_to_save
from dmftcore.checkpoint import Checkpoint, PathLike
from dmftcore.data import Dataset
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.transformer import Transformer
from dmftcore.march import Progress
from dmftcore.schedule import Schedule
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent, OnlineSGD

__all__ = ["simulate"]


def simulate(
    limit: DeepLinear | ProportionalLinear | AttentionCore | Transformer,
    data: Dataset | None,
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
    limit : AttentionCore, DeepLinear, ProportionalLinear or Transformer
        Which network, of finite depth; ``gamma > 0`` and ``readout="gd"``. Of attention the heads
        or the keys are finite, or both; an `AttentionCore` of given `parameters` is trained on f
        itself.
    data : Dataset or None
        Training points, and optionally test points; None for a `ProportionalLinear`.
    training : GradientDescent or OnlineSGD
        Learning rates, momentum, weight decay and number of steps. `OnlineSGD`, which draws
        ``sample_ratio * D`` fresh samples at every step, is for a `ProportionalLinear`.
    width : int
        Number N of neurons in every hidden layer. A `ProportionalLinear` has
        ``D = width / width_ratio`` inputs and ``P = sample_ratio * D`` samples, which must be whole
        numbers; the modes of its spectrum have their parts of the D directions, rounded. For
        attention the number N H of all components of keys, which tells the one of heads and keys
        that the limit leaves infinite.
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
    save : {"H", "G", "all"} or sequence of these
        Two-time kernels to keep, at `kernel_times`. On random data also "Cp", "CD" and "Cv"; of a
        `Transformer` also "O", "P_k", "P_q" and "P_v".
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
    if width is None and not isinstance(limit, AttentionCore | Transformer):
        raise ValueError("width is missing: pass the number of neurons per hidden layer")
    networks: Any = proportional if isinstance(limit, ProportionalLinear) else linear
    if isinstance(limit, AttentionCore):
        networks = attention
    if isinstance(limit, Transformer):
        networks = transformer
    options = Options(
        width=None if width is None else integer("width", width, at_least=1),
        seeds=integer("seeds", seeds, at_least=1),
        seed=integer("seed", seed, at_least=0),
        schedule=Schedule.of(training.steps, times, kernel_times),
        save=fields_to_save(save, networks.KERNELS),
        progress=progress,
        device=device_of(data, device),
        checkpoint=Checkpoint.at(checkpoint),
    )
    data = None if data is None else data.on_host
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
    if isinstance(limit, ProportionalLinear):
        return proportional.train(limit, training, options, config)
    assert data is not None
    assert isinstance(training, GradientDescent)
    if isinstance(limit, AttentionCore):
        return attention.train(limit, data, training, options, config)
    if isinstance(limit, Transformer):
        return transformer.train(limit, data, training, options, config)
    return linear.train(limit, data, training, options, config)
