"""Steps of attention heads on a GPU, against the products and the memory they take.

`AttentionCore(heads, key_dim=16)` with softmax, sequences of eight tokens, all of which train. A
call is a run of steps, queued together. The floor of a step is its products with the Gram matrix of
the tokens (or with the tokens, where they have a low rank) at the cuBLAS rate, or the queries, keys
and values of all heads read and written at the rate of a copy, whichever is longer; few heads are
bound by launches, whose number stands beside. The error is the largest deviation of the outputs
from those of the processor, relative to the largest, where that takes part.
"""

from dataclasses import dataclass

import numpy as np

import dmftcore as dc
from bench._gpu import Script
from bench._harness import Report
from dmftcore.heads import AttentionMarch
from dmftcore.limits.attention import attention_problem, heads_at_start

KEYS, LENGTH, STEPS, LR = 16, 8, 20, 1e-3
#: Flops of a run that the processor is asked for.
PROCESSOR = 1e11


@dataclass(frozen=True)
class Case:
    heads: int
    tokens: int
    rank: int

    @property
    def title(self):
        return f"heads={self.heads} tokens={self.tokens} rank={self.rank}"

    @property
    def columns(self):
        """What a step multiplies with C: the drives of queries and keys, and of the values."""
        return 2 * min(KEYS, 2 * self.rank) + 1  # a rotation leaves no more of them

    @property
    def low_rank(self):
        """As heads.AttentionProblem chooses, where all tokens train."""
        return 2 * self.rank < self.tokens

    @property
    def flops(self):
        """Of a step."""
        inner = 2 * self.rank if self.low_rank else self.tokens
        return 2 * self.heads * self.tokens * self.columns * inner

    @property
    def launches(self):
        """Of a step: slopes, products, patterns."""
        return 4 if self.low_rank else 3

    def problem(self):
        rng = np.random.default_rng(0)
        sequences = self.tokens // LENGTH
        x = rng.normal(size=(sequences, LENGTH, self.rank))
        limit = dc.AttentionCore(heads=self.heads, key_dim=KEYS, gamma=1.5)
        data = dc.Dataset(inputs=x, targets=rng.normal(size=sequences))
        problem = attention_problem(limit, data)
        return problem, heads_at_start(limit, problem, groups=1, size=self.heads, seed=0)


#: What matters most comes first.
CASES = (
    *(Case(heads, tokens, tokens) for heads in (256, 4096, 1) for tokens in (128, 512, 32)),
    *(Case(heads, 512, rank) for heads in (256, 4096) for rank in (16, 64)),
)


def state_bytes(heads):
    """Queries, keys and values."""
    arrays = heads.query, heads.key, heads.value
    return sum(array.nbytes for array in arrays if array is not None)


class March:
    """A march that goes on for STEPS more at each call."""

    def __init__(self, problem, heads, xp):
        training = dc.GradientDescent(LR, 1_000_000)
        self.march = AttentionMarch(problem, heads, training, centred=False, pooled=True, xp=xp)

    def __call__(self):
        begin = self.march.step
        return self.march.advance(np.arange(begin, begin + STEPS + 1))


def measure(report, gpu, case):
    problem, heads = case.problem()
    competitors, error = {"dmftcore": March(problem, heads, gpu.xp)}, None
    if STEPS * case.flops <= PROCESSOR:
        expected = March(*case.problem(), np)()
        scale = np.abs(expected).max()
        competitors["dmftcore, processor"] = March(*case.problem(), np)

        def error(outputs):
            return float(np.abs(outputs - expected).max() / scale)

    traffic = 2 * state_bytes(heads)
    record = report.case(
        case.title,
        competitors,
        error=error,
        bound=1e-9,
        flops=STEPS * case.flops,
        floor=STEPS * gpu.floor(traffic=traffic, flops=case.flops),
        seconds=0.5,
    )
    record["launches_per_step"] = case.launches
    ours = record["competitors"]["dmftcore"].get("device_seconds", 0)
    if ours:
        record["head_steps_per_s"] = STEPS * case.heads / ours
        report.note(
            f"{record['head_steps_per_s']:.4g} head steps/s, {ours / STEPS * 1e6:.3g} us a step of "
            f"{case.launches} launches"
        )


def memory(case):
    """Bytes of heads and of what a run keeps beside them, with room for what values take."""
    each = 8 * case.tokens * (3 * LENGTH + 4 * case.columns + max(case.rank, case.tokens))
    return case.heads * each


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [case for case in CASES if script.wants(case.title)]
    if script.options.dry_run:
        for case in chosen:
            print(
                f"{case.title:40} {case.flops / 1e9:8.3g} GFLOP a step, "
                f"{memory(case) / 2**30:.3g} GiB on the device"
            )
        return
    gpu = script.gpu()
    report = Report("gpu_attention", gpu)
    for case in chosen:
        if refusal := script.refusal(gpu, memory(case)):
            report.leave_out(case.title, refusal)
        else:
            measure(report, gpu, case)
    script.finish(report)
