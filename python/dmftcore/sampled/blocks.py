"""Blocks of a nonlinear network on particles: what lies between a hidden state and the next one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.sampled.interfaces import Interface, Visit
from dmftcore.sampled.particles import Normals, Particles
from dmftcore.training import GradientDescent

__all__ = ["Block", "Network", "PlainBlock", "Sampling", "TwoLayerBlock", "build", "repeated"]

#: Arrays of sources of the outer layers; those of the interfaces follow.
FIRST, LAST, INNER = 0, 1, 2


class Network(Protocol):
    """What the march is told of a network: `dmftcore.limits.architecture.Architecture`."""

    @property
    def blocks(self) -> int:
        """B, hidden matrices or blocks."""

    @property
    def skip(self) -> int:
        """s."""

    @property
    def branch(self) -> float:
        """b."""

    @property
    def activation(self) -> str:
        """phi."""

    @property
    def readout_activation(self) -> str:
        """psi."""

    @property
    def gamma(self) -> float:
        """gamma_0 > 0."""

    @property
    def block_layers(self) -> int:
        """Matrices of a block."""


@dataclass(frozen=True)
class Sampling:
    """How the particles of a march are sampled.

    Attributes
    ----------
    size : int
        Particles S of a set, in each run.
    runs : int
        Independent runs.
    tol : float
        Truncation of the bases; see `dmftcore.sampled.interfaces.Interface`.
    seed : int
    dtype : {"float64", "float32"}
    match : bool
        Whether sources are matched; see `dmftcore.sampled.particles.Particles`.
    pool : int, optional
        Largest number of columns they are matched to.
    quasi : bool
        Whether matched sources are quasi-random.
    unit : bool
        Take unit sources, in a network where nothing is nonlinear.
    control_variates : bool
        Subtract from fields and outputs what they would be without responses.
    """

    size: int
    runs: int = 1
    tol: float = 1e-4
    seed: int = 0
    dtype: str = "float64"
    match: bool = True
    pool: int | None = None
    quasi: bool = True
    unit: bool = False
    control_variates: bool = False


class Block(ABC):
    """What lies between a hidden state and the next one.

    Attributes
    ----------
    interfaces : tuple of Interface
        From below.
    particles : Particles
        Those of the state below.
    sees : str
        Activation of that state, of which the block is told the value.
    features, gradients : Visit
        Of the last interface, by the latest passes.
    """

    #: Names of the attributes that hold visits, those of the forward and of the backward pass.
    visits: tuple[tuple[str, ...], tuple[str, ...]] = (("features",), ("gradients",))

    def __init__(self, network: Network, interfaces: tuple[Interface, ...], sees: str) -> None:
        self._network, self.interfaces, self.sees = network, interfaces, sees
        self.particles = interfaces[0].below.particles
        self.features: Any = None
        self.gradients: Any = None

    @property
    def backward_visits(self) -> Any:
        """What the latest backward pass has left here."""
        return [getattr(self, name) for name in self.visits[1]]

    @backward_visits.setter
    def backward_visits(self, visits: Any) -> None:
        for name, visit in zip(self.visits[1], visits, strict=True):
            setattr(self, name, visit)

    @abstractmethod
    def forward(self, x: Any, n: int, kept: float, *, reference: Any, u: Any, **rest: Any) -> None:
        """The next hidden state from what the block sees of this one.

        Parameters
        ----------
        x, n, kept, reference
            As in `Interface.forward`.
        u, **rest
            As in `blend`.
        """

    @abstractmethod
    def backward(
        self,
        g: Any,
        n: int,
        kept: float,
        *,
        reference: Any,
        u: Any,
        field: Any,
        repeat: int,
        **rest: Any,
    ) -> None:
        """Gradients by this state, its `field`, from those by the next one; as `forward`."""

    @abstractmethod
    def _learning(self) -> list[tuple[Interface, float, Visit, Visit]]:
        """Interfaces, their factors, and the visits of gradients and features that move them."""

    def update(
        self,
        gamma: float,
        weights: FloatArray | None,
        patterns: int,
        rate: float,
        training: GradientDescent,
    ) -> None:
        """Learn from the latest passes.

        Weights (runs, 1, P K) are those of gradients of every output, if there are any.
        """
        for interface, scale, above, below in self._learning():
            left = gamma * scale * above.along
            if weights is not None:
                outputs = left.shape[2] // patterns
                left = left * _arrays.namespace(left).asarray(weights)
                left = left.reshape(*left.shape[:2], patterns, outputs).sum(axis=-1)
            right = below.along[:, :, :patterns]
            interface.update(left, right, rate, training.momentum, training.weight_decay)

    def tangent(self, train: slice, outputs: int) -> FloatArray:
        """What the weights of the block add to the tangent kernel, (runs, P K, P K)."""
        kernel: FloatArray = np.array(0.0)
        for _, scale, above, below in self._learning():
            features = _arrays.to_host(below.gram)[:, train, train]
            kernel = kernel + scale**2 * _arrays.to_host(above.gram) * repeated(features, outputs)
        return kernel

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """The visits."""
        return {
            f"{name}.{part}": _arrays.to_host(getattr(getattr(self, name), part))
            for names in self.visits
            for name in names
            for part in Visit.__slots__
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Take what `state` has returned."""
        for names in self.visits:
            for name in names:
                parts = {
                    part: self.particles.xp.array(state[f"{name}.{part}"])
                    for part in Visit.__slots__
                }
                setattr(self, name, Visit(**parts))


