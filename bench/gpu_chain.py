"""The two-time chain with its history on a GPU, against the same chain on the processor.

`solve(..., method="chain")` with L = 2 on Gaussian inputs; the arrays of the data decide where it
runs. The processor uses all cores and takes part while it keeps up. The error is that of the
loss, relative to its start, against the growing network at tol = 1e-12.
"""

import types

import dmftcore as dc
from bench._gpu import Script
from bench._harness import Report
from bench.chain import against_growing, problem

POINTS, LR = 100, 0.02
STEPS = (1000, 2000, 4000, 8000, 16000)
#: The longest march that the processor is asked for.
PROCESSOR = 2000

#: Histories of L = 2: C, B, G, H of each layer and what a march keeps beside them.
HISTORIES = 12


def memory(steps):
    return HISTORIES * 8 * (steps + 1) ** 2


def chain(data, steps, **options):
    training = dc.GradientDescent(LR, steps)
    return dc.solve(dc.DeepLinear(2), data, training, method="chain", kernel_times=[], **options)


def why_not_on_device(gpu, make_data, steps=200):
    """The reason if a short march leaves less than one history on the device; else empty.

    A march that quietly ran on the processor would be timed under the wrong name.
    """
    pool, used = gpu.xp.get_default_memory_pool(), []
    before = pool.used_bytes()
    try:
        chain(make_data(), steps, progress=lambda *_: used.append(pool.used_bytes() - before))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    most, history = max(used), 8 * (steps + 1) ** 2
    return "" if most >= history else f"a march left {most} bytes there, a history has {history}"


def host(solution):
    """What the error needs of a solution, as numpy arrays."""
    loss = solution.train_loss
    return types.SimpleNamespace(train_loss=loss.get() if hasattr(loss, "get") else loss)


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [steps for steps in STEPS if script.wants(f"T={steps} P={POINTS}")]
    if script.options.dry_run:
        for steps in chosen:
            beside = "and on the processor" if steps <= PROCESSOR else ""
            print(f"T={steps} P={POINTS}: {memory(steps) / 2**30:.3g} GiB {beside}".rstrip())
        return
    gpu = script.gpu()
    report = Report("gpu_chain", gpu)
    data = problem(POINTS)

    def on_device():
        inputs, targets = gpu.xp.asarray(data.inputs), gpu.xp.asarray(data.targets)
        return dc.Dataset(inputs=inputs, targets=targets)

    if reason := why_not_on_device(gpu, on_device):
        for steps in chosen:
            report.leave_out(f"T={steps} P={POINTS}", reason)
        report.write()
        raise SystemExit(f"the chain does not run on the device: {reason}")
    seconds_per_case = 0.0
    for steps in chosen:
        title = f"T={steps} P={POINTS}"
        if refusal := script.refusal(gpu, memory(steps), seconds_per_case):
            report.leave_out(title, refusal)
            continue
        competitors = {"dmftcore, GPU": lambda steps=steps: chain(on_device(), steps)}
        if steps <= PROCESSOR:
            competitors["dmftcore, processor"] = lambda steps=steps: chain(data, steps)
        error = against_growing(data, steps, LR)
        record = report.case(
            title,
            competitors,
            error=lambda solution, error=error: error(host(solution)),
            bound=1e-8,
            rounds=3 if steps <= 1000 else 1,
        )
        record["steps"], record["points"] = steps, POINTS
        ours, *others = (e.get("device_seconds", 0) for e in record["competitors"].values())
        if ours:
            record["steps_per_s"] = steps / ours
            report.note(f"{record['steps_per_s']:.4g} steps/s")
        # Twice the steps are eight times the work, once to warm up and once timed.
        seconds_per_case = 2 * 8 * (ours + (sum(others) if 2 * steps <= PROCESSOR else 0))
    script.finish(report)
