"""Writes docs/performance.md, and the short table of README.md, from the committed results.

Every number in them stands in a file of bench/results; nothing is measured here.
"""

import json
from pathlib import Path

from bench._growth import series
from bench._harness import ROOT, slug
from bench._record import ceilings_line, clock_of, target_text

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"

#: Cases of the short table, by file and by the beginning of their titles.
CHOSEN = {
    "operations": (
        "causal_matmul n=2048",
        "resolvent n=2048",
        "congruence n=2048",
        "causal_solve n=2048",
    ),
    "growing": (
        "gamma=1.5 L=3 lr=0.002 T=100000",
        "gamma=1.5 L=3 lr=0.0005 T=1e+06 tol=1e-06",
        "gamma=1.5 L=3 lr=0.0005 T=1e+07",
    ),
    "chain": ("T=2000 P=100", "T=1000 P=10 D=40", "T=1000 P=5000 D=40"),
    "gpu_operations": (
        "causal_matmul n=16384",
        "resolvent n=16384",
        "congruence n=16384",
        "causal_solve n=16384",
    ),
    "gpu_rows": ("rows_congruence n=16384 m=1",),
    "gpu_chain": ("T=2000 P=100", "T=8000 P=100"),
    "gpu_proportional": ("T=1000 modes=200",),
    "gpu_particles": ("products S=1000000 k=256 P=16", "march S=100000 T=200 P=4"),
    "linear_baselines": ("T=10000", "T=75 readout=ntk"),
    "proportional": ("T=1000 modes=1", "T=200 modes=2000"),
    "attention": ("heads=512",),
    "spectral": ("kappa z=256 modes=100000",),
    "learning_curves": (
        "flow, 121 times to 1e6, modes=100",
        "flow, 121 times to 1e6, modes=20000",
        "SGD, ",
    ),
    "backend": (
        "notebook times=80",
        "p-spin steps=1000",
        "resolvent n=1024",
        "gradient of resolvent n=1024",
    ),
}

#: What a case of a file is about, before its title in the short table.
SUBJECTS = {
    "growing": "growing network, ",
    "chain": "two-time chain, L=2 ",
    "gpu_chain": "two-time chain, L=2 ",
    "gpu_proportional": "random data, L=2 ",
    "gpu_particles": "sampled networks, ",
    "linear_baselines": "against JAX, L=5 P=20 ",
    "proportional": "against JAX, random data, L=2 ",
    "transformer": "residual transformer, ",
    "attention": "attention network, ",
    "spectral": "random matrices, ",
    "learning_curves": "learning curves, ",
    "backend": "under other programs, ",
}

