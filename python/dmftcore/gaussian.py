"""Averages of activations over pairs of Gaussian variables.

For m centred variables x_i of covariances C,

    F[phi]_ij = E phi(x_i) phi(x_j),

in closed form where there is one: linear, quadratic, relu (Cho & Saul, 2009), erf (Williams, 1997).
The other activations are expanded in orthonormal Hermite polynomials He_k of unit variance,
``phi(sqrt(q) z) = sum_k a_k(q) He_k(z)``, so that (Mehler)

    F_ij = sum_k a_k(C_ii) a_k(C_jj) rho_ij^k,        rho_ij = C_ij / sqrt(C_ii C_jj).

An analytic phi has coefficients that fall like exp(-d sqrt(k)), where i d sqrt(q) is its nearest
pole; the rest of the sum is bounded by that at rho = 1, which is known from E phi(x)^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import TypeAlias

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.activations import activation

__all__ = ["features", "slopes"]

#: Covariances (m, m) to averages (m, m).
Average: TypeAlias = Callable[[FloatArray], FloatArray]

#: Numbers of terms that are tried, until what the expansion lacks of E phi^2 is this part of it.
TERMS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
TRUNCATION = 1e-13
#: The part that it may lack at most.
LARGEST_TRUNCATION = 1e-9
#: Distance of a correlation from 1 that counts as rounding.
EQUAL = 2e-14
#: The weight exp(-z^2 / 4) of the integrals of coefficients is below 1e-16 beyond.
RANGE = 12.2


def features(name: str, covariances: FloatArray) -> FloatArray:
    """E phi(x_i) phi(x_j), (m, m).

    Parameters
    ----------
    name : str
        An activation.
    covariances : (m, m) array
        Positive semi-definite.

    Raises
    ------
    ArithmeticError
        If the variances are so large that the expansion does not converge.
    """
    if name in _FEATURES:
        return _FEATURES[name](covariances)
    return _mehler(name, activation(name).value, covariances)


def slopes(name: str, covariances: FloatArray) -> FloatArray:
    """E phi'(x_i) phi'(x_j), (m, m); arguments and errors as in `features`."""
    if name in _SLOPES:
        return _SLOPES[name](covariances)
    return _mehler(name, activation(name).slope, covariances)


# -- closed forms ----------------------------------------------------------------------------------


def _scales(variances: FloatArray) -> FloatArray:
    """sqrt(q_i q_j)."""
    roots = np.sqrt(variances)
    return np.asarray(np.multiply.outer(roots, roots))


def _correlations(covariances: FloatArray) -> FloatArray:
    """rho, 0 where a variance is; of equal variables +-1 without rounding.

    Angles are as wrong as the root of a rounding error otherwise.
    """
    scales = _scales(covariances.diagonal())
    rho = np.divide(covariances, scales, out=np.zeros_like(scales), where=scales > 0)
    return np.where(np.abs(rho) > 1 - EQUAL, np.sign(rho), rho)


def _relu(covariances: FloatArray) -> FloatArray:
    rho = _correlations(covariances)
    j1 = np.sqrt(1 - rho**2) + (math.pi - np.arccos(rho)) * rho
    return np.asarray(_scales(covariances.diagonal()) * j1 / (2 * math.pi))


def _relu_slopes(covariances: FloatArray) -> FloatArray:
    # The slope at the kink is 0.
    there = _scales(covariances.diagonal()) > 0
    angles = math.pi - np.arccos(_correlations(covariances))
    return np.asarray(there * angles / (2 * math.pi))


def _erf(covariances: FloatArray) -> FloatArray:
    scales = _scales(1 + 2 * covariances.diagonal())
    return np.asarray(2 / math.pi * np.arcsin(2 * covariances / scales))


def _erf_slopes(covariances: FloatArray) -> FloatArray:
    squares = _scales(1 + 2 * covariances.diagonal()) ** 2
    return np.asarray(4 / math.pi / np.sqrt(squares - 4 * covariances**2))


def _quadratic(covariances: FloatArray) -> FloatArray:
    q = covariances.diagonal()
    return np.asarray(np.multiply.outer(q, q) + 2 * covariances**2)


_FEATURES: dict[str, Average] = {
    "linear": lambda c: c.copy(),
    "relu": _relu,
    "erf": _erf,
    "quadratic": _quadratic,
}
_SLOPES: dict[str, Average] = {
    "linear": np.ones_like,
    "relu": _relu_slopes,
    "erf": _erf_slopes,
    "quadratic": lambda c: 4 * c,
}


# -- Hermite expansions ----------------------------------------------------------------------------


def _mehler(
    name: str, function: Callable[[FloatArray], FloatArray], covariances: FloatArray
) -> FloatArray:
    rho = _correlations(covariances)
    total = np.zeros_like(rho)
    for a in _coefficients(name, function, covariances.diagonal()).T[::-1]:
        total *= rho
        total += np.multiply.outer(a, a)
    return total


def _coefficients(
    name: str, function: Callable[[FloatArray], FloatArray], variances: FloatArray
) -> FloatArray:
    """a_k(q), (m, terms)."""
    for terms in TERMS:
        nodes, weights, table = _hermite(terms)
        values = function(np.sqrt(variances)[:, None] * nodes)
        a: FloatArray = values @ table
        squares = values**2 @ weights
        # phi may vanish with the variance.
        lacks = np.abs(squares - np.sum(a**2, axis=1)) / np.maximum(squares, 1e-300)
        missing = float(lacks.max())
        if missing < TRUNCATION:
            return a
    if missing < LARGEST_TRUNCATION:
        return a
    raise ArithmeticError(
        f"the average of {name} over Gaussian variables of variance up to {variances.max():.3g} is "
        f"not known: {TERMS[-1]} terms of its expansion leave out {missing:.1g} of it"
    )


@cache
def _hermite(terms: int) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Nodes (n,); weights (n,) of an average; table (n, terms) of weights times He_k.

    The trapezoidal rule: for analytic integrands its error falls exponentially with the number of
    nodes. The spacing resolves He_k exp(-z^2 / 4), of wave numbers up to 2 sqrt(k), and as much
    again for phi.
    """
    spacing = min(math.pi / (2 * math.sqrt(terms) + 24), 0.08)
    count = math.ceil(RANGE / spacing)
    nodes: FloatArray = np.linspace(-count * spacing, count * spacing, 2 * count + 1)
    root = np.exp(-(nodes**2) / 4) * math.sqrt(spacing / math.sqrt(2 * math.pi))
    functions = np.empty((terms, len(nodes)))
    functions[0] = root
    functions[1] = nodes * root
    for k in range(2, terms):
        functions[k] = nodes * functions[k - 1] - math.sqrt(k - 1) * functions[k - 2]
        functions[k] /= math.sqrt(k)
    weights: FloatArray = np.square(root)
    table: FloatArray = np.ascontiguousarray((functions * root).T)
    return nodes, weights, table
