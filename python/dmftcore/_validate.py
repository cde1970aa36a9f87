"""Argument checks shared by the nouns: each names the argument, what was found, what is wanted."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["INFINITE", "integer", "non_negative", "one_of", "positive", "real_array"]

#: A depth, width or number that has been taken to infinity. Typed so that it may stand wherever
#: an int is expected.
INFINITE: Any = math.inf

FloatArray = npt.NDArray[np.float64]


def integer(name: str, value: Any, *, at_least: int) -> int:
    """`value` as an int not smaller than `at_least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if isinstance(value, bool) or number < at_least:
        raise ValueError(f"{name} must be an integer >= {at_least}, not {value!r}")
    return number


def _finite(name: str, value: Any, wanted: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {wanted}, not {value!r}") from None
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be {wanted}, not {value!r}")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be {wanted}, not {value!r}")
    return number


def positive(name: str, value: Any) -> float:
    """`value` as a finite float > 0."""
    number = _finite(name, value, "a number > 0")
    if number <= 0:
        raise ValueError(f"{name} must be a number > 0, not {value!r}")
    return number


def non_negative(name: str, value: Any) -> float:
    """`value` as a finite float >= 0."""
    number = _finite(name, value, "a number >= 0")
    if number < 0:
        raise ValueError(f"{name} must be a number >= 0, not {value!r}")
    return number


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """`value` if it is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return str(value)


def real_array(name: str, value: Any, ndim: int | tuple[int, ...]) -> FloatArray:
    """`value` as a read-only, finite, C-contiguous float64 array of `ndim` axes."""
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} is not a rectangular array: {error}") from None
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, not dtype {found.dtype}")
    wanted = (ndim,) if isinstance(ndim, int) else ndim
    if found.ndim not in wanted:
        axes = " or ".join(map(str, wanted))
        raise ValueError(f"{name} must have {axes} axes, found shape {found.shape}")
    if found.size == 0:
        raise ValueError(f"{name} is empty: found shape {found.shape}")
    array = np.array(found, dtype=np.float64, order="C")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} holds a non-finite value at index {where}")
    array.flags.writeable = False
    return array
