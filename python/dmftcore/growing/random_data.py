r"""The growing network on random data, under full-batch gradient descent.

Samples, inputs and hidden layers are spaces of infinite dimension; the random matrices between
them, the samples X and the initial weights W^l(0), act on the directions that training has visited
by new coordinate axes. A link from a space to the next grows

    forward, when x leaves the span of the visited q:     a row      row q^T
    backward, when y leaves the span of the visited p:    columns    p column^T

where an axis of input space has one coordinate sqrt(w_k) for each mode k of the covariance. With
the output scale kap and the ratios nu, alpha of width and samples to the input dimension:

    link                    row      column(k)                     learns
    X: inputs -> samples    1        sqrt(w_k / alpha)
    W^0: inputs -> 1        sigma    sigma sqrt(w_k / nu)          lr kap / sqrt(nu) g^1 v^T
    W^l: l -> l + 1         sigma    sigma                         lr kap / sqrt(nu) g^{l+1} h^{lT}

A step: g^l backward from the readout, ``x = sqrt(lambda) (teacher - sqrt(nu) / kap W^{0T} g^1)``,
``Delta = X x + noise``, ``v = sqrt(lambda) X^T Delta``, h^l forward from v, update. |x|^2 is the
population error, |Delta|^2 the training error.

Source of the equations: Bordelon & Pehlevan, arXiv:2502.02531.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from dmftcore._validate import FloatArray
from dmftcore.growing.interfaces import NORM_FLOOR, unvisited
from dmftcore.march import largest_loss
from dmftcore.random_data import Population
from dmftcore.solution import IntArray, Layers
from dmftcore.training import GradientDescent

__all__ = ["RandomNetwork"]

#: Directions of a space, and numbers in the matrix of a link, beyond which a run stops.
MAX_DIRECTIONS = 4000
MAX_ENTRIES = 30_000_000

#: Kernels between steps, by the vectors they are made of.
KERNELS = {"Cp": "x", "CD": "Delta", "Cv": "v", "H": "h", "G": "g"}


class RandomNetwork:
    """A linear network on random data, all in proportion; a `dmftcore.march.March`.

    The number of directions, and with it the cost of a step, stays small while the spectrum of the
    sample covariance has a gap at zero; where it reaches zero (sample_ratio = 1, power laws) it
    grows like the square root of the number of steps. On anisotropic data the matrix of W^0 has
    (directions) x (modes) columns: group modes that are nearly equal.

    Parameters
    ----------
    population : Population
        Of full batches.
    training : GradientDescent
    depth, init_scale
        As in `ProportionalLinear`, without residual blocks.
    tol : float
        Relative size below which the unvisited part of a vector is dropped.
    two_time : bool
        Whether two-time kernels will be asked for: they need the vectors of all stored steps.
    """

    def __init__(
        self,
        population: Population,
        training: GradientDescent,
        *,
        depth: int,
        init_scale: float,
        tol: float,
        two_time: bool = False,
    ) -> None:
        self.tol = tol
        self._training, self._two_time = training, two_time
        self._samples = _Samples(population, tol)
        self._feedback = population.feedback
        width = math.sqrt(population.width_ratio)
        layers = [_Space(0) for _ in range(depth - 1)] + [_Space(1)]
        spaces = [self._samples.inputs, *layers]
        unit = self._samples.axis
        columns = [init_scale / width * unit] + [np.array([init_scale])] * (depth - 1)
        self._links = [
            _Link(lower, upper, row=init_scale, column=column, tol=tol, training=training)
            for (lower, upper), column in zip(pairwise(spaces), columns, strict=True)
        ]
        #: The weights from layer L to the output, as a link that nothing leaves.
        self._readout = _Link(
            layers[-1], _Space(1), row=0, column=np.zeros(0), tol=tol, training=training
        )
        self._readout.matrix[0, 0] = init_scale
        #: Vectors of the present step, by the kernel they make and their layer.
        self._now: dict[str, list[FloatArray]] = {}
        self._step = -1
        self._curves = np.zeros(3)
        self._loss_limit = np.inf
        #: Of every stored step: squares of the vectors, or with `two_time` the vectors.
        self._stored: list[dict[str, list[FloatArray]]] = []

    @property
    def step(self) -> int:
        return self._step

    @property
    def neurons(self) -> list[int]:
        """Numbers of neurons of layers 1..L."""
        return [link.upper.size for link in self._links]

    @property
    def directions(self) -> dict[str, int]:
        """Numbers of directions of input space and of the samples."""
        return self._samples.directions

    def advance(self, stops: IntArray) -> FloatArray:
        """Cp(t,t), CD(t,t) and overlap, (len(stops), 3); fewer rows if the loss diverges.

        Raises
        ------
        MemoryError
            If a space would exceed its largest number of directions.
        """
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                while self._step < stop:
                    if not self._next_step():
                        return np.array(rows).reshape(-1, 3)
                rows.append(self._curves)
        return np.array(rows).reshape(-1, 3)

    def store_kernels(self) -> None:
        """Keep the vectors of the current step, or their squares."""
        vectors = self._now
        if not self._two_time:
            vectors = {
                name: [np.array([x @ x]) for x in layers] for name, layers in vectors.items()
            }
        self._stored.append(vectors)

    def worth(self) -> dict[str, Any]:
        """What its answer is worth, for the diagnostics."""
        return {"tol": self.tol, "neurons": self.neurons, "directions": self.directions}

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernels of a `Solution`, at the stored steps."""
        if not self._stored:
            return {}
        equal_time: dict[str, Layers] = {}
        two_time: dict[str, Layers] = {}
        for name, vector in KERNELS.items():
            layers = zip(*(vectors[vector] for vectors in self._stored), strict=True)
            for layer, rows in enumerate(layers, start=1 if name in "HG" else 0):
                by_layer = equal_time.setdefault(name, {})
                if not self._two_time:
                    by_layer[layer] = np.concatenate(rows)
                    continue
                stacked = np.stack([_widened(row, len(rows[-1])) for row in rows])
                kernel = stacked @ stacked.T
                by_layer[layer] = kernel.diagonal().copy()
                if name in save:
                    two_time.setdefault(name, {})[layer] = kernel
        return {"equal_time": equal_time, "two_time": two_time}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        parts = {
            "step": np.array(self._step),
            "curves": self._curves,
            "loss_limit": np.array(self._loss_limit),
            "stored": np.array(len(self._stored)),
        }
        for i, link in enumerate(self._all_links()):
            parts |= {f"link.{i}.{name}": array for name, array in link.state().items()}
        for i, vectors in enumerate((self._now, *self._stored)):
            for name, layers in vectors.items():
                parts |= {f"vectors.{i}.{name}.{layer}": x for layer, x in enumerate(layers)}
        return parts

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self._step = int(state["step"])
        self._curves = np.asarray(state["curves"])
        self._loss_limit = float(state["loss_limit"])
        for i, link in enumerate(self._all_links()):
            prefix = f"link.{i}."
            names = (name for name in state if name.startswith(prefix))
            link.restore({name.removeprefix(prefix): state[name] for name in names})
        self._now, *self._stored = (
            {name: _layers(state, f"vectors.{i}.{name}.") for name in KERNELS.values()}
            for i in range(int(state["stored"]) + 1)
        )

    def _all_links(self) -> list[_Link]:
        return [self._samples.link, *self._links, self._readout]

    def _next_step(self) -> bool:
        """Update, and move to the next step; False if the loss there has diverged."""
        if self._step >= 0:
            self._update(float(self._training.rates[self._step]))
        self._step += 1
        try:
            return self._propagate()
        except _FullError as full:
            modes = " or a spectrum of fewer modes," if len(self._samples.axis) > 1 else ""
            raise MemoryError(
                f"the growing network reached {full} at step {self._step}: raise tol,{modes} or "
                "use fewer steps"
            ) from None

    def _update(self, rate: float) -> None:
        """Gradient descent on all weights."""
        inputs, upper = [self._now["v"][0], *self._now["h"]], [*self._now["g"], np.ones(1)]
        for link, g, h in zip([*self._links, self._readout], upper, inputs, strict=True):
            link.learn(rate, g / self._feedback, h)

    def _propagate(self) -> bool:
        """The vectors of the present weights; False if their loss has diverged."""
        gradients = [self._readout.backward(np.ones(1))]
        for link in reversed(self._links[1:]):
            gradients.insert(0, link.backward(gradients[0]))
        answer = self._links[0].backward(gradients[0], self._compared_with())
        teacher = self._samples.teacher
        residual = -self._feedback * answer
        residual[: len(teacher)] += teacher
        x, delta, v = self._samples.propagate(residual)
        features = [v]
        for link in self._links:
            features.append(link.forward(features[-1]))
        self._now = {"x": [x], "Delta": [delta], "v": [v], "h": features[1:], "g": gradients}
        overlap = teacher @ (teacher - residual[: len(teacher)])
        self._curves = np.array([x @ x, delta @ delta, overlap])
        loss = self._curves[1]
        if self._step == 0:
            self._loss_limit = largest_loss(float(loss))
        return bool(loss <= self._loss_limit and np.isfinite(self._curves).all())

    def _compared_with(self) -> float:
        """Size against which the unvisited part of g^1 is measured, if less than |g^1|.

        What is dropped of g^1 changes v by up to lambda_max sqrt(nu) / kap times as much, and v is
        small late in training.
        """
        if self._step == 0:
            return np.inf
        amplified = self._feedback * self._samples.largest
        return float(np.linalg.norm(self._now["v"][0])) / amplified


