"""Richardson extrapolation of whole sets of fields in the step of a first-order method.

With fields D(h) = D + c_1 h + c_2 h^2 + ... computed at h, h/2, h/4, ... the tableau

    T_0(h) = D(h),    T_k(h) = T_{k-1}(h/2) + (T_{k-1}(h/2) - T_{k-1}(h)) / (2^k - 1)

removes one power after the other; its diagonal converges to D. A symmetric method has even powers
alone, and 4^k in the place of 2^k.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeAlias

import numpy as np

from dmftcore._validate import FloatArray

__all__ = ["Fields", "Tableau"]

#: Arrays by name, the same names and shapes at every step.
Fields: TypeAlias = Mapping[Hashable, FloatArray]


class Tableau:
    """The last row of the tableau, T_0(h), T_1(2h), T_2(4h), ...: all that the next row needs.

    Parameters
    ----------
    symmetric : bool
        Whether the fields are those of a symmetric method.
    """

    def __init__(self, *, symmetric: bool = False) -> None:
        self._ratio = 4 if symmetric else 2
        self._row: list[Fields] = []

    @property
    def best(self) -> Fields:
        """The entry on the diagonal."""
        return self._row[-1]

    @property
    def one_order_less(self) -> Fields:
        """The entry beside it, of the same steps but the first: what the last order has changed."""
        return self._row[-2]

    @property
    def levels(self) -> int:
        """Steps added so far."""
        return len(self._row)

    @property
    def weights(self) -> FloatArray:
        """Factors of the fields in `best`, in the order in which they were added.

        The polynomial in h (h^2, if symmetric) through the fields is taken at h = 0.
        """
        h = float(self._ratio) ** -np.arange(self.levels)
        factors = [np.prod([other / (other - one) for other in h if other != one]) for one in h]
        return np.array(factors)

    def add(self, fields: Fields) -> None:
        """Append what was computed with half the step of before."""
        row = [fields]
        for order, coarse in enumerate(self._row, start=1):
            fine, weight = row[-1], 1 / (self._ratio**order - 1)
            row.append({key: fine[key] + weight * (fine[key] - coarse[key]) for key in fine})
        self._row = row
