"""The spectrum of a population: eigenvalues of the covariance, and a target in its eigenbasis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from dmftcore._validate import FloatArray, integer, positive, real_array

__all__ = ["AnySpectrum", "PowerLaw", "Spectrum"]

#: Relative deviation from 1 that the sum of weights may show by rounding.
SUM_TOLERANCE = 1e-8


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a diagonal covariance and the square of the target on its modes.

    Arrays are copied, promoted to float64 and read-only.

    Parameters
    ----------
    values : (modes,) array
        Eigenvalues lambda_k >= 0, not all zero.
    target : (modes,) array
        Squared target coefficients >= 0: of a single direction of the mode where modes carry
        `weights`, summed over the mode where they carry `multiplicities`.
    multiplicities : (modes,) array, optional
        Numbers > 0 of directions that share a mode.
    weights : (modes,) array, optional
        Parts > 0 of all directions that belong to each mode; they sum to 1.

    Raises
    ------
    TypeError, ValueError
        For arrays that are not real and finite, of unequal lengths, negative, or zero where they
        must not be; for weights that do not sum to 1; if both kinds of counts are given.
    """

    values: Any
    target: Any
    multiplicities: Any = None
    weights: Any = None

    def __post_init__(self) -> None:
        for name in ("values", "target", "multiplicities", "weights"):
            if getattr(self, name) is not None or name in ("values", "target"):
                object.__setattr__(self, name, self._checked(name))
        if self.multiplicities is not None and self.weights is not None:
            raise ValueError(
                "give multiplicities (numbers of directions) or weights (parts of all), not both"
            )
        if not self.values.any():
            raise ValueError("values are all zero: nothing can be learned")
        if self.weights is not None and abs(self.weights.sum() - 1) > SUM_TOLERANCE:
            raise ValueError(f"weights must sum to 1, not {self.weights.sum():.12g}")

    def _checked(self, name: str) -> FloatArray:
        array = real_array(name, getattr(self, name), 1)
        if name != "values" and len(array) != len(self.values):
            raise ValueError(f"{name} has {len(array)} modes, but values has {len(self.values)}")
        wanted = ">= 0" if name in ("values", "target") else "> 0"
        wrong = np.flatnonzero(array < 0 if wanted == ">= 0" else array <= 0)
        if wrong.size:
            raise ValueError(f"{name} must be {wanted}, found {array[wrong[0]]!r} at {wrong[0]}")
        return array

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Spectrum):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[bytes | None, ...]:
        arrays = (self.values, self.target, self.multiplicities, self.weights)
        return tuple(None if array is None else array.tobytes() for array in arrays)


@dataclass(frozen=True)
class PowerLaw:
    """Power laws of capacity and source: ``lambda_k = k^-b``, ``lambda_k target_k = k^-a``.

    Parameters
    ----------
    b : float
        Decay > 0 of the eigenvalues.
    a : float
        Decay > 0 of the power of the target.
    modes : int
        Number of modes, k = 1..modes.
    """

    b: float
    a: float
    modes: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "b", positive("b", self.b))
        object.__setattr__(self, "a", positive("a", self.a))
        object.__setattr__(self, "modes", integer("modes", self.modes, at_least=1))

    @property
    def values(self) -> FloatArray:
        """Eigenvalues, (modes,)."""
        return self._ranks**-self.b

    @property
    def target(self) -> FloatArray:
        """Squared target coefficients, (modes,)."""
        return self._ranks ** (self.b - self.a)

    @property
    def multiplicities(self) -> None:
        """Every mode is a single direction."""

    @property
    def weights(self) -> None:
        """All modes weigh the same."""

    @property
    def _ranks(self) -> FloatArray:
        return np.arange(1, self.modes + 1, dtype=np.float64)


#: What a limit of random data takes as its spectrum.
AnySpectrum: TypeAlias = Spectrum | PowerLaw
