"""Device arrays: their way through dispatch and binding, and the kernels of the row operations.

Without a GPU the arrays are those of `fake_cupy` and the kernels run on the emulator; the
definitions and tolerances are those of `test_twotime`.
"""

import functools
import sys
import types

import numpy as np
import pytest

import emulated
import fake_cupy
import gpu
import test_twotime as definitions
from dmftcore import _arrays, _core, twotime
from dmftcore.errors import CudaError
from test_twotime import OPERATIONS, ROWS, Case, arguments, as_tuple

pytest.importorskip("pybind11", reason="the binding is compiled by the tests")
import emulated_device

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")


@pytest.fixture
def binding():
    module = emulated_device.binding()
    module.set_order(0)
    module.entered()
    return module


@pytest.fixture
def cupy(monkeypatch, binding):
    """The fake library, loaded, and its devices behind the compiled core."""
    module = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(_core, "cuda", binding.cuda, raising=False)
    monkeypatch.setattr(_core, "cuda_status", lambda: (2, ""))
    return module


def compute(cupy, name, *arrays, **options):
    results = getattr(twotime, name)(*map(cupy.asarray, arrays), **options)
    return tuple(result.get() for result in as_tuple(results))


# -- the kernels of the row operations; more of them in test_twotime ------------------------------


def check_low_rank(cupy, rank, n=330, rows=3):
    rng = np.random.default_rng(rank)
    x, u = rng.integers(-3, 4, (rows, n)), rng.integers(-3, 4, (n, rank))
    v = rng.integers(-3, 4, (n, rank))
    (y,) = compute(cupy, "rows_low_rank", *(one.astype(float) for one in (x, u, v)))
    np.testing.assert_array_equal(y, x @ u @ v.T)


@pytest.mark.parametrize("order", range(len(emulated.ORDERS)))
@pytest.mark.parametrize("rank", [0, 1, 2, 40, 70])
def test_low_rank(cupy, binding, rank, order):
    binding.set_order(order)
    check_low_rank(cupy, rank)


@pytest.mark.parametrize("aligned", [False, True])
def test_alignment(cupy, aligned):
    n = 300
    ld = n + 4 if aligned else n + 1
    rng = np.random.default_rng(n)
    memory = rng.integers(-3, 4, ld * ld + 8).astype(np.float32)
    # numpy aligns its memory to 16 bytes only by chance.
    start = -memory.ctypes.data // 4 % 4
    c = memory[start : start + ld * ld].reshape(ld, ld)
    assert (c.ctypes.data % 16 == 0 and ld % 4 == 0) == aligned
    x = rng.integers(-3, 4, (1, n)).astype(np.float32)
    # Without the copy of cupy.asarray, which may lie elsewhere.
    y = twotime.rows_symmetric(fake_cupy.ndarray(x), fake_cupy.ndarray(c)).get()
    # Whole numbers below 2^24: exact.
    lower = np.tril(c[:n, :n])
    np.testing.assert_array_equal(y, x @ lower + x @ np.tril(lower, -1).T)


def test_bits_do_not_depend_on_the_order_of_threads(cupy, binding):
    for name in ROWS:
        arrays, operation = arguments(name, Case(300, rows=3), np.float64), OPERATIONS[name]
        bits = set()
        for order in range(len(emulated.ORDERS)):
            binding.set_order(order)
            results = compute(cupy, operation.function, *arrays, **dict(operation.options))
            bits.add(b"".join(one.tobytes() for one in results))
        assert len(bits) == 1, name


# -- from twotime to the kernels and back --------------------------------------------------------


