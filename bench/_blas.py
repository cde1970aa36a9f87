"""BLAS routines in place, without the copies of the Python wrappers: opponents at full strength."""

import ctypes

from scipy.linalg import cython_blas


def _routine(name):
    capsule = cython_blas.__pyx_capi__[name]
    get_name = ctypes.pythonapi.PyCapsule_GetName
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype = ctypes.c_void_p
    get_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    address = get_pointer(capsule, get_name(capsule))
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 11)(address)


_ROUTINES = {name: _routine(name) for name in ("dtrmm", "dtrsm")}


def triangular(name, a, b, *, unit=False):
    """b = a b (dtrmm) or a^-1 b (dtrsm) in place, for lower triangular a.

    a and b are views of C-ordered matrices. BLAS is column-major and sees transposes:
    b^T = b^T a^T with a^T upper triangular, from the right.
    """
    rows, columns = b.shape

    def integer(value):
        return ctypes.byref(ctypes.c_int(value))

    _ROUTINES[name](
        ctypes.byref(ctypes.c_char(b"R")),
        ctypes.byref(ctypes.c_char(b"U")),
        ctypes.byref(ctypes.c_char(b"N")),
        ctypes.byref(ctypes.c_char(b"U" if unit else b"N")),
        integer(columns),
        integer(rows),
        ctypes.byref(ctypes.c_double(1.0)),
        a.ctypes.data,
        integer(a.strides[0] // a.itemsize),
        b.ctypes.data,
        integer(b.strides[0] // b.itemsize),
    )