#: Files of benchmarks against other programs, a row for each.
PROGRAMS = ("linear_baselines", "proportional")

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
    "gpu_operations": """Operations on two-time kernels on a GPU. Times are those of the device
between two events. The floor is the larger of two times: the flops at the rate of cuBLAS on full
matrices of the same dtype, the bytes at the rate of a copy, both measured in the same run. "By
blocks" is the causal product composed from cuBLAS products of its non-zero blocks. The error is
that of the last row against twice the working precision, relative to its largest element; for
solves it is that of the residual.""",
    "gpu_rows": """One step of a march on a GPU: m new rows meet a history of n times, of which
half is read. The floor is its bytes at the rate of a copy within the device, measured in the same
run; histories smaller than the cache of the device stay there and may beat it.""",
    "gpu_chain": """`solve(..., method="chain")` with L = 2 on Gaussian inputs, the history on a GPU
or on the processor (all cores). The error is that of the loss, relative to its start, against the
growing network at tol = 1e-12.""",
    "gpu_proportional": """Two hidden layers on random data with a power law of eigenvalues, by the
two-time march, its histories on a GPU or on the processor (all cores). The error is the largest
violation of the equations, which the march evaluates once more by another route; this is part of
the time.""",
    "gpu_particles": """Sampled nonlinear networks on a GPU: products of P fields with k directions
of S particles and expansions in them, with their floors as above, and `solve(MLP(3, "tanh"), ...,
method="ensemble")` with two replicas, on the GPU or on the processor (all cores). The error of a
march is the standard error of the last loss between the replicas, relative to the first loss.""",
    "linear_baselines": """Five hidden layers, 20 points, all outputs at all T times, against
programs in pure JAX, one core. "naive" is the published iteration over whole trajectories, run to
1e-8; it moves the outputs by the tangent kernel, and so do we in its cases. "jax growing" and "jax
chain" are our algorithms, jitted; their compilation is not counted. The error is that of y - f
against tol = 1e-13. Memory is what the process took beyond its imports, compilation included.""",
    "ensemble": """The ensemble march of nonlinear networks on Gaussian points in 10 dimensions with
labels +-1, gamma = 1 and lr T = 10, one core: time of all runs, and the relative standard error of
the training loss at the end that they reach. "STRONG JAX" is our algorithm, jitted, with as many
particles; its compilation is not counted. "naive" is the published iteration over whole
trajectories. Networks of finite width are biased besides, by an order of 1 / N. Operations on
particles are held against the bytes of their arguments at the rate of copies of as many bytes in
the same run.""",
    "proportional": """Two hidden layers on random data with a power law of eigenvalues, both losses
and the overlap at all T times, one core. "jax" is the same march, jitted; its compilation is not
counted. Both take Gauss points in the place of modes where these are more than the times, and "jax,
all modes" does not. Our time includes the residual, for which the equations are evaluated once
more. The error is the largest difference between ours and "jax", and of "all modes" from ours.
Memory is what the process took beyond its imports, compilation included.""",
    "transformer": """Residual transformers on random sequences of M tokens in all, softmax
attention, branches of 1/L, outputs at all T times, one core. "jax" is the same two-time march,
jitted; its compilation is not counted. Our time includes the residual, for which the equations are
evaluated once more. The error is the largest difference between the two.""",
    "attention": """Softmax attention networks of 32 keys a head, all outputs at all steps, one
core. All three programs march the same equations from the same heads; "jax" is jitted, and its
compilation is not counted. The error is the largest difference from ours, and ours from "jax",
relative to the largest output.""",
    "spectral": """The self-consistent ridge kappa(z) of random matrices, one core. All programs
take the same Newton path for each z; jitted JAX takes all z in lockstep, numpy those that have not
arrived. The error is the largest relative one of z = kappa R1 R3 with sums in extended precision.
The rate counts 12 flops for each z, mode and sum, of as many sums as the numpy program takes, its
division not; beside it the best rate of dgemm in the same run.""",
    "learning_curves": """Learning curves of linear models on power-law data, one core. Flow: test
and training loss at 121 times. The competitors are the same contour method in jitted JAX, whose
compilation is not counted, and in numpy; ours evaluates each curve twice, for its error estimate,
which is part of its time. One-pass SGD: the competitor solves the Volterra equation at all steps by
fast Fourier transforms. The error is the largest difference from other contours, or from the
transforms.""",
    "backend": """Programs of others with our operations under them, one core. The notebook solver
iterates over whole trajectories in JAX, 3 layers and 10 points, one sweep; the p-spin solver
marches in numpy. Then single operations in jitted JAX, and their gradients by all arguments: "jnp"
is what notebooks write, "triangular" uses `solve_triangular` where there is an inverse. The error
is the largest difference from the dense program, relative to its largest element.""",
}

NOT_MEASURED = "Not measured."


def seconds(value):
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def machine_line(machine):
    """Where the numbers come from."""
    parts = [machine["cpu"], f"{machine['cores']} cores"]
    if device := machine.get("device"):
        parts = [
            device["name"],
            ceilings_line(device),
            f"driver {device['state'].get('driver_version', 'unknown')}",
            f"CUDA runtime {device['runtime_cuda']}",
            f"nvcc {device['nvcc_version'] or 'unknown'}",
            *(f"{name} {version}" for name, version in device["packages"].items()),
            *parts,
        ]
    else:
        parts += [f"instructions {machine['instruction_set']}", machine["blas"]]
    parts += [f"numpy {machine['numpy']}", f"Python {machine['python']}", machine["date"][:10]]
    if not device:
        parts.append(f"load {machine['load_average'][0]:.1f}")
    return ", ".join(parts)


def row(case, subject=""):
    """Case, our time, its spread and error, and the times of others in multiples of ours."""
    (_, ours), *others = case["competitors"].items()
    title = subject + case["title"]
    if "failed" in ours:
        return f"| {title} | failed | | | {ours['failed']} |"
    facts = [other_text(name, other) for name, other in others]
    if "share_of_matrix_vector_rate" in case:
        share = case["share_of_matrix_vector_rate"]
        facts.append(f"{case['gflops']:.3g} GFLOP/s, {share:.0%} of dgemv")
    if "loop_wall_seconds" in case:
        facts.append(f"loop {seconds(case['loop_wall_seconds'])}")
    if "share_of_dgemm_rate" in case:
        facts.append(f"{case['gflops']:.3g} GFLOP/s, {case['share_of_dgemm_rate']:.0%} of dgemm")
    if "fraction_of_floor" in case:
        facts.append(f"{case['fraction_of_floor']:.0%} of the floor")
    if "steps_per_s" in case:
        facts.append(f"{case['steps_per_s']:.3g} steps/s")
    if "target" in case:
        facts.append(target_text(case["target"]))
    time, least, most = (
        ours[f"{clock_of(ours)}_seconds{which}"] for which in ("", "_least", "_most")
    )
    # One round has no spread.
    spread = f"{(most - least) / time:.0%}" if case["rounds"] > 1 else ""
    error = f"{ours['error']:.0e}" if "error" in ours else ""
    return f"| {title} | {seconds(time)} | {spread} | {error} | {'; '.join(facts)} |"


