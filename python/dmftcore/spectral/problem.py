"""What is learned, by which model, and its functions of a spectral parameter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore.spectral.arguments import ComplexArray, Population
from dmftcore.spectral.one_point import in_upper_half, one_point, spectral_edge
from dmftcore.spectral.two_point import on_grid
from dmftcore.spectrum import AnySpectrum

__all__ = ["Problem"]

#: Numbers in a table of all modes at some spectral parameters.
TABLE = 1 << 18


@dataclass(frozen=True)
class Problem:
    """Linear regression, or linear random features, of Gaussian data.

    Attributes
    ----------
    spectrum : Spectrum or PowerLaw
    samples, features : float
        P and N, or inf.
    noise_variance : float
        sigma^2.
    device : str or None
        "cuda" puts sums over the modes, and over pairs of nodes, on the GPU.
    """

    spectrum: AnySpectrum
    samples: float
    features: float
    noise_variance: float
    device: str | None = None

    @cached_property
    def population(self) -> Population:
        """The modes of the spectrum."""
        return Population.of(self.spectrum)

    @cached_property
    def edge(self) -> float:
        """End of the spectrum of F F^T S."""
        return spectral_edge(self.spectrum, self.samples, self.features)

    @property
    def initial_loss(self) -> float:
        """L(0)."""
        return float(self.population.signal.sum()) + self.noise_variance

    @property
    def beyond(self) -> float:
        """A spectral parameter so large that kappa is equal to it."""
        population = self.population
        trace = float(population.power.sum())
        return 1e24 * (float(population.values.max()) + trace / min(self.samples, self.features))

    def put(self, array: Any) -> Any:
        """A numpy array, where the computing is done."""
        return _arrays.to_device(array) if self.device == "cuda" else array

    def one_point(self, z: ComplexArray) -> Any:
        """kappa, R1 and R3 of z with Im z >= 0, (3, n), where the computing is done."""
        there = self.put(z)
        core = _arrays.core_for(there)
        return in_upper_half(core, there, self.population, self.samples, self.features)

    def two_point(self, rows: Any, columns: Any) -> tuple[Any, Any]:
        """Phi of the test and of the training loss, (batch, n1, n2), from `one_point` of both.

        Parameters
        ----------
        rows, columns : (3, batch, n1), (3, batch, n2) arrays
        """
        xp = _arrays.namespace(rows)
        test, train, _ = on_grid(
            _arrays.core_for(rows),
            xp.ascontiguousarray(rows),
            xp.ascontiguousarray(columns),
            self.population,
            self.samples,
            self.features,
            self.noise_variance,
        )
        return test, train

    def residual(self, z: ComplexArray, one: Any) -> ComplexArray:
        r"""g(z), whose integral with the squared filter is the training loss, (n,).

        .. math:: g = \frac{R_1}{z} \Big( \sigma^2 + \sum_k \frac{\lambda_k w_k^2 \kappa}{\lambda_k
                  + \kappa} \Big)

        Parameters
        ----------
        z : (n,) array
        one : (3, n) array
            `one_point` of z.

        Notes
        -----
        It is the two-point function of the training loss with the other parameter at infinity.
        """
        infinity = self.put(np.array([self.beyond, 1, 1], np.complex128).reshape(3, 1, 1))
        _, train = self.two_point(one[:, None], infinity)
        return np.asarray(_arrays.to_host(train)[0, :, 0] / z, np.complex128)

    def residual_and_noise(self, z: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        r"""For infinitely many samples, g(z), and what SGD makes of its noise, (n,) each.

        .. math:: \operatorname{tr} S^2 (z + S)^{-1} = \sum_k \frac{\mu_k \lambda_k^2}{\lambda_k +
                  \kappa} + \frac{\kappa}{N} \mathrm{df}^2, \qquad S = F^\top \Lambda F
        """
        population, there = self.population, self.put(z)
        xp, core = _arrays.namespace(there), _arrays.core_for(there)
        kappa, _, _ = one_point(core, there, population, np.inf, self.features)
        power = population.power
        rows = np.stack([population.signal, power, power * population.values])
        # In real numbers: w / (lambda + kappa) = (w lambda + conj(kappa) w) / |lambda + kappa|^2.
        values, rows = xp.asarray(population.values), xp.asarray(rows)
        rows = xp.concatenate([rows * values, rows])
        parts = xp.array_split(kappa, 1 + kappa.size * len(values) // TABLE)
        sums = xp.concatenate(
            [rows @ (1 / ((values[:, None] + k.real) ** 2 + k.imag**2)) for k in parts], axis=1
        )
        unlearned, df, squares = sums[:3] + kappa.conj() * sums[3:]
        residual = (self.noise_variance + kappa * unlearned) / there
        noise = squares + kappa * df**2 / self.features
        return _arrays.to_host(residual), _arrays.to_host(noise)
