"""kappa(z) of random matrices in numpy: Newton's path of `spectral_jax`, all z at once.

Sums over the modes run in chunks of some z and some modes whose tables stay in the cache. Only the
z that have not arrived are carried along, which numpy can and jit cannot.
"""

import numpy as np

from bench.baselines.spectral_path import advance, start

#: z and modes of a chunk.
ROWS, COLUMNS = 64, 512


def sums(kappa, lam, weights):
    """Sums of w / (lam + kappa) and w / (lam + kappa)^2 for each kappa."""
    first, second = np.zeros((2, len(kappa)), np.complex128)
    for row in range(0, len(kappa), ROWS):
        some = slice(row, row + ROWS)
        re, im = kappa.real[some, None], kappa.imag[some, None]
        totals = np.zeros((4, len(re)))
        for column in range(0, len(lam), COLUMNS):
            part = slice(column, column + COLUMNS)
            a, w = lam[part] + re, weights[part]
            inverse = 1 / (a * a + im * im)
            along, squared = a * inverse, inverse * inverse
            for total, table in zip(
                totals, (inverse, along, squared, along * inverse), strict=True
            ):
                total += table @ w
        n1, a1, n2, a2 = totals
        b = im[:, 0]
        first[some] = a1 - 1j * b * n1
        second[some] = n1 - 2 * b * b * n2 - 2j * b * a2
    return first, second


def kappa(z, lam, power, samples, features):
    """kappa for Im z > 0 or z > 0, and how many sums over all modes that took."""
    path = start(np, z, power.sum(), samples, features)
    found = np.empty_like(z)
    where, count = np.arange(len(z)), 0
    while where.size:
        count += where.size
        path, done = advance(np, path, z[where], sums(path.next, lam, power), samples, features)
        found[where[done]] = path.next[done]
        path = type(path)(*(part[~done] for part in path))
        where = where[~done]
    return found, count
