"""What the functions of a random matrix are given: a population, sizes, and spectral parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dmftcore import _arrays
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


def nodes(**values: Any) -> tuple[Any, ...]:
    """The core for spectral parameters, and these as complex128 arrays, off the cut z < 0.

    Raises
    ------
    TypeError
        As of `_arrays.parameters`.
    ValueError
        Not finite, or on the negative real axis.
    """
    core, *arrays = _arrays.parameters(**values)
    for name, array in zip(values, arrays, strict=True):
        xp = _arrays.namespace(array)
        wrong = ~xp.isfinite(array)
        if bool(wrong.any()):
            raise ValueError(f"{name} is {_first(array, wrong)}, which is not finite")
        wrong = (array.imag == 0) & (array.real < 0)
        if bool(wrong.any()):
            raise ValueError(
                f"{name} is {_first(array, wrong)}, on the negative real axis, where the "
                "eigenvalues are; give it an imaginary part"
            )
    return core, *arrays


def _first(array: Any, where: Any) -> str:
    """The first value that is marked, and its place."""
    index = tuple(int(i) for i in _arrays.namespace(array).argwhere(where)[0])
    value = array[index].item()
    return f"{value.real if value.imag == 0 else value}" + (f" at {index}" if index else "")
