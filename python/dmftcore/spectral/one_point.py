"""The one-point function kappa(z), and the edge of the spectrum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from dmftcore import _arrays
from dmftcore.spectral.arguments import ComplexArray, Population, nodes, size
from dmftcore.spectrum import AnySpectrum

__all__ = [
    "DeterministicEquivalent",
    "deterministic_equivalent",
    "in_upper_half",
    "one_point",
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
        Off the negative real axis; z = 0 is the limit from above. An array of cupy is computed with
        on its device, and so are the results.
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
    ArithmeticError
        kappa was not found: z is closer to the eigenvalues than the precision resolves.

    Notes
    -----
    Some 7 sums over the modes for each z, whatever z is, and none that is stored: 12 flops and a
    fraction of a division for each pair of a z and a mode.
    """
    core, parameters = nodes(z=z)
    return DeterministicEquivalent(
        *one_point(
            core,
            parameters,
            Population.of(spectrum),
            size("samples", samples),
            size("features", features),
        )
    )


def one_point(core: Any, z: Any, population: Population, samples: float, features: float) -> Any:
    """kappa, R1 and R3 of checked parameters z, (3, *z.shape).

    On the host a parameter that occurs again, or whose conjugate does, is solved for once.
    """
    xp = _arrays.namespace(z)
    flat = z.ravel()
    lower = flat.imag < 0
    upper: Any = xp.where(lower, flat.conj(), flat)
    place: Any = slice(None)
    if xp is np:
        upper, place = np.unique(upper, return_inverse=True)
    found = in_upper_half(core, upper, population, samples, features)[:, place]
    return xp.where(lower, found.conj(), found).reshape(3, *z.shape)


def in_upper_half(
    core: Any, z: Any, population: Population, samples: float, features: float
) -> Any:
    """kappa, R1 and R3 of parameters (n,) with Im z >= 0, (3, n)."""
    xp = _arrays.namespace(z)
    at_zero = z == 0
    # Where z = 0, anything that has a solution stands in for it.
    kappa = core.spectral_kappa(
        xp.where(at_zero, 1, z),
        xp.asarray(population.values),
        xp.asarray(population.multiplicities),
        samples,
        features,
    )
    missing = xp.isnan(kappa)
    if bool(missing.any()):
        raise ArithmeticError(
            f"kappa(z) was not found at z = {z[missing][0].item()}, samples = {samples:g}, "
            f"features = {features:g}: z is too close to the eigenvalues"
        )
    if bool(at_zero.any()):
        kappa = xp.where(at_zero, _kappa_at_zero(population, min(samples, features)), kappa)
    nothing = kappa == 0
    R1, R3 = _responses(xp, z / xp.where(nothing, 1, kappa), samples, features)
    # Fewer directions than samples and features: kappa vanishes with z, and z / kappa does not.
    R1 = xp.where(nothing, 1 - population.dimension / samples, R1)
    R3 = xp.where(nothing, 1 - population.dimension / features, R3)
    return xp.stack([kappa, R1, R3])


def _responses(xp: Any, ratio: Any, samples: float, features: float) -> tuple[Any, Any]:
    """R1 and R3 from their product z / kappa, without the difference 1 - df / P.

    ``P (1 - R1) = N (1 - R3)`` makes the smaller one the root of a quadratic.
    """
    few, many = min(samples, features), max(samples, features)
    if math.isinf(few):
        return xp.ones_like(ratio), xp.ones_like(ratio)
    part = few / many
    divisor = 1 - part + xp.sqrt((1 - part) ** 2 + 4 * part * ratio)
    smaller = 2 * ratio / xp.where(divisor == 0, 1, divisor)
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


def _kappa_at_zero(population: Population, few: float) -> float:
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
