"""The CUDA kernels on particles: on the emulator, and on a GPU where there is one.

What they must not read is NaN, and so is every result beforehand. Tolerances are those of sums of
as many products of numbers of order one, as for the CPU.
"""

from dataclasses import dataclass

import numpy as np
import pytest

import emulated
import gpu
import reference
from dmftcore import _core
from dmftcore._device import DeviceCore
from dmftcore.activations import ACTIVATIONS
from test_particle_functions import LARGEST, exact
from test_particle_operations import bound

DTYPES = [np.float64, np.float32]
NAMES = ("particle_products", "particle_expansion", "normals")


class Emulated(DeviceCore):
    """The operations with the names and parameters of `_core`, on numpy arrays."""

    __slots__ = ("library",)

    def __init__(self, library, dtype):
        super().__init__(np.dtype(dtype).name, 0, 0, np.empty, lambda array: array)
        self.library = library

    def _run(self, name, *arguments):
        self.library.call(name, self.dtype, *arguments)


class OnGpu:
    """The same by way of a GPU: arrays are copied there, and back in place."""

    def __init__(self, dtype):
        self.dtype = np.dtype(dtype).name

    def __getattr__(self, name):
        cupy = gpu.cupy()
        stream = cupy.cuda.get_current_stream().ptr
        core = DeviceCore(self.dtype, 0, stream, cupy.empty, lambda array: array.data.ptr)

        def operation(*arrays, **options):
            copies = {}

            def copied(value):
                if not isinstance(value, np.ndarray):
                    return value
                return copies.setdefault(id(value), (value, cupy.asarray(value)))[1]

            found = {key: copied(value) for key, value in options.items()}
            getattr(core, name)(*map(copied, arrays), **found)
            for host, device in copies.values():
                host[...] = device.get()

        return operation


def core(setting, dtype):
    """The operations in a setting of the emulator, or on a GPU."""
    return OnGpu(dtype) if setting == "gpu" else Emulated(emulated.library(setting), dtype)


def compare(library, name, case, dtype):
    """Run an operation of an emulated library, and compare with what it is defined as."""
    COMPARISONS[name](Emulated(library, dtype), case, dtype)


needs_compiler = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")
#: Other orders of the threads are compared with these bit by bit.
SETTINGS = [
    pytest.param(name, marks=needs_compiler) for name in ("shuffled", "scaled_down", "sm_80")
]
ONCE = SETTINGS[:1]
if gpu.missing() is None:
    SETTINGS += [pytest.param("gpu", marks=pytest.mark.gpu)]
    ONCE += SETTINGS[-1:]


@dataclass(frozen=True)
class Case:
    """Sizes: particles that do and do not come in packets, ranks in three runs, columns."""

    particles: int
    n: int
    ranks: tuple[int, int, int]
    capacity: int = 0
    repeat: int = 1
    runs: int = 3

    @property
    def room(self):
        return max(self.capacity, *self.ranks)


CASES = [
    Case(1, 1, (1, 0, 1)),
    Case(37, 3, (5, 0, 9), repeat=3),
    Case(140, 8, (16, 17, 3), repeat=2),
    Case(260, 12, (33, 1, 0), capacity=40),
    Case(133, 20, (2, 130, 18)),
    Case(64, 70, (4, 21, 1), repeat=7),
    Case(70, 0, (2, 2, 2)),
]


def directions(rng, case, dtype, ranks):
    rows = np.full((case.runs, case.room, case.particles), np.nan, dtype)
    for run, rank in enumerate(ranks):
        rows[run, :rank] = rng.normal(size=(rank, case.particles))
    return rows, np.array(ranks)


def spare(rng, case, dtype, columns):
    """Fields of every run, with one beyond those that count."""
    fields = np.full((case.runs, columns + 1, case.particles), np.nan, dtype)
    fields[:, :columns] = rng.normal(size=(case.runs, columns, case.particles))
    return fields


