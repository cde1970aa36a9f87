"""Writes docs/performance.md, and the short table of README.md, from the committed results.

Every number in them stands in a file of bench/results; nothing is measured here.
"""

import json

from bench._harness import ROOT

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

#: Cases of the short table, by the beginning of their titles.
CHOSEN = (
    "causal_matmul n=2048",
    "resolvent n=2048",
    "congruence n=2048",
    "causal_solve n=2048",
    "gamma=1.5 L=3 lr=0.002 T=100000",
    "gamma=1.5 L=3 lr=0.0005 T=1e+06 tol=1e-06",
    "gamma=1.5 L=3 lr=0.0005 T=1e+07",
    "T=2000 P=100",
    "T=1000 P=10 D=40",
    "T=1000 P=5000 D=40",
)

#: What a case of a file is about, before its title in the short table.
SUBJECTS = {"operations": "", "growing": "growing network, ", "chain": "two-time chain, L=2 "}

#: What the files measure, in the order of the page.
INTRODUCTIONS = {
    "operations": """Operations on two-time kernels, float64, one thread. The error is the largest
deviation in a few rows from extended precision, relative to the largest entry; for solves it is
that of the residual.""",
    "growing": """`solve(..., method="growing")` on six points with Kx = exp(-(i-j)^2 / 4.5) and
on a power law of two million modes in 60 groups, one thread. The error is the largest relative one
of the loss against a tolerance a hundred times smaller, while the loss exceeds 1e-16 of its start.
The flop rate counts the multiply-adds that were executed, over the time of the whole solve, beside
the best rate of dgemv (square matrices of 128 to 384 rows in cache) in the same run.""",
    "chain": """`solve(..., method="chain")` with L = 2 on Gaussian inputs, all cores. "numpy rows"
is the same march with dense numpy products for the row operations. The error is that of the loss,
relative to its start, against the growing network at tol = 1e-12. With the number P of points grows
what is done once, not the loop.""",
    "linear_baselines": """Five hidden layers, 20 points, all outputs at all T times, against
programs in pure JAX, one core. "naive" is the published iteration over whole trajectories, run to
1e-8; it moves the outputs by the tangent kernel, and so do we in its cases. "jax growing" and "jax
chain" are our algorithms, jitted; their compilation is not counted. The error is that of y - f
against tol = 1e-13. Memory is what the process took beyond its imports, compilation included.""",
}


def seconds(value):
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def machine_line(machine):
    return (
        f"{machine['cpu']}, {machine['cores']} cores, instructions {machine['instruction_set']}, "
        f"{machine['blas']}, numpy {machine['numpy']}, Python {machine['python']}, "
        f"{machine['date'][:10]}, load {machine['load_average'][0]:.1f}"
    )


def row(case, subject=""):
    """Case, our time, its error, and the times of others in multiples of ours."""
    (_, ours), *others = case["competitors"].items()
    facts = [f"{name}: {other['ratio']:.2f} x" for name, other in others]
    if "share_of_matrix_vector_rate" in case:
        share = case["share_of_matrix_vector_rate"]
        facts.append(f"{case['gflops']:.3g} GFLOP/s, {share:.0%} of dgemv")
    if "loop_wall_seconds" in case:
        facts.append(f"loop {seconds(case['loop_wall_seconds'])}")
    error = f"{ours['error']:.0e}" if "error" in ours else ""
    title, time = subject + case["title"], seconds(ours["cpu_seconds"])
    return f"| {title} | {time} | {error} | {'; '.join(facts)} |"


def table(rows):
    head = ["| case | dmftcore, CPU time | error | others, in multiples of that time |"]
    return "\n".join([*head, "|---|---|---|---|", *rows])


def programs(cases):
    """A row for every program, ours among them, of benchmarks against other programs."""
    rows = []
    for case in cases:
        for name, entry in case["competitors"].items():
            facts = program_facts(entry, case.get("profile") if name == "dmftcore" else None)
            cells = (
                case["title"],
                name,
                seconds(entry["cpu_seconds"]),
                f"{entry['ratio']:.{2 if entry['ratio'] < 100 else 0}f} x",
                f"{entry['peak_megabytes']:.3g} MB",
                f"{entry['error']:.0e}" if "error" in entry else "",
                "; ".join(facts),
            )
            rows.append(f"| {' | '.join(cells)} |")
    head = "| case | program | CPU time | of ours | peak memory | error | remarks |"
    return "\n".join([head, "|---" * 7 + "|", *rows])


def program_facts(entry, profile):
    """Remarks on a row of `programs`."""
    if entry.get("extrapolated"):
        yield f"extrapolated, time as T^{entry['cpu_seconds_exponent']:.2g}"
    if "iterations" in entry:
        yield f"{entry['iterations']} iterations"
    if "compile_seconds" in entry:
        yield f"compiled in {entry['compile_seconds']:.2g} s"
    if profile:
        share = profile["loop_gflops"] / profile["in_cache_matrix_vector_gflops"]
        yield (
            f"compiled loop {seconds(profile['loop_cpu_seconds'])}, "
            f"{profile['loop_gflops']:.3g} GFLOP/s, {share:.0%} of dgemv in cache"
        )


def results():
    for folder in sorted((ROOT / "bench" / "results").iterdir()):
        found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        yield {name: found[name] for name in INTRODUCTIONS if name in found}


def page():
    """The whole of docs/performance.md."""
    parts = [
        "# Performance",
        "Written by `python -m bench table` from the files in `bench/results`. Times are medians "
        "of CPU time over interleaved rounds; a ratio above 1 means that the other is slower.",
    ]
    for device in results():
        for name, result in device.items():
            parts += [
                f"## `python -m bench {name}`",
                INTRODUCTIONS[name],
                f"Machine: {machine_line(result['machine'])}.",
                programs(result["cases"])
                if name == "linear_baselines"
                else table(map(row, result["cases"])),
            ]
    return "\n\n".join(parts) + "\n"


def short_table():
    """The chosen cases of all files."""
    parts = []
    for device in results():
        rows = [
            row(case, SUBJECTS[name])
            for name, result in device.items()
            for case in result["cases"]
            if case["title"].startswith(CHOSEN)
        ]
        machine = next(iter(device.values()))["machine"]
        parts += [table(rows), f"({machine_line(machine)})"]
    return "\n\n".join(parts)


def main():
    (ROOT / "docs" / "performance.md").write_text(page())
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{short_table()}\n\n{END}{after}")
    print("written: docs/performance.md, README.md")
