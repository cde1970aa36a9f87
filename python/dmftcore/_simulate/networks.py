"""Networks of finite width that are trained side by side; the linear ones.

The networks of a run differ in their random numbers; every array carries them on a leading axis of
length S. Points, outputs and gradients are rows: a feature array is (S, points, N), a gradient
array (S, K, N). The arrays of the networks are of numpy or of cupy; what is handed out is on the
host.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._simulate.descent import Descent, Outer
from dmftcore._validate import FloatArray
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.march import largest_loss
from dmftcore.solution import IntArray
from dmftcore.training import GradientDescent

__all__ = [
    "LinearNetworks",
    "Stored",
    "TrainedNetworks",
    "Weights",
    "initial_weights",
    "placed",
    "random_weights",
]


@dataclass(frozen=True)
class Weights:
    """Weights of S networks: W^0 (S, N, r), W^1, W^2, ... (S, N, N) each, w (S, K, N)."""

    first: Any
    hidden: tuple[Any, ...]
    readout: Any

    @property
    def all(self) -> list[Any]:
        """W^0, W^1, ..., w."""
        return [self.first, *self.hidden, self.readout]


def initial_weights(
    limit: DeepLinear | ProportionalLinear,
    *,
    width: int,
    rank: int,
    outputs: int,
    seeds: int,
    seed: int,
    device: str = "cpu",
) -> Weights:
    """Weights of `limit`; see `random_weights`."""
    return random_weights(
        limit.depth - 1,
        scale=limit.init_scale,
        width=width,
        rank=rank,
        outputs=outputs,
        seeds=seeds,
        seed=seed,
        device=device,
    )


def random_weights(
    hidden: int,
    *,
    scale: float = 1.0,
    width: int,
    rank: int,
    outputs: int,
    seeds: int,
    seed: int,
    device: str,
) -> Weights:
    """Independent normal weights of standard deviation `scale`, with `hidden` hidden matrices.

    Every layer of every network has a random stream of its own, keyed by (seed, network, layer),
    and is drawn on the host wherever the weights go.
    """
    shapes = [(width, rank), *[(width, width)] * hidden, (outputs, width)]
    layers = []
    for layer, shape in enumerate(shapes):
        weights = np.empty((seeds, *shape))
        for network in range(seeds):
            key = np.random.SeedSequence(seed, spawn_key=(network, layer))
            generator = np.random.Generator(np.random.Philox(key))
            generator.standard_normal(out=weights[network])
        weights *= scale
        layers.append(placed(weights, device))
    return Weights(layers[0], tuple(layers[1:-1]), layers[-1])


def placed(array: FloatArray, device: str) -> Any:
    """An array of the host where the networks are."""
    return _arrays.to_device(array) if device == "cuda" else array


class Stored(Protocol):
    """Where the kernels of a run are kept."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What is stored so far."""

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` of a run of the same networks has stored."""


class TrainedNetworks(ABC):
    """Networks at one step of their training; a `dmftcore.march.March`.

    A class of networks says what their weights amount to (`_refresh`), and how they move
    (`_update`).

    Parameters
    ----------
    training : GradientDescent
    arrays : list of arrays
        All initial weights, networks on the first axis; overwritten by the training.
    records : Stored
        Receives the kernels.
    """

    def __init__(self, training: GradientDescent, arrays: list[Any], records: Stored) -> None:
        self.step = 0
        self._arrays = arrays
        self._xp = _arrays.namespace(arrays[0])
        self._descent = Descent(training, arrays)
        self._stored = records

    def _start(self) -> None:
        """Measure the initial networks; the last act of a constructor."""
        self._refresh()
        self._largest_loss = largest_loss(float(self._losses().max()))

    @abstractmethod
    def _refresh(self) -> None:
        """Derive everything from the present weights."""

    @abstractmethod
    def _losses(self) -> Any:
        """Training loss of every network."""

    @abstractmethod
    def _update(self) -> None:
        """Make one update of all weights, and refresh."""

    @property
    @abstractmethod
    def measured(self) -> Any:
        """What is stored of the present step, (S, ., .)."""

    @abstractmethod
    def store_kernels(self) -> None:
        """Keep the kernels of the current step."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what is measured."""
        shape: tuple[int, ...] = self.measured.shape
        return shape

    @property
    def width(self) -> int:
        """Number N of neurons per hidden layer, rows of the first array of weights."""
        return int(self._arrays[0].shape[1])

    def advance(self, stops: IntArray) -> FloatArray:
        """Train through the given steps; what is measured, fewer rows if diverged."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops:
                if not self._train_until(stop):
                    break
                rows.append(_arrays.to_host(self.measured))
        return np.array(rows).reshape(-1, *self.shape)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        arrays = {
            **{f"weights.{i}": x for i, x in enumerate(self._arrays)},
            **{f"velocity.{i}": x for i, x in enumerate(self._descent.velocities)},
        }
        return {
            "step": np.array(self.step),
            **{name: np.array(_arrays.to_host(x)) for name, x in arrays.items()},
            **{f"records.{name}": x for name, x in self._stored.state().items()},
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        for kind, arrays in (("weights", self._arrays), ("velocity", self._descent.velocities)):
            for i, array in enumerate(arrays):
                array[...] = self._xp.asarray(state[f"{kind}.{i}"])
        self._refresh()
        prefix = "records."
        self._stored.restore(
            {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        )

    def _train_until(self, stop: int) -> bool:
        """Train up to step `stop`, or to the first step at which a network has diverged."""
        while self.step < stop:
            self._update()
            if not (self._losses() <= self._largest_loss).all():
                return False
        return True


class LinearNetworks(TrainedNetworks):
    """Linear networks: `_update` says which inputs the gradient of the loss is made of.

    Parameters
    ----------
    branch : float or None
        Factor b of residual blocks.
    training, weights, records
        As in `TrainedNetworks`.
    outputs : int
        Number K of outputs.
    """

    def __init__(
        self,
        branch: float | None,
        training: GradientDescent,
        weights: Weights,
        outputs: int,
        records: Stored,
    ) -> None:
        super().__init__(training, weights.all, records)
        self.weights = weights
        self._branch = branch
        self._eye = self._xp.asarray(np.tile(np.eye(outputs), (len(weights.first), 1, 1)))

    def features(self, rows: Any) -> Iterator[Any]:
        """h^1, ..., h^L (S, m, N) of the given rows, (m, r) or (S, m, r)."""
        h = rows @ self.weights.first.swapaxes(1, 2)
        yield h
        for matrix in self.weights.hidden:
            h = self._block(h, matrix.swapaxes(1, 2))
            yield h

    def _block(self, rows: Any, matrix: Any) -> Any:
        """Rows through a hidden layer, in either direction."""
        through = rows @ matrix / math.sqrt(self.width)
        return through if self._branch is None else rows + self._branch * through

    def _gradients(self) -> list[Any]:
        """Backward pass: g^1, ..., g^L (S, K, N)."""
        gradients = [self.weights.readout]
        for matrix in reversed(self.weights.hidden):
            gradients.insert(0, self._block(gradients[0], matrix))
        return gradients

    def _descend(self, weighted: Any, gradients: list[Any], scale: float) -> None:
        """Make one update along the gradient of the loss.

        The gradient by W^l is the sum over patterns and outputs of
        ``Delta_{mu k} g^{l+1}_k (h^l_mu)^T``, up to a constant. In a linear network g does not
        depend on the pattern and h^l is linear in the input, so the sum over patterns may be taken
        first, on the inputs: h^l of K rows. The gradient, and so the network, is the same, for
        6 N^2 K operations per layer and step in place of 6 N^2 P.

        Parameters
        ----------
        weighted : (S, K, r) array
            Inputs, summed with the errors of each output as weights.
        gradients : list of (S, K, N) arrays
            g^1, ..., g^L.
        scale : float
            Of the directions of the first and last weights; those of a hidden layer have the
            factor b / sqrt(N) besides.
        """
        # All of them before the first update: they belong to the current weights.
        features = list(self.features(weighted))
        inner = scale / math.sqrt(self.width) * (1.0 if self._branch is None else self._branch)
        directions: list[Outer] = [(scale, gradients[0], weighted)]
        directions += [(inner, g, h) for g, h in zip(gradients[1:], features[:-1], strict=True)]
        # Last, because the readout is the gradient g^L of the weights below it.
        directions.append((scale, self._eye, features[-1]))
        self._descent.update(self.step, directions)
        self.step += 1
        self._refresh()