class PlainBlock(Block):
    """``s h + b W phi(h)``."""

    def forward(self, x: Any, n: int, kept: float, **rest: Any) -> None:
        rest |= {"skip": float(self._network.skip), "scale": self._network.branch}
        self.features = self.interfaces[0].forward(x, n, kept, **rest)

    def backward(self, g: Any, n: int, kept: float, **rest: Any) -> None:
        rest |= {"skip": float(self._network.skip), "scale": self._network.branch}
        phi = self._network.activation
        self.gradients = self.interfaces[0].backward(g, n, kept, activation=phi, **rest)

    def _learning(self) -> list[tuple[Interface, float, Visit, Visit]]:
        return [(self.interfaces[0], self._network.branch, self.gradients, self.features)]


class TwoLayerBlock(Block):
    """``s h + b V phi(W h)``, with particles of their own for W h."""

    visits = (("features", "_states"), ("gradients", "_inner"))
    _states: Any = None
    _inner: Any = None
    _hidden: Any = None

    def forward(self, x: Any, n: int, kept: float, *, reference: Any, u: Any, **rest: Any) -> None:
        network, (lower, upper) = self._network, self.interfaces
        inside = lower.above.particles
        self._hidden, value = inside.empty(n), inside.empty(n)
        self._states = lower.forward(
            x, n, kept, activation=network.activation, y=self._hidden, value=value
        )
        rest |= {"skip": float(network.skip), "scale": network.branch}
        self.features = upper.forward(value, n, kept, **rest)

    def backward(
        self,
        g: Any,
        n: int,
        kept: float,
        *,
        reference: None,
        u: None,
        field: Any,
        repeat: int,
        **rest: Any,
    ) -> None:
        network, (lower, upper) = self._network, self.interfaces
        inner = lower.above.particles.empty(n)
        self.gradients = upper.backward(
            g,
            n,
            kept,
            scale=network.branch,
            field=self._hidden,
            repeat=repeat,
            activation=network.activation,
            y=inner,
        )
        self._inner = lower.backward(inner, n, kept, skip=float(network.skip), **rest)

    def _learning(self) -> list[tuple[Interface, float, Visit, Visit]]:
        lower, upper = self.interfaces
        return [
            (lower, 1.0, self._inner, self._states),
            (upper, self._network.branch, self.gradients, self.features),
        ]


def build(
    network: Network, sampling: Sampling, normals: Normals, xp: Any = np
) -> tuple[list[Particles], list[Block]]:
    """Sets of particles and blocks: with skips all hidden states live on the same particles."""

    def particles(*, inner: bool = False) -> Particles:
        return Particles(
            sampling.runs,
            sampling.size,
            sampling.dtype,
            normals,
            match=sampling.match,
            unit=sampling.unit and not inner,
            pool=sampling.pool,
            quasi=sampling.quasi,
            xp=xp,
        )

    blocks: list[Block] = []
    sets = [particles()]
    for level in range(network.blocks):
        streams = INNER + 4 * level
        if network.block_layers == 2:
            stream, hidden = sets[0], particles(inner=True)
            sets.append(hidden)
            lower = Interface(stream, hidden, sampling.tol, (streams, streams + 1))
            upper = Interface(hidden, stream, sampling.tol, (streams + 2, streams + 3))
            blocks.append(TwoLayerBlock(network, (lower, upper), "linear"))
            continue
        below = sets[-1]
        if not network.skip:
            sets.append(particles())
        interface = Interface(below, sets[-1], sampling.tol, (streams, streams + 1))
        blocks.append(PlainBlock(network, (interface,), network.activation))
    return sets, blocks


def repeated(kernel: FloatArray, outputs: int) -> FloatArray:
    """A kernel of points (..., P, P) for every pair of outputs, (..., P K, P K)."""
    repeated: FloatArray = np.repeat(np.repeat(kernel, outputs, axis=-2), outputs, axis=-1)
    return repeated
