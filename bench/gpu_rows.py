"""Row operations on a GPU against full products by cupy, and against the bandwidth of its memory.

One step of a march: m new rows meet a history of n times, of which half is read. The floor of a
case is its bytes at the rate of a copy within the device, measured in the same run. Histories
smaller than the second-level cache stay there, as they do in a march, and may beat it. The error
is that of the last row of each result, against twice the working precision, relative to its
largest element. Beside them a row for each of many histories, as the modes of random data have
them: as diagonal blocks or, where there are few modes, whole.
"""

from dataclasses import dataclass
from itertools import groupby

from bench._exact import Row
from bench._gpu import Script, random, rounding
from bench._harness import Report
from bench._record import Target
from dmftcore import twotime

#: n, m, dtype; what matters most comes first: a run may end before the last.
SIZES = (
    *((n, m, "float64") for n in (16384, 4096, 1024, 32768, 8192, 2048) for m in (1, 4)),
    *((n, 1, "float32") for n in (32768, 4096)),
)
#: Histories, and their n.
BATCHES = ((2000, 32), (4000, 512), (8, 4096))
RANK = 16
TARGET = Target(0.7)


@dataclass(frozen=True)
class Case:
    operation: str
    n: int
    m: int
    dtype: str

    @property
    def title(self):
        dtype = "" if self.dtype == "float64" else f" {self.dtype}"
        return f"{self.operation} n={self.n} m={self.m}{dtype}"

    @property
    def traffic(self):
        """Bytes of the histories, rows aside."""
        size = int(self.dtype[-2:]) // 8
        half = self.n * self.n * size / 2
        return {"rows_congruence": 2 * half, "rows_low_rank": 2 * RANK * self.n * size}.get(
            self.operation, half
        )

    @property
    def target(self):
        """Where the history is far larger than the cache."""
        large = self.n >= 16384 and self.dtype == "float64"
        return TARGET if large and self.operation != "rows_low_rank" else None

    @property
    def memory(self):
        """Bytes of two histories, and of what is needed to make them."""
        return 6 * self.n * self.n * int(self.dtype[-2:]) // 8

    def histories(self, xp):
        """What all cases of this length share."""
        return Histories(xp, self.n, self.dtype)


OPERATIONS = (
    "rows_causal",
    "rows_causal_transposed",
    "rows_causal_pair",
    "rows_symmetric",
    "rows_congruence",
    "rows_low_rank",
)


@dataclass(frozen=True)
class BatchCase:
    transposed: bool
    n: int
    m: int
    operation: str = "rows_causal_batch"
    dtype: str = "float64"

    @property
    def title(self):
        return f"{self.operation}{' transposed' * self.transposed} n={self.n} histories={self.m}"

    @property
    def traffic(self):
        """Bytes of the histories, rows aside."""
        return self.m * self.n * self.n * 4

    @property
    def target(self):
        """Where the histories are far larger than the cache."""
        return TARGET if self.traffic > 1e9 else None

    @property
    def memory(self):
        return 3 * self.m * self.n * self.n * 8

    def histories(self, xp):
        """What both products share."""
        return ManyHistories(xp, self.m, self.n)


def cases():
    return [
        *(Case(operation, *size) for size in SIZES for operation in OPERATIONS),
        *(BatchCase(t, n, m) for m, n in BATCHES for t in (False, True)),
    ]


