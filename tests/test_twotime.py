"""Operations on two-time kernels against their definitions, on every backend.

Each argument is filled with NaN wherever the operation must not read. The tolerance is the error
bound of the algorithm: a multiple of n eps times the operation on absolute values.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

import emulated
import gpu
import reference
from dmftcore import _core, twotime

DTYPES = [np.float64, np.float32]


def available_isas():
    levels = []
    before = _core.isa()
    for level in ["baseline", "v3", "v4"]:
        try:
            _core.set_isa(level)
        except ValueError:
            continue
        levels.append(level)
    _core.set_isa(before)
    return levels


def on_cpu(isa, name, *arrays, **options):
    _core.set_isa(isa)
    return getattr(twotime, name)(*arrays, **options)


def on_emulator(setting, name, *arrays, **options):
    return emulated.library(setting)(name, *arrays, **options)


def on_gpu(_, name, *arrays, **options):
    cupy = gpu.cupy()
    results = getattr(twotime, name)(*map(cupy.asarray, arrays), **options)
    return tuple(map(cupy.asnumpy, results)) if isinstance(results, tuple) else results.get()


# A backend runs an operation in one of its settings on numpy arrays and returns numpy arrays.
BACKENDS: dict[str, Callable] = {"cpu": on_cpu, "emulated": on_emulator, "cuda": on_gpu}
SETTINGS = [("cpu", isa) for isa in available_isas()]
if emulated.COMPILER is not None:
    SETTINGS += [("emulated", setting) for setting in emulated.SETTINGS]
if gpu.missing() is None:
    SETTINGS += [("cuda", "gpu")]


def parameters(backend, *others):
    """Parameters of a test that runs on a backend."""
    return pytest.param(backend, *others, marks=pytest.mark.gpu if backend == "cuda" else ())


@pytest.fixture(autouse=True)
def _restore_core():
    isa, threads = _core.isa(), _core.get_num_threads()
    yield
    _core.set_isa(isa)
    _core.set_num_threads(threads)


# What the definitions are, seen as dense matrix algebra in float64: for sizes where loops are slow.


def causal(a, block=1):
    i = np.arange(a.shape[-2])[:, None] // block
    j = np.arange(a.shape[-1]) // block
    return np.where(j <= i, a, 0).astype(float)


def strictly_causal(a, block=1):
    i = np.arange(a.shape[-2])[:, None] // block
    j = np.arange(a.shape[-1]) // block
    return np.where(j < i, a, 0).astype(float)


def symmetric(c):
    lower = np.tril(np.where(np.tri(c.shape[-1], dtype=bool), c, 0)).astype(float)
    return lower + np.swapaxes(np.tril(lower, -1), -1, -2)


def transposed(a):
    return np.swapaxes(a, -1, -2)


def dense_resolvent(a, block=1):
    strict = strictly_causal(a, block)
    identity = np.eye(a.shape[-1])
    return strictly_causal(np.linalg.inv(identity - strict), block) + identity


class dense:
    """The operations as dense algebra, same names as in `reference`."""

    @staticmethod
    def causal_matmul(a, b, *, transposed=None, block=1):
        a, b = causal(a, block), causal(b, block)
        a = np.swapaxes(a, -1, -2) if transposed == "a" else a
        b = np.swapaxes(b, -1, -2) if transposed == "b" else b
        return causal(a @ b, block)

    @staticmethod
    def causal_solve(a, b, dense=False, *, block=1):
        return dense_resolvent(a, block) @ (b if dense else causal(b, block))

    @staticmethod
    def resolvent(a, *, block=1):
        return dense_resolvent(a, block)

    @staticmethod
    def congruence(r, c, *, block=1):
        return causal(r, block) @ symmetric(c) @ transposed(causal(r, block))

    @staticmethod
    def causal_apply(k, g, strict=True, *, transposed=False, block=1):
        kernel = (strictly_causal if strict else causal)(k, block)
        kernel = np.swapaxes(kernel, -1, -2) if transposed else kernel
        return (kernel @ g.reshape(*k.shape[:-1], -1).astype(float)).reshape(g.shape)

    @staticmethod
    def rows_causal(x, a):
        n = x.shape[1]
        return x @ causal(a[:n, :n])

    @staticmethod
    def rows_causal_transposed(x, a):
        n = x.shape[1]
        return x @ causal(a[:n, :n]).T

    @staticmethod
    def rows_causal_pair(x, w, a):
        return dense.rows_causal(x, a), dense.rows_causal_transposed(w, a)

    @staticmethod
    def rows_symmetric(x, c):
        n = x.shape[1]
        return x @ symmetric(c[:n, :n])

    @staticmethod
    def rows_congruence(x, c, r):
        y = dense.rows_symmetric(x, c)
        return y, dense.rows_causal_transposed(y, r)

    @staticmethod
    def rows_low_rank(x, u, v):
        n = x.shape[1]
        return (x @ u[:n].astype(float)) @ v[:n].T.astype(float)

    @staticmethod
    def rows_causal_batch(x, a, transposed=False):
        n = x.shape[1]
        known = causal(a[:, :n, :n])
        return np.einsum("kj,kij->ki" if transposed else "ki,kij->kj", x.astype(float), known)


class Cornered:
    """`reference`, with the leading n x n corner of a history."""

    def __getattr__(self, name):
        def function(x, *others, **options):
            n = x.shape[1]
            square = name != "rows_low_rank"
            return getattr(reference, name)(
                x,
                *(
                    other if other.shape == x.shape else other[..., :n, :n] if square else other[:n]
                    for other in others
                ),
                **options,
            )

        return function


cornered = Cornered()


# Arguments by kind; NaN outside of what may be read.


@dataclass(frozen=True)
class Case:
    n: int
    block: int = 1
    batch: tuple[int, ...] = ()
    trailing: tuple[int, ...] = (3,)
    rows: int = 1

    def __str__(self):
        return f"n{self.n}-block{self.block}-batch{self.batch}-{self.trailing}-rows{self.rows}"


def make(kind, case, rng, dtype):
    n, scale = case.n, 1 / np.sqrt(case.n + 1)
    blocks = np.arange(n) // case.block
    square = rng.standard_normal((*case.batch, n, n)) * scale
    stored = rng.standard_normal((n + 3, n + 3)) * scale
    corner = np.zeros((n + 3, n + 3), dtype=bool)
    corner[:n, :n] = np.tri(n, dtype=bool)
    factor = rng.standard_normal((n + 3, 5)) * scale
    factor[n:] = np.nan
    return {
        "causal": lambda: np.where(blocks[:, None] >= blocks, square, np.nan),
        "strict": lambda: np.where(blocks[:, None] > blocks, square, np.nan),
        "symmetric": lambda: np.where(np.tri(n, dtype=bool), square, np.nan),
        "functions": lambda: rng.standard_normal((*case.batch, n, *case.trailing)),
        "columns": lambda: rng.standard_normal((*case.batch, n, int(np.prod(case.trailing)))),
        "rows": lambda: rng.standard_normal((case.rows, n)),
        "history": lambda: np.where(corner, stored, np.nan),
        "histories": lambda: np.where(
            corner, rng.standard_normal((case.rows, n + 3, n + 3)) * scale, np.nan
        ),
        "factor": lambda: factor,
    }[kind]().astype(dtype)


@dataclass(frozen=True)
class Operation:
    function: str
    kinds: tuple[str, ...]
    options: tuple[tuple[str, object], ...] = ()
    result: str = "full"  # what is exact: zeros of a causal result, symmetry
    blocks: bool = True

    def keywords(self, case):
        return dict(self.options) | ({"block": case.block} if self.blocks else {})


OPERATIONS = {
    "causal_matmul": Operation("causal_matmul", ("causal", "causal"), result="causal"),
    "causal_matmul_a": Operation(
        "causal_matmul", ("causal", "causal"), options=(("transposed", "a"),), result="causal"
    ),
    "causal_matmul_b": Operation(
        "causal_matmul", ("causal", "causal"), options=(("transposed", "b"),), result="causal"
    ),
    "causal_solve": Operation("causal_solve", ("strict", "causal"), result="causal"),
    "causal_solve_dense": Operation(
        "causal_solve", ("strict", "columns"), options=(("dense", True),)
    ),
    "resolvent": Operation("resolvent", ("strict",), result="causal"),
    "congruence": Operation("congruence", ("causal", "symmetric"), result="symmetric"),
    "causal_apply": Operation("causal_apply", ("strict", "functions")),
    "causal_apply_equal_time": Operation(
        "causal_apply", ("causal", "functions"), options=(("strict", False),)
    ),
    "causal_apply_transposed": Operation(
        "causal_apply", ("strict", "functions"), options=(("transposed", True),)
    ),
    "rows_causal": Operation("rows_causal", ("rows", "history"), blocks=False),
    "rows_causal_transposed": Operation(
        "rows_causal_transposed", ("rows", "history"), blocks=False
    ),
    "rows_causal_pair": Operation("rows_causal_pair", ("rows", "rows", "history"), blocks=False),
    "rows_symmetric": Operation("rows_symmetric", ("rows", "history"), blocks=False),
    "rows_congruence": Operation("rows_congruence", ("rows", "history", "history"), blocks=False),
    "rows_low_rank": Operation("rows_low_rank", ("rows", "factor", "factor"), blocks=False),
    "rows_causal_batch": Operation("rows_causal_batch", ("rows", "histories"), blocks=False),
    "rows_causal_batch_transposed": Operation(
        "rows_causal_batch",
        ("rows", "histories"),
        options=(("transposed", True),),
        blocks=False,
    ),
}
WHOLE = [name for name, operation in OPERATIONS.items() if operation.blocks]
ROWS = [name for name, operation in OPERATIONS.items() if not operation.blocks]


def arguments(name, case, dtype, seed=0):
    rng = np.random.default_rng([seed, case.n, case.block])
    return tuple(make(kind, case, rng, dtype) for kind in OPERATIONS[name].kinds)


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def evaluate(definition, name, case, arrays):
    """The operation by `definition`, over the batch."""
    operation = OPERATIONS[name]
    function = getattr(definition, operation.function)
    keywords = operation.keywords(case)
    if not case.batch:
        return as_tuple(function(*arrays, **keywords))
    items = math.prod(case.batch)
    flat = [array.reshape(items, *array.shape[len(case.batch) :]) for array in arrays]
    results = [function(*item, **keywords) for item in zip(*flat, strict=True)]
    return (np.array(results).reshape(arrays[-1].shape),)


def bound(definition, name, case, arrays):
    """Error of the operation in units of n eps, to first order, elementwise.

    Products: the operation on absolute values. Solves: |x - x'| <= M (1 + |a|) M |b| with
    M = (1 - |a|)^-1, for substitution and for inverted diagonal blocks alike.
    """
    sizes = [np.abs(array) for array in arrays]
    if OPERATIONS[name].function in ("resolvent", "causal_solve"):
        a = strictly_causal(sizes[0], case.block)
        inverse = dense_resolvent(sizes[0], case.block)
        if len(sizes) == 1:
            right = np.eye(case.n)
        else:
            right = sizes[1] if "dense" in name else causal(sizes[1], case.block)
        return (inverse @ (np.eye(case.n) + a) @ inverse @ right,)
    return evaluate(definition, name, case, sizes)


@functools.cache
def expected(name, case, dtype, definition):
    arrays = arguments(name, case, dtype)
    return (
        arrays,
        evaluate(definition, name, case, arrays),
        bound(definition, name, case, arrays),
    )


def check(backend, setting, name, case, dtype, definition):
    compare(functools.partial(BACKENDS[backend], setting), name, case, dtype, definition)


def compare(run, name, case, dtype, definition):
    """Run an operation, and compare with what it is defined as."""
    operation = OPERATIONS[name]
    arrays, results, bounds = expected(name, case, np.dtype(dtype), definition)
    # Fresh results are likely to lie where these NaN were: what is not written shows.
    poison = [np.full(result.shape, np.nan, dtype) for result in results for _ in range(2)]
    del poison
    computed = as_tuple(run(operation.function, *arrays, **operation.keywords(case)))
    assert len(computed) == len(results)
    for one, result, size in zip(computed, results, bounds, strict=True):
        assert one.dtype == dtype
        assert one.shape == result.shape
        assert one.flags.c_contiguous
        # 4: several roundings per term, and two products in a row.
        tolerance = 4 * (case.n + 4) * np.finfo(dtype).eps * size
        # Not (error > tolerance), which a NaN would pass.
        assert (np.abs(one - result) <= tolerance).all()
        if operation.result == "causal":
            np.testing.assert_array_equal(one, causal(one, case.block))
        if operation.result == "symmetric":
            np.testing.assert_array_equal(one, transposed(one))


SMALL = [
    Case(0),
    Case(0, batch=(2,)),
    Case(4, batch=(0,)),
    Case(1),
    Case(2, trailing=()),
    Case(7, trailing=(0,)),
    Case(9, batch=(2, 2), trailing=(2, 3)),
    Case(12, block=4, batch=(2,)),
    Case(15, block=5, trailing=(17,)),
    Case(16, block=16),
    Case(25, trailing=(31,)),
]
SMALL_ROWS = [Case(n, rows=m) for m, n in [(0, 3), (1, 0), (1, 1), (1, 2), (1, 29), (3, 17)]] + [
    Case(26, rows=20)
]
# Across every boundary of the blocking: panels of 240, bases of 64, chunks of rows from 1024 on,
# strips of the result, the change from vectors to packed panels.
LARGE = [
    Case(243, trailing=(5,)),
    Case(300, block=3, trailing=(50,)),
    Case(520, block=130, trailing=(2, 8)),
    Case(601, batch=(2,), trailing=(15,)),
    Case(90, batch=(60,)),
]
WIDE = [Case(30, trailing=(4200,)), Case(1100, trailing=(2,))]
LARGE_ROWS = [Case(n, rows=m) for m, n in [(1, 300), (5, 601), (250, 530), (1, 1203), (7, 1100)]]
#: A history for every row.
LARGE_HISTORIES = [Case(n, rows=m) for m, n in [(5, 601), (60, 90), (2, 1100)]]


# On the emulator: across tiles of 32, and of 64 and 128 where these are used for small matrices.
EMULATED = [
    Case(135, trailing=(5,)),
    Case(99, block=3, trailing=(50,)),
    Case(120, block=40, trailing=(2, 8)),
    Case(67, batch=(3,), trailing=(15,)),
    Case(34, batch=(40,)),
]
EMULATED_ROWS = [Case(n, rows=m) for m, n in [(1, 300), (5, 131), (40, 70)]]


def larger(backend, name):
    """Cases in which the blocking of a backend shows."""
    if "batch" in name and backend != "emulated":
        return LARGE_HISTORIES
    if backend == "emulated":
        return EMULATED_ROWS if name in ROWS else EMULATED
    if name in ROWS:
        return LARGE_ROWS
    return LARGE + WIDE if "apply" in name or "dense" in name else LARGE


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize(
    ("backend", "setting", "name", "case"),
    [
        parameters(backend, setting, name, case)
        for backend, setting in SETTINGS
        for name in OPERATIONS
        for case in (SMALL_ROWS if name in ROWS else SMALL)
    ],
    ids=str,
)
def test_definition(backend, setting, name, case, dtype):
    history = {"history", "histories", "factor"} & set(OPERATIONS[name].kinds)
    check(backend, setting, name, case, dtype, cornered if history else reference)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize(
    ("backend", "setting", "name", "case"),
    [
        parameters(backend, setting, name, case)
        for backend, setting in SETTINGS
        for name in OPERATIONS
        for case in larger(backend, name)
    ],
    ids=str,
)
def test_large(backend, setting, name, case, dtype):
    check(backend, setting, name, case, dtype, dense)
