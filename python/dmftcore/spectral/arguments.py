"""What the functions of a random matrix are given: a population, sizes, and spectral parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore._validate import FloatArray
from dmftcore.spectrum import AnySpectrum, PowerLaw, Spectrum

__all__ = ["ComplexArray", "Population", "nodes", "size"]

ComplexArray = npt.NDArray[np.complex128]

#: A power law of more modes is taken in groups.
MOST_SINGLE_MODES = 20_000


@dataclass(frozen=True)
class Population:
    """Eigenvalues of the covariance, with their multiplicities, and the target on them.

    Attributes
    ----------
    values, multiplicities : (modes,) arrays
        lambda_k > 0 and mu_k.
    target : (modes,) array
        Square of the target, summed over the mode.
    """

    values: FloatArray
    multiplicities: FloatArray
    target: FloatArray

    @classmethod
    def of(cls, spectrum: AnySpectrum) -> Population:
        """The population of a spectrum; a long power law in groups.

        Raises
        ------
        TypeError, ValueError
            Not a spectrum; one with weights, or with an eigenvalue that is zero.
        """
        if not isinstance(spectrum, Spectrum | PowerLaw):
            raise TypeError(f"spectrum must be a Spectrum or a PowerLaw, not {spectrum!r}")
        if spectrum.weights is not None:
            raise ValueError(
                "spectrum has weights, which are parts of all directions; here their numbers "
                "count: give it multiplicities"
            )
        if isinstance(spectrum, PowerLaw) and spectrum.modes > MOST_SINGLE_MODES:
            spectrum = spectrum.grouped()
        values, counts = spectrum.values, spectrum.multiplicities
        if not values.all():
            raise ValueError(
                f"spectrum must have values > 0, found 0 at {np.flatnonzero(values == 0)[0]}; "
                "leave out modes without power"
            )
        return cls(values, np.ones(len(values)) if counts is None else counts, spectrum.target)

    @property
    def dimension(self) -> float:
        """Number of directions."""
        return float(self.multiplicities.sum())

    @property
    def power(self) -> FloatArray:
        """mu_k lambda_k, (modes,)."""
        return self.multiplicities * self.values

    @property
    def signal(self) -> FloatArray:
        """lambda_k target_k, (modes,): what the mode contributes to the variance of the labels."""
        return self.values * self.target


def size(name: str, value: Any) -> float:
    """A number of samples or features: real, > 0, inf is legal."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number > 0 or inf, not {value!r}") from None
    if not number > 0:
        raise ValueError(f"{name} must be a number > 0 or inf, not {value!r}")
    return number


def nodes(name: str, z: Any) -> ComplexArray:
    """Spectral parameters as complex128, off the cut z < 0.

    Raises
    ------
    TypeError
        Not a number, nor a C-contiguous complex128 or float64 array.
    ValueError
        Not finite, or on the negative real axis.
    """
    if isinstance(z, bool) or not isinstance(z, np.ndarray | np.generic | complex | float | int):
        raise TypeError(
            f"{name} must be a number or a numpy array, not {type(z).__name__}; pass "
            f"numpy.asarray({name}, dtype=complex)"
        )
    array = np.asarray(z, dtype=None if isinstance(z, np.ndarray | np.generic) else complex)
    if array.dtype not in (np.complex128, np.float64):
        raise TypeError(
            f"{name} must be complex128 or float64, not {array.dtype}; pass "
            f"{name}.astype(numpy.complex128)"
        )
    if not array.flags.c_contiguous:
        raise TypeError(
            f"{name} must be C-contiguous, but has shape {array.shape} and strides "
            f"{array.strides}; pass numpy.ascontiguousarray({name})"
        )
    wrong = ~np.isfinite(array)
    if wrong.any():
        raise ValueError(f"{name} is {_first(array, wrong)}, which is not finite")
    wrong = (array.imag == 0) & (array.real < 0)
    if wrong.any():
        raise ValueError(
            f"{name} is {_first(array, wrong)}, on the negative real axis, where the eigenvalues "
            "are; give it an imaginary part"
        )
    return array.astype(np.complex128)


def _first(array: npt.NDArray[Any], where: npt.NDArray[np.bool_]) -> str:
    """The first value that is marked, and its place."""
    index = tuple(int(i) for i in np.argwhere(where)[0])
    value = complex(array[index])
    return f"{value.real if value.imag == 0 else value}" + (f" at {index}" if index else "")
