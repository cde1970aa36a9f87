r"""Functions of random matrices inside JAX: `dmftcore.spectral` under jit, vmap, grad.

kappa(z) is found by the compiled core. Its derivatives are those of an implicit function: from

    F = kappa R1 R3 - z = 0,    R1 = 1 - df / P,    R3 = 1 - df / N

follows :math:`d\kappa = -(\partial_\theta F\, d\theta) / \partial_\kappa F`, whatever of z, the
spectrum, P and N varies. All else is an explicit function of kappa.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from dmftcore.jax._primitive import primitive
from dmftcore.spectral import DeterministicEquivalent, TwoPoint
from dmftcore.spectral.arguments import Population

import jax  # isort: skip
import jax.numpy as jnp  # isort: skip

__all__ = ["Modes", "deterministic_equivalent", "two_point"]

Array = Any


class Modes(NamedTuple):
    """A spectrum whose numbers may be traced: what a `dmftcore.Spectrum` is elsewhere.

    Attributes
    ----------
    values, target, multiplicities : (modes,) float64 arrays
        Eigenvalues > 0, square of the target on the mode, number of directions.
    """

    values: Array
    target: Array
    multiplicities: Array


def deterministic_equivalent(
    z: Array, spectrum: Any, samples: Array, features: Array
) -> DeterministicEquivalent:
    """`dmftcore.spectral.deterministic_equivalent` inside JAX, differentiable in all arguments.

    Parameters
    ----------
    z : number or array of any shape, real or complex
        Off the negative real axis and not 0, which is not checked: kappa is NaN there.
    spectrum : Spectrum, PowerLaw, or Modes
    samples, features : scalars
        May be inf.

    Returns
    -------
    DeterministicEquivalent
        kappa, R1, R3 of the shape of z, complex128. kappa is NaN where it was not found.

    Raises
    ------
    TypeError, ValueError
        The spectrum is none, or float64 is not enabled in jax.
    """
    modes = _modes(spectrum)
    z = jnp.asarray(z, jnp.complex128)
    inverse = 1 / jnp.asarray(samples, jnp.float64), 1 / jnp.asarray(features, jnp.float64)
    return DeterministicEquivalent(*_one_point(z, modes, *inverse))


def two_point(
    z1: Array,
    z2: Array,
    spectrum: Any,
    samples: Array,
    features: Array,
    noise_variance: Array = 0.0,
    observable: Array | None = None,
) -> TwoPoint:
    """`dmftcore.spectral.two_point` inside JAX, differentiable in all arguments.

    Parameters
    ----------
    z1 : number or (n1,) array
    z2 : number or (n2,) array
        As z in `deterministic_equivalent`. Batches by ``jax.vmap``.
    spectrum, samples, features
        As in `deterministic_equivalent`.
    noise_variance : scalar
    observable : (modes,) array, optional

    Returns
    -------
    TwoPoint
        test, train and observable (or None) on the grid of z1 and z2, without the axis of a number.

    Raises
    ------
    TypeError, ValueError
        As in `deterministic_equivalent`; z1 or z2 has several axes.
    """
    modes = _modes(spectrum)
    first, second = jnp.asarray(z1, jnp.complex128), jnp.asarray(z2, jnp.complex128)
    for name, z in {"z1": first, "z2": second}.items():
        if z.ndim > 1:
            raise ValueError(f"{name} must be a number or (n,), not {z.shape}; use jax.vmap")
    p, n = 1 / jnp.asarray(samples, jnp.float64), 1 / jnp.asarray(features, jnp.float64)
    k1, r1, r3 = (x.reshape(-1, 1) for x in _one_point(first, modes, p, n))
    k2, other_r1, other_r3 = (x.reshape(1, -1) for x in _one_point(second, modes, p, n))

    left = 1 / (modes.values + k1)
    right = 1 / (modes.values + k2.T)

    def total(weights: Array) -> Array:
        """Sum over the modes of weights / ((values + kappa)(values + kappa'))."""
        return jnp.matmul(left * weights, right.T, precision=jax.lax.Precision.HIGHEST)

    lam, w, mu = modes
    # 1 - G2 / P = R1' + kappa G1 / P, so that nothing cancels where the model interpolates.
    g1, s2 = k1 * total(mu * lam), total(lam**2 * w)
    s1 = k1 * k2 * total(lam * w) + noise_variance
    in_samples, in_features = other_r1 + p * g1, other_r3 + n * g1
    denominator = other_r1 * other_r3 + g1 * (n * other_r1 + p * r3)
    test = (s1 * in_features + n * k2 * g1 * s2) / denominator
    value = None
    if observable is not None:
        m = jnp.asarray(observable, jnp.float64)
        c3 = n * (s2 * in_samples + p * total(mu * lam) * s1) / denominator
        value = k1 * k2 * (total(m * w) + c3 * total(mu * m)) + p * test * total(mu * m * lam)
    shape = first.shape + second.shape
    train = r1 * other_r1 * test
    return TwoPoint(
        test.reshape(shape), train.reshape(shape), None if value is None else value.reshape(shape)
    )


def _modes(spectrum: Any) -> Modes:
    if not jax.config.jax_enable_x64:
        raise TypeError(
            "functions of random matrices need float64: call "
            'jax.config.update("jax_enable_x64", True)'
        )
    if not isinstance(spectrum, Modes):
        try:
            population = Population.of(spectrum)
        except TypeError as error:
            raise TypeError(f"{error}; in jax it may also be a Modes") from None
        spectrum = Modes(population.values, population.target, population.multiplicities)
    return Modes(*(jnp.asarray(numbers, jnp.float64) for numbers in spectrum))


def _one_point(z: Array, modes: Modes, p: Array, n: Array) -> tuple[Array, Array, Array]:
    """kappa, R1 and R3, for p = 1/P, n = 1/N."""
    kappa = _kappa(z, modes.values, modes.multiplicities, p, n)
    # From their product z / kappa: p (1 - R3) = n (1 - R1) makes the smaller one, that of the
    # larger of p and n, the root of a quadratic.
    ratio, largest = z / kappa, jnp.maximum(p, n)
    part = jnp.where(largest > 0, jnp.minimum(p, n) / jnp.where(largest > 0, largest, 1), 0)
    root = jnp.sqrt((1 - part) ** 2 + 4 * part * ratio)
    smaller = 2 * ratio / (1 - part + root)
    larger = 1 - part + part * smaller
    few_samples = p >= n
    return kappa, jnp.where(few_samples, smaller, larger), jnp.where(few_samples, larger, smaller)


_found = primitive("spectral_kappa")


@jax.custom_jvp
def _kappa(z: Array, values: Array, multiplicities: Array, p: Array, n: Array) -> Array:
    """kappa(z); below the real axis the conjugate of what it is above."""
    lower = z.imag < 0
    found = _found.bind(values, multiplicities, 1 / p, 1 / n, jnp.where(lower, z.conj(), z))
    return jnp.where(lower, found.conj(), found)


@_kappa.defjvp
def _kappa_tangent(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    kappa = _kappa(*primals)
    _, values, multiplicities, p, n = primals

    def equation(*parameters: Array) -> Array:
        z, values, multiplicities, p, n = parameters
        freedom = jnp.sum(multiplicities * values / (values + kappa[..., None]), -1)
        return kappa * (1 - p * freedom) * (1 - n * freedom) - z

    _, moved = jax.jvp(equation, primals, tangents)
    resolved = values / (values + kappa[..., None])
    df1, df2 = jnp.sum(multiplicities * resolved, -1), jnp.sum(multiplicities * resolved**2, -1)
    r1, r3 = 1 - p * df1, 1 - n * df1
    # kappa d(df)/d(kappa) = df2 - df1
    slope = r1 * r3 + (df1 - df2) * (p * r3 + n * r1)
    return kappa, -moved / slope
