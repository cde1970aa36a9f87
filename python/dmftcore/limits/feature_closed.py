r"""Learned features of infinitely many neurons: a closed dynamics of the error alone.

Every neuron then sees a direction of its own of the gradient g = Lambda v, so that its w and B act
on directions: with omega (D) and B (D x D), from 0 and 1, and q = omega.omega,

    u = B g      omega' = omega + lr u      B' = B + gamma lr omega g^T
    v' = v - lr B^T u - gamma lr g (q + lr omega.u)

is gradient descent, exactly. C_w(t,s) = omega(t).omega(s), C_u(t,s) = g(t).g(s). In gradient flow
``B B^T - gamma omega omega^T`` is conserved. From B = 1 on it is 1, hence B^T B has eigenvalue
1 + gamma q along y = B^T omega = w* - v, and 1 across:

    dv/dtau = -(1 + gamma q) g - gamma y (y.g) / (1 + gamma q),    q (1 + gamma q) = y.y

of which a step costs O(D). Modes of one eigenvalue count as one, whatever their number, with the
sum of their targets.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.limits.feature_learning import grows, kernel_fields
from dmftcore.solution import IntArray
from dmftcore.spectral.arguments import Population
from dmftcore.training import GradientDescent

__all__ = ["ClosedMarch", "FeatureFlow"]

#: The implicit step of the flow is iterated until it moves by less than this, relatively, or so
#: often.
SETTLED = 1e-13
ITERATIONS = 50

#: Step of the coarsest mesh in log(t0 + t), and t0 as a part of the fastest initial time.
COARSEST = 0.08
START = 0.05


class ClosedMarch:
    """Gradient descent of v, omega and B; a `dmftcore.march.March`.

    Parameters
    ----------
    gamma : float
    population : Population
    training : GradientDescent
        Plain: without momentum and weight decay.
    kernel_times : int
        How many of them there will be.
    """

    def __init__(
        self, gamma: float, population: Population, training: GradientDescent, kernel_times: int
    ) -> None:
        self._gamma, self._values, self._rates = gamma, population.values, training.rates
        size = len(population.values)
        self._v = np.sqrt(population.target)
        self._omega = np.zeros(size)
        self._b = np.eye(size)
        self._initial = self._loss = float(population.signal.sum())
        # sqrt(lambda) v, omega and g at the kernel times: kernels are their products.
        self._vectors = np.empty((3, kernel_times, size))
        self._count = 0
        self.step = 0
        #: Whether `step` is one whose loss has grown.
        self.diverged = False

    @staticmethod
    def count(population: Population, kernel_times: int) -> int:
        """Numbers that a march keeps."""
        size = len(population.values)
        return size**2 + (3 * kernel_times + 8) * size

    def advance(self, stops: IntArray) -> FloatArray:
        """L(t,t), (len(stops), 1, 1); fewer rows if the loss grows."""
        rows: list[float] = []
        with np.errstate(over="ignore", invalid="ignore"):
            for stop in stops.tolist():
                while self.step < stop:
                    self._next_step()
                    if self.diverged:
                        return np.reshape(rows, (-1, 1, 1))
                rows.append(self._loss)
        return np.reshape(rows, (-1, 1, 1))

    def _next_step(self) -> None:
        lr, gamma, omega = self._rates[self.step], self._gamma, self._omega
        g = self._values * self._v
        u = self._b @ g
        moved = u @ self._b + gamma * g * (omega @ omega + lr * (omega @ u))
        self._v = self._v - lr * moved
        self._b += np.multiply.outer(gamma * lr * omega, g)
        self._omega = omega + lr * u
        loss = float(self._values @ self._v**2)
        self.diverged = grows(loss, self._loss, self._initial)
        self._loss = loss
        self.step += 1

    def store_kernels(self) -> None:
        """Keep the vectors whose products are the kernels."""
        g = self._values * self._v
        self._vectors[:, self._count] = np.sqrt(self._values) * self._v, self._omega, g
        self._count += 1

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        return {
            "v": self._v,
            "omega": self._omega,
            "b": self._b.copy(),
            "vectors": self._vectors[:, : self._count].copy(),
            "loss": np.array(self._loss),
            "step": np.array(self.step),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem; it may be longer."""
        self._v, self._omega = np.asarray(state["v"]), np.asarray(state["omega"])
        self._b = np.array(state["b"])
        self._count = state["vectors"].shape[1]
        self._vectors[:, : self._count] = state["vectors"]
        self._loss, self.step = float(state["loss"]), int(state["step"])

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernels of a `Solution`, at the stored steps."""
        error, omega, g = (vectors @ vectors.T for vectors in self._vectors[:, : self._count])
        return kernel_fields({"C0": error, "C_w": omega, "C_u": g}, save)

    def worth(self) -> dict[str, Any]:
        """What its answer is worth, for the diagnostics: the recursion is exact."""
        return {}


class FeatureFlow:
    """Gradient flow of v by the implicit midpoint rule; a `dmftcore.march.Flow`.

    Steps grow with time, as t0 + t: a power law is a smooth function of log t. The rule is
    symmetric, so its error is a series in even powers of 1 / `finer`.

    Parameters
    ----------
    gamma : float
    population : Population
    finer : int
        Into how many parts the steps of the coarsest mesh are divided.
    """

    def __init__(self, gamma: float, population: Population, finer: int) -> None:
        self._gamma, self._values, self._finer = gamma, population.values, finer
        self._target = np.sqrt(population.target)
        self.v = self._target.copy()
        power = float(np.sum((population.values * self._target) ** 2))
        fastest = population.values.max() + math.sqrt(gamma * power)
        self._start = START / fastest
        self._time = 0.0

    @property
    def loss(self) -> float:
        """L at the time reached."""
        return float(self._values @ self.v**2)

    def flow(self, time: float, accepted: Any) -> None:
        """Move to the time tau; `accepted` is called after every step."""
        begin, end = (math.log1p(t / self._start) for t in (self._time, time))
        steps = math.ceil((end - begin) / COARSEST) * self._finer
        mesh = self._start * np.expm1(np.linspace(begin, end, steps + 1))
        for h in np.diff(mesh).tolist():
            self._midpoint(h)
            accepted()
        self._time = time

    def _midpoint(self, h: float) -> None:
        """v' = 2 v_m - v, v_m = v - (h/2) (M_m + gamma q_m) Lambda v_m."""
        middle = self.v
        for _ in range(ITERATIONS):
            y = self._target - middle
            boost = self._boost(y)
            # The matrix is diagonal up to (h/2) gamma / (1 + gamma q) y (Lambda y)^T.
            diagonal = 1 + h / 2 * boost * self._values
            weighted = h / 2 * self._gamma / boost * self._values * y
            plain, along = self.v / diagonal, y / diagonal
            found = plain - along * (weighted @ plain) / (1 + weighted @ along)
            change = np.abs(found - middle).max()
            middle = found
            if change <= SETTLED * np.abs(middle).max():
                break
        self.v = 2 * middle - self.v

    def _boost(self, y: FloatArray) -> float:
        """1 + gamma q, from q (1 + gamma q) = y.y."""
        return (1 + math.sqrt(1 + 4 * self._gamma * float(y @ y))) / 2

    def outputs(self) -> FloatArray:
        """v, (1, D)."""
        return self.v[None].copy()

    def store_kernels(self) -> None:
        """Nothing: v at the wanted times tells all kernels."""

    @classmethod
    def fields(
        cls, gamma: float, population: Population, errors: FloatArray, save: tuple[str, ...]
    ) -> dict[str, Any]:
        """Kernels of a `Solution` from v (times, D) at its times."""
        y = np.sqrt(population.target) - errors
        norms = np.sum(y**2, axis=1)
        # q, without the difference of nearly equal numbers at small gamma.
        q = 2 * norms / (1 + np.sqrt(1 + 4 * gamma * norms))
        g = population.values * errors
        kernels = {"C0": (population.values * errors) @ errors.T, "C_u": g @ g.T, "C_w": np.diag(q)}
        return kernel_fields(kernels, save)
