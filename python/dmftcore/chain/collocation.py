"""Functions of the depth 0 <= tau <= 1 by their values at Chebyshev-Lobatto nodes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import chebyshev

from dmftcore._validate import FloatArray

__all__ = ["Collocation"]


@dataclass(frozen=True)
class Collocation:
    """Integration of the polynomial through the values at the nodes.

    Attributes
    ----------
    nodes : (n,) array
        ``(1 - cos(pi j / (n - 1))) / 2``, from 0 to 1.
    up, down : (n, n) arrays
        Integrals from 0 to every node, and from every node to 1, of values at the nodes.
    coefficients : (n, n) array
        Chebyshev coefficients of values at the nodes.
    """

    nodes: FloatArray
    up: FloatArray
    down: FloatArray
    coefficients: FloatArray

    @classmethod
    def of(cls, count: int) -> Collocation:
        """`count` >= 2 nodes."""
        x = -np.cos(np.pi * np.arange(count) / (count - 1))
        polynomials = chebyshev.chebvander(x, count - 1).astype(np.float64)
        coefficients = np.asarray(np.linalg.inv(polynomials), dtype=np.float64)
        # Antiderivatives of the polynomials, zero at x = -1; d tau = dx / 2.
        integrals = chebyshev.chebint(np.eye(count), lbnd=-1, axis=0) / 2
        up = chebyshev.chebvander(x, count) @ integrals @ coefficients
        return cls((1 + x) / 2, up, up[-1] - up, coefficients)

    @property
    def weights(self) -> FloatArray:
        """Weights (n,) of the integral from 0 to 1 (Clenshaw-Curtis)."""
        weights: FloatArray = self.up[-1]
        return weights
