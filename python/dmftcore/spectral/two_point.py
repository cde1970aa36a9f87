"""The two-point functions: losses and observables as functions of two spectral parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dmftcore._validate import FloatArray, non_negative, real_array
from dmftcore.spectral.arguments import ComplexArray, Population, nodes, size
from dmftcore.spectral.one_point import DeterministicEquivalent, solve_one_point
from dmftcore.spectrum import AnySpectrum

__all__ = ["TwoPoint", "two_point"]

#: A divided difference may lose three digits; closer pairs are summed directly.
CANCELLATION = 1e-3


@dataclass(frozen=True)
class TwoPoint:
    """Two-point functions on a grid of spectral parameters.

    Attributes
    ----------
    test : (*batch, n1, n2) complex128 array
        Phi, whose filter is the test loss, label noise included.
    train : (*batch, n1, n2) complex128 array
        ``R1(z1) R1(z2) Phi``, whose filter is the training loss.
    observable : (*batch, n1, n2) complex128 array or None
        The same of ``v^T diag(m) v``, v the error of the predictor; there is no label noise in it.
    """

    test: ComplexArray
    train: ComplexArray
    observable: ComplexArray | None


def two_point(
    z1: Any,
    z2: Any,
    spectrum: AnySpectrum,
    samples: float,
    features: float,
    noise_variance: float = 0.0,
    observable: Any = None,
) -> TwoPoint:
    r"""Deterministic equivalents of products of two resolvents.

    With the error ``v(z) = G(z) (w - ...)`` of ridge regression and ``d_k = 1 / ((lambda_k +
    kappa)(lambda_k + kappa'))``,

    .. math::

        G_1 = \sum_k \mu_k \lambda_k d_k, \quad G_2 = \sum_k \mu_k \lambda_k^2 d_k, \quad
        S_1 = \kappa \kappa' \sum_k \lambda_k w_k^2 d_k, \quad S_2 = \sum_k \lambda_k^2 w_k^2 d_k

        \Phi = \frac{(S_1 + \sigma^2)(1 - G_2 / N) + \kappa \kappa' G_1 S_2 / N}
                    {(1 - G_2 / P)(1 - G_2 / N) - \kappa \kappa' G_1^2 / (N P)}

    At z1 = z2 = ridge > 0 these are the test loss, and the training error, of ridge regression.

    Parameters
    ----------
    z1 : number, or (*batch, n1) complex128 or float64 array
        Off the negative real axis; 0 is the limit from above.
    z2 : number, or (*batch, n2) complex128 or float64 array
    spectrum : Spectrum or PowerLaw
        Eigenvalues > 0 with multiplicities, and the target, summed over each mode. A power law of
        more than 20 000 modes is taken in groups (`PowerLaw.grouped`).
    samples, features : float
        P and N: real numbers > 0, or inf.
    noise_variance : float
        sigma^2 >= 0 of the labels.
    observable : (modes,) array, optional
        m_k, the same for all directions of a mode.

    Returns
    -------
    TwoPoint
        On the grid of z1 and z2: (*batch, n1, n2), without the axis of a number.

    Raises
    ------
    TypeError, ValueError
        As in `deterministic_equivalent`; shapes that do not fit; z = 0 where the loss of the
        interpolating predictor diverges.
    """
    first, second = nodes("z1", z1), nodes("z2", z2)
    if first.ndim and second.ndim and first.shape[:-1] != second.shape[:-1]:
        raise ValueError(
            f"z1 has the batch axes {first.shape[:-1]}, but z2 has {second.shape[:-1]}: batch axes "
            "are not broadcast"
        )
    population = Population.of(spectrum)
    variance = non_negative("noise_variance", noise_variance)
    weights = None
    if observable is not None:
        weights = real_array("observable", observable, 1)
        if len(weights) != len(population.values):
            raise ValueError(
                f"observable has {len(weights)} modes, but the spectrum has "
                f"{len(population.values)}"
            )
    P, N = size("samples", samples), size("features", features)
    both = solve_one_point(np.concatenate([first.ravel(), second.ravel()]), population, P, N)
    left, right = _part(both, slice(0, first.size)), _part(both, slice(first.size, None))
    batch = first.shape[:-1] if first.ndim else second.shape[:-1]
    count = int(np.prod(batch))
    result = _grid(
        _reshaped(left, (count, -1) if first.ndim else (1, 1)),
        _reshaped(right, (count, -1) if second.ndim else (1, 1)),
        population,
        P,
        N,
        variance,
        weights,
    )
    shape = batch + first.shape[-1:] + second.shape[-1:]
    test, train, value = result
    return TwoPoint(
        test.reshape(shape), train.reshape(shape), None if value is None else value.reshape(shape)
    )


def _part(one: DeterministicEquivalent, where: slice) -> DeterministicEquivalent:
    return DeterministicEquivalent(one.kappa[where], one.R1[where], one.R3[where])


def _reshaped(one: DeterministicEquivalent, shape: tuple[int, int]) -> DeterministicEquivalent:
    return DeterministicEquivalent(*(x.reshape(shape) for x in (one.kappa, one.R1, one.R3)))


def _grid(
    left: DeterministicEquivalent,
    right: DeterministicEquivalent,
    population: Population,
    P: float,
    N: float,
    variance: float,
    observable: FloatArray | None,
) -> tuple[ComplexArray, ComplexArray, ComplexArray | None]:
    p, n = 1 / P, 1 / N
    lam, mu, signal = population.values, population.multiplicities, population.signal
    k1, k2 = left.kappa[..., :, None], right.kappa[..., None, :]
    k1, k2 = np.broadcast_arrays(k1, k2)
    swap = abs(k1) > abs(k2)
    small, big = np.where(swap, k2, k1), np.where(swap, k1, k2)

    def choose(name: str, of_small: bool) -> ComplexArray:
        a, b = getattr(left, name)[..., :, None], getattr(right, name)[..., None, :]
        return np.asarray(np.where(swap == of_small, b, a))

    R1b, R3b, R3s = choose("R1", False), choose("R3", False), choose("R3", True)

    def direct(w: FloatArray) -> ComplexArray:
        flat = [
            (w / ((lam + a) * (lam + b))).sum() for a, b in zip(k1.ravel(), k2.ravel(), strict=True)
        ]
        return np.array(flat, dtype=np.complex128).reshape(k1.shape)

    pairs = small * big
    G1 = direct(mu * lam)
    A, B = R1b + small * G1 * p, R3b + small * G1 * n
    Den = R1b * R3b + small * G1 * (R1b * n + R3s * p)
    S1 = pairs * direct(signal) + variance
    S2 = direct(lam * signal)
    test = (S1 * B + pairs * G1 * S2 * n) / Den
    train = left.R1[..., :, None] * right.R1[..., None, :] * test
    if observable is None:
        return test, train, None
    C3 = (S2 * A + G1 * S1 * p) * n / Den
    value = pairs * (
        direct(observable * population.target) + C3 * direct(mu * observable)
    ) + test * p * direct(mu * observable * lam)
    return test, train, value
