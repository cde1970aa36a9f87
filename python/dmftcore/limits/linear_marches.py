"""Three ways to march a deep linear network on a fixed data set.

All are `dmftcore.march.March` and know their kernels at the stored steps: `GrowingNetwork` (of
`dmftcore.growing.interfaces`) runs the infinite network itself, `ChainMarch` its two-time kernels,
and `LazyMarch` (of `dmftcore.limits.lazy`) is the limit gamma = 0. The errors drive the hidden
layers through h^0 = X^T Delta, and the hidden layers answer with a predictor F in input space,
f = X F.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
from dmftcore._validate import FloatArray
from dmftcore.chain import Couplings, LiftedRows, TwoTimeChain, hidden_layers
from dmftcore.chain.continuum import NODES
from dmftcore.chain.visited import VisitedErrors
from dmftcore.march import March
from dmftcore.modes import LinearProblem
from dmftcore.solution import IntArray, Layers

__all__ = ["ChainMarch", "LinearKernels", "LinearMarch"]


class LinearKernels(Protocol):
    """Kernels of a deep linear network at n stored times."""

    def kernels(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """Equal-time H^0..H^L, each (n, P + Q, P + Q), and G^1..G^L, each (n, K, K)."""

    def two_time_features(self) -> list[FloatArray]:
        """H^1..H^L, each (n, P + Q, n, P + Q)."""

    def two_time_gradients(self) -> list[FloatArray]:
        """G^1..G^L, each (n, K, n, K)."""


class LinearMarch(March, LinearKernels, Protocol):
    """A march of a deep linear network, with its kernels at the n stored steps."""


class ChainMarch:
    """The hidden chain of two-time kernels, driven by the errors on a fixed data set.

    At each step: the backward rows of the chain; the outputs ``f(t) = Kx D^0[t,:] Delta``, sum
    over earlier steps; the errors; ``H^0[t,s] = Delta(t)^T Kx Delta(s)``; the forward rows of the
    chain. Errors and predictors are coordinates in the basis of visited errors
    (`dmftcore.chain.visited`).

    Parameters
    ----------
    problem : LinearProblem
    steps : int
        Steps t = 0..steps will be marched.
    xp : module, optional
        Array library in which the march runs; that of the data by default. Results are numpy.
    nodes : int
        Nodes in depth, at infinite depth.
    """

    def __init__(
        self, problem: LinearProblem, steps: int, *, xp: Any = None, nodes: int = NODES
    ) -> None:
        self._problem, self._data = problem, problem.data
        self._xp = _arrays.namespace(self._data.targets) if xp is None else xp
        outputs = self._data.n_outputs
        self._targets = self._xp.asarray(self._data.targets.reshape(-1, outputs).T)
        self._points = self._data.n_train + self._data.n_test
        couplings = Couplings(
            problem.training,
            points=self._data.n_train,
            init_scale=problem.init_scale,
            outputs=outputs,
            xp=self._xp,
        )
        self._chain = hidden_layers(
            couplings,
            depth=problem.depth,
            branch=problem.branch,
            nodes=nodes,
            steps=steps,
            outputs=outputs,
            gamma=problem.gamma,
            xp=self._xp,
        )
        self._errors = VisitedErrors(self._data, self._xp)
        #: Coordinates a(t) of all errors; columns beyond the directions visited are spare.
        self._history = self._xp.zeros(((steps + 1) * outputs, 16))
        self._predictor = self._xp.zeros((outputs, 0))
        self._diverged = False
        self._stored: list[int] = []
        self._stored_outputs: list[FloatArray] = []

    @property
    def step(self) -> int:
        return self._chain.step + self._diverged

    @property
    def chain(self) -> TwoTimeChain:
        """The hidden layers."""
        return self._chain

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), P + Q, K); fewer if the loss diverges."""
        rows: list[FloatArray] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                while self.step < stop:
                    if not self._next_step():
                        # The kernels end before the step that could not be done.
                        self._chain.step -= 1
                        self._diverged = True
                        return self._as_outputs(rows)
                rows.append(self._outputs())
        return self._as_outputs(rows)

    def store_kernels(self) -> None:
        """Keep the outputs of the step; the kernels stay in the chain."""
        self._stored.append(self._chain.step)
        self._stored_outputs.append(_arrays.to_host(self._outputs()))

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        # With the spare columns: bits may depend on the strides of a product's arguments.
        known = self._history[: self._rows(self._chain.step).stop]
        return {
            **{f"chain_{name}": array for name, array in self._chain.state().items()},
            **{f"errors_{name}": array for name, array in self._errors.state().items()},
            "coordinates": _arrays.to_host(known),
            "predictor": _arrays.to_host(self._predictor),
            "stored": np.array(self._stored, dtype=np.int64),
            "stored_outputs": self._as_outputs(self._stored_outputs),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem.

        The march may be longer than the one that was saved.
        """

        def part(prefix: str) -> dict[str, npt.NDArray[Any]]:
            names = (name for name in state if name.startswith(prefix))
            return {name.removeprefix(prefix): state[name] for name in names}

        self._chain.restore(part("chain_"))
        self._errors.restore(part("errors_"))
        known = self._xp.asarray(state["coordinates"])
        self._history = self._xp.zeros((len(self._history), known.shape[1]))
        self._history[: len(known)] = known
        self._predictor = self._xp.asarray(state["predictor"])
        self._stored = state["stored"].tolist()
        self._stored_outputs = list(state["stored_outputs"])

    def residual(self, largest_size: int = 200) -> float:
        """Relative violation of the chain's equations; see `TwoTimeChain.residual`."""
        return self._chain.residual(largest_size)

    def kernels(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """See `LinearMarch`."""
        by_step = []
        for step in self._stored:
            rows = self._lift(self._errors.images.T, step, step)
            kernel = _arrays.to_host(self._data.kernel)
            by_step.append([kernel, *self._full_features(rows)])
        features = [np.stack(layer) for layer in zip(*by_step, strict=True)]
        blocks = [self._rows(step) for step in self._stored]
        gradients = [
            _arrays.to_host(self._xp.stack([g[now, now] for now in blocks]))
            for g in self._chain.gradient_histories.values()
        ]
        return features, gradients

    def two_time_features(self) -> list[FloatArray]:
        """See `LinearMarch`."""
        n, points = len(self._stored), self._points
        kernels = self._full_features(self._lift_stored())
        return [kernel.reshape(n, points, n, points) for kernel in kernels]

    def two_time_gradients(self) -> list[FloatArray]:
        """See `LinearMarch`."""
        return [self._at_stored(self._chain.gradients(layer)) for layer in self._chain.layers]

    def feature_responses(self) -> Layers:
        """Responses A^l (n, P + Q, n, K) of h^l to its backward source."""
        return {
            layer: self._by_stored(a)
            for layer, a in zip(self._chain.layers, self._lift_stored().a, strict=True)
        }

    def gradient_responses(self, targets: FloatArray) -> Layers:
        """Responses B^l (n, K, n, P) of g^{l+1} to its forward source, l = 0..L-1.

        ``B^l[(t,k),(s,mu)] = sum_k' B^l[(t,k),(s,k')] Delta[s,mu,k']``; targets are (P, K).
        """
        errors = targets - np.stack(self._stored_outputs)[:, : len(targets)]
        return {
            layer: np.einsum("tksj,smj->tksm", self._at_stored(b), errors)
            for layer, b in self._chain.responses.items()
        }

    def feature_noise_products(self) -> Layers:
        """A^l G^{l+1} (n, P + Q, n, K), with the factor of the weights between both."""
        return {
            layer: self._by_stored(self._chain.link(layer) * a @ self._chain.gradient_noise(layer))
            for layer, a in zip(self._chain.layers, self._lift_stored().a, strict=True)
        }

    def gradient_noise_products(self) -> Layers:
        """B^l H^l (n, K, n, P + Q), with the factor of the weights between both."""
        n, k = len(self._stored), self._chain.outputs
        rows, size = self._lift_stored(), self._rows(self._chain.step).stop
        steps = [index for step in self._stored for index in range(size)[self._rows(step)]]
        products = {}
        for layer, history in self._chain.responses.items():
            b = self._chain.link(layer) * history[:size, :size][steps]
            product = _arrays.to_host(b @ self._chain.feature_noise(layer, rows).T)
            products[layer] = product.reshape(n, k, n, self._points)
        return products

    def _next_step(self) -> bool:
        """Move by one step; False if the loss at the new one has diverged, or the chain itself."""
        if self._problem.follow_ntk and self.step >= 0:
            change = self._problem.rates_per_point[self.step] * self._ntk_times_errors()
            change[:, : self._predictor.shape[1]] += self._predictor
            self._predictor = change
        response = self._chain.backward()
        if not self._chain.settled:
            return False
        now = self._rows(self.step)
        if not self._problem.follow_ntk:
            self._predictor = response[:, : now.start] @ self._coordinates(now.start)
        errors = self._targets - self._outputs()[: self._data.n_train].T
        coordinates, square = self._errors.coordinates(errors)
        if not square <= self._problem.loss_limit:
            return False
        self._append(now, coordinates)
        known = self._coordinates(now.stop)
        self._chain.forward(known[now] @ self._errors.gram @ known.T)
        return self._chain.settled

    def _append(self, rows: slice, coordinates: FloatArray) -> None:
        width = coordinates.shape[1]
        if width > self._history.shape[1]:
            self._history = self._xp.pad(self._history, ((0, 0), (0, width)))
        self._history[rows, :width] = coordinates

    def _coordinates(self, rows: int) -> FloatArray:
        """Coordinates a of the first `rows` errors in all directions visited."""
        known: FloatArray = self._history[:rows, : self._errors.size]
        return known

    def _ntk_times_errors(self) -> FloatArray:
        """``sum_l link^2 G^{l+1}(t,t) (H^l(t,t) Delta(t))``, as coordinates (K, k)."""
        now = self._rows(self.step)
        rows = self._lift(self._xp.eye(self._errors.size), self.step, self.step)
        gradients = [g[now, now] for g in self._chain.gradient_histories.values()]
        gradients.append(self._xp.eye(self._chain.outputs))
        product: FloatArray = self._xp.zeros((self._chain.outputs, self._errors.size))
        for layer, (h, g) in enumerate(zip(rows.h, gradients, strict=True)):
            product += self._chain.link(layer) ** 2 * g @ h[:, now].T
        return product

    def _lift(self, vectors: FloatArray, step: int, last: int) -> LiftedRows:
        """Chain rows at `step`, on the columns up to step `last`, of vectors (m, k)."""
        known = self._coordinates(self._rows(last).stop)
        return self._chain.lift(self._xp.ascontiguousarray(vectors @ known.T), step)

    def _lift_stored(self) -> LiftedRows:
        """Chain rows of all points at all stored steps, one step below the other."""
        parts = [self._lift(self._errors.images.T, step, self._chain.step) for step in self._stored]
        return LiftedRows.stacked(parts, self._xp)

    def _full_features(self, rows: LiftedRows) -> list[FloatArray]:
        """H of all layers among lifted rows of all points."""
        times = len(rows.scale) // self._points
        start = self._xp.tile(self._xp.asarray(self._data.kernel), (times, times))
        return [_arrays.to_host(h) for h in self._chain.features(rows, rows, start)]

    def _at_stored(self, kernel: FloatArray) -> FloatArray:
        """(n, K, n, K) from a kernel over (t, k)."""
        k = self._chain.outputs
        size = (self._chain.step + 1) * k
        by_step = _arrays.to_host(kernel[:size, :size]).reshape(self._chain.step + 1, k, -1, k)
        stored: FloatArray = by_step[self._stored][:, :, self._stored]
        return stored

    def _by_stored(self, rows: FloatArray) -> FloatArray:
        """(n, P + Q, n, K) from lifted rows of all points at all stored steps."""
        by_step = _arrays.to_host(rows).reshape(
            len(self._stored), self._points, self._chain.step + 1, self._chain.outputs
        )
        stored: FloatArray = by_step[:, :, self._stored]
        return stored

    def _rows(self, step: int) -> slice:
        return slice(step * self._chain.outputs, (step + 1) * self._chain.outputs)

    def _outputs(self) -> FloatArray:
        return self._errors.outputs(self._predictor)

    def _as_outputs(self, rows: list[FloatArray]) -> FloatArray:
        on_host = _arrays.to_host(self._xp.stack(rows)) if rows else np.empty(0)
        outputs: FloatArray = on_host.reshape(-1, self._points, self._chain.outputs)
        return outputs
