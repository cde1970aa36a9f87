"""Growing bases: an infinite random matrix on the directions that training has visited.

At infinite width the initial matrix W^l(0) / sqrt(N) acts on orthonormal visited directions q_j
(forward) and p_i (backward) exactly as ``sigma [ sum_j u_j q_j^T + sum_i p_i z_i^T ]``, where the
fresh Gaussian vectors u_j, z_i are new coordinate axes. The infinite linear network *is* a small
network that appends a neuron whenever a vector leaves the span of those before. The loop over
steps is compiled (csrc/cpu/growing.hpp); this module reads its states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from dmftcore import _core
from dmftcore._validate import FloatArray
from dmftcore.modes import LinearProblem, Modes
from dmftcore.solution import IntArray

__all__ = ["GrowingNetwork", "InterfaceKernels", "Snapshot"]

#: Vectors are measured against at least this multiple of the largest of their kind: without it
#: a converged run would grow on rounding noise.
NORM_FLOOR = 1e-10

#: Neurons per layer beyond which a run stops.
MAX_NEURONS = 1000


@dataclass(frozen=True)
class Snapshot:
    """The network at one step: features of all points, gradients, and directions visited so far.

    Attributes
    ----------
    features : list of (P + Q, n_l) arrays
        x^0, ..., x^L, the points propagated by the weights at this step.
    gradients : list of (K, n_l) arrays
        g^1, ..., g^L.
    visited : list of int
        Forward directions of W^0, ..., W^{L-1} at this step.
    """

    features: list[FloatArray]
    gradients: list[FloatArray]
    visited: list[int]


class Core(Protocol):
    """A small network whose initial weights grow; what its kernels are read from."""

    @property
    def neurons(self) -> list[int]:
        """Numbers of neurons of layers 0..L."""

    def weights(self, link: int) -> FloatArray:
        """W^l at the time reached, (neurons[l + 1], neurons[l])."""

    def gradients(self, layer: int) -> FloatArray:
        """g^l, (K, neurons[l])."""

    def forward_basis(self, link: int) -> FloatArray:
        """Orthonormal visited directions of W^l as rows."""

    def forward_neurons(self, link: int) -> list[int]:
        """For each visited direction of W^l its neuron in layer l + 1."""


CORE = TypeVar("CORE", bound=Core)


class InterfaceKernels(Generic[CORE]):
    """Kernels of a growing network at the times when they were stored.

    Parameters
    ----------
    core : Core
        The network.
    modes : Modes
        Its data.
    depth : int
        Hidden layers L.
    init_scale : float
        Standard deviation sigma of its initial weights.
    """

    def __init__(self, core: CORE, modes: Modes, depth: int, init_scale: float) -> None:
        self._core = core
        self._modes = modes
        self._depth = depth
        self._variance = init_scale**2
        self._snapshots: list[Snapshot] = []

    @property
    def neurons(self) -> list[int]:
        """Numbers of neurons of layers 1..L."""
        return self._core.neurons[1:]

    def store_kernels(self) -> None:
        """Keep the state of the current step."""
        self._snapshots.append(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The state of the current step."""
        x = [self._modes.points]
        for link in range(self._depth):
            x.append(x[-1] @ self._core.weights(link).T)
        links = range(self._depth)
        return Snapshot(
            features=x,
            gradients=[self._core.gradients(link + 1) for link in links],
            visited=[len(self._core.forward_neurons(link)) for link in links],
        )

    def kernels(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """Equal-time kernels at all stored steps.

        Returns
        -------
        features : list of (n, P + Q, P + Q) arrays
            H^0, ..., H^L.
        gradients : list of (n, K, K) arrays
            G^1, ..., G^L.
        """
        bases = [self._core.forward_basis(link) for link in range(self._depth)]
        by_step = [
            _feature_kernels(
                state.features, _truncated(bases, state), self._modes.rest, self._variance
            )
            for state in self._snapshots
        ]
        features = [np.stack(layer) for layer in zip(*by_step, strict=True)]
        gradients = [
            np.stack([state.gradients[link] @ state.gradients[link].T for state in self._snapshots])
            for link in range(self._depth)
        ]
        return features, gradients

    def two_time_features(self) -> list[FloatArray]:
        """Two-time kernels H^1, ..., H^L over the stored steps, each (n, P + Q, n, P + Q)."""
        n, points = len(self._snapshots), len(self._modes.points)
        bases = [self._core.forward_basis(link) for link in range(self._depth)]
        lifted = [self._lift(state, bases) for state in self._snapshots]
        stacked = [np.concatenate(layer) for layer in zip(*lifted, strict=True)]
        rest = np.tile(self._modes.rest, (n, n))
        kernels = _feature_kernels(stacked, bases, rest, self._variance)
        return [kernel.reshape(n, points, n, points) for kernel in kernels[1:]]

    def two_time_gradients(self) -> list[FloatArray]:
        """Two-time kernels G^1, ..., G^L over the stored steps, each (n, K, n, K)."""
        n, outputs = len(self._snapshots), len(self._modes.targets)
        kernels = []
        for link in range(self._depth):
            width = self._core.neurons[link + 1]
            g = np.concatenate([_widened(s.gradients[link], width) for s in self._snapshots])
            kernels.append((g @ g.T).reshape(n, outputs, n, outputs))
        return kernels

    def _lift(self, state: Snapshot, bases: Sequence[FloatArray]) -> list[FloatArray]:
        """Features of `state` in the coordinates of all neurons that exist now.

        A direction q_j visited after the snapshot created the neuron u_j; the weights of the
        snapshot send x to sigma q_j . x there.
        """
        x = [state.features[0]]
        for link, basis in enumerate(bases):
            wide = _widened(state.features[link + 1], self._core.neurons[link + 1])
            later = state.visited[link]
            neurons = self._core.forward_neurons(link)[later:]
            wide[:, neurons] = np.sqrt(self._variance) * x[-1] @ basis[later:].T
            x.append(wide)
        return x


class GrowingNetwork(InterfaceKernels[_core.GrowingNetwork]):
    """A linear network of infinite width under gradient descent; a `dmftcore.march.March`.

    Parameters
    ----------
    problem : LinearProblem
        With gamma > 0.
    tol : float
        Relative size below which the unvisited part of a vector is dropped.
    """

    def __init__(self, problem: LinearProblem, tol: float) -> None:
        self.tol = tol
        core = _core.GrowingNetwork(
            scales=problem.modes.scales,
            targets=problem.modes.targets,
            depth=problem.depth,
            rate=problem.lr_per_point * problem.gamma,
            gamma=problem.gamma,
            sigma=problem.init_scale,
            tol=tol,
            floor=NORM_FLOOR,
            max_neurons=MAX_NEURONS,
            ntk_rate=problem.lr_per_point if problem.follow_ntk else 0.0,
            loss_limit=problem.loss_limit,
        )
        super().__init__(core, problem.modes, problem.depth, problem.init_scale)

    @property
    def step(self) -> int:
        return self._core.step

    @property
    def multiply_adds(self) -> float:
        """Multiply-adds of matrix-vector products executed so far."""
        return self._core.multiply_adds

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), P + Q, K) at the given steps; fewer if the loss diverges.

        Raises
        ------
        MemoryError
            If a layer would exceed its largest number of neurons.
        """
        predictors = self._core.advance(stops)
        if self._core.status == "full":
            raise MemoryError(
                f"the growing network reached {MAX_NEURONS} neurons in a layer at step "
                f"{self.step}: raise tol, or use method='chain'"
            )
        return self._modes.outputs(predictors)


def _feature_kernels(
    features: Sequence[FloatArray],
    bases: Sequence[FloatArray],
    rest: FloatArray,
    variance: float,
) -> list[FloatArray]:
    """H^l = x^l x^l^T + E^l for l = 0..L, with the part E^l outside the visited directions.

    ``E^{l+1} = sigma^2 ( E^l + x^l x^l^T - (Q^l x^l)(Q^l x^l)^T )``: what W^l has not visited it
    sends to fresh independent Gaussian directions.
    """
    kernels = []
    for x, basis in zip(features, [*bases, None], strict=True):
        seen = x @ x.T
        kernels.append(seen + rest)
        if basis is not None:
            visited = x @ basis.T
            rest = variance * (rest + seen - visited @ visited.T)
    return kernels


def _truncated(bases: Sequence[FloatArray], state: Snapshot) -> list[FloatArray]:
    """Directions visited up to the step of `state`, in the neurons of that step."""
    return [
        basis[:count, : x.shape[1]]
        for basis, count, x in zip(bases, state.visited, state.features[:-1], strict=True)
    ]


def _widened(rows: FloatArray, width: int) -> FloatArray:
    """Rows padded with zeros to `width` columns."""
    wide = np.zeros((len(rows), width))
    wide[:, : rows.shape[1]] = rows
    return wide
