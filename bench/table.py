"""Writes the table of README.md from the committed results.

Every number in it stands in a file of bench/results; nothing is measured here.
"""

import json

from bench._harness import ROOT

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"


def milliseconds(seconds):
    return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def machine_line(machine):
    return (
        f"{machine['cpu']}, instruction set {machine['instruction_set']}, "
        f"{machine['blas']}, numpy {machine['numpy']}, {machine['date'][:10]}"
    )


def rows(cases):
    """Case, our time, and what each competitor takes in multiples of it."""
    for case in cases:
        (_, ours), *others = case["competitors"].items()
        ratios = "; ".join(f"{name} {other['ratio']:.2g} x" for name, other in others)
        share = case.get("share_of_matrix_vector_rate")
        if share is not None:
            ratios = f"{case['gflops']:.3g} GFLOP/s, {share:.0%} of dgemv in cache"
        error = f"{ours['error']:.1g}" if "error" in ours else ""
        yield f"| {case['title']} | {milliseconds(ours['cpu_seconds'])} | {error} | {ratios} |"


def table():
    lines = []
    for folder in sorted((ROOT / "bench" / "results").iterdir()):
        for path in sorted(folder.glob("*.json")):
            result = json.loads(path.read_text())
            lines += [
                f"`python -m bench {path.stem}` ({machine_line(result['machine'])}):",
                "",
                "| case | dmftcore, CPU time | error | against |",
                "|---|---|---|---|",
                *rows(result["cases"]),
                "",
            ]
    return "\n".join(lines)


def main():
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{table()}\n{END}{after}")
    print("written: README.md")
