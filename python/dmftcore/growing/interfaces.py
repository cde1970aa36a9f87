"""Growing bases: an infinite random matrix on the directions that training has visited.

At infinite width the initial matrix W^l(0) / sqrt(N) acts on orthonormal visited directions q_j
(forward) and p_i (backward) exactly as ``sigma [ sum_j u_j q_j^T + sum_i p_i z_i^T ]``, where the
fresh Gaussian vectors u_j, z_i are new coordinate axes. The infinite linear network *is* a small
network that appends a neuron whenever a vector leaves the span of those before. Residual blocks,
``h^{l+1} = h^l + b W^l h^l``, identify the neurons of all hidden layers. The loop over steps is
compiled (csrc/cpu/growing.hpp); this module reads its states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from dmftcore import _core
from dmftcore._validate import FloatArray
from dmftcore.modes import LinearProblem, Modes
from dmftcore.solution import IntArray

__all__ = ["GrowingNetwork", "InterfaceKernels", "Snapshot", "unvisited"]

#: Vectors are measured against at least this multiple of the largest of their kind. A converged
#: run grows on rounding noise unless what is dropped may reach it: see `norm_floor`.
NORM_FLOOR = 1e-10

#: Neurons beyond which a run stops: of a layer, and of all layers where blocks share them.
MAX_NEURONS = 1000
MAX_SHARED_NEURONS = 8000


def norm_floor(tol: float) -> float:
    """The multiple at which ``tol`` of a vector is the rounding error of the largest one."""
    return max(NORM_FLOOR, float(np.finfo(np.float64).eps) / tol)


@dataclass(frozen=True)
class Snapshot:
    """The network at one step.

    Attributes
    ----------
    features : list of (P + Q, n_l) arrays
        x^0, ..., x^L, the points propagated by the weights at this step.
    gradients : list of (K, n_l) arrays
        g^1, ..., g^L.
    visited : list of int
        Forward directions of W^0, ..., W^{L-1} at this step.
    initial_weight : float
        c: what momentum and decay have made of an initial weight that training has not met.
    """

    features: list[FloatArray]
    gradients: list[FloatArray]
    visited: list[int]
    initial_weight: float


class Core(Protocol):
    """A small network whose initial weights grow, as its kernels see it at the time reached."""

    @property
    def neurons(self) -> list[int]:
        """Numbers of neurons of layers 0..L."""

    @property
    def initial_weight(self) -> float:
        """c: what momentum and decay have made of an initial weight that training has not met."""

    def propagate(self, link: int, x: FloatArray) -> FloatArray:
        """Features (m, neurons[l + 1]) from features (m, neurons[l])."""

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
    depth, init_scale
        As in `DeepLinear`.
    branch : float or None
        Factor b of residual blocks, None for a network without skips.
    two_time : bool
        Whether two-time kernels will be asked for: they need the features of all stored times.
    """

    def __init__(
        self,
        core: CORE,
        modes: Modes,
        *,
        depth: int,
        init_scale: float,
        branch: float | None,
        two_time: bool,
    ) -> None:
        self._core = core
        self._modes = modes
        self._depth = depth
        self._variance = init_scale**2
        self._branch = branch
        self._two_time = two_time
        #: Of every stored time: H^0..H^L, G^1..G^L, and with `two_time` the state.
        self._features: list[FloatArray] = []
        self._gradients: list[FloatArray] = []
        self._snapshots: list[Snapshot] = []

    @property
    def neurons(self) -> list[int]:
        """Numbers of neurons of layers 1..L; residual blocks share theirs."""
        return self._core.neurons[1:]

    def store_kernels(self) -> None:
        """Keep the kernels of the current step, and its state if two-time kernels need it."""
        now = self.snapshot()
        kernels = self._feature_kernels(now.features, self._modes.rest, now.initial_weight**2)
        self._features.append(np.stack(kernels))
        self._gradients.append(np.stack([g @ g.T for g in now.gradients]))
        if self._two_time:
            self._snapshots.append(now)

    def snapshot(self) -> Snapshot:
        """The state of the current step."""
        x = [self._modes.points]
        for link in range(self._depth):
            x.append(self._core.propagate(link, x[-1]))
        links = range(self._depth)
        return Snapshot(
            features=x,
            gradients=[self._core.gradients(link + 1) for link in links],
            visited=[len(self._core.forward_neurons(link)) for link in links],
            initial_weight=self._core.initial_weight,
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
        return list(np.stack(self._features, axis=1)), list(np.stack(self._gradients, axis=1))

    def two_time_features(self) -> list[FloatArray]:
        """Two-time kernels H^1, ..., H^L over the stored steps, each (n, P + Q, n, P + Q)."""
        n, points = len(self._snapshots), len(self._modes.points)
        lifted = [self._lift(state) for state in self._snapshots]
        stacked = [np.concatenate(layer) for layer in zip(*lifted, strict=True)]
        rest = np.tile(self._modes.rest, (n, n))
        initial = np.repeat([state.initial_weight for state in self._snapshots], points)
        kernels = self._feature_kernels(stacked, rest, np.outer(initial, initial))
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

    def _block(self, link: int) -> tuple[float, float]:
        """What passes a link by, 0 or 1, and the variance of what its initial weights add."""
        if self._branch is None or link == 0:
            return 0.0, self._variance
        return 1.0, self._branch**2 * self._variance

    def _lift(self, state: Snapshot) -> list[FloatArray]:
        """Features of `state` in the coordinates of all neurons that exist now.

        A direction q_j visited after the snapshot created the neuron u_j; the weights of the
        snapshot send x to c sigma q_j . x there.
        """
        x = [state.features[0]]
        for link in range(self._depth):
            skip, variance = self._block(link)
            width, later = self._core.neurons[link + 1], state.visited[link]
            wide = _widened(state.features[link + 1], width)
            if skip:
                wide += x[-1] - _widened(state.features[link], width)
            coordinates = x[-1] @ self._core.forward_basis(link)[later:].T
            neurons = self._core.forward_neurons(link)[later:]
            wide[:, neurons] += state.initial_weight * np.sqrt(variance) * coordinates
            x.append(wide)
        return x

    def _feature_kernels(
        self, features: Sequence[FloatArray], rest: FloatArray, initial: FloatArray | float
    ) -> list[FloatArray]:
        """H^l = x^l x^l^T + E^l for l = 0..L, with the part E^l outside the visited directions.

        ``E^{l+1} = c(t) c(s) sigma^2 ( E^l + x^l x^l^T - (Q^l x^l)(Q^l x^l)^T )``: what W^l has
        not visited it sends to fresh independent Gaussian directions. A block does so with
        b^2 sigma^2, and E^l passes it by. `initial` is c(t) c(s).
        """
        kernels = []
        for link, x in enumerate(features):
            seen = x @ x.T
            kernels.append(seen + rest)
            if link < self._depth:
                skip, variance = self._block(link)
                visited = x @ self._core.forward_basis(link).T
                rest = skip * rest + initial * variance * (rest + seen - visited @ visited.T)
        return kernels


class GrowingNetwork(InterfaceKernels[_core.GrowingNetwork]):
    """A linear network of infinite width under gradient descent; a `dmftcore.march.March`.

    Parameters
    ----------
    problem : LinearProblem
        With gamma > 0.
    tol : float
        Relative size below which the unvisited part of a vector is dropped.
    two_time : bool
        Whether two-time kernels will be asked for: they need the features of all stored steps.
    """

    def __init__(self, problem: LinearProblem, tol: float, *, two_time: bool = True) -> None:
        training, n_train = problem.training, problem.data.n_train
        if problem.follow_ntk and not training.is_plain:
            raise ValueError(
                "readout='ntk' moves the outputs by the tangent kernel and knows neither momentum "
                "nor weight_decay: use readout='gd'"
            )
        self.tol = tol
        self._max_neurons = MAX_NEURONS if problem.branch is None else MAX_SHARED_NEURONS
        core = _core.GrowingNetwork(
            scales=problem.modes.scales,
            targets=problem.modes.targets,
            depth=problem.depth,
            branch=problem.branch,
            rates=np.atleast_1d(training.lr) / n_train,
            momentum=training.momentum,
            decay=training.weight_decay * n_train,
            gamma=problem.gamma,
            sigma=problem.init_scale,
            tol=tol,
            floor=norm_floor(tol),
            max_neurons=self._max_neurons,
            follow_ntk=problem.follow_ntk,
            loss_limit=problem.loss_limit,
        )
        super().__init__(
            core,
            problem.modes,
            depth=problem.depth,
            init_scale=problem.init_scale,
            branch=problem.branch,
            two_time=two_time,
        )

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
                f"the growing network reached {self._max_neurons} neurons in a layer at step "
                f"{self.step}: raise tol, or use method='chain'"
            )
        return self._modes.outputs(predictors)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        parts = {f"core.{name}": value for name, value in self._core.state().items()}
        if self._features:
            parts["features"] = np.stack(self._features)
            parts["gradients"] = np.stack(self._gradients)
        for i, snapshot in enumerate(self._snapshots):
            for layer, x in enumerate(snapshot.features):
                parts[f"snapshot.{i}.features.{layer}"] = x
            for layer, g in enumerate(snapshot.gradients, start=1):
                parts[f"snapshot.{i}.gradients.{layer}"] = g
            parts[f"snapshot.{i}.visited"] = np.array(snapshot.visited)
            parts[f"snapshot.{i}.initial_weight"] = np.array(snapshot.initial_weight)
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        prefix = "core."
        self._core.restore(
            {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
        )
        self._features = list(state.get("features", ()))
        self._gradients = list(state.get("gradients", ()))
        layers, count = range(self._depth + 1), len(self._features) if self._two_time else 0
        self._snapshots = [
            Snapshot(
                features=[state[f"snapshot.{i}.features.{layer}"] for layer in layers],
                gradients=[state[f"snapshot.{i}.gradients.{layer}"] for layer in layers[1:]],
                visited=state[f"snapshot.{i}.visited"].tolist(),
                initial_weight=float(state[f"snapshot.{i}.initial_weight"]),
            )
            for i in range(count)
        ]


def unvisited(rows: FloatArray, basis: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Orthonormal directions (k, n) of `rows` outside the span of the orthonormal `basis`.

    Parts of rows (m, n) that are no longer than their `thresholds` (m,) are dropped.
    """
    new = np.zeros((0, rows.shape[1]))
    outside = rows - (rows @ basis.T) @ basis
    for row, threshold in zip(outside, thresholds, strict=True):
        if np.linalg.norm(row) <= threshold:
            continue
        # Once more, and against those just found.
        rest = row - (basis @ row) @ basis - (new @ row) @ new
        size = np.linalg.norm(rest)
        if size > threshold:
            rest /= size
            rest -= (basis @ rest) @ basis + (new @ rest) @ new
            new = np.vstack([new, rest / np.linalg.norm(rest)])
    return new


def _widened(rows: FloatArray, width: int) -> FloatArray:
    """Rows padded with zeros to `width` columns."""
    wide = np.zeros((len(rows), width))
    wide[:, : rows.shape[1]] = rows
    return wide
