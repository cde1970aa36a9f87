"""The one-point function kappa(z), and the edge of the spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from dmftcore.spectral.arguments import ComplexArray, Population, nodes, size
from dmftcore.spectrum import AnySpectrum

__all__ = [
    "DeterministicEquivalent",
    "deterministic_equivalent",
    "solve_one_point",
    "spectral_edge",
]


@dataclass(frozen=True)
class DeterministicEquivalent:
    """The resolvent ``z G(z) ~ kappa / (kappa + lambda)`` in high dimension.

    Attributes
    ----------
    kappa : complex128 array of the shape of z
        The ridge that the population feels.
    R1, R3 : complex128 arrays of the shape of z
        Responses of the samples and of the features: ``z = kappa R1 R3``.
    """

    kappa: ComplexArray
    R1: ComplexArray
    R3: ComplexArray


def deterministic_equivalent(
    z: Any, spectrum: AnySpectrum, samples: float, features: float
) -> DeterministicEquivalent:
    r"""Self-consistent resolvent of a random matrix.

    .. math:: z = \kappa R_1 R_3, \qquad R_1 = 1 - \frac{\mathrm{df}}{P}, \quad
              R_3 = 1 - \frac{\mathrm{df}}{N}, \qquad
              \mathrm{df} = \sum_k \frac{\mu_k \lambda_k}{\lambda_k + \kappa}

    Parameters
    ----------
    z : number, or complex128 or float64 array of any shape
        Off the negative real axis; z = 0 is the limit from above.
    spectrum : Spectrum or PowerLaw
        Eigenvalues > 0 with multiplicities; the target is not used. A power law of more than
        20 000 modes is taken in groups (`PowerLaw.grouped`).
    samples, features : float
        P and N: real numbers > 0, or inf.

    Returns
    -------
    DeterministicEquivalent
        kappa, R1, R3, each of the shape of z.

    Raises
    ------
    TypeError
        z is an array of another dtype or not C-contiguous.
    ValueError
        z on the negative axis or not finite; samples or features <= 0; an eigenvalue that is zero.
    """
    parameters = nodes("z", z)
    population = Population.of(spectrum)
    flat = solve_one_point(
        parameters.ravel(), population, size("samples", samples), size("features", features)
    )
    shape = parameters.shape
    return DeterministicEquivalent(
        flat.kappa.reshape(shape), flat.R1.reshape(shape), flat.R3.reshape(shape)
    )


def solve_one_point(
    z: ComplexArray, population: Population, samples: float, features: float
) -> DeterministicEquivalent:
    """`deterministic_equivalent` of checked arguments, for z with one axis.

    Each parameter is solved for once, also if it or its conjugate occurs again.
    """
    upper, place = np.unique(np.where(z.imag < 0, z.conj(), z), return_inverse=True)
    kappa = np.zeros(len(upper), dtype=np.complex128)
    above = upper != 0
    kappa[above] = _solve(upper[above], population, samples, features)
    kappa[~above] = _at_zero(population, min(samples, features))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(kappa != 0, upper / kappa, 0)
    R1, R3 = _responses(ratio, samples, features)
    # Fewer directions than samples and features: kappa vanishes with z, and z / kappa does not.
    R1[kappa == 0] = 1 - population.dimension / samples
    R3[kappa == 0] = 1 - population.dimension / features
    lower = z.imag < 0
    return DeterministicEquivalent(
        *(np.where(lower, x[place].conj(), x[place]) for x in (kappa, R1, R3))
    )


def _responses(
    ratio: ComplexArray, samples: float, features: float
) -> tuple[ComplexArray, ComplexArray]:
    """R1 and R3 from their product z / kappa, without the difference 1 - df / P.

    ``P (1 - R1) = N (1 - R3)`` makes the smaller one the root of a quadratic.
    """
    few, many = min(samples, features), max(samples, features)
    part = 1.0 if few == many else few / many
    smaller = 2 * ratio / (1 - part + np.sqrt((1 - part) ** 2 + 4 * part * ratio))
    larger = 1 - part + part * smaller
    return (smaller, larger) if samples <= features else (larger, smaller)


def spectral_edge(spectrum: AnySpectrum, samples: float, features: float) -> float:
    r"""Upper edge of the spectrum of ``F F^T S``: the poles of the resolvent lie in [-edge, 0].

    .. math:: x_{\max} = \min_{q > \lambda_{\max}} q \Big(1 + \frac{s}{P}\Big)
              \Big(1 + \frac{s}{N}\Big), \qquad s = \sum_k \frac{\mu_k \lambda_k}{q - \lambda_k}

    Parameters
    ----------
    spectrum, samples, features
        As in `deterministic_equivalent`.

    Returns
    -------
    float
        Gradient descent with a learning rate ``lr`` is stable for ``lr < 2 / edge``. The largest
        eigenvalue of one finite matrix lies below it or near to it.

    Raises
    ------
    TypeError, ValueError
        As in `deterministic_equivalent`.
    """
    population = Population.of(spectrum)
    inverse = 1 / size("samples", samples), 1 / size("features", features)
    top = float(population.values.max())
    if inverse == (0, 0):
        return top
    power = population.power

    def outside(log_distance: float) -> float:
        q = top * (1 + math.exp(log_distance))
        s = float(np.sum(power / (q - population.values)))
        return q * (1 + s * inverse[0]) * (1 + s * inverse[1])

    found = scipy.optimize.minimize_scalar(
        outside, bounds=(-30, 60), method="bounded", options={"xatol": 1e-8}
    )
    return float(found.fun)


def _at_zero(population: Population, few: float) -> float:
    """kappa(0): the zero of 1 - df / min(P, N), or 0 where the dimension is not larger."""
    if population.dimension <= few:
        return 0.0
    power, values = population.power, population.values

    def excess(log_kappa: float) -> float:
        return float(np.sum(power / (values + math.exp(log_kappa)))) / few - 1

    upper = math.log(float(power.sum()) / few)
    lower = upper - 1
    while excess(lower) < 0:
        lower = upper - 2 * (upper - lower)
    return math.exp(float(scipy.optimize.brentq(excess, lower, upper, xtol=1e-15, rtol=1e-15)))


def _solve(
    z: ComplexArray, population: Population, samples: float, features: float
) -> ComplexArray:
    """kappa(z) for Im z >= 0, z != 0."""
    lam, power = population.values, population.power
    p, n = 1 / samples, 1 / features
    out = np.empty_like(z)
    for i, target in enumerate(z):
        x = abs(target)
        low, high = x, x + power.sum() * (p + n)
        kappa: Any = high
        is_real = target.imag == 0
        for _ in range(200):
            share = power / (lam + kappa)
            df1 = share.sum()
            slope = df1 - (share * lam / (lam + kappa)).sum()
            R1, R3 = 1 - df1 * p, 1 - df1 * n
            if R1 > 0 and R3 > 0:
                rest = math.log(x / (kappa * R1 * R3))
                step = _step(rest, slope * p / R1, slope * n / R3).real
                low, high = (kappa, high) if rest > 0 else (low, kappa)
                if (abs(step) < 1e-9) if is_real else (abs(rest) < 0.3):
                    break
                new = kappa * (1 + step)
            else:
                low, new = kappa, 0
            kappa = new if low < new < high else math.sqrt(low * high)
            if high - low <= 4e-16 * high:
                break
        if is_real:
            out[i] = kappa * (1 + step)
            continue
        kappa = kappa + 0j
        accepted, best, reach = kappa, None, 1.5
        for _ in range(300):
            share = power / (lam + kappa)
            df1 = share.sum()
            slope = df1 - (share * lam / (lam + kappa)).sum()
            R1, R3 = 1 - df1 * p, 1 - df1 * n
            angles = [np.angle(one) for one in (kappa, R1, R3)]
            rest = np.log(target) - math.log(abs(kappa * R1 * R3)) - 1j * sum(angles)
            if best is None or (
                min(angles) >= -1e-9
                and angles[0] > 0
                and sum(angles) <= math.pi + 1e-9
                and abs(rest) < abs(best[0])
            ):
                if best is not None:
                    reach = min(1.5, 1.7 * reach)
                accepted, best = kappa, (rest, slope * p / R1, slope * n / R3)
                fresh = True
            else:
                reach, fresh = 0.35 * reach, False
            part = min(1.0, reach / abs(best[0])) if best[0] else 1.0
            step = _step(best[0] * part, *best[1:])
            kappa = accepted * (1 + step)
            if fresh and part == 1 and abs(step) < 1e-9:
                break
            if reach < 1e-7:
                raise ArithmeticError(f"no convergence at z = {target}")
        out[i] = kappa
    return out


def _step(rest: complex, a1: complex, a3: complex) -> Any:
    slope = 1 + a1 + a3
    power = slope**2 / (1 + a1**2 + a3**2)
    return power / slope * np.expm1(complex(rest) / power)