def compare_products(operations, case, dtype):
    rng = np.random.default_rng([case.particles, case.n])
    a, used_a = directions(rng, case, dtype, case.ranks)
    b, used_b = directions(rng, case, dtype, case.ranks[::-1])
    x, x0 = spare(rng, case, dtype, case.n), spare(rng, case, dtype, case.n)
    c, d = np.full((2, case.runs, case.room, case.n), np.nan)
    gram = np.full((case.runs, case.n, case.n), np.nan)
    bases = {"a": a, "used_a": used_a, "b": b, "used_b": used_b}
    operations.particle_products(x=x, n=case.n, reference=x0, **bases, c=c, d=d, gram=gram)
    tolerance = bound(dtype, case.particles)
    for run in range(case.runs):
        ka, kb = used_a[run], used_b[run]
        left, right = a[run, :ka].astype(float), b[run, :kb].astype(float)
        field = x[run, : case.n].astype(float)
        # The difference is rounded as the fields are.
        response = x[run, : case.n] - x0[run, : case.n]
        expected = np.zeros_like(c[run]), np.zeros_like(d[run]), field @ field.T / case.particles
        expected[0][:ka] = left @ field.T / case.particles
        expected[1][:kb] = right @ response.T.astype(float) / case.particles
        for found, wanted in zip((c[run], d[run], gram[run]), expected, strict=True):
            np.testing.assert_allclose(found, wanted, atol=tolerance, rtol=0)
        assert not c[run, ka:].any()
        assert not d[run, kb:].any()
        assert np.array_equal(gram[run], gram[run].T)


def compare_expansion(operations, case, dtype):
    rng = np.random.default_rng([case.particles, case.n])
    a, used_a = directions(rng, case, dtype, case.ranks)
    b, used_b = directions(rng, case, dtype, case.ranks[::-1])
    base, field = spare(rng, case, dtype, case.n), spare(rng, case, dtype, case.n)
    c, d = rng.normal(size=(2, case.runs, case.room, case.n)) / np.sqrt(case.room)
    results = np.full((3, case.runs, case.n, case.particles), np.nan, dtype)
    u, y, value = results
    numbers = {"skip": 0.7, "scale": 1.3, "repeat": case.repeat}
    operations.particle_expansion(
        n=case.n,
        **{"a": a, "used_a": used_a, "c": c, "b": b, "used_b": used_b, "d": d},
        **{"base": base, "field": field, "activation": ACTIVATIONS.index("tanh")},
        **numbers,
        **{"u": u, "y": y, "value": value},
    )
    for run in range(case.runs):
        wanted = np.einsum("ij,ip->jp", c[run, : used_a[run]], a[run, : used_a[run]])
        total = wanted + np.einsum("ij,ip->jp", d[run, : used_b[run]], b[run, : used_b[run]])
        gain = 1 / np.cosh(np.repeat(field[run].astype(float), case.repeat, axis=0)[: case.n]) ** 2
        expected = 0.7 * base[run, : case.n].astype(float) + 1.3 * gain * total
        tolerance = 8 * bound(dtype, 2 * case.room)
        np.testing.assert_allclose(u[run], wanted, atol=tolerance, rtol=0)
        np.testing.assert_allclose(y[run], expected, atol=tolerance, rtol=0)
        np.testing.assert_allclose(value[run], np.tanh(expected), atol=tolerance, rtol=0)


def compare_normals(operations, case, dtype):
    which = {"seed": 2**63 + 5, "run": 3, "stream": 1, "column": 6}
    x = np.full((case.n, case.particles), np.nan, dtype)
    expected = np.empty_like(x)
    operations.normals(x, **which)
    _core.normals(expected, **which)
    # A rounding of the angle, of 2 pi, where the cosine is 0.
    np.testing.assert_allclose(x, expected, rtol=4 * np.finfo(dtype).eps, atol=1e-14)


