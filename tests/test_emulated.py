"""The CUDA kernels on the emulator, and the emulator by itself."""

import ctypes
import re
import subprocess
from dataclasses import dataclass

import numpy as np
import pytest

import emulated
import test_particle_kernels as particle_cases
import test_twotime as twotime_cases

pytestmark = pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler")


def test_the_emulator():
    sources = [*sorted((emulated.CSRC / "emulate").glob("*.cpp")), emulated.CPP / "emulator.cpp"]
    program = emulated.link(sources, emulated.PLAIN, suffix="")
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@dataclass(frozen=True)
class Fault:
    """A fault of a source of csrc/cuda: `right`, which it has once, is replaced by `wrong`."""

    operation: str
    file: str
    right: str
    wrong: str = ""

    def planted(self, number):
        """The change that makes the fault act when `planted` is `number`."""
        acts = f"planted == {number}"
        if "PLANTED" in self.wrong:
            text = self.wrong.replace("PLANTED", acts)
        elif ";" in self.right:  # a statement
            text = f"{{ if ({acts}) {{ {self.wrong} }} else {{ {self.right}\n}} }}"
        else:
            text = f"({acts} ? ({self.wrong}) : ({self.right}))"
        return f"cuda/{self.file}", self.right, text


FAULTS = {
    "step_read_before_it_is_complete": Fault(
        "causal_matmul",
        "product.cuh",
        "__syncthreads(); // this step is complete, and the one before has been read",
    ),
    "tile_overwritten_before_it_is_read": Fault(
        "causal_matmul", "product.cuh", "__syncthreads(); // the tile before has been read"
    ),
    "wait_one_step_late": Fault(
        "causal_matmul",
        "product.cuh",
        "copy_async_wait<STAGES - 2>();",
        "copy_async_wait<STAGES - 1>();",
    ),
    "barrier_of_some_threads": Fault(
        "causal_matmul",
        "product.cuh",
        "load(step + STAGES - 1);",
        "load(step + STAGES - 1); if (warp == 0) __syncthreads();",
    ),
    "row_beyond_the_diagonal": Fault(
        "causal_matmul",
        "product.cuh",
        "copy([&](int i) { return i < rows && at < min(k, support.limit(i)); });",
        "copy([&](int i) { return i < rows && at < min(k, support.limit(i) + 1); });",
    ),
    "column_beyond_the_diagonal": Fault(
        "causal_matmul",
        "product.cuh",
        "at < k && j < min(columns, support.limit(at))",
        "at < k && j < min(columns, support.limit(at) + 1)",
    ),
    "sum_one_step_short": Fault(
        "causal_matmul",
        "product.cuh",
        "(end_k - first_k + DEPTH - 1) / DEPTH",
        "(end_k - first_k) / DEPTH",
    ),
    "zeros_forgotten": Fault(
        "causal_matmul",
        "product.cuh",
        "c[i * p.c.ld + j] = kept ? value : T(0);",
        "if (kept) c[i * p.c.ld + j] = value;",
    ),
    "transposed_rows_beyond_the_diagonal": Fault(
        "causal_matmul_a",
        "product.cuh",
        "at < k && i < min(rows, support.limit(at))",
        "at < k && i < min(rows, support.limit(at) + 1)",
    ),
    "transposed_rows_from_too_late_on": Fault(
        "causal_matmul_a", "product.cuh", "p.a.support.first_row(row0)", "row0 + DEPTH"
    ),
    "columns_of_a_transpose_end_too_early": Fault(
        "causal_matmul_b",
        "product.cuh",
        "p.b.support.limit(last_column)",
        "p.b.support.limit(column0)",
    ),
    "zero_arrives_after_the_half": Fault(
        "congruence",
        "product.cuh",
        "*target = *source / 2;",
        "copy_async(target, source, false); *target = *source / 2;",
    ),
    "one_product_twice": Fault("congruence", "product.cuh", "second ? b : a", "a"),
    "transpose_beyond_the_diagonal": Fault(
        "congruence",
        "product.cuh",
        "copy([&](int i, int at) { return i < rows && at < min(k, support.limit(i)); });",
        "copy([&](int i, int at) { return i < rows && at < min(k, support.limit(i) + 1); });",
    ),
    "solved_before_it_is_loaded": Fault(
        "resolvent", "resolvent.cu", "__syncwarp(); // the block is complete"
    ),
    "block_overwritten_before_it_is_read": Fault(
        "resolvent", "resolvent.cu", "__syncwarp(); // the block before has been read"
    ),
    "diagonal_read": Fault(
        "resolvent",
        "resolvent.cu",
        "lane < p.a.support.limit(start + row) - start",
        "lane <= p.a.support.limit(start + row) - start",
    ),
    "pairs_too_close": Fault("resolvent", "resolvent.cu", "2 * size * (ld + 1)", "size * (ld + 1)"),
    "product_in_place": Fault(
        "causal_solve",
        "causal_solve.cu",
        "solved{row_scratch,",
        "solved{PLANTED ? here.data : row_scratch,",
    ),
    "rows_solved_twice": Fault(
        "causal_solve_dense", "causal_solve.cu", "rows(half, end);", "rows(begin, end - leaf);"
    ),
    "sums_read_too_early": Fault(
        "causal_apply", "causal_apply.cu", "__syncthreads(); // all sums of warps are there"
    ),
    "sums_overwritten_before_they_are_read": Fault(
        "causal_apply",
        "causal_apply.cu",
        "__syncthreads(); // the sums of the rows before have been read",
    ),
    "end_of_a_group_for_all_its_rows": Fault(
        "causal_apply",
        "causal_apply.cu",
        "s < p.support.limit(first + row)",
        "true",
    ),
    "rows_used_before_they_are_there": Fault(
        "rows_causal",
        "rows.cuh",
        "__syncthreads(); // x is there, and the sums of the chunk before have been read",
    ),
    "sums_of_warps_added_too_early": Fault(
        "rows_causal_transposed", "rows.cuh", "__syncthreads(); // all sums of warps are there"
    ),
    "history_above_the_diagonal": Fault(
        "rows_causal", "rows.cuh", "i + q < n && column[v] <= i + q", "i + q < n"
    ),
    "history_beyond_the_last_row": Fault(
        "rows_causal", "rows.cuh", "end <= i && i + ROWS <= n", "end <= i"
    ),
    "diagonal_counted_twice": Fault("rows_symmetric", "rows.cuh", "MIRRORED && !inside", "false"),
    "sum_over_half_a_warp": Fault(
        "rows_causal_pair", "rows.cuh", "distance < WARP", "distance < WARP / 2"
    ),
    "own_strip_forgotten": Fault(
        "rows_congruence", "rows.cuh", "s <= j / triangle.strip", "s < j / triangle.strip"
    ),
    "shares_added_too_early": Fault(
        "rows_symmetric", "rows.cuh", "__syncthreads(); // all shares are there"
    ),
    "first_history_for_all": Fault("rows_causal_batch", "rows.cuh", "history * s.apart", "0"),
    "histories_sum_into_one_place": Fault(
        "rows_causal_batch", "rows.cuh", "index(gridDim.z) * s.m", "index(s.m)"
    ),
    "row_of_another_history": Fault(
        "rows_causal_batch_transposed",
        "rows.cuh",
        "s.w[(first + p) * n",
        "s.w[(PLANTED ? p : first + p) * n",
    ),
    "halves_added_too_early": Fault(
        "rows_low_rank", "rows_low_rank.cuh", "__syncthreads(); // both halves are there"
    ),
    "shares_of_parts_added_too_early": Fault(
        "particle_products", "particle_products.cuh", "__syncthreads(); // all shares are there"
    ),
    "directions_that_are_not_in_use": Fault(
        "particle_products", "particle_products.cuh", "there && i < used(kind, run)", "there"
    ),
    "fields_of_the_first_run": Fault(
        "particle_products", "particle_products.cuh", "(run * s.apart + first + g)", "(first + g)"
    ),
    "coefficients_used_before_they_are_there": Fault(
        "particle_expansion",
        "particle_expansion.cuh",
        "__syncthreads(); // the coefficients are there",
    ),
    "coefficients_overwritten_before_they_are_read": Fault(
        "particle_expansion",
        "particle_expansion.cuh",
        "__syncthreads(); // the latest coefficients have been read",
    ),
    "sums_read_before_they_are_there": Fault(
        "particle_expansion",
        "particle_expansion.cuh",
        "__syncwarp(); // the sums of the warp are there",
    ),
    "columns_do_not_share_a_field": Fault(
        "particle_expansion", "particle_expansion.cuh", "field / e.repeat", "field"
    ),
    "both_numbers_from_one_half": Fault(
        "normals",
        "normals.cu",
        "uniform(bits.word[2], bits.word[3])",
        "uniform(bits.word[0], bits.word[1])",
    ),
}

