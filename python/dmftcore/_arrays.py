"""Which array library an argument belongs to, and whether the core can take it as it is.

The one place that knows: a further library joins in `check`.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from dmftcore import _core
from dmftcore._optional import optional_import
from dmftcore.errors import CudaError

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


def namespace(array: Any) -> Any:
    """The array library of `array`: cupy for its arrays, numpy otherwise."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def to_host(array: Any) -> Any:
    """`array` as a numpy array."""
    library = namespace(array)
    return array if library is np else library.asnumpy(array)


def to_device(array: Any) -> Any:
    """`array` as a cupy array on the current device.

    Raises
    ------
    ImportError
        If cupy is not installed.
    CudaError
        If no CUDA device can be used.
    """
    count, reason = _core.cuda_status()
    if not count:
        raise CudaError(f"device='cuda' cannot be used: {reason}")
    return optional_import("cupy", extra="cuda", purpose="device='cuda'").asarray(array)
