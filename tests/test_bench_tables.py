"""Tables and figures from the records of benchmarks."""

from __future__ import annotations

from pathlib import Path

import pytest

from stand_in import StandIn, Takes, fail

ROOT = Path(__file__).parents[1]


@pytest.fixture
def filed(monkeypatch, tmp_path):
    """An empty project to file records in."""
    from bench import table

    monkeypatch.setattr(table, "ROOT", tmp_path)
    (tmp_path / "bench" / "results").mkdir(parents=True)
    return tmp_path / "bench" / "results"


def test_what_was_not_measured_is_said(filed):
    from bench import table

    assert table.short_table() == "On a GPU: not measured."
    assert table.page().count("\nNot measured.\n") == len(table.INTRODUCTIONS)


def test_tables_of_a_device(filed, monkeypatch):
    from bench import table
    from bench._harness import Report
    from bench._record import Target

    monkeypatch.setenv("DMFTCORE_BENCH_RESULTS", str(filed))
    report = Report("gpu_operations", StandIn())
    competitors = {"dmftcore": Takes(1), "cupy a @ b": Takes(3), "jax a @ b": fail}
    for title in ("causal_matmul n=16384", "causal_matmul n=512"):
        target = Target(4, "cupy a @ b")
        report.case(title, competitors, error=lambda _: 2e-16, floor=5e-5, target=target, rounds=2)
    report.case("resolvent n=16384", {"dmftcore": fail, "cupy inv": Takes(1)}, rounds=2)
    report.leave_out("congruence n=16384", "needs more")
    report.write()
    page, short = table.page(), table.short_table()
    for text in (page, short):
        assert "dmftcore, device time" in text
        assert "Stand-in (R) 9000" in text
        assert "copy 0.00 TB/s" in text
        assert "jax a @ b: failed" in text
        assert "target 4 x cupy a @ b: missed (3.00 x)" in text
        assert "| 1 ms | 0% | 2e-16 | cupy a @ b: 3.00 x (2e-16); jax a @ b: failed; " in text
        assert "5% of the floor" in text
        assert "| resolvent n=16384 | failed | | | RuntimeError: out of paper |" in text
    assert "n=512" in page
    assert "n=512" not in short
    assert "Not run: congruence n=16384 (needs more)." in page
    assert "On a GPU: not measured." not in short
    # Two processors and a device: a table for each.
    for cpu in ("one", "two"):
        monkeypatch.setattr("bench._harness.cpu_model", lambda cpu=cpu: f"Processor {cpu}")
        other = Report("operations")
        other.case("resolvent n=2048", {"dmftcore": lambda: None}, rounds=2)
        other.write()
    assert table.short_table().count("| case |") == 3
    assert "Processor one" in table.page()
    assert "Processor two" in table.page()


# -- growth ------------------------------------------------------------------------------------


def case_of(title, **seconds):
    return {
        "title": title,
        "rounds": 3,
        "competitors": {name: {"cpu_seconds": value} for name, value in seconds.items()},
    }


def test_growth_is_the_exponent_of_a_power():
    from bench._growth import series

    cases = [case_of(f"solve n={n} m=3", ours=2.0 * n**1.5, theirs=1e-3 * n**3) for n in (4, 8, 32)]
    cases[-1]["competitors"]["slow"] = {"cpu_seconds": 1.0}
    cases += [case_of(f"solve n={n} m=4", ours=1.0) for n in (4, 8)]
    found = series(cases)
    # Only one series has three sizes; who has one size there has no exponent.
    (one,) = found
    assert (one.title, one.size) == ("solve m=3", "n")
    assert one.times["theirs"][0] == [4, 8, 32]
    assert dict(one.exponents()) == pytest.approx({"ours": 1.5, "theirs": 3})
    # What was extrapolated or has failed shows no growth.
    cases[0]["competitors"]["ours"]["extrapolated"] = True
    cases[1]["competitors"]["theirs"] = {"failed": "out of paper"}
    assert [sizes for sizes, _ in series(cases)[0].times.values()] == [[8, 32], [4, 32], [32]]


def test_sizes_in_powers_of_ten_and_two_sizes_of_a_case():
    from bench._growth import series

    cases = [case_of(f"T={t} tol=1e-06", ours=1) for t in ("1000", "1e+04", "1e+06")]
    (one,) = series(cases)
    assert one.times["ours"][0] == [1e3, 1e4, 1e6]
    both = [case_of(f"a={a} b=2", ours=1) for a in (1, 2, 3)]
    both += [case_of(f"a=1 b={b}", ours=1) for b in (3, 4)]
    assert {(s.title, s.size) for s in series(both)} == {("b=2", "a"), ("a=1", "b")}


def test_tables_and_figures_of_growth(filed, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    from bench import figures, table
    from bench._harness import Report

    monkeypatch.setattr(figures, "ROOT", table.ROOT)
    monkeypatch.setenv("DMFTCORE_BENCH_RESULTS", str(filed))
    report = Report("operations")
    report.cases += [
        case_of(f"resolvent n={n}", dmftcore=1e-9 * n**2.5, other=1e-9 * n**3) for n in (8, 16, 32)
    ]
    for case in report.cases:
        for entry in case["competitors"].values():
            entry |= {"cpu_seconds_least": 1, "cpu_seconds_most": 2, "ratio": 1.0}
    report.write()
    row = "| resolvent | n | 8 to 32 | dmftcore: 2.50; other: 3.00 |"
    assert row in table.page()
    assert "svg" not in table.page()
    figures.main()
    (drawn,) = (table.ROOT / "docs").rglob("*.svg")
    assert f"({drawn.relative_to(table.ROOT / 'docs')})" in table.page()
    # The same results make the same file.
    before = drawn.read_bytes()
    figures.main()
    assert drawn.read_bytes() == before
