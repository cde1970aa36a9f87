r"""The two-time equations of learned features, marched row by row.

Every neuron sees the others through two-time averages alone, in which it is linear. With
``Theta(t,s) = lr_s`` for s < t, the elementwise product o with lr_s for s < t written
``K o Theta``, and modes k of eigenvalue lambda_k, mu_k directions and target ws2_k in all:

    W  = Theta + gamma Theta (C_u o Theta) W          w = W u
    Q  = W + gamma (C_w o Theta)                      y = Q u
    Y  = Q + Q Rc Y                                   y = Y xi,  <xi xi> = C_g
    U  = 1 + Rc Y                                     u = U xi
    H_k = 1 - lambda_k Y H_k                          v_k = H_k (w*_k - chi_k),  <chi chi> = C_y / N
    V_k = H_k (ws2_k 11^T + mu_k C_y / N) H_k^T       summed over the directions of the mode
    Rc  = -(1/N) sum_k mu_k lambda_k H_k
    C_g = sum_k lambda_k^2 V_k                        L = sum_k lambda_k V_k
    C_w = W C_u W^T    C_u = U C_g U^T    C_y = Y C_g Y^T

L(t,t) is the population error sum_k lambda_k <v_k^2>, C_w and C_u are the averages of w w and u u
over neurons. W, Q and Y are strictly causal, so that row t of all of them follows from earlier
rows. For infinitely many features Rc = 0 and C_y / N = 0, and of H_k only its row sums remain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from dmftcore import twotime
from dmftcore._validate import FloatArray
from dmftcore.chain.base import deviation
from dmftcore.limits.scaling import FeatureLearning
from dmftcore.quadrature import GaussRules
from dmftcore.resolvents import Resolvents
from dmftcore.solution import IntArray, Layers
from dmftcore.spectral.arguments import Population
from dmftcore.training import GradientDescent

__all__ = ["KERNELS", "FeatureMarch", "check_training", "grows", "kernel_fields"]

#: What `save` of `dmftcore.solve` may name.
KERNELS = ("C0", "C_w", "C_u")

#: Two-time histories, and those that finitely many features add.
_HISTORIES = ("W", "Q", "Y", "C_w", "C_u", "C0")
_OF_FINITE = ("Rc", "U", "C_g", "C_y")

#: Steps of the diagonal blocks of H_k that are kept.
BLOCK = 32

#: A loss that grows by more than these parts of itself, and of that at step 0, is no rounding.
GROWTH, ROUNDING = 1e-9, 1e-12

#: The equations are evaluated once more over at most so many steps, and steps^3 x modes.
CHECKED_STEPS = 200
CHECKED_WORK = 2e8


def check_training(training: GradientDescent) -> None:
    """Refuse what does not go with learned features.

    Raises
    ------
    ValueError
        Naming the argument.
    """
    if not training.is_plain:
        name = "momentum" if training.momentum else "weight_decay"
        raise ValueError(f"{name}: a FeatureLearning is trained without; leave it out")


def grows(loss: float, before: float, initial: float) -> bool:
    """Whether a step made the loss larger or no number, which no stable one does."""
    return not loss <= before * (1 + GROWTH) + ROUNDING * initial


class _Modes(Protocol):
    """The errors v_k of all modes, as far as the neurons see them."""

    def append(self, step: int) -> tuple[FloatArray | None, FloatArray, FloatArray]:
        """Rows of Rc, C_g and L at `step`, where those of Y and C_y are known.

        Rc is None where it vanishes, for infinitely many features.
        """

    def resume(self, steps: int) -> None:
        """Go on where Y and C_y of `steps` steps are known."""


class _Reach:
    """Row sums h_k of H_k of given eigenvalues, ``h_k(t) = 1 - lambda_k sum_s Y(t,s) h_k(s)``.

    Parameters
    ----------
    values, signal : (points,) arrays
        lambda_k and lambda_k ws2_k, or the points and weights of a rule for sums over them.
    y : (N, N) array
        History of Y.
    """

    def __init__(self, values: FloatArray, signal: FloatArray, y: FloatArray) -> None:
        self._values, self._y = values, y
        self._moments = np.stack([values * signal, signal])
        self._rows = np.zeros((len(y), len(values)))

    def append(self, step: int) -> FloatArray:
        """Row of sum_k lambda_k^p ws2_k h_k h_k^T for p = 2 and 1, (2, step + 1)."""
        row = 1 - self._values * (self._y[step, :step] @ self._rows[:step])
        self._rows[step] = row
        seen: FloatArray = (self._moments * row) @ self._rows[: step + 1].T
        return seen


class _MeanModes:
    """What infinitely many features see of the modes: the row sums of H_k.

    Parameters
    ----------
    population : Population
    y : (N, N) array
        History of Y.
    """

    def __init__(self, population: Population, y: FloatArray) -> None:
        self._reach = _Reach(population.values, population.signal, y)

    @staticmethod
    def count(modes: int, times: int) -> int:
        """Numbers held."""
        return modes * (times + 4)

    def append(self, step: int) -> tuple[None, FloatArray, FloatArray]:
        c_g, loss = self._reach.append(step)
        return None, c_g, loss

    def resume(self, steps: int) -> None:
        for step in range(steps):
            self._reach.append(step)


class _FiniteModes:
    """What N features see of the modes: all of H_k.

    Up to step t, H_k is a polynomial in lambda_k of degree t: sums over modes are Gauss sums over
    t + 2 points, without error, however many modes there are. The target has a rule of its own.

    Parameters
    ----------
    population : Population
    features : float
    y, c_y : (N, N) arrays
        Histories of Y and C_y.
    """

    def __init__(
        self, population: Population, features: float, y: FloatArray, c_y: FloatArray
    ) -> None:
        self._population, self._y, self._c_y = population, y, c_y
        largest = self._most_points(len(population.values), len(y))
        self._rules = [
            GaussRules(population.values, weights, largest)
            for weights in (population.power / features, population.signal)
        ]
        self._resolvents = Resolvents(y, BLOCK)
        self._all_points = False

    @classmethod
    def count(cls, modes: int, times: int) -> int:
        """Numbers held."""
        points = cls._most_points(modes, times)
        blocks = -(-times // BLOCK) * min(BLOCK, times) ** 2
        return points * (blocks + 6 * times + modes)

    @staticmethod
    def _most_points(modes: int, times: int) -> int:
        return min(modes, -(-times // BLOCK) * BLOCK + 1)

    def append(self, step: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        if step % BLOCK == 0 and not self._all_points:
            self._take_points(step, step)
        h = self._resolvents.append(step)
        seen = self._resolvents.times_transposed(twotime.rows_symmetric(h, self._c_y))
        c_g, loss = self._moments @ seen + self._reach.append(step)
        return -self._moments[1] @ h, c_g, loss

    def resume(self, steps: int) -> None:
        self._take_points(steps - 1, steps)

    def _take_points(self, step: int, known: int) -> None:
        """Choose the points for the block of `step`, where the rows of `known` steps are known.

        They depend on the block alone, so that a run that ends later has the same bits.
        """
        points = step - step % BLOCK + BLOCK + 1
        self._all_points = points >= max(map(len, self._rules))
        (values, weights), target = (rule.rule(points) for rule in self._rules)
        #: mu_k lambda_k^p / N for p = 2 and 1.
        self._moments = np.stack([values * weights, weights])
        self._resolvents.start(values, known)
        self._reach = _Reach(*target, self._y)
        for earlier in range(known):
            self._reach.append(earlier)


class FeatureMarch:
    """The equations of the module, one step after the other; a `dmftcore.march.March`.

    Parameters
    ----------
    limit : FeatureLearning
    population : Population
    training : GradientDescent
        Plain: without momentum and weight decay.
    """

    def __init__(
        self, limit: FeatureLearning, population: Population, training: GradientDescent
    ) -> None:
        self._gamma, self._features = limit.gamma, limit.features
        self._population, self._rates = population, training.rates
        times = training.steps + 1
        self._finite = bool(np.isfinite(limit.features))
        names = _HISTORIES + (_OF_FINITE if self._finite else ())
        self._known = {name: np.zeros((times, times)) for name in names}
        y = self._known["Y"]
        self._modes: _Modes = (
            _FiniteModes(population, limit.features, y, self._known["C_y"])
            if self._finite
            else _MeanModes(population, y)
        )
        self._loss = np.inf
        self._initial = float(population.signal.sum())
        self._stored: list[int] = []
        self.step = -1
        #: Whether `step` is one whose loss has grown.
        self.diverged = False
        self._next_step()

    @staticmethod
    def count(limit: FeatureLearning, population: Population, steps: int) -> int:
        """Numbers that a march over `steps` steps keeps."""
        modes, times = len(population.values), steps + 1
        if np.isfinite(limit.features):
            kernels = len(_HISTORIES) + len(_OF_FINITE)
            return kernels * times**2 + _FiniteModes.count(modes, times)
        return len(_HISTORIES) * times**2 + _MeanModes.count(modes, times)

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
        """Row t = step + 1 of everything."""
        self.step += 1
        t, before = self.step, slice(self.step)
        known, gamma = self._known, self._gamma
        # Rows of the strictly causal kernels, over the times 0..t with a zero at t.
        w = np.zeros((1, t + 1))
        if t > 0:
            # One more update: Theta(t) = Theta(t-1) + lr_{t-1} 1_{t-1}, with the gradient then.
            lr = self._rates[t - 1]
            w[0, before] = known["W"][t - 1, before]
            w[0, t - 1] += lr
            learned = known["C_u"][t - 1, :t] * self._rates[:t]
            learned[t - 1] = 0.0
            w[0, before] += lr * gamma * twotime.rows_causal(learned[None], known["W"])[0]
        self._row("W", w)
        _, c_w = twotime.rows_congruence(w, known["C_u"], known["W"])
        self._row("C_w", c_w)
        q = w.copy()
        q[0, before] += gamma * c_w[0, before] * self._rates[:t]
        self._row("Q", q)
        if not self._finite:
            self._row("Y", q)
            _, c_u, loss = self._modes.append(t)
            self._row("C_u", c_u[None])
        else:
            y = q + twotime.rows_causal(twotime.rows_causal(q, known["Rc"]), known["Y"])
            self._row("Y", y)
            self._row("C_y", twotime.rows_congruence(y, known["C_g"], known["Y"])[1])
            rc, c_g, loss = self._modes.append(t)
            assert rc is not None
            self._row("Rc", rc[None])
            self._row("C_g", c_g[None])
            u = twotime.rows_causal(rc[None], known["Y"])
            u[0, t] = 1.0
            self._row("U", u)
            self._row("C_u", twotime.rows_congruence(u, known["C_g"], known["U"])[1])
        self._row("C0", loss[None])
        now = float(loss[t])
        self.diverged = grows(now, self._loss, self._initial)
        self._loss = now

    def _row(self, name: str, row: FloatArray) -> None:
        self._known[name][self.step, : self.step + 1] = row[0]

    def store_kernels(self) -> None:
        """Remember the step: the histories hold what is to be stored."""
        self._stored.append(self.step)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything `restore` needs to go on bit for bit."""
        kept = slice(self.step + 1)
        return {
            **{name: history[kept, kept].copy() for name, history in self._known.items()},
            "loss": np.array(self._loss),
            "stored": np.array(self._stored, dtype=np.int64),
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem; it may be longer."""
        kept = slice(len(state["W"]))
        for name, history in self._known.items():
            history[kept, kept] = state[name]
        self._modes.resume(len(state["W"]))
        self.step, self._loss = len(state["W"]) - 1, float(state["loss"])
        self._stored = state["stored"].tolist()

    def fields(self, save: tuple[str, ...]) -> dict[str, Any]:
        """Kernels of a `Solution`, at the stored steps."""
        at = np.ix_(self._stored, self._stored)
        lower = {name: np.tril(self._known[name][at]) for name in KERNELS}
        return kernel_fields({name: k + np.tril(k, -1).T for name, k in lower.items()}, save)

    def worth(self) -> dict[str, Any]:
        """What its answer is worth, for the diagnostics."""
        return {"residual": self.residual()}

    def residual(self) -> float:
        """Largest relative violation of the equations, from whole matrices of the first steps."""
        largest = min(CHECKED_STEPS, int((CHECKED_WORK / len(self._population.values)) ** (1 / 3)))
        n = min(largest, self.step + 1 - self.diverged)
        known = {name: history[:n, :n] for name, history in self._known.items()}
        symmetric = {name: k + np.tril(k, -1).T for name, k in known.items() if name[0] == "C"}
        c_w, c_u = symmetric["C_w"], symmetric["C_u"]
        one = np.eye(n)
        theta = np.tril(np.broadcast_to(np.append(self._rates, 0.0)[:n], (n, n)), -1)
        w = np.linalg.solve(one - self._gamma * theta @ (c_u * theta), theta)
        q = w + self._gamma * c_w * theta
        rc = known["Rc"] if self._finite else np.zeros((n, n))
        y = np.linalg.solve(one - q @ rc, q)
        u = one + rc @ y
        c_g = symmetric["C_g"] if self._finite else c_u
        c_y = y @ c_g @ y.T
        found = {name: np.zeros((n, n)) for name in ("Rc", "C_g", "C0")}
        spectrum = self._population
        for value, target, count in zip(
            spectrum.values, spectrum.target, spectrum.multiplicities, strict=True
        ):
            h = np.linalg.inv(one + value * y)
            v = h @ (target + count / self._features * c_y) @ h.T
            found["Rc"] -= count / self._features * value * h
            found["C_g"] += value**2 * v
            found["C0"] += value * v
        found |= {
            "W": w,
            "Q": q,
            "Y": y,
            "U": u,
            "C_y": c_y,
            "C_w": w @ c_u @ w.T,
            "C_u": u @ c_g @ u.T,
        }
        return max(
            deviation(np.tril(history), np.tril(found[name])) for name, history in known.items()
        )


def kernel_fields(kernels: Mapping[str, FloatArray], save: tuple[str, ...]) -> dict[str, Any]:
    """Kernel fields of a `Solution` from those over two times: at equal ones, and what to save."""
    equal: dict[str, Layers] = {name: {0: np.diag(k).copy()} for name, k in kernels.items()}
    two: dict[str, Layers] = {name: {0: kernels[name]} for name in save}
    return {"equal_time": equal, "two_time": two}
