"""Learning curves of gradient flow by the contour method in numpy, as the JAX program has it.

Sums over the modes run in chunks of modes, as real matrix products of tables that stay in cache.
"""

import numpy as np

from bench.baselines import spectral_numpy
from bench.baselines.learning_curves_jax import losses, weights_of

#: Numbers in a table.
TABLE = 1 << 14


def resolvent_sums(values, weights, kappa):
    """sum w / (lambda + kappa) and sum w / (lambda + kappa)^2 for real weights (k, modes)."""
    weights = np.stack(weights)
    sums = np.zeros((4, len(weights), kappa.size))
    width = max(1, TABLE // kappa.size)
    for begin in range(0, values.size, width):
        some = slice(begin, begin + width)
        a, b = values[some, None] + kappa.real, kappa.imag
        inverse = 1 / (a * a + b * b)
        twice = inverse * inverse
        tables = inverse * a, inverse, twice * (a * a - b * b), twice * a
        for total, table in zip(sums, tables, strict=True):
            total += weights[:, some] @ table
    first, by, square, cross = sums
    return first - 1j * kappa.imag * by, square - 2j * kappa.imag * cross


def run(model, contours):
    """Test and training loss, (2, rows, times)."""
    kappa, _ = spectral_numpy.kappa(
        contours.z.ravel(), model.values, model.power, model.samples, model.features
    )
    sums = resolvent_sums(model.values, weights_of(model), kappa)
    return losses(np, model, contours, kappa, *sums)
