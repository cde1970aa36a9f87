"""What is learned, by which model, and its functions of a spectral parameter."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import ComplexArray, Population
from dmftcore.spectral.one_point import deterministic_equivalent, spectral_edge
from dmftcore.spectral.two_point import two_point
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
    """

    spectrum: AnySpectrum
    samples: float
    features: float
    noise_variance: float

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

    def two_point(self, z1: ComplexArray, z2: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        """Phi of the test and of the training loss, (*batch, n1, n2)."""
        z1, z2 = np.ascontiguousarray(z1), np.ascontiguousarray(z2)
        found = two_point(z1, z2, self.spectrum, self.samples, self.features, self.noise_variance)
        return found.test, found.train

    def residual(self, z: ComplexArray) -> ComplexArray:
        r"""g(z), whose integral with the squared filter is the training loss, (n,).

        .. math:: g = \frac{R_1}{z} \Big( \sigma^2 + \sum_k \frac{\lambda_k w_k^2 \kappa}{\lambda_k
                  + \kappa} \Big)
        """
        one = deterministic_equivalent(z, self.spectrum, self.samples, self.features)
        (unlearned,) = self._over_modes(one.kappa, self.population.signal)
        return np.asarray(one.R1 / z * (self.noise_variance + one.kappa * unlearned), np.complex128)

    def residual_and_noise(self, z: ComplexArray) -> tuple[ComplexArray, ComplexArray]:
        r"""For infinitely many samples, g(z), and what SGD makes of its noise, (n,) each.

        .. math:: \operatorname{tr} S^2 (z + S)^{-1} = \sum_k \frac{\mu_k \lambda_k^2}{\lambda_k +
                  \kappa} + \frac{\kappa}{N} \mathrm{df}^2, \qquad S = F^\top \Lambda F
        """
        population = self.population
        kappa = deterministic_equivalent(z, self.spectrum, np.inf, self.features).kappa
        power = population.power
        unlearned, df, squares = self._over_modes(
            kappa, population.signal, power, power * population.values
        )
        residual = np.asarray((self.noise_variance + kappa * unlearned) / z, np.complex128)
        return residual, np.asarray(squares + kappa * df**2 / self.features, np.complex128)

    def _over_modes(self, kappa: ComplexArray, *weights: FloatArray) -> ComplexArray:
        """sum_k weights_k / (lambda_k + kappa), (weights, n)."""
        # In real numbers: w / (lambda + kappa) = (w lambda + conj(kappa) w) / |lambda + kappa|^2.
        values, rows = self.population.values, np.stack(weights)
        rows = np.concatenate([rows * values, rows])
        parts = np.array_split(kappa, 1 + kappa.size * len(values) // TABLE)
        sums = np.concatenate(
            [rows @ (1 / ((values[:, None] + k.real) ** 2 + k.imag**2)) for k in parts], axis=1
        )
        with_values, alone = np.split(sums, 2)
        return np.asarray(with_values + kappa.conj() * alone, np.complex128)