class _FullError(Exception):
    """A space or a matrix is as large as it may be; the text says which."""


class _Space:
    """The number of axes of a space so far."""

    def __init__(self, size: int) -> None:
        self.size = size


class _Visited:
    """Orthonormal directions that have been visited, and what is worth a new one."""

    def __init__(self, tol: float) -> None:
        self.basis = np.zeros((0, 0))
        self.largest = 0.0
        self._tol = tol

    def new(self, x: FloatArray, compared_with: float) -> FloatArray:
        """The unvisited direction of x, (1, n), or (0, n) where too little of x lies there."""
        self.basis = _widened(self.basis, len(x))
        norm = float(np.linalg.norm(x))
        self.largest = max(self.largest, norm)
        size = max(min(norm, compared_with), NORM_FLOOR * self.largest)
        found = unvisited(x[None], self.basis, np.array([self._tol * size]))
        if len(found):
            self.basis = np.vstack([self.basis, found])
        return found


class _Link:
    """A random matrix from a space to another one, on what of it has been visited.

    Parameters
    ----------
    lower, upper : _Space
    row : float
        Weight of a new direction of the lower space, along a new axis of the upper one.
    column : (c,) array
        The same for a new direction of the upper space, along c new axes of the lower one.
    tol : float
    training : GradientDescent, optional
        How the matrix learns, if it does.
    """

    def __init__(
        self,
        lower: _Space,
        upper: _Space,
        *,
        row: float,
        column: FloatArray,
        tol: float,
        training: GradientDescent | None = None,
    ) -> None:
        self.lower, self.upper = lower, upper
        self._row, self._column, self._training = row, column, training
        self._below, self._above = _Visited(tol), _Visited(tol)
        self.matrix = np.zeros((upper.size, lower.size))
        #: Only of what learns with momentum or decay.
        plain = training is None or training.is_plain
        self._velocity = None if plain else np.zeros_like(self.matrix)
        #: What momentum and decay have made of an initial weight that training has not met, and
        #: of its velocity.
        self._initial = np.array([1.0, 0.0])

    def forward(self, x: FloatArray) -> FloatArray:
        """Image of x in the upper space, which grows if x is new."""
        self._fit()
        new = self._below.new(x, np.inf)
        if len(new):
            self._grow(self.upper, 1)
            self.matrix[-1] = self._initial[0] * self._row * new[0]
            if self._velocity is not None:
                self._velocity[-1] = self._initial[1] * self._row * new[0]
        image: FloatArray = self.matrix @ x
        return image

    def backward(self, y: FloatArray, compared_with: float = np.inf) -> FloatArray:
        """Image of y in the lower space, which grows if y is new; see `_Visited.new`."""
        self._fit()
        y = _widened(y, self.upper.size)
        count = len(self._column)
        new = self._above.new(y, compared_with) if count else np.zeros((0, len(y)))
        if len(new):
            self._grow(self.lower, count)
            block = np.outer(new[0], self._column)
            self.matrix[:, -count:] = self._initial[0] * block
            if self._velocity is not None:
                self._velocity[:, -count:] = self._initial[1] * block
        image: FloatArray = y @ self.matrix
        return image

    def learn(self, rate: float, g: FloatArray, h: FloatArray) -> None:
        """``W += rate g h^T``, or the same by way of a velocity."""
        self._fit()
        g, h = _widened(g, self.upper.size), _widened(h, self.lower.size)
        if self._velocity is None or self._training is None:
            self.matrix = _add_outer(self.matrix, rate, g, h)
            return
        momentum, decay = self._training.momentum, self._training.weight_decay
        for weight, velocity in (
            (self.matrix, self._velocity),
            (self._initial[:1], self._initial[1:]),
        ):
            velocity *= momentum
            velocity -= decay * weight
        self._velocity = _add_outer(self._velocity, 1.0, g, h)
        self.matrix += rate * self._velocity
        self._initial[0] += rate * self._initial[1]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs."""
        parts = {
            "sizes": np.array([self.lower.size, self.upper.size]),
            "matrix": self.matrix.copy(),
            "initial": self._initial.copy(),
            "below": self._below.basis,
            "above": self._above.basis,
            "largest": np.array([self._below.largest, self._above.largest]),
        }
        return parts if self._velocity is None else {**parts, "velocity": self._velocity.copy()}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state."""
        self.lower.size, self.upper.size = state["sizes"].tolist()
        self.matrix = state["matrix"].copy()
        self._initial = state["initial"].copy()
        self._below.basis, self._above.basis = state["below"], state["above"]
        self._below.largest, self._above.largest = state["largest"].tolist()
        if self._velocity is not None:
            self._velocity = state["velocity"].copy()

    def _grow(self, space: _Space, count: int) -> None:
        space.size += count
        if space.size > MAX_DIRECTIONS * count:
            raise _FullError(f"{MAX_DIRECTIONS} directions of a space")
        if self.upper.size * self.lower.size > MAX_ENTRIES:
            raise _FullError(f"{MAX_ENTRIES} weights between two spaces")
        self._fit()

    def _fit(self) -> None:
        """Zeros for the axes that its spaces have gained."""
        rows, columns = self.upper.size, self.lower.size
        if self.matrix.shape != (rows, columns):
            self.matrix = _padded(self.matrix, rows, columns)
            if self._velocity is not None:
                self._velocity = _padded(self._velocity, rows, columns)


