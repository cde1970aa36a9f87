"""What the record of a case says: the clock that counts, goals, and how it is printed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

#: Of the titles in what is printed.
WIDTH = 40


@dataclass(frozen=True)
class Target:
    """A goal set before measuring: a ratio to a competitor, or a fraction of the floor."""

    at_least: float
    #: None for the fraction of the floor.
    competitor: str | None = None

    def against(self, record: dict[str, Any]) -> dict[str, Any]:
        """The goal beside what a case reached; None where it could not be measured."""
        if self.competitor is None:
            reached = record.get("fraction_of_floor")
        else:
            reached = record["competitors"].get(self.competitor, {}).get("ratio")
        return {
            "competitor": self.competitor,
            "at_least": self.at_least,
            "reached": reached,
            "met": reached is not None and reached >= self.at_least,
        }


def clock_of(entry: dict[str, Any]) -> str:
    """The clock by which a competitor was timed."""
    return "device" if "device_seconds" in entry else "cpu"


def head_line() -> str:
    """What stands above the cases."""
    return f"{'case':{WIDTH}} {'competitor':22} {'ms':>10} {'spread':>7} {'ratio':>7} {'error':>9}"


def case_lines(record: dict[str, Any]) -> str:
    """A case as it is printed: a line for each competitor, then the rates."""
    lines, title = [], record["title"]
    for name, entry in record["competitors"].items():
        if "failed" in entry:
            lines.append(f"{title:{WIDTH}} {name:22} failed: {entry['failed']}")
        else:
            clock = clock_of(entry)
            middle, least, most = (
                entry[f"{clock}_seconds{which}"] for which in ("", "_least", "_most")
            )
            lines.append(
                f"{title:{WIDTH}} {name:22} {middle * 1e3:10.4g} {(most - least) / middle:7.0%} "
                + (f"{entry['ratio']:7.2f} " if "ratio" in entry else f"{'':8}")
                + (f"{entry['error']:9.1e}" if "error" in entry else "")
            )
        title = ""
    rates = [
        f"{record[key]:.4g} {unit}"
        for key, unit in (("gflops", "GFLOP/s"), ("gbytes_per_s", "GB/s"))
        if key in record
    ]
    if "fraction_of_floor" in record:
        rates.append(f"{record['fraction_of_floor']:.0%} of the floor")
    if "target" in record:
        rates.append(target_text(record["target"]))
    if rates:
        lines.append(f"{'':{WIDTH}} {', '.join(rates)}")
    return "\n".join(lines)


def target_text(target: dict[str, Any]) -> str:
    """A goal and what became of it."""
    if target["competitor"] is None:
        goal, reached = f"{target['at_least']:.0%} of the floor", "{:.0%}"
    else:
        goal, reached = f"{target['at_least']:g} x {target['competitor']}", "{:.2f} x"
    if target["reached"] is None:
        return f"target {goal}: not measured"
    verdict = "met" if target["met"] else "missed"
    return f"target {goal}: {verdict} ({reached.format(target['reached'])})"


def ceilings_line(facts: dict[str, Any]) -> str:
    """The ceilings of a device that were measured in the same run."""
    rates = ", ".join(f"{k} {v / 1e12:.1f} TFLOP/s" for k, v in facts["matmul_flops"].items())
    return f"copy {facts['copy_bytes_per_s'] / 1e12:.2f} TB/s, matrix products {rates}"