class Histories:
    """A causal and a symmetric history, and new rows to meet them."""

    def __init__(self, xp, n, dtype):
        self.xp, self.size = xp, (n, dtype)
        self.a = xp.tril(random(xp, n, n, dtype=dtype))
        self.c = random(xp, n, n, dtype=dtype, seed=1)
        self.c += self.c.T.copy()
        rows = random(xp, 2, 4, n, dtype=dtype, seed=2)
        self.x, self.w = rows[0], rows[1]
        self.u = random(xp, n, RANK, dtype=dtype, seed=3)
        self.v = random(xp, n, RANK, dtype=dtype, seed=4)

    def competitors(self, case):
        """Ours and the full product; the factors of each result, for its error."""
        operation, m = case.operation, case.m
        a, c, u, v = self.a, self.c, self.u, self.v
        x, w = self.x[:m].copy(), self.w[:m].copy()

        def congruence():
            y = x @ c
            return y, y @ a.T

        ours, name, full, results = {
            "rows_causal": (
                lambda: twotime.rows_causal(x, a),
                "cupy x @ a",
                lambda: x @ a,
                [(x, a)],
            ),
            "rows_causal_transposed": (
                lambda: twotime.rows_causal_transposed(x, a),
                "cupy x @ a.T",
                lambda: x @ a.T,
                [(x, a.T)],
            ),
            "rows_causal_pair": (
                lambda: twotime.rows_causal_pair(x, w, a),
                "cupy x @ a, w @ a.T",
                lambda: (x @ a, w @ a.T),
                [(x, a), (w, a.T)],
            ),
            "rows_symmetric": (
                lambda: twotime.rows_symmetric(x, c),
                "cupy x @ c",
                lambda: x @ c,
                [(x, c)],
            ),
            "rows_congruence": (
                lambda: twotime.rows_congruence(x, c, a),
                "cupy y = x @ c, y @ r.T",
                congruence,
                [(x, c), (x, c, a.T)],
            ),
            "rows_low_rank": (
                lambda: twotime.rows_low_rank(x, u, v),
                "cupy x @ u @ v.T",
                lambda: x @ u @ v.T,
                [(x, u, v.T)],
            ),
        }[operation]
        return {"dmftcore": ours, name: full}, self._error(results)

    def _error(self, results):
        errors = [Row(self.xp).product(x[-1], *factors) for x, *factors in results]

        def of(result):
            found = result if isinstance(result, tuple) else (result,)
            return max(error(y) for error, y in zip(errors, found, strict=True))

        return of


class ManyHistories:
    """A causal history and a new row for each of many modes."""

    def __init__(self, xp, batch, n):
        self.xp = xp
        self.a = xp.tril(random(xp, batch, n, n))
        self.x = random(xp, batch, n, seed=1)

    def competitors(self, case):
        """Ours and the full product; the error of its last row."""
        x, a = self.x, self.a
        full = a.transpose(0, 2, 1) if case.transposed else a
        name = "a.transpose(0, 2, 1)" if case.transposed else "a"
        row = Row(self.xp).product(x[-1], full[-1])
        return {
            "dmftcore": lambda: twotime.rows_causal_batch(x, a, case.transposed),
            f"cupy x[:, None] @ {name}": lambda: (x[:, None] @ full)[:, 0],
        }, row


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [case for case in cases() if script.wants(case.title)]
    if script.options.dry_run:
        for case in chosen:
            needed = case.memory / 2**30
            print(f"{case.title:40} {case.traffic / 1e9:10.4g} GB, {needed:8.3g} GiB on the device")
        return
    gpu = script.gpu()
    report = Report("gpu_rows", gpu)
    for _, group in groupby(chosen, key=lambda case: (type(case), case.memory)):
        measure(script, report, gpu, list(group))
    script.finish(report)


def measure(script, report, gpu, group):
    """The cases of one length, whose arrays are gone when they are done."""
    too_large = script.refusal(gpu, group[0].memory)
    histories = None if too_large else group[0].histories(gpu.xp)
    for case in group:
        if refusal := too_large or script.refusal(gpu, 0):
            report.leave_out(case.title, refusal)
            continue
        competitors, error = histories.competitors(case)
        record = report.case(
            case.title,
            competitors,
            error=error,
            traffic=case.traffic,
            floor=gpu.floor(traffic=case.traffic),
            bound=rounding(case.n, case.dtype),
            target=case.target,
            seconds=0.3,
        )
        record["in_cache"] = case.traffic < gpu.l2_bytes