@pytest.mark.parametrize("dtype", definitions.DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations(cupy, name, dtype):
    definition = definitions.cornered if name in ROWS else definitions.reference
    for case in Case(0), Case(6, rows=2), Case(12, block=4 if name not in ROWS else 1):
        definitions.compare(functools.partial(compute, cupy), name, case, dtype, definition)


# -- dispatch -----------------------------------------------------------------------------------


def zeros(cupy, *shape):
    return cupy.zeros(shape)


def test_results_belong_to_the_library_and_device_of_the_arguments(cupy, binding):
    x, a = arguments("rows_causal", Case(9, rows=2), np.float64)
    with cupy.cuda.Device(1):
        arrays = cupy.asarray(x), cupy.asarray(a)
    result = twotime.rows_causal(*arrays)
    assert isinstance(result, cupy.ndarray)
    assert result.device.id == 1
    assert binding.entered() == [1]
    assert binding.current_device() == 0
    np.testing.assert_allclose(result.get(), twotime.rows_causal(x, a), rtol=1e-13)


def test_work_is_queued_on_the_current_stream_of_the_device(cupy, monkeypatch):
    calls = []

    def spy(*numbers):
        calls.append(numbers)

    monkeypatch.setattr(
        _core,
        "cuda",
        types.SimpleNamespace(float32=types.SimpleNamespace(rows_symmetric=spy)),
        raising=False,
    )
    with cupy.cuda.Device(1):
        x = cupy.zeros((2, 5), dtype=np.float32)
        c = cupy.zeros((7, 7), dtype=np.float32)
        with cupy.cuda.Stream(77):
            pass
        stream = cupy.cuda.Stream(99)
        stream.__enter__()
    y = twotime.rows_symmetric(x, c)
    with cupy.cuda.Device(1):
        stream.__exit__()
    assert calls == [(1, 99, 2, 5, x.data.ptr, c.data.ptr, 7, y.data.ptr)]


def test_foreign_arrays_are_seen_through_the_library_that_is_loaded(cupy):
    x, a = arguments("rows_causal", Case(9, rows=2), np.float64)

    class Foreign:
        def __init__(self, host):
            self.host = np.nan_to_num(host)

    class WithInterface(Foreign):
        @property
        def __cuda_array_interface__(self):
            return self.host.__array_interface__

    class WithDlpack(Foreign):
        def __dlpack_device__(self):
            return (2, 0)

    adopted = cupy.asarray
    cupy.asarray = lambda array: adopted(getattr(array, "host", array))
    wanted = twotime.rows_causal(x, np.nan_to_num(a))
    for foreign in WithInterface, WithDlpack:
        result = twotime.rows_causal(foreign(x), foreign(a))
        assert isinstance(result, cupy.ndarray)
        np.testing.assert_allclose(result.get(), wanted, rtol=1e-13)


def test_foreign_arrays_need_a_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)

    class Foreign:
        __cuda_array_interface__ = None

    with pytest.raises(CudaError, match=r"a is a .*Foreign on a CUDA device.*import cupy"):
        twotime.resolvent(Foreign())


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "resolvent"])
def test_host_and_device_do_not_mix(cupy, name):
    operation = OPERATIONS[name]
    arrays = arguments(name, Case(6), np.float64)
    names = {"numpy": arrays, "cupy": tuple(map(cupy.asarray, arrays))}
    for first, last in (("numpy", "cupy"), ("cupy", "numpy")):
        mixed = (*names[first][:-1], names[last][-1])
        with pytest.raises(TypeError, match=f"is a {first} array but .* is a {last} array"):
            getattr(twotime, operation.function)(*mixed, **operation.keywords(Case(6)))


def test_histories_may_have_different_lengths(cupy):
    x = np.ones((2, 5))
    c, r = (np.tril(np.random.default_rng(n).standard_normal((n, n))) for n in (6, 9))
    found = compute(cupy, "rows_congruence", x, c, r)
    for one, wanted in zip(found, twotime.rows_congruence(x, c, r), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-12, atol=1e-13)


def test_sizes_may_be_numbers_of_numpy(cupy):
    k, g = arguments("causal_apply", Case(6, block=2), np.float64)
    options = {"strict": np.True_, "block": np.int64(2)}
    (found,) = compute(cupy, "causal_apply", k, g, **options)
    np.testing.assert_allclose(found, twotime.causal_apply(k, g, **options), rtol=1e-13)


def test_devices_do_not_mix(cupy):
    x, a = zeros(cupy, 1, 3), zeros(cupy, 3, 3)
    a.device = cupy.cuda.Device(1)
    with pytest.raises(TypeError, match="x is on cuda:0 but a is on cuda:1"):
        twotime.rows_causal(x, a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.astype(np.float16), r"float64 or float32, not float16; .*cupy\.float64"),
        (lambda a: a.astype(int), r"not int64; pass a\.astype\(cupy\.float64\)"),
        (lambda a: a.astype(complex), r"pass a\.real and a\.imag"),
        (lambda a: a.T, r"Fortran-ordered .* pass cupy\.ascontiguousarray\(a\)"),
        (lambda a: a[::2, ::2], r"strided .* pass cupy\.ascontiguousarray\(a\)"),
        (lambda a: a.astype(np.float32), r"x is float64 but a is float32.*a\.astype\(x\.dtype\)"),
        (lambda a: a.tolist(), "must be a numpy array, not list"),
    ],
)
def test_wrong_type_is_refused(cupy, change, message):
    with pytest.raises(TypeError, match=message):
        twotime.rows_causal(zeros(cupy, 1, 4), change(zeros(cupy, 8, 8) + 0))


