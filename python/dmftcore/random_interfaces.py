r"""The growing network of `dmftcore.interfaces` on random data, under full-batch gradient descent.

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

Isotropic data need no X: in the eigenbasis of X^T X, whose spectrum is the law of Marchenko and
Pastur, it is diagonal, and the nodes of a quadrature of that law take the place of the modes.

Source of the equations: Bordelon & Pehlevan, arXiv:2502.02531.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from dmftcore._validate import FloatArray
from dmftcore.interfaces import MAX_NEURONS, NORM_FLOOR, unvisited
from dmftcore.march import DIVERGENCE_FACTOR
from dmftcore.random_data import Population
from dmftcore.solution import IntArray, Layers
from dmftcore.training import GradientDescent

__all__ = ["RandomNetwork", "marchenko_pastur", "sample_spectrum"]

#: Numbers in the matrix of a link beyond which a run stops.
MAX_ENTRIES = 10**8

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
    spectral : bool, optional
        Whether to work in the eigenbasis of the sample covariance, which isotropic data allow; by
        default if they do.
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
        spectral: bool | None = None,
        two_time: bool = False,
    ) -> None:
        isotropic = bool(np.ptp(population.modes.values) == 0)
        self.tol, self.spectral = tol, isotropic if spectral is None else spectral
        self._training, self._two_time = training, two_time
        self._samples: _Samples
        if self.spectral:
            self._samples = _SampleSpectrum(population, _slowest_rate(population, training), tol)
        else:
            self._samples = _DrawnSamples(population, tol)
        self._feedback = population.feedback
        width = math.sqrt(population.width_ratio)
        layers = [_Space(0) for _ in range(depth - 1)] + [_Space(1)]
        spaces = [self._samples.inputs, *layers]
        unit = self._samples.axis
        columns = [init_scale / width * unit] + [np.array([init_scale])] * (depth - 1)
        self._links = [
            _Link(*spaces[l : l + 2], row=init_scale, column=column, tol=tol, training=training)
            for l, column in enumerate(columns)
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
        """Numbers of axes of input space and, where samples are drawn, of the samples."""
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
        return {"tol": self.tol, "neurons": self.neurons, **self.directions}

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernels of a `Solution`, at the stored steps."""
        if not self._stored:
            return {}
        equal_time: dict[str, Layers] = {}
        two_time: dict[str, Layers] = {}
        for name, vector in KERNELS.items():
            first = 1 if name in "HG" else 0
            for layer, rows in enumerate(
                zip(*(vectors[vector] for vectors in self._stored), strict=True), start=first
            ):
                equal = np.concatenate(rows) if not self._two_time else None
                if equal is None:
                    stacked = np.stack([_widened(row, len(rows[-1])) for row in rows])
                    kernel = stacked @ stacked.T
                    equal = kernel.diagonal().copy()
                    if name in save:
                        two_time.setdefault(name, {})[layer] = kernel
                equal_time.setdefault(name, {})[layer] = equal
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
                parts |= {f"vectors.{i}.{name}.{l}": x for l, x in enumerate(layers)}
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
            {name: self._layers(state, f"vectors.{i}.{name}.") for name in KERNELS.values()}
            for i in range(int(state["stored"]) + 1)
        )

    @staticmethod
    def _layers(state: Mapping[str, npt.NDArray[Any]], prefix: str) -> list[FloatArray]:
        count = sum(name.startswith(prefix) for name in state)
        return [np.asarray(state[f"{prefix}{layer}"]) for layer in range(count)]

    def _all_links(self) -> list[_Link]:
        return [*self._samples.links, *self._links, self._readout]

    def _next_step(self) -> bool:
        """Update, and move to the next step; False if the loss there has diverged."""
        if self._step >= 0:
            self._update(float(self._training.rates[self._step]))
        self._step += 1
        try:
            return self._propagate()
        except _FullError as full:
            raise MemoryError(
                f"the growing network reached {full} at step {self._step}: raise tol, use fewer "
                "steps, or a spectrum of fewer modes"
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
            self._loss_limit = DIVERGENCE_FACTOR * max(float(loss), 1e-300)
        return bool(loss <= self._loss_limit and np.isfinite(self._curves).all())

    def _compared_with(self) -> float:
        """Size against which the unvisited part of g^1 is measured, if less than |g^1|.

        What is dropped of g^1 changes v by up to lambda_max sqrt(nu) / kap times as much, and v is
        small late in training.
        """
        if self._step == 0:
            return np.inf
        size = float(np.linalg.norm(self._now["v"][0]))
        return size / (self._feedback * self._samples.largest)


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
        self.largest = np.zeros(1)
        self._tol = tol

    def new(self, x: FloatArray, compared_with: float) -> FloatArray:
        """The unvisited direction of x, (1, n), or (0, n) where too little of x lies there."""
        norm = float(np.linalg.norm(x))
        self.largest[0] = max(self.largest[0], norm)
        size = max(min(norm, compared_with), NORM_FLOOR * self.largest[0])
        self.basis = _widened(self.basis, len(x))
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
            self._grow(self.upper, 1, "neurons of a layer")
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
            self._grow(self.lower, count, "directions of a space")
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
            "matrix": self.matrix,
            "initial": self._initial,
            "below": self._below.basis,
            "above": self._above.basis,
            "largest": np.concatenate([self._below.largest, self._above.largest]),
        }
        return parts if self._velocity is None else {**parts, "velocity": self._velocity}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state."""
        self.lower.size, self.upper.size = state["sizes"].tolist()
        self.matrix = state["matrix"].copy()
        self._initial = state["initial"].copy()
        self._below.basis, self._above.basis = state["below"], state["above"]
        self._below.largest[:], self._above.largest[:] = state["largest"]
        if self._velocity is not None:
            self._velocity = state["velocity"].copy()

    def _grow(self, space: _Space, count: int, what: str) -> None:
        space.size += count
        if space.size > MAX_NEURONS * count:
            raise _FullError(f"{MAX_NEURONS} {what}")
        if self.upper.size * self.lower.size > MAX_ENTRIES:
            raise _FullError(f"{MAX_ENTRIES:.0e} weights of a layer")
        self._fit()

    def _fit(self) -> None:
        """Zeros for the axes that its spaces have gained."""
        rows, columns = self.upper.size, self.lower.size
        if self.matrix.shape != (rows, columns):
            self.matrix = _padded(self.matrix, rows, columns)
            if self._velocity is not None:
                self._velocity = _padded(self._velocity, rows, columns)


class _DrawnSamples:
    """The samples as a link X from input space; axis 0 of sample space is the label noise."""

    def __init__(self, population: Population, tol: float) -> None:
        modes = population.modes
        self.inputs = _Space(len(modes.values))
        self.axis = np.sqrt(modes.weights)
        self.teacher = np.sqrt(modes.weights * modes.target)
        #: Upper edge of the spectrum of the sample covariance, or more.
        self.largest = float(modes.values.max()) * (1 + population.sample_ratio**-0.5) ** 2
        self._scales, self._noise = np.sqrt(modes.values), population.noise
        column = self.axis / math.sqrt(population.sample_ratio)
        self._link = _Link(self.inputs, _Space(1), row=1.0, column=column, tol=tol)

    @property
    def links(self) -> list[_Link]:
        return [self._link]

    @property
    def directions(self) -> dict[str, int]:
        return {
            "inputs": self.inputs.size // len(self.axis),
            "samples": self._link.upper.size,
        }

    def propagate(self, residual: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """x, Delta and v of the residual teacher - predictor."""
        x = self._scaled(residual)
        delta = self._link.forward(x)
        delta[0] += self._noise
        return x, delta, self._scaled(self._link.backward(delta))

    def _scaled(self, x: FloatArray) -> FloatArray:
        by_mode = x.reshape(-1, len(self._scales))
        scaled: FloatArray = (by_mode * self._scales).ravel()
        return scaled


class _SampleSpectrum:
    """Isotropic samples in the eigenbasis of their covariance; direction 1 is the label noise.

    Delta has the coordinates of x, and the noise outside the span of the samples as a last one.
    """

    links: tuple[_Link, ...] = ()

    def __init__(self, population: Population, slowest: float, tol: float) -> None:
        modes, alpha = population.modes, population.sample_ratio
        value = float(modes.values[0])
        nodes, weights = sample_spectrum(alpha, slowest, tol)
        self.inputs = _Space(2 * len(nodes))
        self.axis = np.sqrt(weights)
        beta = math.sqrt(float(modes.weights @ modes.target))
        self.teacher = beta * np.concatenate([self.axis, np.zeros_like(self.axis)])
        self.largest = value * float(nodes.max())
        self._scale, self._roots = math.sqrt(value), np.sqrt(nodes)
        seen = np.where(nodes > 0, weights / alpha, 0)
        self._noise = population.noise * np.sqrt(seen)
        self._unseen = population.noise * math.sqrt(max(0.0, 1 - 1 / alpha))

    @property
    def directions(self) -> dict[str, int]:
        return {"inputs": self.inputs.size // len(self.axis), "nodes": len(self.axis)}

    def propagate(self, residual: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """x, Delta and v of the residual teacher - predictor."""
        x = self._scale * residual
        delta = x.reshape(-1, len(self._roots)) * self._roots
        delta[1] += self._noise
        v = self._scale * (delta * self._roots).ravel()
        return x, np.concatenate([[self._unseen], delta.ravel()]), v


_Samples = _DrawnSamples | _SampleSpectrum


def marchenko_pastur(
    sample_ratio: float, panels: int, points: int
) -> tuple[FloatArray, FloatArray]:
    r"""Quadrature of the spectrum of X^T X / P, for P = alpha D samples of D standard normals.

    Gauss-Legendre on panels that halve in length towards theta = 0, in
    ``lambda = lo + (hi - lo) sin^2(theta / 2)`` with ``lo, hi = (1 -+ alpha^{-1/2})^2``, and for
    alpha < 1 the eigenvalue 0 of weight 1 - alpha.

    Returns
    -------
    nodes, weights : arrays
        The weights sum to 1.
    """
    alpha = sample_ratio
    lo, hi = (1 - alpha**-0.5) ** 2, (1 + alpha**-0.5) ** 2
    edges = np.pi * np.concatenate([[0.0], 0.5 ** np.arange(panels - 1, -1, -1.0)])
    x, w = np.polynomial.legendre.leggauss(points)
    half = np.diff(edges)[:, None] / 2
    theta = (edges[:-1, None] + half * (1 + x)).ravel()
    nodes = lo + (hi - lo) * np.sin(theta / 2) ** 2
    weights = (half * w).ravel() * np.sin(theta) ** 2 / nodes
    weights *= min(1.0, alpha) / weights.sum()
    if alpha < 1:
        nodes, weights = np.append(nodes, 0.0), np.append(weights, 1 - alpha)
    return nodes, weights


def sample_spectrum(
    sample_ratio: float, slowest: float, tol: float
) -> tuple[FloatArray, FloatArray]:
    """The smallest `marchenko_pastur` that meets a tolerance on all decays.

    ``integral exp(-s lambda)`` over what is not the eigenvalue 0 is right to a tenth of `tol`,
    relative, for all s up to 1 / slowest: twice the panels and points change it by no more.
    """
    width = 4 * sample_ratio**-0.5
    longest = max(1 / slowest, 1.0)
    panels = max(2, math.ceil(math.log2(math.pi / 2 * math.sqrt(longest * width))) + 1)
    times = np.geomspace(1 / width, longest, 4 * panels)

    def decays(panels: int, points: int) -> FloatArray:
        nodes, weights = marchenko_pastur(sample_ratio, panels, points)
        above = nodes[nodes > 0] - nodes[nodes > 0].min()
        values: FloatArray = np.exp(-np.outer(times, above)) @ weights[nodes > 0]
        return values

    fine = decays(panels + 2, 64)
    allowed = max(tol / 10, 1e-14)
    points = next(
        (p for p in range(4, 40) if np.all(np.abs(decays(panels, p) / fine - 1) < allowed)), 40
    )
    return marchenko_pastur(sample_ratio, panels, points)


def _slowest_rate(population: Population, training: GradientDescent) -> float:
    """Eigenvalue of the sample covariance below which nothing is learned.

    With a margin of 10 for what the features learn.
    """
    duration = float(training.rates.sum()) / (1 - training.momentum)
    return 1 / max(10 * duration * float(population.modes.values[0]), 1.0)


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
