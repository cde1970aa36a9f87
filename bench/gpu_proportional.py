"""Random data on a GPU: the two-time march of many modes, against the same on the processor.

`solve(ProportionalLinear(...), None, ..., method="chain", device="cuda")` with the network and the
spectrum of bench/proportional.py. The processor uses all cores and takes part while it keeps up.
The error is the largest violation of the equations, which the march evaluates once more by another
route. Beside them the same march on the device with diagonal blocks of the resolvents of other
lengths than the one that is the default there.
"""

from functools import partial
from unittest import mock

import dmftcore as dc
from bench._gpu import Script
from bench._harness import Report
from bench.proportional import DEPTH, LR, SAMPLE_RATIO, WIDTH_RATIO, spectrum
from dmftcore import random_data
from dmftcore.random_data import RandomData

#: Numbers of steps and of modes; what matters most comes first.
SIZES = ((1000, 200), (2000, 100), (500, 2000), (4000, 1), (2000, 1000))
#: The largest steps^3 modes that the processor is asked for.
PROCESSOR = 3e11
#: Lengths of blocks, and the marches that compare them.
LENGTHS = (32, 64, 128, 256, 512, 1024)
SWEEP = ((1000, 200), (2000, 100), (500, 2000))
#: Histories of the hidden chain and of the data.
HISTORIES = 24


def title(steps, modes):
    return f"T={steps} modes={modes}"


def sweep_title(steps, modes):
    return f"lengths of blocks, {title(steps, modes)}"


def memory(steps, modes):
    return 8 * (
        HISTORIES * (steps + 1) ** 2 + RandomData.count(modes, steps, on_device=True)["modes"]
    )


def march(steps, modes, device):
    """The march; refuses one that ran elsewhere than it was told to."""
    limit = dc.ProportionalLinear(DEPTH, WIDTH_RATIO, SAMPLE_RATIO, spectrum=spectrum(modes))
    training = dc.GradientDescent(LR, steps)
    solution = dc.solve(limit, None, training, method="chain", kernel_times=[], device=device)
    if solution.diagnostics["device"] != device:
        raise RuntimeError(f"the march ran on {solution.diagnostics['device']}, not on {device}")
    return solution


def march_with(length, steps, modes):
    """The march on the device with blocks of this length."""
    with mock.patch.object(random_data, "DEVICE_BLOCK", length):
        return march(steps, modes, "cuda")


def sweep(report, steps, modes):
    """Ours is the length that is the default."""
    default = random_data.DEVICE_BLOCK
    lengths = [default, *(length for length in LENGTHS if length != default)]
    report.case(
        sweep_title(steps, modes),
        {f"length {length}": partial(march_with, length, steps, modes) for length in lengths},
        error=lambda solution: solution.diagnostics["residual"],
        bound=1e-9,
        rounds=1,
    )


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [size for size in SIZES if script.wants(title(*size))]
    compared = [size for size in SWEEP if script.wants(sweep_title(*size))]
    if script.options.dry_run:
        for size in chosen:
            print(f"{title(*size)}: {memory(*size) / 2**30:.3g} GiB")
        for size in compared:
            print(f"{sweep_title(*size)}: {max(LENGTHS)} at most")
        return
    gpu = script.gpu()
    report = Report("gpu_proportional", gpu)
    for steps, modes in chosen:
        if refusal := script.refusal(gpu, memory(steps, modes), 0):
            report.leave_out(title(steps, modes), refusal)
            continue
        competitors = {"dmftcore, GPU": partial(march, steps, modes, "cuda")}
        if steps**3 * modes <= PROCESSOR:
            competitors["dmftcore, processor"] = partial(march, steps, modes, "cpu")
        record = report.case(
            title(steps, modes),
            competitors,
            # The march's own check of its equations.
            error=lambda solution: solution.diagnostics["residual"],
            bound=1e-9,
            rounds=1,
        )
        record["steps"], record["modes"] = steps, modes
        ours = record["competitors"]["dmftcore, GPU"].get("device_seconds", 0)
        if ours:
            record["steps_per_s"] = steps / ours
            report.note(f"{record['steps_per_s']:.4g} steps/s")
    for size in compared:
        # Blocks of 1024 take twice the memory of those of 512.
        if refusal := script.refusal(gpu, 2 * memory(*size)):
            report.leave_out(sweep_title(*size), refusal)
        else:
            sweep(report, *size)
    script.finish(report)