# All faults in one library, each of which acts when it is told to.
LEAVES = ("cuda/causal_solve.cu", "LEAF = 1024", "LEAF = 48")
FAULTY = emulated.Variant(
    flags=("-include", str(emulated.CPP / "planted.hpp")),
    changes=(
        LEAVES,
        *(fault.planted(number) for number, fault in enumerate(FAULTS.values(), start=1)),
    ),
)
#: Small, with an odd edge; so many tiles that blocks go round their loops; several warps a block.
FAULT_CASES = [
    twotime_cases.Case(99, block=3, trailing=(3,)),
    twotime_cases.Case(34, batch=(30,), trailing=(3,)),
    twotime_cases.Case(301, trailing=(3,)),
]
#: Two strips, and so few rows that lanes are left over in a sum of each.
ROW_CASES = [twotime_cases.Case(99, rows=3), twotime_cases.Case(300, rows=1)]


#: More directions than lie in shared memory at a time, and columns that share a field.
PARTICLE_CASES = [particle_cases.CASES[1], particle_cases.CASES[4]]


def fault_cases(name):
    if name in particle_cases.NAMES:
        return PARTICLE_CASES
    if name in twotime_cases.ROWS:
        return ROW_CASES
    return FAULT_CASES if "apply" in name else FAULT_CASES[:2]


