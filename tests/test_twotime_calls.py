"""Operations on two-time kernels as calls: threads, other threads, and what is refused."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from dmftcore import _core, twotime
from test_twotime import OPERATIONS, ROWS, WHOLE, Case, arguments, as_tuple


@pytest.fixture(autouse=True)
def _restore_threads():
    threads = _core.get_num_threads()
    yield
    _core.set_num_threads(threads)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    "case", [Case(500, rows=1), Case(60, batch=(40,), rows=40), Case(1500, rows=1)], ids=str
)
def test_bits_do_not_depend_on_threads(name, case):
    if case.n > 1000 and name not in ROWS:
        case = Case(1500, block=500, trailing=(1,)) if "apply" in name else Case(800)
    operation = OPERATIONS[name]
    arrays = arguments(name, case, np.float64)

    def compute(threads):
        _core.set_num_threads(threads)
        result = getattr(twotime, operation.function)(*arrays, **operation.keywords(case))
        return b"".join(one.tobytes() for one in as_tuple(result))

    one = compute(1)
    assert all(compute(threads) == one for threads in (2, 3, 7))


def test_repeated_calls_agree():
    # Reused scratch memory must not leak from one call into the next.
    first = arguments("congruence", Case(150), np.float64)
    other = arguments("congruence", Case(200), np.float64, seed=1)
    before = twotime.congruence(*first)
    twotime.congruence(*other)
    np.testing.assert_array_equal(twotime.congruence(*first), before)


def test_read_only_arguments_are_accepted_and_unchanged():
    for name, operation in OPERATIONS.items():
        arrays = arguments(name, Case(20), np.float64)
        copies = [array.copy() for array in arrays]
        for array in arrays:
            array.flags.writeable = False
        getattr(twotime, operation.function)(*arrays, **operation.keywords(Case(20)))
        for array, copy in zip(arrays, copies, strict=True):
            np.testing.assert_array_equal(array, copy)


def test_other_python_threads_run_meanwhile():
    _core.set_num_threads(1)
    a, b = arguments("causal_matmul", Case(1500), np.float64)
    beats, stop = [], threading.Event()

    def beat():
        while not stop.wait(0.002):
            beats.append(time.perf_counter())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        begin = time.perf_counter()
        while time.perf_counter() < begin + 0.01:
            pass  # the other thread is up
        spans = []
        for _ in range(5):
            begin = time.perf_counter()
            twotime.causal_matmul(a, b)
            spans.append((begin, time.perf_counter()))
    finally:
        stop.set()
        thread.join()
    # Well inside a call: a thread that waits for the GIL could still beat at its two ends.
    inside = [
        beat
        for beat in beats
        for begin, end in spans
        if begin + 0.25 * (end - begin) < beat < end - 0.25 * (end - begin)
    ]
    assert inside


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux only")
def test_forked_child_computes_with_threads_of_its_own():
    _core.set_num_threads(3)
    a, b = arguments("causal_matmul", Case(400), np.float64)
    here = twotime.causal_matmul(a, b)  # the pool has its threads
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork with threads: that is the point
        child = os.fork()
    if child == 0:
        signal.alarm(30)  # a child that hangs fails
        alone = len(os.listdir("/proc/self/task"))  # fork copies the calling thread only
        same = np.array_equal(twotime.causal_matmul(a, b), here)
        threads = len(os.listdir("/proc/self/task"))
        os._exit(0 if same and threads == alone + 2 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    np.testing.assert_array_equal(twotime.causal_matmul(a, b), here)


@pytest.mark.parametrize("count", [0, -1])
def test_number_of_threads_is_positive(count):
    with pytest.raises(ValueError, match=f"at least 1, not {count}"):
        _core.set_num_threads(count)


# Rejections. Each case changes the last argument of an operation.

NOT_ARRAYS = {
    "list": (lambda a: a.tolist(), r"must be a numpy array, not list; pass numpy.asarray\("),
    "none": (lambda a: None, "must be a numpy array, not NoneType"),
    "fortran": (
        lambda a: np.asfortranarray(np.broadcast_to(a, (2, *a.shape)).copy()),
        "C-contiguous, but is Fortran-ordered .* pass numpy.ascontiguousarray",
    ),
    "strided": (
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
        r"C-contiguous, but is strided .* pass numpy.ascontiguousarray\(",
    ),
    "integer": (lambda a: np.ones(a.shape, dtype=int), "float64 or float32, not int64"),
    "float16": (lambda a: a.astype(np.float16), "float64 or float32, not float16"),
    "big-endian": (lambda a: a.astype(">f8"), "float64 or float32, not >f8"),
    "complex": (lambda a: a.astype(complex), "not complex128; pass .*.real and .*.imag"),
}


def call(name, arrays, case):
    operation = OPERATIONS[name]
    return getattr(twotime, operation.function)(*arrays, **operation.keywords(case))


@pytest.mark.parametrize("fault", NOT_ARRAYS)
@pytest.mark.parametrize("name", OPERATIONS)
def test_wrong_type_is_refused(name, fault):
    case = Case(6)
    *rest, last = arguments(name, case, np.float64)
    change, message = NOT_ARRAYS[fault]
    with pytest.raises(TypeError, match=message):
        call(name, (*rest, change(np.nan_to_num(last))), case)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "resolvent"])
def test_mixed_dtypes_are_refused(name):
    case = Case(6)
    *rest, last = arguments(name, case, np.float64)
    with pytest.raises(TypeError, match=r"is float64 but .* is float32; .*pass \w+\.astype"):
        call(name, (*rest, last.astype(np.float32)), case)


def zeros(*shape):
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("function", "arrays", "message"),
    [
        ("causal_matmul", (zeros(3), zeros(3)), r"a must be \(\*batch, n, n\), not \(3,\)"),
        ("causal_matmul", (zeros(3, 2), zeros(3, 2)), r"a must be .* not \(3, 2\)"),
        ("causal_matmul", (zeros(2, 3, 3), zeros(3, 3)), r"b must have the shape .* broadcast"),
        ("causal_matmul", (zeros(3, 3), zeros(4, 4)), r"b must have the shape \(3, 3\) of a"),
        ("congruence", (zeros(3, 3), zeros(3, 4)), "c must have the shape"),
        ("causal_solve", (zeros(3, 3), zeros(3, 2)), "b must have the shape"),
        ("resolvent", (zeros(0),), r"a must be \(\*batch, n, n\)"),
        ("causal_apply", (zeros(3, 3), zeros(4, 3)), r"g must be \(3, \*trailing\) .* \(4, 3\)"),
        ("causal_apply", (zeros(2, 3, 3), zeros(3, 3)), r"g must be \(2, 3, \*trailing\)"),
        ("rows_causal", (zeros(3), zeros(3, 3)), r"x must be \(m, n\), .* pass x\[None, :\]"),
        ("rows_causal", (zeros(1, 3), zeros(2, 2)), "a has 2 times, fewer than the 3 of x"),
        ("rows_causal", (zeros(1, 3), zeros(4, 3)), r"a must be a square matrix .* \(4, 3\)"),
        ("rows_causal_transposed", (zeros(1, 3), zeros(2, 2)), "a has 2 times"),
        ("rows_causal_pair", (zeros(1, 3), zeros(1, 2), zeros(3, 3)), r"shape \(1, 3\) of x"),
        ("rows_symmetric", (zeros(1, 3), zeros(1, 3, 3)), "c must be a square matrix"),
        ("rows_congruence", (zeros(1, 3), zeros(3, 3), zeros(2, 2)), "r has 2 times"),
        ("rows_low_rank", (zeros(1, 3), zeros(2, 4), zeros(3, 4)), r"u must be \(N, k\) .* 3"),
        ("rows_low_rank", (zeros(1, 3), zeros(3, 4), zeros(3, 5)), "u has 4 columns but v has 5"),
    ],
)
def test_wrong_shape_is_refused(function, arrays, message):
    with pytest.raises(ValueError, match=message):
        getattr(twotime, function)(*arrays)


def test_wrong_dense_right_hand_side_is_refused():
    with pytest.raises(ValueError, match=r"b must be \(3, m\) .* b\[\.\.\., None\]"):
        twotime.causal_solve(zeros(3, 3), zeros(3), dense=True)


@pytest.mark.parametrize(
    ("function", "options", "error", "message"),
    [
        ("causal_solve", {"dense": "yes"}, TypeError, "dense must be True or False, not 'yes'"),
        ("causal_apply", {"transposed": "a"}, TypeError, "transposed must be True or False"),
        ("causal_matmul", {"transposed": True}, TypeError, "must be a string, not bool"),
        ("causal_matmul", {"transposed": "c"}, ValueError, 'must be None, "a" or "b", not \'c\''),
    ],
)
def test_wrong_option_is_refused(function, options, error, message):
    with pytest.raises(error, match=message):
        getattr(twotime, function)(zeros(3, 3), zeros(3, 3), **options)


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    ("block", "error", "message"),
    [
        (4, ValueError, "n = 6, which is not a multiple of block = 4"),
        (0, ValueError, "block must be at least 1, not 0"),
        (-2, ValueError, "block must be at least 1, not -2"),
        (2.0, TypeError, "block must be an integer, not float"),
        (True, TypeError, "block must be an integer, not bool"),
    ],
)
def test_wrong_block_is_refused(name, block, error, message):
    operation = OPERATIONS[name]
    arrays = arguments(name, Case(6), np.float64)
    with pytest.raises(error, match=message):
        getattr(twotime, operation.function)(*arrays, **dict(operation.options), block=block)


@pytest.mark.parametrize("name", OPERATIONS)
def test_compiled_functions_refuse_by_themselves(name):
    # The last line of defence behind the messages: never read what is not there.
    operation = OPERATIONS[name]
    arrays = arguments(name, Case(6), np.float64)
    keywords = operation.keywords(Case(6))
    if operation.function == "causal_solve":
        keywords = {"dense": False} | keywords
    if operation.function == "causal_matmul":
        keywords["transposed"] = (None, "a", "b").index(keywords.get("transposed"))
    if operation.function == "causal_apply":
        keywords = {"strict": True, "transposed": False} | keywords
    if operation.function == "rows_causal_batch":
        keywords = {"transposed": False} | keywords
    function = getattr(_core, operation.function)
    function(*arrays, **keywords)
    *rest, last = arrays
    with pytest.raises(TypeError, match="incompatible function arguments"):
        function(*rest, np.asfortranarray(np.broadcast_to(last, (2, *last.shape))), **keywords)
    with pytest.raises(TypeError, match="incompatible function arguments"):
        function(*rest, np.ones(last.shape, dtype=int), **keywords)
    with pytest.raises(ValueError, match=r"must|fit"):
        function(*rest, np.ascontiguousarray(last[..., :4, :]), **keywords)


# One row for each of many histories.


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("batch", "n"), [(20, 130), (2, 1100)])
def test_rows_of_a_batch_are_single_rows_on_any_threads(batch, n, transposed):
    x, a = arguments("rows_causal_batch", Case(n, rows=batch), np.float64)
    single = twotime.rows_causal_transposed if transposed else twotime.rows_causal
    wanted = np.concatenate([single(x[k : k + 1], a[k]) for k in range(batch)])
    for threads in (1, 2, 3):
        _core.set_num_threads(threads)
        np.testing.assert_array_equal(twotime.rows_causal_batch(x, a, transposed), wanted)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((zeros(3), zeros(2, 3, 3)), r"x must be \(batch, n\), not \(3,\)"),
        ((zeros(2, 3), zeros(3, 3)), r"a must be \(2, N, N\) with N >= 3"),
        ((zeros(2, 3), zeros(1, 3, 3)), r"not \(1, 3, 3\)"),
        ((zeros(2, 3), zeros(2, 2, 2)), r"not \(2, 2, 2\)"),
        ((zeros(2, 3), zeros(2, 4, 3)), r"not \(2, 4, 3\)"),
    ],
)
def test_wrong_shape_of_a_batch_is_refused(arrays, message):
    with pytest.raises(ValueError, match=message):
        twotime.rows_causal_batch(*arrays)
    with pytest.raises(ValueError, match="must be"):
        _core.rows_causal_batch(*arrays, False)