class _Samples:
    """The samples as a link X from input space; axis 0 of sample space is the label noise."""

    def __init__(self, population: Population, tol: float) -> None:
        modes = population.modes
        self.inputs = _Space(len(modes.values))
        self.axis = np.sqrt(modes.weights)
        self.teacher = np.sqrt(modes.weights * modes.target)
        #: Upper edge of the spectrum of the sample covariance, or more.
        self.largest = float(modes.values.max()) * (1 + 1 / math.sqrt(population.sample_ratio)) ** 2
        self._scales, self._noise = np.sqrt(modes.values), population.noise
        column = self.axis / math.sqrt(population.sample_ratio)
        self.link = _Link(self.inputs, _Space(1), row=1.0, column=column, tol=tol)

    @property
    def directions(self) -> dict[str, int]:
        return {
            "inputs": self.inputs.size // len(self.axis),
            "samples": self.link.upper.size,
        }

    def propagate(self, residual: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """x, Delta and v of the residual teacher - predictor."""
        x = self._scaled(residual)
        delta = self.link.forward(x)
        delta[0] += self._noise
        return x, delta, self._scaled(self.link.backward(delta))

    def _scaled(self, x: FloatArray) -> FloatArray:
        by_mode = x.reshape(-1, len(self._scales))
        scaled: FloatArray = (by_mode * self._scales).ravel()
        return scaled


def _layers(state: Mapping[str, npt.NDArray[Any]], prefix: str) -> list[FloatArray]:
    """The arrays prefix0, prefix1, ... of a state."""
    count = sum(name.startswith(prefix) for name in state)
    return [state[f"{prefix}{layer}"] for layer in range(count)]


def _padded(matrix: FloatArray, rows: int, columns: int) -> FloatArray:
    """`matrix` with zeros for further rows and columns."""
    wide = np.zeros((rows, columns))
    wide[: matrix.shape[0], : matrix.shape[1]] = matrix
    return wide


def _widened(x: FloatArray, width: int) -> FloatArray:
    """`x` with zeros for further entries on its last axis."""
    if x.shape[-1] == width:
        return x
    wide = np.zeros((*x.shape[:-1], width))
    wide[..., : x.shape[-1]] = x
    return wide


def _add_outer(matrix: FloatArray, rate: float, g: FloatArray, h: FloatArray) -> FloatArray:
    """``matrix + rate g h^T``, in the memory of `matrix`."""
    # BLAS wants columns: the transpose of rows.
    sum_: FloatArray = blas.dger(rate, h, g, a=matrix.T, overwrite_a=1).T
    return sum_
