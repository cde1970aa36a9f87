"""A stand-in for cupy: its device memory is the host's, and it refuses what cupy refuses.

Arrays wrap numpy arrays. As in cupy they do not mix with numpy arrays, do not become numpy arrays
by themselves, and reductions give arrays without axes instead of numbers.
"""

import types

import numpy as np


class Device:
    """A device; as a context, the current one."""

    current = 0

    def __init__(self, number=None):
        self.id = Device.current if number is None else number

    def __enter__(self):
        self.before, Device.current = Device.current, self.id
        return self

    def __exit__(self, *error):
        Device.current = self.before

    def __eq__(self, other):
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None


class Stream:
    """A stream; as a context, the current one."""

    def __init__(self, ptr):
        self.ptr = ptr

    def __enter__(self):
        self.before = streams[Device.current]
        streams[Device.current] = self
        return self

    def __exit__(self, *error):
        streams[Device.current] = self.before


#: The current stream of each device.
streams = {number: Stream(0) for number in range(8)}


def current_stream(device_id=-1):
    return streams[Device.current if device_id == -1 else device_id]


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    def __init__(self, host):
        self._host = np.asarray(host)
        self.device = Device()

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def T(self):
        return wrapped(self._host.T)

    @property
    def __cuda_array_interface__(self):
        return {**self._host.__array_interface__, "version": 3, "stream": 1}

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed: use .get()")

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        return call(getattr(ufunc, method), *inputs, **kwargs)

    def __array_function__(self, function, _, args, kwargs):
        return call(function, *args, **kwargs)

    def get(self):
        return self._host.copy()

    def __getitem__(self, key):
        return wrapped(self._host[unwrapped(key, indices=True)])

    def __setitem__(self, key, value):
        self._host[unwrapped(key, indices=True)] = unwrapped(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (wrapped(row) for row in self._host)

    def __float__(self):
        return float(self._host)

    def __int__(self):
        return int(self._host)

    def __bool__(self):
        return bool(self._host)

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._host, name)
        if callable(value):
            return lambda *args, **kwargs: call(value, *args, **kwargs)
        return wrapped(value)


def wrapped(value):
    if isinstance(value, (np.ndarray, np.generic)):
        return ndarray(value)
    if type(value) in (tuple, list):
        return type(value)(map(wrapped, value))
    return value


def unwrapped(value, indices=False):
    if isinstance(value, ndarray):
        return value._host
    if isinstance(value, np.ndarray) and not indices:
        raise TypeError(f"Unsupported type {type(value)}")
    if type(value) in (tuple, list):
        return type(value)(unwrapped(one, indices) for one in value)
    if isinstance(value, types.GeneratorType):
        raise TypeError("Only sequences of arrays are supported")
    return value


def call(function, *args, **kwargs):
    """A function of numpy on arrays of this library."""
    kwargs = {key: unwrapped(value) for key, value in kwargs.items()}
    return wrapped(function(*map(unwrapped, args), **kwargs))


def asarray(value, dtype=None):
    if isinstance(value, ndarray):
        return value if dtype is None else wrapped(value._host.astype(dtype, copy=False))
    return ndarray(np.array(value, dtype=dtype))


class Functions(types.ModuleType):
    """The functions of a numpy module, on arrays of this library."""

    def __init__(self, name, of):
        super().__init__(name)
        self._of = of

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        value = getattr(self._of, name)
        if isinstance(value, types.ModuleType):
            return Functions(f"{self.__name__}.{name}", value)
        if isinstance(value, type) or not callable(value):
            return value
        return lambda *args, **kwargs: call(value, *args, **kwargs)


def module(free_bytes=1 << 40):
    """A module to be found as ``sys.modules["cupy"]``."""
    cupy = Functions("cupy", np)
    cupy.ndarray, cupy.asarray = ndarray, asarray
    cupy.array = lambda value, dtype=None, order="K": asarray(asarray(value, dtype).copy(order))
    # What nothing has been written to shows.
    cupy.empty = lambda shape, dtype=float: ndarray(np.full(shape, np.nan, dtype))
    cupy.asnumpy = lambda array: array.get()
    cupy.from_dlpack = lambda array: ndarray(np.from_dlpack(array.host))
    cupy.get_default_memory_pool = lambda: types.SimpleNamespace(free_bytes=lambda: 0)
    cupy.cuda = types.SimpleNamespace(
        Device=Device,
        Stream=Stream,
        get_current_stream=current_stream,
        runtime=types.SimpleNamespace(memGetInfo=lambda: (free_bytes, 1 << 40)),
    )
    return cupy
