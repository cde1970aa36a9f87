"""Gradient flow of a deep linear network at infinite width: a stiff integrator that grows neurons.

The infinite network is the small one of `dmftcore.growing.interfaces`, in continuous time:

    dW^l/dtau = (gamma / P) sum_k g_k^{l+1} h_k^{lT},    l = 0..L,  g_k^{L+1} = e_k,
    g_k^l = W^{lT} g_k^{l+1},    h_k^0 = X^T Delta_k,    h_k^{l+1} = W^l h_k^l,
    Delta_k = y_k - X g_k^0 / gamma.

It is stiff through the errors Delta alone, whose rates are the eigenvalues of the tangent kernel
over P. Steps are taken by Radau IIA with three stages, of order 5; its equations are solved by a
Newton iteration in the errors, in the eigenbasis of the tangent kernel, while the weights of a
stage follow as low-rank updates. When a vector of a stage leaves the span of those before, the
network grows.

Source of the integrator and its error estimate: Hairer & Wanner, "Solving ordinary differential
equations II" (1996), section IV.8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.growing.interfaces import InterfaceKernels, unvisited
from dmftcore.modes import Modes

__all__ = ["FlowNetwork"]

_ROOT = np.sqrt(6.0)
#: Nodes and matrix of Radau IIA with three stages; the last stage is the end of the step.
NODES = np.array([(4 - _ROOT) / 10, (4 + _ROOT) / 10, 1.0])
MATRIX = np.array(
    [
        [(88 - 7 * _ROOT) / 360, (296 - 169 * _ROOT) / 1800, (-2 + 3 * _ROOT) / 225],
        [(296 + 169 * _ROOT) / 1800, (88 + 7 * _ROOT) / 360, (-2 - 3 * _ROOT) / 225],
        [(16 - _ROOT) / 36, (16 + _ROOT) / 36, 1 / 9],
    ]
)
STAGES = len(NODES)
#: The embedded error estimate: weights of the stages over the length of the step, and the real
#: eigenvalue of the inverse of MATRIX.
ESTIMATE = np.array([-13 - 7 * _ROOT, -13 + 7 * _ROOT, -1.0]) / 3
REAL_EIGENVALUE = 3 + 3 ** (2 / 3) - 3 ** (1 / 3)

#: The iteration stops below this multiple of the tolerance of a step.
ITERATION_TOLERANCE = 0.02
ITERATIONS = 15
SLOWEST_CONTRACTION = 0.9
#: Errors Delta are known to this multiple of the targets, by rounding.
ROUNDING = 1e-14
#: Unvisited parts of vectors are dropped below this multiple of the tolerance of a step, and
#: vectors are measured against at least this multiple of the largest of their kind.
GROWTH_TOLERANCE = 0.1
NORM_FLOOR = 1e-9
#: Steps below this multiple of the time reached, or of the first step, hardly move any more.
SMALLEST_STEP = 1e-12

_TINY = np.finfo(float).tiny


@dataclass
class _Vectors:
    """Errors, features and gradients of the K outputs at m times, one below the other.

    Attributes
    ----------
    errors : (m K, r) array
    features : list of (m K, n_l) arrays
        h^0, ..., h^L.
    gradients : list of (m K, n_l) arrays
        g^0, ..., g^{L+1}.
    """

    errors: FloatArray
    features: list[FloatArray]
    gradients: list[FloatArray]


class FlowNetwork(InterfaceKernels["_FlowCore"]):
    """A linear network of infinite width under gradient flow.

    Parameters
    ----------
    modes : Modes
        The data.
    depth, gamma, init_scale
        As in `DeepLinear`, with gamma > 0 and no residual blocks.
    tol : float
        Error of Delta, relative to its norm, that one step may make.
    two_time : bool
        Whether two-time kernels will be asked for.
    """

    def __init__(
        self,
        modes: Modes,
        *,
        depth: int,
        gamma: float,
        init_scale: float,
        tol: float,
        two_time: bool = False,
    ) -> None:
        core = _FlowCore(
            scales=modes.scales,
            targets=modes.targets,
            depth=depth,
            points=modes.data.n_train,
            gamma=gamma,
            sigma=init_scale,
            tol=tol,
        )
        super().__init__(
            core, modes, depth=depth, init_scale=init_scale, branch=None, two_time=two_time
        )

    @property
    def steps(self) -> int:
        """Steps made so far."""
        return self._core.steps

    @property
    def rejected(self) -> int:
        """Steps that were tried in vain."""
        return self._core.rejected

    def flow(self, time: float, accepted: Callable[[], None]) -> None:
        """Move to the time tau; `accepted` is called after every step."""
        self._core.advance(time, accepted)

    def outputs(self) -> FloatArray:
        """Outputs (P + Q, K) at the time reached."""
        outputs: FloatArray = self._modes.outputs(self._core.predictor[None])[0]
        return outputs


class _FlowCore:
    """The growing network in continuous time; it reads like the compiled one for gradient descent.

    Parameters
    ----------
    scales : (r,) array
        Square roots of the eigenvalues of the training Gram matrix.
    targets : (K, r) array
        Targets in its eigenbasis.
    depth : int
        Hidden layers L.
    points : int
        Training points P.
    gamma, sigma : float
        Feature-learning strength > 0, and standard deviation of the initial weights.
    tol : float
        Error of Delta, relative to its norm, that one step may make.
    """

    def __init__(
        self,
        *,
        scales: FloatArray,
        targets: FloatArray,
        depth: int,
        points: int,
        gamma: float,
        sigma: float,
        tol: float,
    ) -> None:
        self.time = 0.0
        self.steps = 0
        self.rejected = 0
        self._scales, self._targets = scales, targets
        self._depth, self._points = depth, points
        self._gamma, self._sigma, self._tol = gamma, sigma, tol
        outputs, rank = targets.shape
        sizes = [rank, *[0] * (depth - 1), outputs, outputs]
        #: W^0, ..., W^L; the last is the readout.
        self._weights = [np.zeros((sizes[link + 1], sizes[link])) for link in range(depth + 1)]
        self._weights[depth] = sigma * np.eye(outputs)
        #: Directions of W^0, ..., W^{L-1} as rows; below W^0 there is no layer to grow.
        self._forward = [np.zeros((0, sizes[link])) for link in range(depth)]
        self._backward = [np.zeros((0, sizes[link + 1])) for link in range(depth)]
        self._neurons: list[list[int]] = [[] for _ in range(depth)]
        #: Largest norms met so far of what enters every link, from either side.
        self._largest_features, self._largest_gradients = np.zeros(depth), np.zeros(depth)
        #: Norm of the rounding error of Delta.
        self._rounding = ROUNDING * float(np.linalg.norm(targets)) + _TINY
        self._state = self._at_rest()
        while self._grow(self._state):
            self._state = self._at_rest()
        # Resolves the fastest mode: the error of a step is of fourth order in its length.
        self._step = self._first_step = tol**0.25 / float(self._rates()[0][-1])

    # -- reading ---------------------------------------------------------------------------------

    @property
    def neurons(self) -> list[int]:
        """Numbers of neurons of layers 0..L."""
        return [matrix.shape[1] for matrix in self._weights]

    @property
    def predictor(self) -> FloatArray:
        """Coefficients (K, r) of the outputs along the eigendirections."""
        return self._state.gradients[0] / self._gamma

    @property
    def initial_weight(self) -> float:
        """Initial weights that training has not met stay as they are."""
        return 1.0

    def propagate(self, link: int, x: FloatArray) -> FloatArray:
        """Features (m, neurons[l + 1]) from features (m, neurons[l])."""
        features: FloatArray = x @ self._weights[link].T
        return features

    def gradients(self, layer: int) -> FloatArray:
        """g^l, (K, neurons[l])."""
        return self._state.gradients[layer].copy()

    def forward_basis(self, link: int) -> FloatArray:
        """Orthonormal visited directions of W^l as rows."""
        return self._forward[link].copy()

    def forward_neurons(self, link: int) -> list[int]:
        """For each visited direction of W^l its neuron in layer l + 1."""
        return list(self._neurons[link])

    # -- time ------------------------------------------------------------------------------------

    def advance(self, time: float, accepted: Callable[[], None]) -> None:
        """Move to `time` in as many steps as the tolerance needs; `accepted` is called after each.

        Raises
        ------
        ValueError
            If the tolerance is so small that no step meets it.
        """
        while self.time < time:
            remaining = time - self.time
            pieces = np.ceil(remaining / (1.05 * self._step))
            step = float(remaining / pieces)
            if step < SMALLEST_STEP * max(self.time, self._first_step):
                raise ValueError(
                    f"tol: no step of the stiff integrator meets it at tau = {self.time:g}; "
                    "raise tol, or use method='richardson'"
                )
            moved, proposal = self._attempt(step)
            # A step cut short to end at `time` does not say how long it could have been.
            cut = moved and step < 0.9 * self._step
            self._step = max(proposal, self._step) if cut else proposal
            if moved:
                self.time = time if pieces == 1 else self.time + step
                self.steps += 1
                accepted()
            else:
                self.rejected += 1

    def _attempt(self, step: float) -> tuple[bool, float]:
        """Make one step if its error allows; whether it was made, and the length of the next."""
        newton = _Newton(*self._rates(), step)
        stages = self._solve(newton, self._guess(newton))
        while stages is not None and self._grow(stages):
            self._state = self._at_rest()
            stages = self._solve(newton, stages)
        if stages is None:
            return False, step / 2
        error = self._error(newton, stages)
        proposal = step * float(np.clip(0.9 * (error + 1e-8) ** -0.25, 0.2, 4))
        if not error <= 1:
            return False, min(proposal, step / 2)
        rates = self._weight_rates(stages, MATRIX[-1])
        for matrix, rate in zip(self._weights, rates, strict=True):
            matrix += step * rate
        self._state = self._at_rest()
        return True, proposal

    def _guess(self, newton: _Newton) -> _Vectors:
        """The stages of a frozen network, whose errors decay by the tangent kernel at hand."""
        errors = newton.decayed(self._state.errors)
        gradients = [np.tile(g, (STAGES, 1)) for g in self._state.gradients]
        return _Vectors(errors, self._propagated(errors), gradients)

    def _solve(self, newton: _Newton, stages: _Vectors) -> _Vectors | None:
        """The stages of a step; None if the iteration does not contract."""
        targets = np.tile(self._targets, (STAGES, 1))
        # Not of Delta alone: in rich training the gradients converge last.
        allowed = self._allowed_error()
        previous = float("inf")
        for iteration in range(ITERATIONS):
            gradients = self._gradients_of(stages, newton.step)
            outputs = gradients[0] * self._scales / self._gamma
            correction = newton.solve(targets - outputs - stages.errors)
            errors = stages.errors + correction
            features = self._features_of(stages, errors, newton.step)
            change = float(np.linalg.norm(correction)) / allowed
            for new, old in zip(gradients[1:-1], stages.gradients[1:-1], strict=True):
                change = max(change, _relative_change(new, old) / self._tol)
            stages = _Vectors(errors, features, gradients)
            if change <= ITERATION_TOLERANCE:
                return stages
            if iteration > 1 and not change <= SLOWEST_CONTRACTION * previous:
                return None
            previous = change
        return None

    def _gradients_of(self, stages: _Vectors, step: float) -> list[FloatArray]:
        """g^0, ..., g^{L+1} by the weights that the vectors of the stages have made."""
        gradients = [stages.gradients[-1]]
        for link in reversed(range(self._depth + 1)):
            g = gradients[-1]
            learned = self._learning(step) * (g @ stages.gradients[link + 1].T)
            gradients.append(g @ self._weights[link] + learned @ stages.features[link])
        return gradients[::-1]

    def _features_of(self, stages: _Vectors, errors: FloatArray, step: float) -> list[FloatArray]:
        """h^0, ..., h^L by the weights that the vectors of the stages have made."""
        features = [errors * self._scales]
        for link in range(self._depth):
            h = features[-1]
            learned = self._learning(step) * (h @ stages.features[link].T)
            features.append(h @ self._weights[link].T + learned @ stages.gradients[link + 1])
        return features

    def _learning(self, step: float) -> FloatArray:
        """Weight of the outer products of stage j in the weights of stage i, (3K, 3K)."""
        outputs = len(self._targets)
        return self._gamma / self._points * step * np.kron(MATRIX, np.ones((outputs, outputs)))

    def _weight_rates(self, vectors: _Vectors, factors: FloatArray) -> list[FloatArray]:
        """``sum_j factors_j dW^l/dtau`` over the times of `vectors`, for every link."""
        rows = self._gamma / self._points * np.repeat(factors, len(self._targets))[:, None]
        return [
            (rows * g).T @ h for g, h in zip(vectors.gradients[1:], vectors.features, strict=True)
        ]

    def _error(self, newton: _Newton, stages: _Vectors) -> float:
        """Estimated error of a step over the one allowed: of Delta, and of the weights."""
        start, step = self._state, newton.step
        error = newton.error(start.errors, stages.errors)
        worst = float(np.linalg.norm(error)) / self._allowed_error()
        begin = self._weight_rates(start, np.ones(1))
        during = self._weight_rates(stages, ESTIMATE @ MATRIX)
        for matrix, first, rest in zip(self._weights, begin, during, strict=True):
            error = step / REAL_EIGENVALUE * (first + rest)
            allowed = self._tol * float(np.linalg.norm(matrix)) + _TINY
            worst = max(worst, float(np.linalg.norm(error)) / allowed)
        return worst

    def _allowed_error(self) -> float:
        """Norm of the error of Delta that a step may make."""
        return self._tol * float(np.linalg.norm(self._state.errors)) + self._rounding

    def _rates(self) -> tuple[FloatArray, FloatArray]:
        """Eigenvalues and eigenvectors of the tangent kernel over P, on (output, mode)."""
        x, rest = np.diag(self._scales), np.zeros((len(self._scales),) * 2)
        kernel = np.zeros((self._targets.size,) * 2)
        for link, matrix in enumerate(self._weights):
            seen = x @ x.T
            g = self._state.gradients[link + 1]
            kernel += np.kron(g @ g.T, seen + rest)
            if link < self._depth:
                visited = x @ self._forward[link].T
                rest = self._sigma**2 * (rest + seen - visited @ visited.T)
                x = x @ matrix.T
        values, vectors = np.linalg.eigh(kernel / self._points)
        return np.maximum(values, 0), vectors

    def _at_rest(self) -> _Vectors:
        """The vectors of the present weights."""
        gradients = [np.eye(len(self._targets))]
        for matrix in reversed(self._weights):
            gradients.append(gradients[-1] @ matrix)
        errors = self._targets - gradients[-1] * self._scales / self._gamma
        return _Vectors(errors, self._propagated(errors), gradients[::-1])

    def _propagated(self, errors: FloatArray) -> list[FloatArray]:
        """h^0, ..., h^L by the present weights."""
        features = [errors * self._scales]
        for link in range(self._depth):
            features.append(self.propagate(link, features[-1]))
        return features

    # -- growth ----------------------------------------------------------------------------------

    def _grow(self, vectors: _Vectors) -> bool:
        """Append a neuron for every unvisited direction among `vectors`; whether there was one.

        `vectors` gain the coordinates that the initial weights give them along the new neurons.
        """
        before = self.neurons
        for link in reversed(range(1, self._depth)):
            above = vectors.gradients[link + 1]
            new = self._unvisited(above, self._backward[link], self._largest_gradients[link:])
            self._append(link, len(new), vectors)
            if len(new):
                self._backward[link] = np.vstack([self._backward[link], new])
                self._weights[link][:, -len(new) :] = self._sigma * new.T
                vectors.gradients[link][:, -len(new) :] = self._sigma * above @ new.T
        for link in range(self._depth):
            below = vectors.features[link]
            new = self._unvisited(below, self._forward[link], self._largest_features[link:])
            self._append(link + 1, len(new), vectors)
            if len(new):
                self._forward[link] = np.vstack([self._forward[link], new])
                self._weights[link][-len(new) :] = self._sigma * new
                vectors.features[link + 1][:, -len(new) :] = self._sigma * below @ new.T
                neurons = self.neurons[link + 1]
                self._neurons[link] += range(neurons - len(new), neurons)
        return self.neurons != before

    def _unvisited(self, rows: FloatArray, basis: FloatArray, largest: FloatArray) -> FloatArray:
        """Orthonormal directions of `rows` outside the span of `basis`, up to the tolerance.

        The first entry of `largest`, the norm met so far, is kept up to date.
        """
        norms = np.linalg.norm(rows, axis=1)
        largest[0] = max(largest[0], norms.max())
        thresholds = GROWTH_TOLERANCE * self._tol * np.maximum(norms, NORM_FLOOR * largest[0])
        return unvisited(rows, basis, thresholds)

    def _append(self, layer: int, count: int, vectors: _Vectors) -> None:
        """Neurons of `layer` that are connected to nothing yet."""
        if count == 0:
            return
        rows, columns = ((0, count), (0, 0)), ((0, 0), (0, count))
        self._weights[layer - 1] = np.pad(self._weights[layer - 1], rows)
        self._weights[layer] = np.pad(self._weights[layer], columns)
        self._backward[layer - 1] = np.pad(self._backward[layer - 1], columns)
        if layer < self._depth:
            self._forward[layer] = np.pad(self._forward[layer], columns)
        vectors.gradients[layer] = np.pad(vectors.gradients[layer], columns)
        vectors.features[layer] = np.pad(vectors.features[layer], columns)


class _Newton:
    """The linear problem of a step in the eigenbasis of the tangent kernel.

    Parameters
    ----------
    rates : (n,) array
        Eigenvalues of the tangent kernel over P.
    vectors : (n, n) array
        Its eigenvectors as columns, over (output, mode).
    step : float
    """

    def __init__(self, rates: FloatArray, vectors: FloatArray, step: float) -> None:
        self.step = step
        self._rates, self._vectors = rates, vectors
        self._inverses = np.linalg.inv(np.eye(STAGES) + step * rates[:, None, None] * MATRIX)

    def decayed(self, errors: FloatArray) -> FloatArray:
        """Errors (stages * K, r) at the nodes of a step from errors (K, r), by a frozen kernel."""
        modes = np.exp(-self.step * np.outer(NODES, self._rates)) * self._to_modes(errors)
        return self._from_modes(modes, errors.shape[1])

    def solve(self, residuals: FloatArray) -> FloatArray:
        """Newton correction of the errors of all stages, (stages * K, r)."""
        modes = np.einsum("nij,jn->in", self._inverses, self._to_modes(residuals, STAGES))
        return self._from_modes(modes, residuals.shape[1])

    def error(self, start: FloatArray, stages: FloatArray) -> FloatArray:
        """Estimated error of the errors at the end of a step, in modes."""
        begin = self._to_modes(start)
        moved = ESTIMATE @ (self._to_modes(stages, STAGES) - begin) / self.step
        estimate: FloatArray = (moved - self._rates * begin[0]) / (
            REAL_EIGENVALUE / self.step + self._rates
        )
        return estimate

    def _to_modes(self, errors: FloatArray, times: int = 1) -> FloatArray:
        return errors.reshape(times, -1) @ self._vectors

    def _from_modes(self, modes: FloatArray, rank: int) -> FloatArray:
        return (modes @ self._vectors.T).reshape(-1, rank)


def _relative_change(new: FloatArray, old: FloatArray) -> float:
    """Largest change of a row, relative to its norm."""
    norms = np.linalg.norm(new, axis=1) + _TINY
    return float(np.max(np.linalg.norm(new - old, axis=1) / norms, initial=0))
