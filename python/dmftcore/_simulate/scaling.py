"""Random and learned features of finite number, trained side by side.

The models of a run differ in their random numbers: features, samples, noise, signs of the target.
Arrays carry them on a leading axis of length S, and vectors are rows (S, 1, length). The population
error is known exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.networks import placed
from dmftcore._simulate.options import Options
from dmftcore._simulate.records import VectorRecords
from dmftcore._simulate.run import Measured, run
from dmftcore._validate import FloatArray
from dmftcore.limits import feature_learning, random_features
from dmftcore.limits.scaling import FeatureLearning, RandomFeatures
from dmftcore.march import Stopwatch, largest_loss, resumed
from dmftcore.memory import Plan, check_memory
from dmftcore.solution import IntArray, Solution
from dmftcore.spectrum import AnySpectrum, PowerLaw
from dmftcore.training import GradientDescent, OnlineSGD

__all__ = ["train"]

#: Random streams of a model: its features, its target, and its samples, of which every step of
#: one-pass training has a stretch.
FEATURES, TARGET, SAMPLES = 0, 1, 2

#: Curves, in the order in which they are measured.
CURVES = ("train_loss", "test_loss")


def _width(limit: RandomFeatures | FeatureLearning, spectrum: AnySpectrum) -> int:
    """Number of trained features: N, or D of regression on the inputs themselves.

    Raises
    ------
    ValueError
        If what the models are made of is no whole number.
    """
    directions = len(Directions.of(spectrum).values)
    if isinstance(limit, RandomFeatures):
        if not np.isinf(limit.samples):
            _whole("samples", limit.samples)
        return directions if np.isinf(limit.features) else _whole("features", limit.features)
    if np.isinf(limit.features):
        raise ValueError(
            "simulate needs finitely many features: pass e.g. features=500, whose distance to the "
            "limit is of order 1 / features"
        )
    return _whole("features", limit.features)


def _whole(name: str, value: float) -> int:
    if value != round(value):
        raise ValueError(f"{name} must be a whole number to be simulated, not {value:g}")
    return round(value)


class Directions:
    """Every direction of a spectrum: groups are taken apart.

    Attributes
    ----------
    values : (D,) array
        Eigenvalues.
    size : (D,) array
        Size of the target coefficient; a group has its target in equal parts.
    """

    def __init__(self, values: FloatArray, size: FloatArray) -> None:
        self.values, self.size = values, size

    @classmethod
    def of(cls, spectrum: AnySpectrum) -> Directions:
        """The directions of a spectrum.

        Raises
        ------
        ValueError
            For weights, and for multiplicities that are no whole numbers.
        """
        if spectrum.weights is not None:
            raise ValueError(
                "data: here groups of modes count directions; give the Spectrum multiplicities "
                "instead of weights"
            )
        counts = spectrum.multiplicities
        if counts is None:
            size = spectrum.modes if isinstance(spectrum, PowerLaw) else len(spectrum.values)
        else:
            whole = np.rint(counts).astype(np.int64)
            if np.any(whole != counts):
                raise ValueError("data: multiplicities must be whole numbers to be simulated")
            size = int(whole.sum())
        check_memory(Plan({"directions": 32 * size}), _REMEDIES, nested=True)
        if counts is None:
            return cls(spectrum.values, np.sqrt(spectrum.target))
        return cls(
            np.repeat(spectrum.values, whole), np.repeat(np.sqrt(spectrum.target / counts), whole)
        )


class _Streams:
    """Random numbers of every model, keyed by (seed, model)."""

    def __init__(self, options: Options) -> None:
        self._seed, self.seeds = options.seed, options.seeds

    def generator(self, model: int, stream: int, stretch: int = 0) -> np.random.Generator:
        """A stream of a model, 2^192 numbers between two of its stretches."""
        key = np.random.SeedSequence(self._seed, spawn_key=(model, stream))
        philox = np.random.Philox(key=key.generate_state(2, np.uint64), counter=[0, 0, 0, stretch])
        return np.random.Generator(philox)

    def normal(self, stream: int, shape: tuple[int, ...], stretch: int = 0) -> FloatArray:
        """Normal numbers (S, *shape)."""
        drawn = np.empty((self.seeds, *shape))
        for model in range(self.seeds):
            self.generator(model, stream, stretch).standard_normal(out=drawn[model])
        return drawn

    def signed(self, size: FloatArray) -> FloatArray:
        """A target of the given size and of random sign for every model, (S, 1, D)."""
        signs = [
            self.generator(model, TARGET).integers(0, 2, len(size)) * 2 - 1
            for model in range(self.seeds)
        ]
        return np.array(signs, dtype=np.float64)[:, None] * size


class _Models(ABC):
    """Models at one step of their training; a `dmftcore.march.March`."""

    def __init__(self, directions: Directions, records: VectorRecords, options: Options) -> None:
        self.step = 0
        self._records = records
        self._streams = _Streams(options)
        self._device = options.device
        self._values = placed(directions.values, options.device)
        self._xp = _arrays.namespace(self._values)
        self._target = placed(self._streams.signed(directions.size), options.device)
        #: w* - the coefficients of f, (S, 1, D).
        self._v = self._target.copy()
        self._largest = np.inf

    def _start(self) -> None:
        """The last act of a constructor."""
        self._refresh()
        self._largest = largest_loss(float(self.measured.max()))

    @abstractmethod
    def _refresh(self) -> None:
        """Derive everything from the present parameters."""

    @abstractmethod
    def _update(self) -> None:
        """Make one update of all parameters."""

    @property
    @abstractmethod
    def _parameters(self) -> dict[str, Any]:
        """Trained arrays by name."""

    @property
    @abstractmethod
    def measured(self) -> Any:
        """`CURVES` of every model, (S, 2)."""

    @abstractmethod
    def store_kernels(self) -> None:
        """Keep the kernels of the current step."""

    def advance(self, stops: IntArray) -> FloatArray:
        """Train through the given steps; what is measured, fewer rows if a model diverges."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                while self.step < stop:
                    self._update()
                    self.step += 1
                    self._refresh()
                    if not (self.measured <= self._largest).all():
                        return self._stack(rows)
                rows.append(_arrays.to_host(self.measured))
        return self._stack(rows)

    def _stack(self, rows: list[FloatArray]) -> FloatArray:
        return np.array(rows).reshape(-1, *self.measured.shape)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        return {
            "step": np.array(self.step),
            **{f"now.{name}": _arrays.to_host(x).copy() for name, x in self._parameters.items()},
            **{f"records.{name}": x for name, x in self._records.state().items()},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        for name, array in self._parameters.items():
            array[...] = self._xp.asarray(state[f"now.{name}"])
        self._refresh()
        prefix = "records."
        self._records.restore(
            {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        )

    def _population_error(self) -> Any:
        """v . Lambda v of every model, (S,)."""
        return (self._values * self._v**2).sum(axis=(1, 2))


class RandomFeatureModels(_Models):
    """``a <- a + lr vel``, ``vel <- momentum vel + F^T X^T r / P``, r = X v + noise.

    Parameters
    ----------
    limit : RandomFeatures
    directions : Directions
    training : GradientDescent or OnlineSGD
    records : VectorRecords
        Receives the kernels.
    options : Options
    """

    def __init__(
        self,
        limit: RandomFeatures,
        directions: Directions,
        training: GradientDescent | OnlineSGD,
        records: VectorRecords,
        options: Options,
    ) -> None:
        super().__init__(directions, records, options)
        self._noise = math.sqrt(limit.noise_variance)
        self._rates = training.rates
        self._momentum = training.momentum if isinstance(training, GradientDescent) else 0.0
        self._fresh = isinstance(training, OnlineSGD)
        #: Samples of a step; None trains on the population.
        self._samples = _samples(limit, training)
        size = len(directions.values)
        self._f: Any = None
        if np.isfinite(limit.features):
            drawn = self._streams.normal(FEATURES, (size, options.width))
            self._f = placed(drawn / math.sqrt(options.width), options.device)
        shape = (options.seeds, 1, options.width)
        self._a, self._velocity = self._xp.zeros(shape), self._xp.zeros(shape)
        self._drawn = -1
        self._start()

    @property
    def _parameters(self) -> dict[str, Any]:
        return {"a": self._a, "velocity": self._velocity}

    def _refresh(self) -> None:
        learned = self._a if self._f is None else self._a @ self._f.swapaxes(1, 2)
        self._v = self._target - learned
        if self._samples is None:
            self._gradient = self._values * self._v
            return
        step = self.step if self._fresh else 0
        if self._drawn != step:
            # The noise is one more column of what is drawn: a stretch belongs to a step.
            drawn = self._streams.normal(SAMPLES, (self._samples, len(self._values) + 1), step)
            x = placed(drawn, self._device)
            self._x = x[:, :, :-1] * self._xp.sqrt(self._values)
            self._labels = self._noise * x[:, None, :, -1]
            self._drawn = step
        self._r = self._v @ self._x.swapaxes(1, 2) + self._labels
        self._gradient = self._r @ self._x / self._samples

    def _update(self) -> None:
        gradient = self._gradient if self._f is None else self._gradient @ self._f
        self._velocity *= self._momentum
        self._velocity += gradient
        self._a += float(self._rates[self.step]) * self._velocity

    @property
    def measured(self) -> Any:
        test = (self._population_error() + self._noise**2) / 2
        train = test if self._samples is None else (self._r**2).mean(axis=(1, 2)) / 2
        return self._xp.stack([train, test], axis=1)

    def store_kernels(self) -> None:
        # As mean squares of as many entries: the error of every direction, and the noise.
        entries = self._v.shape[2] + 1
        error = self._xp.full((len(self._v), 1, entries), self._noise)
        error[:, :, :-1] = self._xp.sqrt(self._values) * self._v
        error *= math.sqrt(entries)
        seen = error if self._samples is None else self._r
        self._records.store({"C0": {0: error}, "CD": {0: seen}})


class FeatureModels(_Models):
    """``w <- w + lr B u``, ``B <- B + lr gamma w u^T / N``, u = A Lambda v, v = w* - A^T B^T w / N.

    Parameters
    ----------
    limit : FeatureLearning
    directions : Directions
    training : GradientDescent
    records : VectorRecords
        Receives the kernels.
    options : Options
    """

    def __init__(
        self,
        limit: FeatureLearning,
        directions: Directions,
        training: GradientDescent,
        records: VectorRecords,
        options: Options,
    ) -> None:
        super().__init__(directions, records, options)
        self._gamma, self._rates = limit.gamma, training.rates
        width, seeds = options.width, options.seeds
        drawn = self._streams.normal(FEATURES, (width, len(directions.values)))
        self._features = placed(drawn, options.device)
        self._w = self._xp.zeros((seeds, 1, width))
        self._b = self._xp.tile(self._xp.eye(width), (seeds, 1, 1))
        self._start()

    @property
    def _parameters(self) -> dict[str, Any]:
        return {"w": self._w, "b": self._b}

    def _refresh(self) -> None:
        width = self._w.shape[2]
        self._v = self._target - self._w @ self._b @ self._features / width
        self._u = (self._values * self._v) @ self._features.swapaxes(1, 2)

    def _update(self) -> None:
        lr, width = float(self._rates[self.step]), self._w.shape[2]
        learned = self._u @ self._b.swapaxes(1, 2)
        if self._gamma:
            self._b += lr * self._gamma / width * self._w.swapaxes(1, 2) * self._u
        self._w += lr * learned

    @property
    def measured(self) -> Any:
        loss = self._population_error() / 2
        return self._xp.stack([loss, loss], axis=1)

    def store_kernels(self) -> None:
        error = self._xp.sqrt(len(self._values) * self._values) * self._v
        self._records.store({"C0": {0: error}, "C_w": {0: self._w}, "C_u": {0: self._u}})


def _samples(limit: RandomFeatures, training: GradientDescent | OnlineSGD) -> int | None:
    if isinstance(training, OnlineSGD):
        return training.batch
    return None if np.isinf(limit.samples) else round(limit.samples)


def train(
    limit: RandomFeatures | FeatureLearning,
    spectrum: AnySpectrum,
    training: GradientDescent | OnlineSGD,
    options: Options,
    config: dict[str, Any],
) -> Solution:
    """Train `options.seeds` models; see `dmftcore.simulate`."""
    watch = Stopwatch()
    if isinstance(limit, RandomFeatures):
        random_features.check_training(limit, training)
    else:
        assert isinstance(training, GradientDescent)
        feature_learning.check_training(training)
    directions = Directions.of(spectrum)
    schedule = resumed(options.schedule, options.checkpoint, config, training.lr)
    options = replace(options, schedule=schedule, width=_width(limit, spectrum))
    lengths = _lengths(limit, directions, training, options.width)
    plan = _memory_plan(limit, directions, training, options, lengths)
    check_memory(plan, _REMEDIES)
    records = VectorRecords(lengths, options)
    models: _Models
    if isinstance(limit, RandomFeatures):
        models = RandomFeatureModels(limit, directions, training, records, options)
    else:
        assert isinstance(training, GradientDescent)
        models = FeatureModels(limit, directions, training, records, options)

    measured = Measured.by_name(CURVES, options.seeds)
    return run(
        models, records, measured, training, options, config,
        plan=plan, watch=watch, features=options.width, directions=len(directions.values),
    )  # fmt: skip


def _lengths(
    limit: RandomFeatures | FeatureLearning,
    directions: Directions,
    training: GradientDescent | OnlineSGD,
    width: int,
) -> dict[str, dict[int, int]]:
    """Lengths of the vectors whose products are the kernels."""
    size = len(directions.values)
    if isinstance(limit, FeatureLearning):
        return {"C0": {0: size}, "C_w": {0: width}, "C_u": {0: width}}
    return {"C0": {0: size + 1}, "CD": {0: _samples(limit, training) or size + 1}}


def _memory_plan(
    limit: RandomFeatures | FeatureLearning,
    directions: Directions,
    training: GradientDescent | OnlineSGD,
    options: Options,
    lengths: Mapping[str, Mapping[int, int]],
) -> Plan:
    """Memory of a run, by part."""
    seeds, width, size = options.seeds, options.width, len(directions.values)
    slots = len(options.schedule.kernel_times)
    # Twice: their update, or while they are scaled.
    trained = 2 * seeds * width * (width if isinstance(limit, FeatureLearning) else 1)
    samples = 0
    if isinstance(limit, RandomFeatures):
        samples = 2 * seeds * (_samples(limit, training) or 0) * (size + 2)
    kept = [length for name in options.save for length in lengths[name].values()]
    counts = {
        "features": 2 * seeds * width * size if np.isfinite(limit.features) else 0,
        "weights": trained,
        "samples": samples,
        "checkpoint": 0 if options.checkpoint is None else trained,
        "directions": (2 + 6 * seeds) * size,
        "curves": 3 * len(CURVES) * (seeds + 1) * len(options.schedule.times),
        "kernels": (seeds + 2) * slots * len(lengths),
        "two-time kernels": sum(slots * seeds * length + 2 * slots**2 for length in kept),
    }
    return Plan({part: 8 * count for part, count in counts.items()})


#: What to change when a part of the plan is the largest.
_REMEDIES = {
    "features": "lower features or seeds, or pass a spectrum of fewer directions",
    "weights": "lower features or seeds",
    "samples": "lower samples (the batch) or seeds, or pass a spectrum of fewer directions",
    "checkpoint": "lower features or seeds, or pass no checkpoint",
    "directions": "pass a spectrum of fewer directions: all of them are simulated",
    "curves": "pass fewer times or lower seeds",
    "kernels": "pass fewer kernel_times",
    "two-time kernels": "pass fewer kernel_times, or save fewer two-time kernels",
}
