r"""Random data in high dimension: what the samples make of a predictor that learns from them.

P = alpha D samples ``x_i = sqrt(lambda_i) N(0, 1)``, targets ``beta* . x / sqrt(D)`` plus noise,
D -> infinity. A network whose predictor moves by the response E to the mean gradient
``v = sqrt(D) X^T Delta / P`` sees of the data only two-time kernels. With the couplings kept of the
first weights (init_scale^2 in plain gradient descent), the gradient kernel G^1, and modes k of
eigenvalue lambda_k, weight w_k and mean square beta2_k of the target (1 is all ones):

    M_k = (1 + lambda_k E RD)^{-1}                    N = E CD E^T / alpha
    Cb_k = M_k ( beta2_k 1 + kept G^1 / kap^2 + lambda_k N ) M_k^T
    Cp = sum_k w_k lambda_k Cb_k                      Rp = - sum_k w_k lambda_k M_k E
    RD = (1 - Rp / alpha)^{-1}                        CD = RD (Cp + noise^2 1) RD^T
    X = sum_k w_k lambda_k^2 M_k E                    Y = sum_k w_k lambda_k^2 Cb_k
    F = RD X
    Cv = (lbar / alpha) CD + RD Y RD^T - (F CD + CD F^T) / alpha
    A^0 = - ( lbar RD - F RD ) / (kap sqrt(nu)),      lbar = sum_k w_k lambda_k

Cp(t,t) is the population error, CD(t,t) the training error, RD the response of the training errors,
Cv the correlation of the gradients v and A^0 their response to the network; N is the noise of the
finite sample. When every step draws fresh samples, RD = 1 and CD is diagonal,
``CD(t,t) = Cp(t,t) + noise^2``.

K = E RD is strictly causal, so that up to step t the M_k are polynomials in lambda_k of the degree
t: sums over modes are Gauss sums over t + 2 points, without error, however many modes there are.
The target has a rule of its own, and enters with the vectors ``r_k = M_k 1`` alone,
``M_k beta2_k 1 M_k^T = beta2_k r_k r_k^T``.

Source: Bordelon & Pehlevan, arXiv:2502.02531.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays, twotime
from dmftcore._validate import FloatArray
from dmftcore.chain import Couplings
from dmftcore.chain.base import deviation
from dmftcore.chain.couplings import Through
from dmftcore.quadrature import GaussRules
from dmftcore.recording import Rows
from dmftcore.resolvents import Resolvents
from dmftcore.spectrum import Spectrum

__all__ = ["Population", "RandomData"]

#: Kernels over two times.
KERNELS = ("E", "K", "N", "Cp", "Y", "X", "RD", "CD", "Cv", "A0")

#: Up to so many modes their M_k are kept whole, and beyond in blocks of so many steps. A device has
#: bandwidth for longer ones, and each block costs it a few launches.
FEW_MODES = 8
BLOCK, DEVICE_BLOCK = 32, 512

#: Modes that the check takes together.
CHECKED_TOGETHER = 64


@dataclass(frozen=True)
class Population:
    """Where the samples come from, and how many there are.

    Attributes
    ----------
    modes : Spectrum
        With weights.
    width_ratio, sample_ratio : float
        nu and alpha.
    output_scale : float
        kap.
    noise : float
        Standard deviation of the label noise.
    fresh : bool
        Whether every step draws samples of its own.
    """

    modes: Spectrum
    width_ratio: float
    sample_ratio: float
    output_scale: float
    noise: float
    fresh: bool

    @property
    def feedback(self) -> float:
        """sqrt(nu) / kap, of the response E in units of D^0 of the hidden chain."""
        return float(np.sqrt(self.width_ratio)) / self.output_scale


class RandomData:
    """Histories of the kernels of random data, marched one step at a time.

    The modes share all kernels: a step passes over 13 triangles, and over that of K twice for all
    modes together (`dmftcore.resolvents`). Where there are more modes than steps, the points of
    Gauss rules take their place, which grow with the steps.

    Parameters
    ----------
    population : Population
    couplings : Couplings
        Those of the hidden chain.
    steps : int
        Steps t = 0..steps will be marched.
    xp : module
        Array library of the histories.
    """

    def __init__(
        self, population: Population, couplings: Couplings, *, steps: int, xp: Any = np
    ) -> None:
        self.population, self._couplings, self._xp = population, couplings, xp
        modes, size = population.modes, steps + 1
        self._mean = float(modes.weights @ modes.values)
        self._answer_scale = 1 / (population.output_scale * population.width_ratio**0.5)
        #: Lower triangles.
        self.histories: dict[str, FloatArray] = dict(
            zip(KERNELS, xp.zeros((len(KERNELS), size, size)), strict=True)
        )
        self._length, largest = _blocks(len(modes.values), steps, on_device=xp is not np)
        self._rules = [
            GaussRules(modes.values, weights, largest)
            for weights in (modes.weights, modes.weights * modes.target)
        ]
        self._resolvents = Resolvents(self.histories["K"], self._length, xp=xp)
        #: r_k(t) of the points of the target, (steps + 1, points).
        self._reach: FloatArray = xp.zeros((size, 0))
        self._all_points = False
        self._values: FloatArray = xp.zeros((0, 1))
        self._ones = xp.ones((size, 1))
        #: Whether all modes are taken as they are, in one block.
        self.few_modes = len(modes.values) <= FEW_MODES

    @property
    def points(self) -> int:
        """Points that the sums over modes have now: the modes, or those of a Gauss rule."""
        return len(self._values)

    @staticmethod
    def count(modes: int, steps: int, *, on_device: bool = False) -> dict[str, int]:
        """Numbers held, by part: kernels, what modes have of their own, and Gauss rules."""
        length, points = _blocks(modes, steps, on_device=on_device)
        blocks = -(-(steps + 1) // length) * min(length, steps + 1) ** 2
        return {
            "data": len(KERNELS) * (steps + 1) ** 2,
            # With the rows of a step, some of them for a moment only.
            "modes": points * (blocks + 7 * (steps + 1)),
            "quadrature": points * modes if modes > FEW_MODES else 0,
        }

    def enter(self, step: int, d: FloatArray) -> FloatArray:
        """Append what the network alone makes of the rows of `step`: E, N and K; that of K.

        Parameters
        ----------
        step : int
            The step t, one beyond the last.
        d : (1, t + 1) array or Rows
            Row of the response D^0 of the hidden chain.
        """
        known = self.histories
        e = self._row("E", step, self.population.feedback * d)
        # E is strictly causal: the rows of RD and CD at this step are not needed yet.
        noise = twotime.rows_congruence(e, known["CD"], known["E"])[1]
        self._row("N", step, noise / self.population.sample_ratio)
        return self._row("K", step, twotime.rows_causal(e, known["RD"]))

    def sums(self, step: int, gradients: FloatArray) -> tuple[FloatArray, FloatArray]:
        """What the modes add up to at `step`.

        Parameters
        ----------
        step : int
        gradients : (N, N) array
            History of G^1, up to row t.

        Returns
        -------
        (2, t + 1) array
            Rows of Cp and Y.
        (2, t + 1) array
            Rows of ``sum_k w_k lambda_k^i M_k``, i = 1, 2.
        """
        if step % self._length == 0 and not self._all_points:
            self._take_points(step, step)
        reach = self._append_reach(step)
        m = self._resolvents.append(step)
        inner = self._through(gradients)(m)
        inner += self._values * twotime.rows_symmetric(m, self.histories["N"])
        sums = self._moments @ self._resolvents.times_transposed(inner)
        sums += (self._target_moments * reach) @ self._reach[: step + 1].T
        return sums, self._moments @ m

    def recorded_sums(self, k: Rows, gradients: FloatArray) -> tuple[Rows, Rows]:
        """The same for few modes and rows that are being recorded, given that of K."""
        if not self._all_points:
            self._take_points(0, 0)
        record, values = k.program, self._values[:, 0]
        m: Any = self._resolvents.record(k)
        reach: Any = twotime.rows_low_rank(m, self._ones, self._ones)
        record.append_now(self._reach, reach)
        network: Any = self._through(gradients)(m)
        noise: Any = twotime.rows_symmetric(m, self.histories["N"])
        target = self._by_overlap / self._weights
        inner = network + record.by_row(values, noise) + record.by_row(target, reach)
        products: Any = self._resolvents.times_transposed(inner)
        return record.mix(self._moments, products), record.mix(self._moments, m)

    def leave(
        self, step: int, sums: FloatArray, means: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Append the other rows of `step`, given what `sums` returns; those of Cv and A^0."""
        alpha, known = self.population.sample_ratio, self.histories
        cp = self._row("Cp", step, sums[:1])
        self._row("Y", step, sums[1:])
        responses = twotime.rows_causal(means, known["E"])
        self._row("X", step, responses[1:])
        rd, cd = self._samples(step, -responses[:1], cp)
        # CD F^T = (CD X^T) RD^T needs no history of F.
        f, cdx = twotime.rows_causal_pair(rd, cd, known["X"])
        inner = twotime.rows_symmetric(rd, known["Y"]) - cdx / alpha
        frd, seen = twotime.rows_causal_pair(f, inner, known["RD"])
        seen = seen + (self._mean * cd - twotime.rows_symmetric(f, known["CD"])) / alpha
        answer = (frd - self._mean * rd) * self._answer_scale
        return self._row("Cv", step, seen), self._row("A0", step, answer)

    def curves(self, begin: int, end: int) -> FloatArray:
        """Cp(t,t), CD(t,t) and the overlap with the target, (steps, 3), of the last steps."""
        steps = slice(begin, end)
        columns = [self.histories[name][steps, steps].diagonal() for name in ("Cp", "CD")]
        columns.append((1 - self._reach[steps]) @ self._by_overlap)
        found: FloatArray = _arrays.to_host(self._xp.stack(columns, axis=1))
        return found

    def residual(self, response: FloatArray, gradients: FloatArray) -> float:
        """Largest relative violation of the equations, over the first n steps.

        Parameters
        ----------
        response, gradients : (n, n) arrays
            D^0 and G^1 of the hidden chain as full matrices, in numpy.
        """
        n, population, alpha = len(response), self.population, self.population.sample_ratio
        modes, one = population.modes, np.eye(n)
        kept, _ = self._couplings.dense(n)
        known = {name: _arrays.to_host(h[:n, :n]) for name, h in self.histories.items()}
        cd, cp, y = (known[k] + np.tril(known[k], -1).T for k in ("CD", "Cp", "Y"))
        e, rd, x = population.feedback * response, known["RD"], known["X"]
        noise, network = e @ cd @ e.T / alpha, kept * gradients / population.output_scale**2
        powers = modes.weights * modes.values ** np.arange(1, 3)[:, None]
        sums, responses = np.zeros((2, 2, n, n))
        for begin in range(0, len(modes.values), CHECKED_TOGETHER):
            some = slice(begin, begin + CHECKED_TOGETHER)
            value, target = (a[some, None, None] for a in (modes.values, modes.target))
            m = np.linalg.inv(one + value * (e @ rd))
            cb = m @ (target + network + value * noise) @ m.transpose(0, 2, 1)
            sums += np.tensordot(powers[:, some], cb, 1)
            responses += np.tensordot(powers[:, some], m, 1) @ e
        rp = -responses[0]
        noisy = rd @ (cp + population.noise**2) @ rd.T
        cross = rd @ x @ cd
        answer = rd @ (x @ rd - self._mean * one)
        expected = {
            "K": e @ rd,
            "N": noise,
            "Cp": sums[0],
            "Y": sums[1],
            "X": responses[1],
            "RD": one if population.fresh else np.linalg.inv(one - rp / alpha),
            "CD": np.diag(np.diag(noisy)) if population.fresh else noisy,
            "Cv": (self._mean * cd - cross - cross.T) / alpha + rd @ y @ rd.T,
            "A0": answer / (population.output_scale * np.sqrt(population.width_ratio)),
        }
        return max(
            deviation(known[name], np.asarray(np.tril(found), dtype=np.float64))
            for name, found in expected.items()
        )

    def state(self, steps: int) -> dict[str, npt.NDArray[Any]]:
        """The rows of the first `steps` steps, for `restore`."""
        return {
            name: _arrays.to_host(history[:steps, :steps]).copy()
            for name, history in self.histories.items()
        }

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a saved state, on a march of the same problem."""
        steps = len(state["K"])
        for name, history in self.histories.items():
            history[:steps, :steps] = self._xp.asarray(state[name])
        self._take_points(steps - 1, steps)

    def _take_points(self, step: int, known: int) -> None:
        """Choose the points for the block of `step`, where the rows of `known` steps are known.

        They depend on the block alone, so that a run that ends later has the same bits.
        """
        points = step - step % self._length + self._length + 1
        self._all_points = points >= max(map(len, self._rules))
        (values, weights), (targets, by_target) = (rule.rule(points) for rule in self._rules)
        if self.few_modes:
            # The target is zero in some modes perhaps, which stay.
            by_mode = np.zeros(len(values))
            by_mode[np.searchsorted(values, targets)] = by_target
            targets, by_target = values, by_mode
        xp, size = self._xp, len(self._reach)
        powers = np.arange(1, 3)[:, None]
        self._values, self._weights = xp.asarray(values[:, None]), xp.asarray(weights)
        #: w_k lambda_k and w_k lambda_k^2.
        self._moments = xp.asarray(weights * values**powers)
        self._target_values = xp.asarray(targets)
        self._target_moments = xp.asarray(by_target * targets**powers)
        self._by_overlap = xp.asarray(by_target)
        self._resolvents.start(values, known)
        self._reach = xp.zeros((size, len(targets)))
        for earlier in range(known):
            self._append_reach(earlier)

    def _append_reach(self, step: int) -> FloatArray:
        """Append and return r_k(t) = 1 - lambda_k sum_s K(t,s) r_k(s)."""
        row = self.histories["K"][step, :step] @ self._reach[:step]
        reach: FloatArray = 1 - self._target_values * row
        self._reach[step] = reach
        return reach

    def _through(self, gradients: FloatArray) -> Through:
        """Products with what the network adds to the predictors of all modes alike."""
        return self._couplings.through(
            lambda rows: twotime.rows_symmetric(rows, gradients),
            1 / self.population.output_scale**2,
        )

    def _samples(self, step: int, rp: FloatArray, cp: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Append and return the rows of RD and CD, given those of -Rp and Cp."""
        known, noise2 = self.histories, self.population.noise**2
        one = self._unit(step, cp)
        if self.population.fresh:
            rd = self._row("RD", step, one)
            return rd, self._row("CD", step, self._now(cp) + noise2 * one)
        # Nothing is later than itself: the row of -Rp ends in a zero.
        rd = one + twotime.rows_causal(rp / self.population.sample_ratio, known["RD"])
        self._row("RD", step, rd)
        noise = noise2 * twotime.rows_low_rank(rd, self._ones, self._ones)
        inner = twotime.rows_symmetric(rd, known["Cp"]) + noise
        return rd, self._row("CD", step, twotime.rows_causal_transposed(inner, known["RD"]))

    def _unit(self, step: int, like: FloatArray) -> FloatArray:
        """A row that is 1 at `step`."""
        if isinstance(like, Rows):
            return like.program.unit(1)
        one: FloatArray = self._xp.zeros((1, step + 1))
        one[0, step] = 1.0
        return one

    def _now(self, row: FloatArray) -> FloatArray:
        """A row without what is earlier than the present step."""
        if isinstance(row, Rows):
            return row.program.now(row)
        present: FloatArray = self._xp.zeros_like(row)
        present[:, -1] = row[:, -1]
        return present

    def _row(self, name: str, step: int, row: FloatArray) -> FloatArray:
        """Append a row to a history."""
        history = self.histories[name]
        if isinstance(row, Rows):
            row.program.append(history, row)
        else:
            history[step, : step + 1] = row
        return row


def _blocks(modes: int, steps: int, *, on_device: bool) -> tuple[int, int]:
    """Steps of a diagonal block of the M_k, and the most points that sums over modes ever have."""
    if modes <= FEW_MODES:
        return max(steps + 1, modes), modes
    length = DEVICE_BLOCK if on_device else BLOCK
    return length, min(modes, steps - steps % length + length + 1)
