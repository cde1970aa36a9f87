"""The benchmarks: what is recorded, how it is timed, and how it is called."""

from __future__ import annotations

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from stand_in import StandIn, Takes, fail

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results(monkeypatch, tmp_path):
    """Where records are written, in place of bench/results."""
    monkeypatch.setenv("DMFTCORE_BENCH_RESULTS", str(tmp_path))
    return tmp_path


# -- timing -----------------------------------------------------------------------------------


def test_a_plan_fills_the_time_and_never_has_less_than_three_rounds():
    from bench._harness import plan

    for once in ([1e-6], [1e-5, 3e-4], [1e-3, 2e-2], [0.2, 0.1], [5.0, 7.0]):
        for seconds in (0.5, 2.0):
            rounds, calls = plan(once, seconds)
            assert 3 <= rounds <= 15
            assert 1 <= calls <= 100
            if calls > 1:
                # More calls than one are made to outlast the resolution of a clock.
                assert min(once) * (calls - 1) < 2e-3
            if rounds > 3 or calls > 1:
                assert rounds * calls * sum(once) <= seconds * (1 + 1e-12)


def test_a_report_on_a_device_uses_its_clock(results, capsys):
    from bench._harness import Report
    from bench._record import Target

    device = StandIn()
    report = Report("trial", device)
    record = report.case(
        "sleep",
        {"ours": Takes(2), "other": Takes(6)},
        error=lambda result: 10 * result,
        traffic=1e6,
        floor=1e-3,
        target=Target(2.5, "other"),
        rounds=3,
        calls=4,
    )
    ours, other = record["competitors"].values()
    assert ours["device_seconds"] == ours["device_seconds_most"] == 2e-3
    assert "cpu_seconds" not in ours
    assert (ours["ratio"], other["ratio"]) == (1, pytest.approx(3))
    assert (ours["error"], other["error"]) == (pytest.approx(0.02), pytest.approx(0.06))
    assert record["fraction_of_floor"] == pytest.approx(0.5)
    assert record["gbytes_per_s"] == pytest.approx(0.5)
    assert record["target"]["reached"] == pytest.approx(3)
    assert record["target"]["met"] is True
    assert device.released == 1
    # Written as soon as it is measured.
    written = json.loads((results / "stand-in-9000" / "trial.json").read_text())
    assert written["cases"] == [record]
    assert written["machine"]["device"]["copy_bytes_per_s"] == 2e9
    assert "target 2.5 x other: met (3.00 x)" in capsys.readouterr().out


def test_a_report_without_a_device_uses_the_processor(results):
    from bench._harness import Report

    report = Report("trial")
    record = report.case("nothing", {"ours": lambda: None, "other": lambda: None}, rounds=2)
    assert set(record["competitors"]["ours"]) == {
        *("cpu_seconds", "wall_seconds", "cpu_seconds_least", "cpu_seconds_most", "ratio")
    }
    assert json.loads(report.write().read_text())["cases"][0]["title"] == "nothing"


def test_who_fails_on_a_device_is_recorded(results):
    from bench._harness import Report

    report = Report("trial", StandIn())
    record = report.case("one", {"ours": Takes(1), "other": fail}, seconds=0.01)
    assert record["competitors"]["other"] == {"failed": "RuntimeError: out of paper"}
    assert report.failed == []
    record = report.case("two", {"ours": fail, "other": Takes(1)}, rounds=2, flops=1.0, floor=1.0)
    assert "ratio" not in record["competitors"]["other"]
    assert "fraction_of_floor" not in record
    assert report.failed == ["two"]
    report.leave_out("three", "no time")
    assert json.loads(report.write().read_text())["left_out"] == {"three": "no time"}


def test_who_is_wrong_has_failed(results):
    from bench._harness import Report

    report = Report("trial", StandIn())
    errors = {"ours": float("nan"), "near": 1e-9, "far": 1e-7}
    record = report.case(
        "one",
        {name: Takes(value) for name, value in errors.items()},
        error=lambda result: 1e3 * result,
        bound=1e-8,
        rounds=2,
    )
    entries = record["competitors"]
    assert entries["ours"] == {"failed": "ArithmeticError: error nan, allowed 1.0e-08"}
    assert entries["near"]["error"] == pytest.approx(1e-9)
    assert entries["far"] == {"failed": "ArithmeticError: error 1.0e-07, allowed 1.0e-08"}
    assert report.failed == ["one"]


def test_who_fails_on_the_processor_ends_the_run(results):
    from bench._harness import Report

    with pytest.raises(RuntimeError, match="out of paper"):
        Report("trial").case("one", {"ours": Takes(1), "other": fail})


# -- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("n", "m"), [(1, 3), (2, 1), (7, 4), (33, 2), (100, 1)])
def test_rows_of_products_in_twice_the_precision(n, m, dtype):
    from bench import _exact

    rng = np.random.default_rng(n)
    row, matrix = rng.normal(size=n).astype(dtype), rng.normal(size=(n, m)).astype(dtype)
    high, low = _exact.product(np, _exact.pair(row), matrix)
    for j in range(m):
        terms = [
            Fraction(float(a)) * Fraction(float(b)) for a, b in zip(row, matrix[:, j], strict=True)
        ]
        found = Fraction(float(high[j])) + Fraction(float(low[j]))
        # Each of the n additions of pairs errs by a few 2^-104 of the sum of magnitudes.
        assert abs(found - sum(terms)) <= 4 * n * Fraction(2) ** -104 * sum(map(abs, terms))


def test_products_by_block_columns_are_the_same(monkeypatch):
    from bench import _exact

    rng = np.random.default_rng(0)
    row, matrix = rng.normal(size=20), rng.normal(size=(20, 11))
    whole = _exact.product(np, _exact.pair(row), matrix)
    monkeypatch.setattr(_exact, "CHUNK", 60)
    for a, b in zip(whole, _exact.product(np, _exact.pair(row), matrix), strict=True):
        np.testing.assert_array_equal(a, b)


def test_errors_see_what_was_planted():
    from bench._exact import Row

    rng = np.random.default_rng(0)
    a, b = np.tril(rng.normal(size=(50, 50))), np.tril(rng.normal(size=(50, 50)))
    product, row = a @ b, Row(np)
    error = row.product(a[-1], b)
    assert error(product) < 50 * np.finfo(float).eps
    product[-1, 7] += 1e-9 * np.abs(product[-1]).max()
    assert error(product) == pytest.approx(1e-9, rel=1e-3)

    strict = np.tril(a, -1) / 20
    solution, residual = np.linalg.solve(np.eye(50) - strict, b), row.equation(b[-1], strict[-1])
    assert residual(solution) < 50 * np.finfo(float).eps
    solution[-1, 7] += 1e-9 * np.abs(b[-1]).max()
    assert residual(solution) == pytest.approx(1e-9, rel=0.1)


# -- the command -------------------------------------------------------------------------------


def bench(*words):
    return subprocess.run(
        [sys.executable, "-m", "bench", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_options_are_passed_on():
    done = bench("gpu_rows", "--dry-run", "--only", "rows_low_rank n=1024")
    assert done.returncode == 0, done.stderr
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [
        ["rows_low_rank", "n=1024", "m=1"],
        ["rows_low_rank", "n=1024", "m=4"],
    ]


def test_a_benchmark_without_options_refuses_them():
    done = bench("growing", "--fast")
    assert done.returncode == 2
    assert "growing takes no options" in done.stderr