def failures(number, name):
    """The settings in which the operation fails, with fault `number`, or none for 0."""
    functions = emulated.load(FAULTY)
    planted = ctypes.c_int.in_dll(functions, "planted")
    failed = []
    for order in emulated.ORDERS:
        for case in fault_cases(name):
            library = emulated.Library(functions, order)
            planted.value = number
            try:
                if name in particle_cases.NAMES:
                    particle_cases.compare(library, name, case, np.float64)
                else:
                    twotime_cases.compare(library, name, case, np.float64, twotime_cases.dense)
            except (AssertionError, emulated.EmulatedError) as error:
                failed.append((order, case, error))
            planted.value = 0
    return failed


@pytest.mark.skipif(bool(emulated.MORE_FLAGS), reason="a sanitizer ends the process at a fault")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    assert failures(1 + list(FAULTS).index(fault), FAULTS[fault].operation)


@pytest.mark.parametrize("name", sorted({fault.operation for fault in FAULTS.values()}))
def test_nothing_is_found_where_no_fault_acts(name):
    assert failures(0, name) == []


@pytest.mark.parametrize(
    "name",
    [
        "causal_matmul",
        "causal_matmul_a",
        "causal_matmul_b",
        "resolvent",
        "congruence",
        "causal_apply",
    ],
)
@pytest.mark.parametrize("dtype", twotime_cases.DTYPES, ids=lambda dtype: dtype.__name__)
def test_bits_depend_on_the_arguments_alone(name, dtype):
    # Not on the order of threads and blocks, the size of tiles, or the GPU.
    case = twotime_cases.Case(135, block=3, trailing=(20,))
    operation = twotime_cases.OPERATIONS[name]
    arrays = twotime_cases.arguments(name, case, dtype)
    results = {
        emulated.library(setting)(operation.function, *arrays, **operation.keywords(case)).tobytes()
        for setting in emulated.SETTINGS
    }
    assert len(results) == 1


def test_what_is_too_large_for_the_kernels_is_refused():
    one = np.ones(1)
    with pytest.raises(
        emulated.EmulatedError, match=r"more than 2\^30 rows or columns: 1073741824"
    ):
        emulated.library("forward").call("causal_apply", float, 1, 1, 2**30, 1, 1, one, one, one)


def test_kernels_use_the_common_vocabulary_alone():
    # What is written past it would be compiled by nvcc only, and run by nothing here.
    device_only = {"device_code_nvcc.cuh", "device.cu"}
    for path in sorted((emulated.CSRC / "cuda").iterdir()):
        if path.name not in device_only:
            code = re.sub(r"//.*", "", path.read_text())
            found = re.findall(r"\basm\b|<<<|__shared__|cuda_runtime|\bcuda[A-Z]\w*", code)
            assert found == [], path
