"""The two-point functions: losses and observables as functions of two spectral parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from dmftcore import _arrays
from dmftcore._validate import FloatArray, non_negative, real_array
from dmftcore.spectral.arguments import ComplexArray, Population, nodes, size
from dmftcore.spectral.one_point import one_point
from dmftcore.spectrum import AnySpectrum

__all__ = ["TwoPoint", "on_grid", "two_point"]


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
    core, first, second = nodes(z1=z1, z2=z2)
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
                + (" groups: give it for the modes of spectrum.grouped()" * population.in_groups)
            )
    P, N = size("samples", samples), size("features", features)
    xp = _arrays.namespace(first)
    one = one_point(core, xp.concatenate([first.ravel(), second.ravel()]), population, P, N)
    batch = first.shape[:-1] if first.ndim else second.shape[:-1]
    rows, columns = (
        xp.ascontiguousarray(part).reshape(3, math.prod(batch), -1)
        for part in xp.split(one, [first.size], axis=1)
    )
    test, train, value = on_grid(core, rows, columns, population, P, N, variance, weights)
    shape = batch + first.shape[-1:] + second.shape[-1:]
    return TwoPoint(
        test.reshape(shape), train.reshape(shape), None if value is None else value.reshape(shape)
    )


def on_grid(
    core: Any,
    rows: Any,
    columns: Any,
    population: Population,
    samples: float,
    features: float,
    noise_variance: float,
    observable: FloatArray | None = None,
) -> Any:
    """The functions of test and train, and of an observable or None, (batch, n1, n2) each.

    Parameters
    ----------
    rows, columns : (3, batch, n1), (3, batch, n2) arrays
        `one_point` of both parameters.
    """
    xp = _arrays.namespace(rows)
    lam, sums = xp.asarray(population.values), xp.asarray(_weights(population, observable))
    found = core.spectral_two_point(rows, columns, lam, sums, samples, features, noise_variance)
    _check_finite(found[0])
    return found


def _weights(population: Population, observable: FloatArray | None) -> FloatArray:
    """Weights of the sums over the modes, (4, modes), or (6, modes) with an observable."""
    rows = [population.power, population.multiplicities, population.signal, population.target]
    if observable is not None:
        rows += [population.multiplicities * observable, observable * population.target]
    return np.stack(rows)


def _check_finite(test: Any) -> None:
    if not bool(_arrays.namespace(test).isfinite(test).all()):
        raise ValueError(
            "two_point has no limit at z = 0 where the numbers of samples or features at which the "
            "model begins to interpolate are met exactly: the loss diverges there; give z a ridge"
        )
