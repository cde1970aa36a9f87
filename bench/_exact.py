"""Rows of matrix products in twice the working precision, on whichever device the matrices are.

Numbers are pairs (high, low) of float64 whose sum they are. The sum and the product of two
float64 and their rounding errors are computed exactly (Knuth; Veltkamp and Dekker) from plain
array operations, each of which a library rounds once: what holds for numpy holds for cupy.
"""

from __future__ import annotations

from typing import Any

#: Elements of a temporary: the matrix is taken by block columns.
CHUNK = 1 << 24


def two_sum(a: Any, b: Any) -> tuple[Any, Any]:
    """a + b and its rounding error."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def split(a: Any) -> tuple[Any, Any]:
    """Halves of 26 bits, whose products are exact."""
    scaled = 134217729.0 * a
    high = scaled - (scaled - a)
    return high, a - high


def two_product(a: Any, b: Any) -> tuple[Any, Any]:
    """a b and its rounding error."""
    product = a * b
    (a_high, a_low), (b_high, b_low) = split(a), split(b)
    error = ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low
    return product, error


def add(a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
    high, low = two_sum(a[0], b[0])
    return two_sum(high, low + (a[1] + b[1]))


def pair(row: Any) -> tuple[Any, Any]:
    """A float row as a pair."""
    high = row.astype("float64")
    return high, 0 * high


def product(xp: Any, row: tuple[Any, Any], matrix: Any) -> tuple[Any, Any]:
    """row @ matrix for a row (n) of pairs and a matrix (n, m) of float64 or float32."""
    n, m = matrix.shape
    width = max(1, CHUNK // n)
    parts = [_columns(row, matrix[:, j : j + width].astype("float64")) for j in range(0, m, width)]
    return xp.concatenate([p[0] for p in parts]), xp.concatenate([p[1] for p in parts])


def _columns(row: tuple[Any, Any], matrix: Any) -> tuple[Any, Any]:
    high, low = two_product(row[0][:, None], matrix)
    low += row[1][:, None] * matrix

    def part(begin: int, end: int) -> tuple[Any, Any]:
        return high[begin:end], low[begin:end]

    while (count := len(high)) > 1:
        half = count // 2
        total = add(part(0, half), part(half, 2 * half))
        if count % 2:
            total[0][:1], total[1][:1] = add((total[0][:1], total[1][:1]), part(count - 1, count))
        high, low = total
    return high[0], low[0]


class Row:
    """Largest relative error in the last row of a result: the longest sums are there."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp

    def product(self, row: Any, *factors: Any) -> Any:
        """Error of the last row of a product, row @ factors[0] @ ..."""
        exact = pair(row)
        for factor in factors:
            exact = product(self.xp, exact, factor)
        return lambda result: self._relative(result[-1], exact)

    def equation(self, b: Any, a: Any) -> Any:
        """Residual of x = b + a x in the last row; b and a are the last rows."""

        def residual(x: Any) -> float:
            return self._relative(x[-1], add(pair(b), product(self.xp, pair(a), x)))

        return residual

    def _relative(self, found: Any, exact: tuple[Any, Any]) -> float:
        high, low = exact
        deviation = self.xp.abs((found.astype("float64") - high) - low).max()
        return float(deviation / self.xp.abs(high).max())
