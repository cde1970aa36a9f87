"""Three ways to march a deep linear network on a fixed data set.

All are `dmftcore.march.March` and know their kernels at the stored steps: `GrowingNetwork` (of
`dmftcore.interfaces`) runs the infinite network itself, `ChainMarch` its two-time kernels, and
`LazyMarch` (of `dmftcore.limits.lazy`) is the limit gamma = 0. The errors drive the hidden layers
through h^0 = X^T Delta, and the hidden layers answer with a predictor F in input space, f = X F.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.chain import HiddenChain, LiftedRows
from dmftcore.march import March
from dmftcore.modes import LinearProblem
from dmftcore.solution import IntArray, Layers
from dmftcore.visited import VisitedErrors

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
    (`dmftcore.visited`).
    """

    def __init__(self, problem: LinearProblem, steps: int) -> None:
        self._problem, self._data = problem, problem.data
        outputs = self._data.n_outputs
        self._targets = self._data.targets.reshape(-1, outputs).T
        self._points = self._data.n_train + self._data.n_test
        self._chain = HiddenChain(
            depth=problem.depth,
            steps=steps,
            outputs=outputs,
            lr_per_point=problem.lr_per_point,
            gamma=problem.gamma,
            init_scale=problem.init_scale,
        )
        self._errors = VisitedErrors(self._data)
        #: Coordinates a(t) of all errors; columns beyond the directions visited are spare.
        self._history = np.zeros(((steps + 1) * outputs, 16))
        self._predictor = np.zeros((outputs, 0))
        self._stored: list[int] = []
        self._stored_outputs: list[FloatArray] = []

    @property
    def step(self) -> int:
        return self._chain.step

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), P + Q, K); fewer if the loss diverges."""
        rows: list[FloatArray] = []
        for stop in stops.tolist():
            while self.step < stop:
                if not self._next_step():
                    return self._as_outputs(rows)
            rows.append(self._outputs())
        return self._as_outputs(rows)

    def store_kernels(self) -> None:
        """Keep the outputs of the step; the kernels stay in the chain."""
        self._stored.append(self.step)
        self._stored_outputs.append(self._outputs())

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        raise NotImplementedError("the chain cannot be stored")

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        raise NotImplementedError("the chain cannot be stored")

    def residual(self, largest_size: int = 200) -> float:
        """Relative violation of the chain's equations; see `HiddenChain.residual`."""
        return self._chain.residual(largest_size)

    def kernels(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """See `LinearMarch`."""
        by_step = []
        for step in self._stored:
            rows = self._lift(self._errors.images.T, step, step)
            by_step.append([self._data.kernel, *self._full_features(rows)])
        features = [np.stack(layer) for layer in zip(*by_step, strict=True)]
        gradients = [
            np.stack([g[self._rows(step), self._rows(step)] for step in self._stored])
            for g in self._chain.g.values()
        ]
        return features, gradients

    def two_time_features(self) -> list[FloatArray]:
        """See `LinearMarch`."""
        n, points = len(self._stored), self._points
        kernels = self._full_features(self._lift_stored())
        return [kernel.reshape(n, points, n, points) for kernel in kernels]

    def two_time_gradients(self) -> list[FloatArray]:
        """See `LinearMarch`."""
        return [self._at_stored(self._chain.gradients(layer)) for layer in self._chain.g]

    def feature_responses(self) -> Layers:
        """Responses A^l (n, P + Q, n, K) of h^l to its backward source, l = 1..L."""
        n, points = len(self._stored), self._points
        return {
            layer: a.reshape(n, points, -1, self._chain.outputs)[:, :, self._stored]
            for layer, a in enumerate(self._lift_stored().a, start=1)
        }

    def gradient_responses(self, targets: FloatArray) -> Layers:
        """Responses B^l (n, K, n, P) of g^{l+1} to its forward source, l = 0..L-1.

        ``B^l[(t,k),(s,mu)] = sum_k' B^l[(t,k),(s,k')] Delta[s,mu,k']``; targets are (P, K).
        """
        errors = targets - np.stack(self._stored_outputs)[:, : len(targets)]
        return {
            layer: np.einsum("tksj,smj->tksm", self._at_stored(b), errors)
            for layer, b in self._chain.b.items()
        }

    def _next_step(self) -> bool:
        """Move by one step; False if the loss at the new one has diverged."""
        if self._problem.follow_ntk and self.step >= 0:
            change = self._problem.lr_per_point * self._ntk_times_errors()
            change[:, : self._predictor.shape[1]] += self._predictor
            self._predictor = change
        response = self._chain.backward()
        now = self._rows(self.step)
        if not self._problem.follow_ntk:
            self._predictor = response[:, : now.start] @ self._coordinates(now.start)
        errors = self._targets - self._outputs()[: self._data.n_train].T
        if not np.sum(errors**2) <= self._problem.loss_limit:
            return False
        self._append(now, self._errors.coordinates(errors))
        known = self._coordinates(now.stop)
        self._chain.forward(known[now] @ self._errors.gram @ known.T)
        return True

    def _append(self, now: slice, coordinates: FloatArray) -> None:
        width = coordinates.shape[1]
        if width > self._history.shape[1]:
            self._history = np.pad(self._history, ((0, 0), (0, width)))
        self._history[now, :width] = coordinates

    def _coordinates(self, rows: int) -> FloatArray:
        """Coordinates a of the first `rows` errors in all directions visited."""
        return self._history[:rows, : self._errors.size]

    def _ntk_times_errors(self) -> FloatArray:
        """sum_l G^{l+1}(t,t) (H^l(t,t) Delta(t)), in the coordinates of a predictor (K, k)."""
        now = self._rows(self.step)
        rows = self._lift(np.eye(self._errors.size), self.step, self.step)
        gradients = [g[now, now] for g in self._chain.g.values()] + [np.eye(self._chain.outputs)]
        product: FloatArray = np.sum(
            [g @ h[:, now].T for h, g in zip(rows.h, gradients, strict=True)], axis=0
        )
        return product

    def _lift(self, vectors: FloatArray, step: int, last: int) -> LiftedRows:
        """Chain rows at `step`, on the columns up to step `last`, of vectors (m, k)."""
        known = self._coordinates(self._rows(last).stop)
        return self._chain.lift(np.ascontiguousarray(vectors @ known.T), step)

    def _lift_stored(self) -> LiftedRows:
        """Chain rows of all points at all stored steps, one step below the other."""
        rows = [self._lift(self._errors.images.T, step, self.step) for step in self._stored]
        return LiftedRows(
            *(
                [np.concatenate(layer) for layer in zip(*kind, strict=True)]
                for kind in zip(*((r.h, r.c, r.q, r.v, r.a) for r in rows), strict=True)
            )
        )

    def _full_features(self, rows: LiftedRows) -> list[FloatArray]:
        """H^1, ..., H^L among lifted rows of all points."""
        times = rows.h[0].shape[0] // self._points
        kernel = np.tile(self._data.kernel, (times, times))
        return [
            self._chain.s2**layer * kernel + learned
            for layer, learned in enumerate(self._chain.features(rows, rows), start=1)
        ]

    def _at_stored(self, kernel: FloatArray) -> FloatArray:
        """(n, K, n, K) from a kernel over (t, k)."""
        k = self._chain.outputs
        size = (self.step + 1) * k
        by_step = kernel[:size, :size].reshape(self.step + 1, k, self.step + 1, k)
        return by_step[self._stored][:, :, self._stored]

    def _rows(self, step: int) -> slice:
        return slice(step * self._chain.outputs, (step + 1) * self._chain.outputs)

    def _outputs(self) -> FloatArray:
        return self._errors.outputs(self._predictor)

    def _as_outputs(self, rows: list[FloatArray]) -> FloatArray:
        return np.array(rows).reshape(-1, self._points, self._chain.outputs)