@pytest.mark.parametrize(
    ("name", "shapes", "message"),
    [
        ("causal_matmul", ((3, 2), (3, 2)), r"a must be \(\*batch, n, n\), not \(3, 2\)"),
        ("causal_matmul", ((3, 3), (4, 4)), r"b must have the shape \(3, 3\) of a"),
        ("rows_causal", ((3,), (3, 3)), r"x must be \(m, n\)"),
        ("rows_causal", ((1, 3), (2, 2)), "a has 2 times, fewer than the 3 of x"),
        ("rows_causal_pair", ((1, 3), (1, 2), (3, 3)), r"w must have the shape \(1, 3\) of x"),
        ("rows_congruence", ((1, 3), (3, 3), (4, 3)), "r must be a square matrix"),
        ("rows_low_rank", ((1, 3), (3, 4), (3, 5)), "u has 4 columns but v has 5"),
    ],
)
def test_wrong_shape_is_refused(cupy, name, shapes, message):
    with pytest.raises(ValueError, match=message):
        getattr(twotime, name)(*(zeros(cupy, *shape) for shape in shapes))


def test_what_cuda_refuses_is_a_cuda_error(cupy):
    with cupy.cuda.Device(5):
        x, a = zeros(cupy, 1, 3), zeros(cupy, 3, 3)
    with pytest.raises(CudaError, match="invalid device ordinal"):
        twotime.rows_causal(x, a)


def test_a_build_without_cuda_says_so(cupy, monkeypatch):
    monkeypatch.delattr(_core, "cuda")
    monkeypatch.setattr(_core, "cuda_status", lambda: (0, "dmftcore was built without CUDA"))
    with pytest.raises(CudaError, match="built without CUDA"):
        twotime.rows_causal(zeros(cupy, 1, 3), zeros(cupy, 3, 3))


@pytest.mark.skipif(not hasattr(_core, "cuda"), reason="built without CUDA")
@pytest.mark.skipif(_core.cuda_status()[0] > 0, reason="has a CUDA device")
def test_a_machine_without_a_driver_says_so(monkeypatch):
    cupy = fake_cupy.module()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(CudaError, match=r"driver|device"):
        twotime.rows_causal(zeros(cupy, 1, 3), zeros(cupy, 3, 3))


# -- torch --------------------------------------------------------------------------------------


TORCH_DEVICE = type("device", (), {"index": 1, "__str__": lambda _: "cuda:1"})()


class Tensor:
    """What `_arrays` asks of a tensor of torch."""

    def __init__(self, host, requires_grad=False):
        self.host, self.requires_grad, self.is_cuda = host, requires_grad, True
        self.device = TORCH_DEVICE
        self.dtype = f"torch.{host.dtype}"
        self.shape, self.ndim = host.shape, host.ndim

    def data_ptr(self):
        return self.host.ctypes.data

    def is_contiguous(self):
        return self.host.flags.c_contiguous

    def stride(self):
        return tuple(s // self.host.itemsize for s in self.host.strides)


@pytest.fixture
def torch(monkeypatch, binding):
    module = types.ModuleType("torch")
    module.Tensor, module.float64, module.float32 = Tensor, "torch.float64", "torch.float32"
    module.empty = lambda shape, dtype, device: Tensor(np.full(shape, np.nan, dtype[6:]))
    module.cuda = types.SimpleNamespace(
        current_stream=lambda device: types.SimpleNamespace(cuda_stream=0)
    )
    monkeypatch.setitem(sys.modules, "torch", module)
    monkeypatch.setattr(_core, "cuda", binding.cuda, raising=False)
    return module


def test_tensors_of_torch(torch, binding):
    x, w, a = arguments("rows_causal_pair", Case(9, rows=2), np.float32)
    results = twotime.rows_causal_pair(Tensor(x), Tensor(w), Tensor(a))
    assert binding.entered() == [1]
    for result, wanted in zip(results, twotime.rows_causal_pair(x, w, a), strict=True):
        np.testing.assert_allclose(result.host, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: Tensor(a, requires_grad=True), r"a requires a gradient; pass a\.detach\(\)"),
        (lambda a: Tensor(a.T), r"strided .* pass a\.contiguous\(\)"),
        (lambda a: Tensor(a.astype(np.float16)), r"not torch\.float16; pass a\.to\(torch\.float64"),
        (lambda a: Tensor(a.astype(np.float32)), r"x is torch\.float64 but .* a\.to\(x\.dtype\)"),
        (lambda a: a, "x is a torch array but a is a numpy array"),
    ],
)
def test_wrong_tensors_are_refused(torch, change, message):
    with pytest.raises(TypeError, match=message):
        twotime.rows_causal(Tensor(np.zeros((1, 3))), change(np.zeros((3, 4))))


# -- a real device ------------------------------------------------------------------------------


@pytest.mark.gpu
def test_there_is_a_device_where_one_is_required():
    assert gpu.cupy().cuda.is_available()


def test_a_device_library_needs_a_device(monkeypatch):
    monkeypatch.setattr(_core, "cuda_status", lambda: (0, "no driver"))
    with pytest.raises(CudaError, match="device='cuda' cannot be used: no driver"):
        _arrays.device_library()


def test_a_device_library_is_cupy(monkeypatch):
    monkeypatch.setattr(_core, "cuda_status", lambda: (1, ""))
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"dmftcore\[cuda\]"):
        _arrays.device_library()
