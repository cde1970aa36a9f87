"""Quasi-random numbers: columns whose particles fill space more evenly than by chance.

The points of Sobol's sequence, one dimension for each column, are scrambled at random, and so
every particle is distributed as by chance while means over all of them, of smooth functions of a
few columns above all, scatter less: with S particles their variance falls up to S^2 times faster.
A column is known by its place alone and made where it is needed, which is why scipy's generator of
whole points does not serve.

Source: Joe & Kuo, "Constructing Sobol sequences with better two-dimensional projections" (2008),
scrambled as in Matousek, "On the L2-discrepancy for anchored boxes" (1998).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays, _core

__all__ = ["DIMENSIONS", "WORDS", "quasi_normals"]

#: A primitive polynomial over the integers modulo 2, as the bits of a number, and the first
#: direction numbers, of every dimension but the first. Table "new-joe-kuo-6" of the source.
TABLE = """
    3:1 7:1,3 11:1,3,1 13:1,1,1 19:1,1,3,3 25:1,3,5,13 37:1,1,5,5,17 41:1,1,5,5,5
    47:1,1,7,11,19 55:1,1,5,1,1 59:1,1,1,3,11 61:1,3,5,5,31 67:1,3,3,9,7,49 91:1,1,1,15,21,21
    97:1,3,1,13,27,49 103:1,1,1,15,7,5 109:1,3,1,15,13,25 115:1,1,5,5,19,61
    131:1,3,7,11,23,15,103 137:1,3,7,13,13,15,69 143:1,1,3,13,7,35,63 145:1,3,5,9,1,25,53
    157:1,3,1,13,9,35,107 167:1,3,1,5,27,61,31 171:1,1,5,11,19,41,61 185:1,3,5,3,3,13,69
    191:1,1,7,13,1,19,1 193:1,3,7,5,13,19,59 203:1,1,3,9,25,29,41 211:1,3,5,13,23,1,55
    213:1,3,7,3,13,59,17 229:1,3,1,3,5,53,69 239:1,1,5,5,23,33,13 241:1,1,7,7,1,61,123
    247:1,1,7,9,13,61,49 253:1,3,3,5,3,55,33 285:1,3,1,15,31,13,49,245
    299:1,3,5,15,31,59,63,97 301:1,3,1,11,11,11,77,249 333:1,3,1,11,27,43,71,9
    351:1,1,7,15,21,11,81,45 355:1,3,7,3,25,31,65,79 357:1,3,1,1,19,11,3,205
    361:1,1,5,9,19,21,29,157 369:1,3,7,11,1,33,89,185 391:1,3,3,3,15,9,79,71
    397:1,3,7,11,15,39,119,27 425:1,1,3,1,11,31,97,225 451:1,1,1,3,23,43,57,177
    463:1,3,7,7,17,17,37,71 487:1,3,1,5,27,63,123,213 501:1,1,3,5,11,43,53,133
    529:1,3,5,5,29,17,47,173,479 539:1,3,3,11,3,1,109,9,69 545:1,1,1,5,17,39,23,5,343
    557:1,3,1,5,25,15,31,103,499 563:1,1,1,11,11,17,63,105,183 601:1,1,5,11,9,29,97,231,363
    607:1,1,5,15,19,45,41,7,383 617:1,3,7,7,31,19,83,137,221 623:1,1,1,3,23,15,111,223,83
    631:1,1,5,13,31,15,55,25,161 637:1,1,3,13,25,47,39,87,257
"""

#: Dimensions of the sequence.
DIMENSIONS = 1 + len(TABLE.split())

#: Of a number in [0, 1). There are 2^BITS points.
BITS = 32

#: Random numbers of 32 bits that scramble a column.
WORDS = BITS + 1


def quasi_normals(out: Any, dimension: int, words: npt.NDArray[Any]) -> None:
    """Fill a column with normal numbers.

    Parameters
    ----------
    out : (S,) array
        Of numpy or cupy.
    dimension : int
        Of the sequence, below `DIMENSIONS`. Columns on the same particles take different ones.
    words : (WORDS,) uint32 array
        Random bits, which scramble the column. Those of different columns are independent.
    """
    numbers, shift = _scrambled(dimension, words[:BITS]), words[BITS]
    xp = _arrays.namespace(out)
    if xp is np:
        _core.quasi_normals(out, numbers=numbers, shift=int(shift))
        return
    points = xp.zeros(len(out), np.uint32)
    known = 1
    # The point p is the sum modulo 2 of the numbers that belong to the bits of p.
    for number in numbers:
        if known >= len(out):
            break
        points[known : 2 * known] = points[: len(out) - known][:known] ^ number
        known *= 2
    out[...] = _arrays.special(out).ndtri(((points ^ shift) + 0.5) * 2.0**-BITS)


@cache
def _directions(dimension: int) -> npt.NDArray[np.uint32]:
    """The numbers of the bits of p, their own first bit the largest."""
    if dimension == 0:
        return np.uint32(1) << np.arange(BITS - 1, -1, -1, dtype=np.uint32)
    polynomial, _, first = TABLE.split()[dimension - 1].partition(":")
    numbers = [int(number) for number in first.split(",")]
    degree, coefficients = len(numbers), int(polynomial)
    for i in range(degree, BITS):
        number = numbers[i - degree]
        for j in range(1, degree + 1):
            if coefficients >> (degree - j) & 1:
                number ^= numbers[i - j] << j
        numbers.append(number)
    return np.array([m << (BITS - 1 - i) for i, m in enumerate(numbers)], dtype=np.uint32)


def _scrambled(dimension: int, words: npt.NDArray[Any]) -> npt.NDArray[np.uint32]:
    """Numbers times a random lower triangular matrix modulo 2, with ones on its diagonal."""
    leading = _directions(0)
    # Bit j of a number, from the largest, adds itself and random ones below.
    columns = leading | words & (leading - 1)
    scrambled: npt.NDArray[np.uint32] = np.bitwise_xor.reduce(_bits(dimension) * columns, axis=1)
    return scrambled


@cache
def _bits(dimension: int) -> npt.NDArray[np.uint32]:
    """Of every number, from the largest, (BITS, BITS)."""
    return ((_directions(dimension)[:, None] & _directions(0)) > 0).astype(np.uint32)
