"""Deep linear networks of finite width, trained on random data of their own by gradient descent.

Every network has N neurons a layer, D = N / width_ratio inputs, P = sample_ratio D samples a step
and a target of its own. Its predictor is ``f = beta . x / sqrt(D)``, so that the population error
is known: ``sum_i lambda_i (beta*_i - beta_i)^2 / D``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._simulate.networks import LinearNetworks, Weights, initial_weights, placed
from dmftcore._simulate.options import Options
from dmftcore._simulate.records import VectorRecords
from dmftcore._simulate.run import Measured, check_finite_depth, run
from dmftcore._validate import FloatArray
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.march import Stopwatch, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent, OnlineSGD

__all__ = ["KERNELS", "RandomNetworks", "Samples", "sizes", "train"]

#: Two-time kernels that a simulation can store.
KERNELS = ("Cp", "CD", "Cv", "H", "G")

#: The random stream of the data of a network: its place behind any layer of weights, and of the
#: target behind the samples of any step.
SAMPLES, TEACHER = 1 << 16, 1 << 32

#: Curves, in the order in which `RandomNetworks` measures them.
CURVES = ("train_loss", "test_loss", "overlap")

#: Relative deviation from a whole number that a size may show by rounding.
WHOLE_TOLERANCE = 1e-9


def sizes(limit: ProportionalLinear, width: int) -> tuple[int, int]:
    """Number D of inputs and P of samples a step, for networks of the given width.

    Raises
    ------
    ValueError
        If one of them is no whole number.
    """
    inputs = _whole("D = width / width_ratio", width / limit.width_ratio, width)
    return inputs, _whole("P = sample_ratio * D", limit.sample_ratio * inputs, width)


def _whole(what: str, value: float, width: int) -> int:
    number = round(value)
    if number < 1 or abs(value - number) > WHOLE_TOLERANCE * value:
        raise ValueError(
            f"width = {width} gives {what} = {value:g}, which is no whole number >= 1; pass a "
            "width that makes it one"
        )
    return number


class Samples:
    """The random data of S networks.

    Every network has a random stream of its own, keyed by (seed, network), and every step a
    stretch of it.

    Parameters
    ----------
    limit : ProportionalLinear
    inputs, samples : int
        D and P.
    seeds, seed : int
        As in `simulate`.

    Attributes
    ----------
    values : (D,) array
        Eigenvalues lambda of the covariance, by direction; every mode has its part of the
        directions, rounded to whole numbers.
    teacher : (S, D) array
        beta*, of the size of the target and of random sign.

    Raises
    ------
    ValueError
        If there are too few directions for all modes.
    """

    def __init__(
        self, limit: ProportionalLinear, *, inputs: int, samples: int, seeds: int, seed: int
    ) -> None:
        self._noise = limit.noise
        modes = limit.modes
        places = (np.arange(inputs) + 0.5) / inputs
        mode = np.searchsorted(np.cumsum(modes.weights)[:-1], places)
        if len(np.unique(mode)) < len(modes.values):
            raise ValueError(
                f"the spectrum has {len(modes.values)} modes, and some have no direction among "
                f"the D = {inputs} of these networks: pass a larger width"
            )
        self.values: FloatArray = modes.values[mode]
        self._keys = [
            np.random.SeedSequence(seed, spawn_key=(network, SAMPLES)).generate_state(2, np.uint64)
            for network in range(seeds)
        ]
        self.teacher = np.empty((seeds, inputs))
        for network in range(seeds):
            signs = self._generator(network, TEACHER).integers(0, 2, inputs) * 2 - 1
            self.teacher[network] = signs * np.sqrt(modes.target[mode])
        self._inputs = np.empty((seeds, samples, inputs))
        self._targets = np.empty((seeds, samples))

    def draw(self, step: int) -> tuple[FloatArray, FloatArray]:
        """Inputs (S, P, D) and targets (S, P) of a step, in place of those drawn before."""
        scale = 1 / math.sqrt(len(self.values))
        for network, (x, y) in enumerate(zip(self._inputs, self._targets, strict=True)):
            generator = self._generator(network, step)
            generator.standard_normal(out=x)
            x *= np.sqrt(self.values)
            generator.standard_normal(out=y)
            y *= self._noise
            y += scale * (x @ self.teacher[network])
        return self._inputs, self._targets

    def _generator(self, network: int, stretch: int) -> np.random.Generator:
        # The last word of the counter: 2^192 numbers lie between two stretches.
        counter = [0, 0, 0, stretch]
        return np.random.Generator(np.random.Philox(key=self._keys[network], counter=counter))


class RandomNetworks(LinearNetworks):
    """Networks on random data, each with samples and a target of its own.

    Parameters
    ----------
    limit : ProportionalLinear
    training : GradientDescent or OnlineSGD
    weights : Weights
        Initial weights, overwritten by the training.
    samples : Samples
    records : VectorRecords
        Receives the kernels.
    device : {"cpu", "cuda"}
        Where the weights are.
    """

    def __init__(
        self,
        limit: ProportionalLinear,
        training: GradientDescent | OnlineSGD,
        weights: Weights,
        samples: Samples,
        records: VectorRecords,
        device: str = "cpu",
    ) -> None:
        self._fresh = isinstance(training, OnlineSGD)
        descent = training.descent if isinstance(training, OnlineSGD) else training
        super().__init__(limit.branch_factor, descent, weights, 1, records)
        self._records, self._samples, self._device = records, samples, device
        self._kap = limit.output_scale
        self._values = placed(samples.values, device)
        self._teacher = placed(samples.teacher, device)[:, None]
        self._drawn = -1
        self._start()

    @property
    def dimension(self) -> int:
        """Number D of inputs."""
        return int(self.weights.first.shape[2])

    @property
    def measured(self) -> Any:
        """`CURVES` of every network, (S, 3)."""
        test = (self._values * self._distance**2).mean(axis=(1, 2)) / 2
        overlap = (self._beta * self._teacher).mean(axis=(1, 2))
        return self._xp.stack([self._losses(), test, overlap], axis=1)

    def store_kernels(self) -> None:
        """Keep the kernels of the current step."""
        self._records.store(
            {
                "Cp": {0: self._xp.sqrt(self._values) * self._distance},
                "CD": {0: self._errors},
                "Cv": {0: self._gradient},
                "H": dict(enumerate(self.features(self._inputs_of_update), start=1)),
                "G": dict(enumerate(self._g, start=1)),
            }
        )

    def _refresh(self) -> None:
        step = self.step if self._fresh else 0
        if self._drawn != step:
            inputs, targets = self._samples.draw(step)
            self._x = placed(inputs, self._device)
            self._y = placed(targets, self._device)[:, None]
            self._drawn = step
        self._g = self._gradients()
        self._beta = self._g[0] @ self.weights.first / (self._kap * math.sqrt(self.width))
        self._distance = self._teacher - self._beta
        outputs = self._beta @ self._x.swapaxes(1, 2) / math.sqrt(self.dimension)
        self._errors = self._y - outputs
        # v = sqrt(D) X^T Delta / P, with entries of order one.
        self._gradient = self._errors @ self._x * (math.sqrt(self.dimension) / self._x.shape[1])

    @property
    def _inputs_of_update(self) -> Any:
        """v / sqrt(D), whose features h^1, ..., h^L the weights move along."""
        return self._gradient / math.sqrt(self.dimension)

    def _losses(self) -> Any:
        return (self._errors**2).mean(axis=(1, 2)) / 2

    def _update(self) -> None:
        # theta <- theta - lr D kap^2 grad(loss), with sum_mu Delta_mu x_mu / P = v / sqrt(D).
        scale = self._kap * math.sqrt(self.dimension / self.width)
        self._descend(self._inputs_of_update, self._g, scale)


def train(
    limit: ProportionalLinear,
    _: None,
    training: GradientDescent | OnlineSGD,
    options: Options,
    config: dict[str, Any],
) -> Solution:
    """Train `options.seeds` networks; see `dmftcore.simulate`."""
    _check(limit, training)
    watch = Stopwatch()
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr)
    options = replace(options, schedule=schedule)
    inputs, samples = sizes(limit, options.width)
    lengths = _lengths(limit, options.width, inputs, samples)
    plan = memory_plan(limit, training, options, lengths)
    check_memory(plan, _REMEDIES)
    weights = initial_weights(
        limit,
        width=options.width,
        rank=inputs,
        outputs=1,
        seeds=options.seeds,
        seed=options.seed,
        device=options.device,
    )
    drawn = Samples(limit, inputs=inputs, samples=samples, seeds=options.seeds, seed=options.seed)
    records = VectorRecords(lengths, options)
    networks = RandomNetworks(limit, training, weights, drawn, records, options.device)

    measured = Measured.by_name(CURVES, options.seeds)
    return run(
        networks, records, measured, training, options, config,
        plan=plan, watch=watch, width=options.width, inputs=inputs, samples=samples,
    )  # fmt: skip


def _check(limit: ProportionalLinear, training: GradientDescent | OnlineSGD) -> None:
    check_finite_depth(limit.depth)
    if isinstance(training, OnlineSGD) and training.batch is not None:
        raise ValueError(
            "batch: sample_ratio sets the samples of a step, sample_ratio * D; leave batch out"
        )


def _lengths(
    limit: ProportionalLinear, width: int, inputs: int, samples: int
) -> dict[str, dict[int, int]]:
    """Lengths of the vectors whose products are the kernels, by name and layer."""
    hidden = dict.fromkeys(range(1, limit.depth + 1), width)
    return {"Cp": {0: inputs}, "CD": {0: samples}, "Cv": {0: inputs}, "H": hidden, "G": hidden}


def memory_plan(
    limit: ProportionalLinear,
    training: GradientDescent | OnlineSGD,
    options: Options,
    lengths: Mapping[str, Mapping[int, int]],
) -> Plan:
    """Memory of a run, by part."""
    seeds, width, depth = options.seeds, options.width, limit.depth
    slots = len(options.schedule.kernel_times)
    inputs, samples = lengths["Cp"][0], lengths["CD"][0]
    moving = isinstance(training, GradientDescent) and training.momentum > 0
    weights = seeds * (width * (inputs + 1) + (depth - 1) * width**2) * (2 if moving else 1)
    kept = [length for name in options.save for length in lengths[name].values()]
    counts = {
        "weights": weights,
        "checkpoint": 0 if options.checkpoint is None else weights,
        "samples": seeds * samples * (inputs + 3),
        # Twice while they are put together; their means and errors.
        "curves": 3 * len(CURVES) * (seeds + 1) * len(options.schedule.times),
        "kernels": (seeds + 2) * slots * (2 * depth + 3),
        # Gradients, features, and vectors of the inputs with their temporaries.
        "work": seeds * (3 * depth * width + 8 * inputs + 2 * samples),
        "two-time kernels": sum(slots * seeds * length + 2 * slots**2 for length in kept),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "weights": "lower width or seeds",
    "checkpoint": "lower width or seeds, or pass no checkpoint",
    "samples": "lower width or seeds",
    "curves": "pass fewer times or lower seeds",
    "kernels": "pass fewer kernel_times",
    "work": "lower width or seeds",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
