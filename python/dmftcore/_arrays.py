"""Which array library an argument belongs to, and whether the core can take it as it is.

The one place that knows the libraries: numpy on the host; cupy and torch on CUDA devices. They are
recognised by type and never imported, since an array of a library that is not loaded cannot be an
argument. Device arrays of any other library that speaks DLPack or has a
``__cuda_array_interface__`` are seen through cupy, where it is loaded, or torch: without a copy,
ordered after the work of their own stream by the rules of these protocols. Rows that are being
recorded belong to their program, which then is the core.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any, NoReturn, Protocol

import numpy as np
import scipy.special
from numpy import ndarray

from dmftcore import _core
from dmftcore._device import DeviceCore
from dmftcore._optional import optional_import
from dmftcore.errors import CudaError
from dmftcore.recording import Rows

__all__ = [
    "arguments",
    "core_for",
    "device_library",
    "device_memory",
    "host_copy",
    "namespace",
    "parameters",
    "special",
    "to_device",
    "to_host",
]

#: Device type of CUDA memory in DLPack.
DLPACK_CUDA = 2


class Library(Protocol):
    """What the core needs of an array library, and its words for what to do instead."""

    name: str
    to_contiguous: str
    to_float64: str
    to_dtype_of: str

    def dtypes(self) -> tuple[Any, Any]:
        """Its float64 and float32."""

    def is_contiguous(self, array: Any) -> bool:
        """Whether `array` is C-contiguous."""

    def place(self, array: Any) -> str:
        """Where the memory of `array` is."""

    def in_one_place(self, array: Any, other: Any) -> bool:
        """Whether the memory of both is in one place."""

    def core(self, array: Any) -> Any:
        """The operations on arrays like `array`, with the functions of `_core`."""


class _Numpy:
    name = "numpy"
    to_contiguous = "numpy.ascontiguousarray({})"
    to_float64 = "{}.astype(numpy.float64)"
    to_dtype_of = "{}.astype({}.dtype)"

    def dtypes(self) -> tuple[Any, Any]:
        return _FLOAT64, _FLOAT32

    def is_contiguous(self, array: Any) -> bool:
        return bool(array.flags.c_contiguous)

    def place(self, array: Any) -> str:
        return "host"

    def in_one_place(self, array: Any, other: Any) -> bool:
        return True

    def core(self, array: Any) -> Any:
        return _core


class _Cupy(_Numpy):
    name = "cupy"
    to_contiguous = "cupy.ascontiguousarray({})"
    to_float64 = "{}.astype(cupy.float64)"

    def place(self, array: Any) -> str:
        return f"cuda:{array.device.id}"

    def in_one_place(self, array: Any, other: Any) -> bool:
        return bool(array.device == other.device)

    def core(self, array: Any) -> Any:
        cupy, device, dtype = sys.modules["cupy"], array.device, array.dtype

        def empty(shape: tuple[int, ...]) -> Any:
            # cupy allocates on the current device.
            with device:
                return cupy.empty(shape, dtype)

        stream = cupy.cuda.get_current_stream(device.id).ptr
        return DeviceCore(dtype.name, device.id, stream, empty, lambda one: one.data.ptr)


class _Torch:
    name = "torch"
    to_contiguous = "{}.contiguous()"
    to_float64 = "{}.to(torch.float64)"
    to_dtype_of = "{}.to({}.dtype)"

    def dtypes(self) -> tuple[Any, Any]:
        torch = sys.modules["torch"]
        return torch.float64, torch.float32

    def is_contiguous(self, array: Any) -> bool:
        return bool(array.is_contiguous())

    def place(self, array: Any) -> str:
        return str(array.device)

    def in_one_place(self, array: Any, other: Any) -> bool:
        return bool(array.device == other.device)

    def core(self, array: Any) -> Any:
        torch, device, dtype = sys.modules["torch"], array.device, array.dtype

        def empty(shape: tuple[int, ...]) -> Any:
            return torch.empty(shape, dtype=dtype, device=device)

        stream = torch.cuda.current_stream(device).cuda_stream
        name = str(dtype).removeprefix("torch.")
        return DeviceCore(name, device.index, stream, empty, lambda one: one.data_ptr())


_FLOAT64, _FLOAT32 = np.dtype(np.float64), np.dtype(np.float32)
_NUMPY, _CUPY, _TORCH = _Numpy(), _Cupy(), _Torch()


def arguments(**arrays: Any) -> tuple[Any, ...]:
    """The core that computes with these arrays, and the arrays as it takes them.

    Raises
    ------
    TypeError
        Not an array, strided, Fortran-ordered, of another dtype, of mixed dtypes or libraries, or
        some on the host and some on a device, or on different devices: nothing is ever copied.
    CudaError
        Arrays on a device of which no loaded library can say more.
    """
    if _are_plain(*arrays.values()):
        return _core, *arrays.values()
    rows = next(iter(arrays.values()))
    if isinstance(rows, Rows):
        return rows.program, *arrays.values()
    given = [_recognised(name, array) for name, array in arrays.items()]
    for name, (library, array) in zip(arrays, given, strict=True):
        _check_one(name, library, array)
    (first, *names), (library, reference) = arrays, given[0]
    for name, (other, array) in zip(names, given[1:], strict=True):
        if other is not library:
            _refuse_mixture(first, library, name, other)
        if array.dtype != reference.dtype:
            raise TypeError(
                f"{first} is {reference.dtype} but {name} is {array.dtype}; all arrays must have "
                f"one dtype: pass {library.to_dtype_of.format(name, first)}"
            )
        _check_place(first, reference, name, array, library)
    return library.core(reference), *(array for _, array in given)


def parameters(**values: Any) -> tuple[Any, ...]:
    """The core that computes with complex parameters, and the parameters as complex128 arrays.

    They are numbers, or complex128 or float64 arrays of numpy, or of cupy.

    Raises
    ------
    TypeError
        Neither; strided, Fortran-ordered, of another dtype; a mixture of libraries or devices.
    """
    given = {
        name: None
        if isinstance(value, complex | float | int) and not isinstance(value, bool)
        else _recognised(name, value)
        for name, value in values.items()
    }
    arrays = [(name, *one) for name, one in given.items() if one is not None]
    for name, library, array in arrays:
        if library is _TORCH:
            raise TypeError(f"{name} is a torch tensor; pass cupy.asarray({name})")
        if str(array.dtype) not in ("complex128", "float64"):
            raise TypeError(
                f"{name} must be complex128 or float64, not {array.dtype}; pass "
                f"{name}.astype({library.name}.complex128)"
            )
        _check_contiguous(name, library, array)
        first, reference_library, reference = arrays[0]
        if library is not reference_library:
            _refuse_mixture(first, reference_library, name, library)
        _check_place(first, reference, name, array, library)
    xp = namespace(arrays[0][2]) if arrays else np
    results = [
        xp.asarray(values[name] if one is None else one[1], dtype=xp.complex128)
        for name, one in given.items()
    ]
    return _core if xp is np else _CUPY.core(arrays[0][2].astype(xp.complex128)), *results


def _are_plain(first: Any, *others: Any) -> bool:
    """Whether these are numpy arrays that the core takes as they are: the usual case, and fast."""
    if not isinstance(first, ndarray):
        return False
    dtype = first.dtype
    # By identity: an equal dtype that is another object takes the way of all other arguments.
    if (dtype is not _FLOAT64 and dtype is not _FLOAT32) or not first.flags.c_contiguous:
        return False
    for array in others:
        if not isinstance(array, ndarray) or array.dtype is not dtype:
            return False
        if not array.flags.c_contiguous:
            return False
    return True


def _recognised(name: str, array: Any) -> tuple[Library, Any]:
    """The library of an array, and the array; of a foreign one, as seen by a known library."""
    if isinstance(array, ndarray):
        return _NUMPY, array
    cupy, torch = sys.modules.get("cupy"), sys.modules.get("torch")
    if cupy is not None and isinstance(array, cupy.ndarray):
        return _CUPY, array
    if torch is not None and isinstance(array, torch.Tensor):
        if array.requires_grad:
            raise TypeError(f"{name} requires a gradient; pass {name}.detach()")
        if array.is_cuda:
            return _TORCH, array
    kind = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
    in_dlpack = hasattr(array, "__dlpack_device__") and array.__dlpack_device__()[0] == DLPACK_CUDA
    if not in_dlpack and not hasattr(array, "__cuda_array_interface__"):
        raise TypeError(f"{name} must be a numpy array, not {kind}; pass numpy.asarray({name})")
    if cupy is not None:
        return _CUPY, cupy.from_dlpack(array) if in_dlpack else cupy.asarray(array)
    if torch is not None and in_dlpack:
        return _TORCH, torch.from_dlpack(array)
    raise CudaError(
        f"{name} is a {kind} on a CUDA device, and results need a library to allocate them: "
        f"import cupy first, or copy {name} to the host"
    )


def _check_one(name: str, library: Library, array: Any) -> None:
    if array.dtype not in library.dtypes():
        raise TypeError(
            f"{name} must be float64 or float32, not {array.dtype}; "
            + (
                f"pass {name}.real and {name}.imag separately"
                if "complex" in str(array.dtype)
                else f"pass {library.to_float64.format(name)}"
            )
        )
    _check_contiguous(name, library, array)


def _check_contiguous(name: str, library: Library, array: Any) -> None:
    if not library.is_contiguous(array):
        transposed = library is not _TORCH and array.flags.f_contiguous
        order = "Fortran-ordered" if transposed else "strided"
        strides = array.stride() if library is _TORCH else array.strides
        raise TypeError(
            f"{name} must be C-contiguous, but is {order} with shape {tuple(array.shape)} and "
            f"strides {strides}; pass {library.to_contiguous.format(name)}"
        )


def _check_place(first: str, reference: Any, name: str, array: Any, library: Library) -> None:
    if not library.in_one_place(array, reference):
        raise TypeError(
            f"{first} is on {library.place(reference)} but {name} is on "
            f"{library.place(array)}; all arrays must be on one device"
        )


def _refuse_mixture(first: str, library: Library, name: str, other: Library) -> NoReturn:
    raise TypeError(
        f"{first} is a {library.name} array but {name} is a {other.name} array; nothing is copied "
        "between libraries or between host and device: pass arrays of one library"
    )


def namespace(array: Any) -> Any:
    """The array library of `array`: cupy for its arrays, numpy otherwise."""
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(array, cupy.ndarray) else np


def core_for(array: Any) -> Any:
    """The core for numpy or cupy arrays on the device of this one, which nobody needs to check."""
    return _core if isinstance(array, ndarray) else _CUPY.core(array)


def special(array: Any) -> Any:
    """Special functions of arrays like `array`, under the names of `scipy.special`."""
    if namespace(array) is np:
        return scipy.special
    return importlib.import_module("cupyx.scipy.special")


def to_host(array: Any) -> Any:
    """`array` as a numpy array."""
    library = namespace(array)
    return array if library is np else library.asnumpy(array)


def host_copy(array: Any) -> Any:
    """A copy of `array` as a numpy array."""
    library = namespace(array)
    return array.copy() if library is np else library.asnumpy(array)


def to_device(array: Any) -> Any:
    """`array` as a cupy array on the current device; raises what `device_library` raises."""
    return device_library().asarray(array)


def device_library() -> Any:
    """The array library for work on the current CUDA device: cupy.

    Raises
    ------
    CudaError
        If no CUDA device can be used.
    ImportError
        If cupy is not installed.
    """
    count, reason = _core.cuda_status()
    if not count:
        raise CudaError(f"device='cuda' cannot be used: {reason}")
    return optional_import("cupy", extra="cuda", purpose="device='cuda'")


def device_memory(library: Any) -> int:
    """Bytes that cupy can still allocate on the current device."""
    free, _ = library.cuda.runtime.memGetInfo()
    return int(free + library.get_default_memory_pool().free_bytes())