COMPARISONS = dict(zip(NAMES, (compare_products, compare_expansion, compare_normals), strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", SETTINGS)
def test_definition(setting, name, case, dtype):
    COMPARISONS[name](core(setting, dtype), case, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("setting", ONCE)
def test_activations_and_their_slopes(setting, name, dtype):
    grid = np.concatenate([np.linspace(-12, 12, 301), np.geomspace(1e-8, 1, 50), [0.0, 300.0]])
    h = np.concatenate([grid, -grid]).astype(dtype)[None, None]
    values, slopes = np.full_like(h, np.nan), np.full_like(h, np.nan)
    one = np.ones_like(h), np.ones((1, 1, 1))
    operations, number = core(setting, dtype), ACTIVATIONS.index(name)
    operations.particle_expansion(n=1, base=h, value=values, activation=number)
    operations.particle_expansion(n=1, a=one[0], c=one[1], field=h, y=slopes, activation=number)
    # The complement of the error function has 6 units in the last place on a GPU.
    tolerance = 8 * np.finfo(dtype).eps
    if name in LARGEST:
        wanted = exact(name, h[0, 0].astype(np.longdouble))
    else:
        wanted = [np.array([f(name, x) for x in h[0, 0].tolist()]) for f in REFERENCES]
    for found, numbers in zip((values, slopes), wanted, strict=True):
        # Relative, except where a function is small beside the rounding of its argument.
        scale = np.maximum(np.abs(numbers), 1.0 if name == "gelu" else 1e-9)
        assert (np.abs(found[0, 0] - numbers) <= tolerance * scale).all()


REFERENCES = (reference.activation, reference.slope)


@pytest.mark.parametrize("setting", ONCE)
def test_what_is_not_finite_stays_so(setting):
    h = np.array([np.nan, np.inf, -np.inf])[None, None]
    for number, name in enumerate(ACTIVATIONS):
        value, slope = np.empty_like(h), np.empty_like(h)
        operations = core(setting, np.float64)
        operations.particle_expansion(n=1, base=h, value=value, activation=number)
        one = np.ones_like(h), np.ones((1, 1, 1))
        operations.particle_expansion(n=1, a=one[0], c=one[1], field=h, y=slope, activation=number)
        assert np.isnan(value[0, 0, 0]), name
        assert value[0, 0, 1] == (1.0 if name in ("tanh", "erf") else np.inf)
        # Bounded slopes do not become infinite.
        assert np.isfinite(slope[0, 0, 1]) == (name not in ("quadratic", "gelu"))


@pytest.mark.parametrize("setting", SETTINGS)
def test_results_that_are_not_asked_for(setting):
    rng = np.random.default_rng(2)
    x, a = rng.normal(size=(1, 2, 90)), rng.normal(size=(1, 3, 90))
    operations = core(setting, np.float64)
    d, gram = np.full((1, 3, 2), np.nan), np.full((1, 2, 2), np.nan)
    operations.particle_products(x=x, n=2, b=a, d=d)
    operations.particle_products(x=x, n=2, gram=gram)
    np.testing.assert_allclose(d[0], a[0] @ x[0].T / 90, atol=1e-14)
    np.testing.assert_allclose(gram[0], x[0] @ x[0].T / 90, atol=1e-14)
    c, u, y = rng.normal(size=(1, 3, 2)), np.full_like(x, np.nan), x.copy()
    operations.particle_expansion(n=2, a=a, c=c, u=u)
    np.testing.assert_allclose(u[0], c[0].T @ a[0], atol=1e-14)
    operations.particle_expansion(n=2, b=a, d=c, base=y, y=y, skip=0.5, scale=-2.0)
    np.testing.assert_allclose(y[0], 0.5 * x[0] - 2 * u[0], atol=1e-14)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
def test_bits_depend_on_the_arguments_alone(dtype):
    # Not on the order of threads and blocks, or the GPU; nor do those of a run on its neighbours.
    rng = np.random.default_rng(1)
    x, a = rng.normal(size=(2, 3, 10, 1100)).astype(dtype)
    results = set()
    for setting in ("forward", "backward", "shuffled", "sm_80"):
        for runs in (slice(None), slice(0, 1)):
            c, y = np.empty((len(x[runs]), 10, 10)), np.empty_like(x[runs])
            operations = core(setting, dtype)
            operations.particle_products(x=x[runs], n=10, a=a[runs], c=c)
            operations.particle_expansion(n=10, a=a[runs], c=c, y=y)
            results.add(c[0].tobytes() + y[0].tobytes())
    assert len(results) == 1
