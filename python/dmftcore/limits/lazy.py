"""Deep linear networks at gamma = 0: linear dynamics under a tangent kernel that is not learned.

To first order in what is learned, every initial weight is c(t) times its first value: c = 1 for
plain gradient descent, else by the rule ``v <- m v - lambda c``, ``c <- c + lr v``. The kernels
are those of random networks with weights of variance c(t) c(s) sigma^2. With s = sigma^2 and
p = c(t) c(s),

    H^l = (p s)^l Kx,                   G^l = (p s)^{L+1-l},
    H^l = p s (1 + b^2 p s)^{l-1} Kx,   G^l = p s (1 + b^2 p s)^{L-l}          (residual blocks),

so that the tangent kernel is ``kappa(p) Kx`` with a polynomial kappa (a power series at infinite
depth). In the eigenbasis of Kx, with the optimiser's memory kap,

    f(t) = scales^2 sum_s kap(t,s) kappa(c(t) c(s)) Delta(s) / P:

one linear recursion for every power of p.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _core
from dmftcore._validate import INFINITE, FloatArray
from dmftcore.modes import LinearProblem
from dmftcore.solution import IntArray

__all__ = ["LazyMarch"]

#: Terms of kappa below this part of kappa(1) are rounding.
SMALLEST_TERM = 1e-18

#: Rates handed to the core at once.
CHUNK = 1 << 16


class LazyMarch:
    """The limit gamma = 0; a `dmftcore.march.March`.

    Plain gradient descent at a constant rate is a power of the step,
    ``Delta'(t) = (1 - (lr/P) kappa(1) scales^2)^t y'``; everything else is a compiled recursion.

    Parameters
    ----------
    problem : LinearProblem
    branch_scale : float, optional
        beta_0 at infinite depth.
    """

    def __init__(self, problem: LinearProblem, branch_scale: float | None = None) -> None:
        self.step = 0
        self._problem, self._modes = problem, problem.modes
        self._s2 = problem.init_scale**2
        self._exponents, self._coefficients = _tangent_series(problem, branch_scale)
        training = problem.training
        self._has_power_law = training.is_plain and np.ndim(training.lr) == 0
        shape = (len(self._exponents), *self._modes.targets.shape)
        #: phi of every power and its velocity; c and its velocity.
        self._learned, self._velocity = np.zeros(shape), np.zeros(shape)
        self._initial = np.array([1.0, 0.0])
        #: c at the stored steps.
        self._stored: list[float] = []

    def advance(self, stops: IntArray) -> FloatArray:
        """Outputs (len(stops), P + Q, K); fewer if the loss diverges."""
        march = self._jump if self._has_power_law else self._update
        predictors = []
        for stop in stops.tolist():
            if not march(stop):
                break
            predictors.append(self._predictor())
        return self._modes.outputs(np.array(predictors).reshape(-1, *self._modes.targets.shape))

    def store_kernels(self) -> None:
        """Keep c, which all kernels follow from."""
        self._stored.append(float(self._initial[0]))

    def tangent_kernels(self) -> FloatArray:
        """Tangent kernels (n, P, K, P, K) of the training points at the stored steps."""
        train = slice(self._problem.data.n_train)
        scales = [self._tangent_scale(c * c) for c in self._stored]
        kernel = np.einsum(
            "t,mn,kj->tmknj",
            scales, self._modes.kernel[train, train], np.eye(len(self._modes.targets)),
        )  # fmt: skip
        return np.asarray(kernel)

    def kernels(self) -> tuple[list[FloatArray], list[FloatArray]]:
        """Equal-time H^0..H^L and G^1..G^L at the stored steps; none at infinite depth."""
        if self._problem.depth == INFINITE:
            return [], []
        p = np.array(self._stored)[:, None, None] ** 2
        kernel, eye = self._modes.kernel, np.eye(len(self._modes.targets))
        layers = range(self._problem.depth + 1)
        return [self._feature_scale(layer, p) * kernel for layer in layers], [
            self._gradient_scale(layer, p) * eye for layer in layers[1:]
        ]

    def two_time_features(self) -> list[FloatArray]:
        """H^1..H^L at the stored steps, each (n, P + Q, n, P + Q)."""
        layers = range(1, self._problem.depth + 1)
        return [self._spread(self._feature_scale, layer, self._modes.kernel) for layer in layers]

    def two_time_gradients(self) -> list[FloatArray]:
        """G^1..G^L at the stored steps, each (n, K, n, K)."""
        layers, eye = range(1, self._problem.depth + 1), np.eye(len(self._modes.targets))
        return [self._spread(self._gradient_scale, layer, eye) for layer in layers]

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        return {
            "step": np.array(self.step),
            "learned": self._learned.copy(),
            "velocity": self._velocity.copy(),
            "initial": self._initial.copy(),
            "stored": np.array(self._stored),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        self.step = int(state["step"])
        self._learned = np.array(state["learned"])
        self._velocity = np.array(state["velocity"])
        self._initial = np.array(state["initial"])
        self._stored = state["stored"].tolist()

    def _tangent_scale(self, p: float) -> float:
        """kappa(p), the tangent kernel in units of Kx."""
        return float(np.sum(self._coefficients * p**self._exponents))

    def _feature_scale(self, layer: int, p: FloatArray) -> FloatArray:
        """H^l in units of Kx."""
        if layer == 0 or self._problem.branch is None:
            return (p * self._s2) ** layer
        return p * self._s2 * (1 + self._problem.branch**2 * p * self._s2) ** (layer - 1)

    def _gradient_scale(self, layer: int, p: FloatArray) -> FloatArray:
        """G^l in units of the identity."""
        above = self._problem.depth - layer
        if self._problem.branch is None:
            return (p * self._s2) ** (above + 1)
        return p * self._s2 * (1 + self._problem.branch**2 * p * self._s2) ** above

    def _spread(self, scale: Any, layer: int, kernel: FloatArray) -> FloatArray:
        """A kernel at all pairs of stored steps."""
        p = np.multiply.outer(self._stored, self._stored)
        spread: FloatArray = np.einsum("ts,mn->tmsn", scale(layer, p), kernel)
        return spread

    # -- plain gradient descent at a constant rate ----------------------------------------------

    def _jump(self, stop: int) -> bool:
        """Go to step `stop`, or to the first one whose loss has diverged."""
        self.step = stop
        if self._diverged_at(stop):
            # |1 - ...|^t is convex in t, so the loss crosses its limit once.
            self.step = bisect_left(range(stop), True, key=self._diverged_at)
            return False
        return True

    def _errors_at(self, step: int) -> FloatArray:
        rate = self._problem.lr_per_point * self._tangent_scale(1.0)
        with np.errstate(over="ignore", invalid="ignore"):
            return np.asarray((1 - rate * self._modes.scales**2) ** step * self._modes.targets)

    def _diverged_at(self, step: int) -> bool:
        return self._is_too_large(self._errors_at(step))

    # -- everything else ------------------------------------------------------------------------

    def _update(self, stop: int) -> bool:
        """Go to step `stop`, or to the first one whose loss has diverged."""
        while self.step < stop:
            rates = self._problem.training.rates[self.step : min(stop, self.step + CHUNK)]
            done = _core.lazy_updates(
                sharpness=self._modes.scales**2,
                targets=self._modes.targets,
                exponents=self._exponents,
                coefficients=self._coefficients,
                rates=rates / self._problem.data.n_train,
                momentum=self._problem.training.momentum,
                decay=self._problem.training.weight_decay * self._problem.data.n_train,
                loss_limit=self._problem.loss_limit,
                learned=self._learned,
                velocity=self._velocity,
                initial=self._initial,
            )
            self.step += done
            if done < len(rates):
                return False
        errors = self._modes.targets - self._modes.scales * self._predictor()
        return not self._is_too_large(errors)

    def _predictor(self) -> FloatArray:
        """Predictor (K, r) at the present step."""
        if self._has_power_law:
            return (self._modes.targets - self._errors_at(self.step)) / self._modes.scales
        weights = self._coefficients * self._initial[0] ** self._exponents
        predictor: FloatArray = self._modes.scales * np.tensordot(weights, self._learned, 1)
        return predictor

    def _is_too_large(self, errors: FloatArray) -> bool:
        with np.errstate(over="ignore", invalid="ignore"):
            return not np.sum(errors**2) <= self._problem.loss_limit


def _tangent_series(
    problem: LinearProblem, branch_scale: float | None
) -> tuple[IntArray, FloatArray]:
    """Powers of p in kappa(p) and their coefficients.

    ``kappa = (L + 1) (p s)^L``; with B = L - 1 blocks
    ``p s [2 (1 + u)^B + B u (1 + u)^{B-1}] = p s sum_i (2 + i) binom(B, i) u^i``, u = b^2 p s;
    at infinite depth ``p s (2 + u) e^u``, u = beta_0^2 p s. Without weight decay p = 1 throughout.
    """
    s, depth = problem.init_scale**2, problem.depth
    if depth == INFINITE:
        assert branch_scale is not None
        u = branch_scale**2 * s
        # From i = 2 u + 4 on, a term is less than 0.6 times the one before.
        count = math.ceil(2 * u) + 80
        terms = [s * (2 + i) * math.exp(_log_power(u, i)) for i in range(count)]
        exponents = np.arange(1, count + 1)
    elif problem.branch is None:
        terms, exponents = [(depth + 1) * s**depth], np.array([depth])
    else:
        u = problem.branch**2 * s
        terms = [s * (2 + i) * math.comb(depth - 1, i) * u**i for i in range(depth)]
        exponents = np.arange(1, depth + 1)
    coefficients = np.array(terms)
    if problem.training.weight_decay == 0:
        return np.array([1]), np.array([coefficients.sum()])
    kept = coefficients > SMALLEST_TERM * coefficients.sum()
    return exponents[kept], coefficients[kept]


def _log_power(u: float, i: int) -> float:
    """log(u^i / i!)"""
    return i * math.log(u) - math.lgamma(i + 1)
