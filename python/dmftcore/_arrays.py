"""Which array library an argument belongs to, and whether the core can take it as it is.

The one place that knows: a further library joins in `check`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dmftcore.errors import CudaError


def namespace(array: Any) -> Any:
    """The array library of `array`: numpy."""
    return np


def to_numpy(array: Any) -> Any:
    """The array in numpy, on the host."""
    return np.asarray(array)


DTYPES = (np.dtype(np.float64), np.dtype(np.float32))


def check(**arrays: Any) -> None:
    """Raise unless every argument is a C-contiguous numpy array of one dtype, float64 or float32.

    Raises
    ------
    TypeError
        Not an array, strided, Fortran-ordered, of another dtype, or of mixed dtypes.
    CudaError
        An array on a CUDA device.
    """
    for name, array in arrays.items():
        _check_one(name, array)
    (first, reference), *others = arrays.items()
    for name, array in others:
        if array.dtype != reference.dtype:
            raise TypeError(
                f"{first} is {reference.dtype} but {name} is {array.dtype}; all arrays must have "
                f"one dtype: pass {name}.astype({first}.dtype)"
            )


def _check_one(name: str, array: Any) -> None:
    if not isinstance(array, np.ndarray):
        kind = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
        if hasattr(array, "__cuda_array_interface__"):
            raise CudaError(
                f"{name} is a {kind} on a CUDA device, where the operations of dmftcore.twotime "
                f"are not available; copy it to the host first, e.g. cupy.asnumpy({name})"
            )
        raise TypeError(f"{name} must be a numpy array, not {kind}; pass numpy.asarray({name})")
    if array.dtype not in DTYPES:
        raise TypeError(
            f"{name} must be float64 or float32, not {array.dtype}; "
            + (
                f"pass {name}.real and {name}.imag separately"
                if array.dtype.kind == "c"
                else f"pass {name}.astype(numpy.float64)"
            )
        )
    if not array.flags.c_contiguous:
        order = "Fortran-ordered" if array.flags.f_contiguous else "strided"
        raise TypeError(
            f"{name} must be C-contiguous, but is {order} with shape {array.shape} and strides "
            f"{array.strides}; pass numpy.ascontiguousarray({name})"
        )