def other_text(name, other):
    if "failed" in other:
        return f"{name}: failed"
    error = f" ({other['error']:.0e})" if "error" in other else ""
    return f"{name}: {other['ratio']:.2f} x{error}"


def table(rows, clock):
    others = "others, in multiples of that time (and their error)"
    head = f"| case | dmftcore, {clock} time | spread | error | {others} |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def clock(result):
    """The clock of a file, as its table calls it."""
    return "device" if "device" in result["machine"] else "CPU"


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


def growth(cases):
    """Growth exponents of all series, or nothing if there is none."""
    rows = []
    for one in series(cases):
        exponents = "; ".join(f"{name}: {value:.2f}" for name, value in one.exponents())
        sizes = sorted({size for sizes, _ in one.times.values() for size in sizes})
        rows.append(
            f"| {one.title or 'all'} | {one.size} | {sizes[0]:g} to {sizes[-1]:g} | {exponents} |"
        )
    if not rows:
        return ""
    head = "| cases | size | from, to | x in time ~ size^x, least squares |"
    return "\n".join([head, "|---|---|---|---|", *rows])


def figure_path(name, record):
    """Where the figure of a record is, seen from docs."""
    machine = record["machine"]
    where = machine.get("device", {}).get("name") or machine["cpu"]
    return Path("figures") / f"{name}-{slug(where)}.svg"


def results():
    """Name of a benchmark -> its records, one for each device on which it was run."""
    found = {name: [] for name in INTRODUCTIONS}
    for folder in sorted((ROOT / "bench" / "results").iterdir()):
        for path in sorted(folder.glob("*.json")):
            if path.stem in found:
                found[path.stem].append(json.loads(path.read_text()))
    return found


def page():
    """The whole of docs/performance.md."""
    parts = [
        "# Performance",
        "Written by `python -m bench table` from the files in `bench/results`. Times are medians "
        "over interleaved rounds, of CPU time or of the time of a device; a ratio above 1 means "
        "that the other is slower. The spread is that between the slowest and the fastest round.",
    ]
    for name, records in results().items():
        parts += [f"## `python -m bench {name}`", INTRODUCTIONS[name]]
        for result in records:
            parts += [
                f"Machine: {machine_line(result['machine'])}.",
                programs(result["cases"])
                if name in PROGRAMS
                else table(map(row, result["cases"]), clock(result)),
            ]
            if exponents := growth(result["cases"]):
                parts.append(exponents)
                if (ROOT / "docs" / figure_path(name, result)).exists():
                    parts.append(f"![Times over sizes]({figure_path(name, result)})")
            if left_out := result.get("left_out"):
                text = "; ".join(f"{title} ({reason})" for title, reason in left_out.items())
                parts.append(f"Not run: {text}.")
        if not records:
            parts.append(NOT_MEASURED)
    return "\n\n".join(parts) + "\n"


def short_table():
    """The chosen cases of all files, a table for each machine."""
    tables = {}
    for name, records in results().items():
        for result in records:
            machine = result["machine"]
            # The files of one machine may differ in their dates: the first description stays.
            key = machine.get("device", {}).get("name") or machine["cpu"]
            first = clock(result), machine_line(machine), []
            tables.setdefault(key, first)[-1].extend(
                row(case, SUBJECTS.get(name, ""))
                for case in result["cases"]
                if case["title"].startswith(CHOSEN.get(name, ()))
            )
    parts = []
    for unit, machine, rows in tables.values():
        parts += [table(rows, unit), f"({machine})"]
    if all(unit != "device" for unit, _, _ in tables.values()):
        parts.append(f"On a GPU: {NOT_MEASURED.lower()}")
    return "\n\n".join(parts)


def main():
    (ROOT / "docs" / "performance.md").write_text(page())
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    readme.write_text(f"{before}{BEGIN}\n\n{short_table()}\n\n{END}{after}")
    print("written: docs/performance.md, README.md")
