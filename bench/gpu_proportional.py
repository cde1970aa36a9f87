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
#: Those for which other lengths of blocks are tried, and the lengths.
SWEEP = ((1000, 200), (2000, 100))
LENGTHS = (128, 1024, 256, 64, 32)
#: The largest steps^3 modes that the processor is asked for.
PROCESSOR = 3e11
#: Histories of the hidden chain and of the data.
HISTORIES = 24


def title(steps, modes, length=None):
    return f"T={steps} modes={modes}" + (f" blocks={length}" if length else "")


def memory(steps, modes, length=None):
    # Longer blocks than the default ones need more, up to twice as much.
    return (
        (2 if length else 1)
        * 8
        * (HISTORIES * (steps + 1) ** 2 + RandomData.count(modes, steps, on_device=True)["modes"])
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


def cases():
    """(steps, modes) with the default length and, behind those of SWEEP, (steps, modes, length)."""
    for size in SIZES:
        yield size
        yield from ((*size, length) for length in LENGTHS if size in SWEEP)


def competitors(steps, modes, length=None):
    if length:
        return {"dmftcore, GPU": partial(march_with, length, steps, modes)}
    found = {"dmftcore, GPU": partial(march, steps, modes, "cuda")}
    if steps**3 * modes <= PROCESSOR:
        found["dmftcore, processor"] = partial(march, steps, modes, "cpu")
    return found


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [case for case in cases() if script.wants(title(*case))]
    if script.options.dry_run:
        for case in chosen:
            print(f"{title(*case)}: {memory(*case) / 2**30:.3g} GiB")
        return
    gpu = script.gpu()
    report = Report("gpu_proportional", gpu)
    for case in chosen:
        if refusal := script.refusal(gpu, memory(*case), 0):
            report.leave_out(title(*case), refusal)
            continue
        steps, modes, length = (*case, random_data.DEVICE_BLOCK)[:3]
        record = report.case(
            title(*case),
            competitors(*case),
            # The march's own check of its equations.
            error=lambda solution: solution.diagnostics["residual"],
            bound=1e-9,
            rounds=1,
        )
        record["steps"], record["modes"], record["length"] = steps, modes, length
        ours = record["competitors"]["dmftcore, GPU"].get("device_seconds", 0)
        if ours:
            record["steps_per_s"] = steps / ours
            report.note(f"{record['steps_per_s']:.4g} steps/s")
    script.finish(report)
