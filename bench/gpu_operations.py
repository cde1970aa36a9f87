"""Operations on two-time kernels on a GPU, against cuBLAS and cuSOLVER through cupy, and jax.

Times are those of the device between two events; they include the launch from Python where that
takes longer than the work, as it does for a small single kernel. The floor of a case is the larger
of two times: its flops at the rate of cuBLAS on full matrices of the same dtype, and its bytes at
the rate of a copy, both measured in the same run. "By blocks" is the causal product composed from
cuBLAS products of its non-zero blocks. The error is that of the last row, against twice the working
precision, relative to its largest element; for solves it is that of the residual.
"""

from dataclasses import dataclass
from itertools import groupby

from bench._exact import Row
from bench._gpu import Jax, Script, random, rounding
from bench._harness import Report
from bench._record import Target
from dmftcore import twotime


@dataclass(frozen=True)
class Shape:
    """Of the kernels: n x n, `batch` of them (0: a single one, without a batch axis)."""

    n: int
    batch: int = 0
    dtype: str = "float64"

    @property
    def shape(self):
        return (self.batch, self.n, self.n) if self.batch else (self.n, self.n)

    @property
    def elements(self):
        return max(self.batch, 1) * self.n**2

    @property
    def itemsize(self):
        return int(self.dtype[-2:]) // 8

    @property
    def memory(self):
        """Bytes of the kernels, and of what the most demanding competitor makes of them."""
        return 16 * self.elements * self.itemsize

    def __str__(self):
        batch = f"batch={self.batch} " if self.batch else ""
        return f"{batch}n={self.n}" + ("" if self.dtype == "float64" else f" {self.dtype}")


#: What matters most comes first: a run may end before the last.
SHAPES = (
    *(Shape(16384), Shape(4096), Shape(1024), Shape(256, 512), Shape(4096, dtype="float32")),
    *(Shape(8192), Shape(2048), Shape(512), Shape(64, 8192), Shape(1024, 32)),
    *(Shape(16384, dtype="float32"), Shape(1024, dtype="float32")),
)

#: Columns of the functions of time.
FUNCTIONS = (1, 64)

#: Shapes that jax takes part in: each of its cases is compiled anew.
WITH_JAX = SHAPES[:5]

#: Flops in units of n^3, and elements read and written in units of n^2.
COSTS = {
    "causal_matmul": (1 / 3, 2.0),
    "resolvent": (1 / 3, 1.5),
    "congruence": (1.0, 2.0),
    "causal_solve": (1 / 3, 2.0),
    "causal_solve dense": (1.0, 2.5),
}

TARGETS = {
    "causal_matmul n=16384": Target(4, "cupy a @ b"),
    "resolvent n=16384": Target(5, "cupy inv"),
    "congruence n=16384": Target(3, "cupy r @ c @ r.T"),
}


def cases():
    """(title, shape, operation or number of functions, flops, bytes)"""
    for shape in SHAPES:
        n, size = shape.n, shape.itemsize
        for operation, (flops, moved) in COSTS.items():
            yield (
                f"{operation} {shape}",
                shape,
                operation,
                flops * shape.elements * n,
                moved * shape.elements * size,
            )
        for m in FUNCTIONS:
            # Half a kernel is read; functions are read and written.
            moved = (shape.elements / 2 + 2 * shape.elements / n * m) * size
            yield f"causal_apply m={m} {shape}", shape, m, shape.elements * m, moved


def by_blocks(xp, a, b, blocks=8):
    """Causal product from products of full matrices, those of the blocks that are not zero."""
    n = len(a)
    edges = [n * i // blocks for i in range(blocks + 1)]
    c = xp.zeros_like(a)
    for j in range(blocks):
        columns = slice(edges[j], edges[j + 1])
        for i in range(j, blocks):
            rows, inner = slice(edges[i], edges[i + 1]), slice(edges[j], edges[i + 1])
            c[rows, columns] = a[rows, inner] @ b[inner, columns]
    return c


class Kernels:
    """The data of one shape, and who computes what from it."""

    def __init__(self, gpu, jax, shape):
        self.xp, self.shape = gpu.xp, shape
        self.jax = jax if shape in WITH_JAX and not jax.reason else None
        draw = [random(self.xp, *shape.shape, dtype=shape.dtype, seed=seed) for seed in range(3)]
        self.a, self.b = self.xp.tril(draw[0]), self.xp.tril(draw[1])
        # A tame resolvent: its entries stay of order one.
        self.strict = self.xp.tril(draw[0], -1) / self.xp.asarray(
            2 * shape.n**0.5, dtype=shape.dtype
        )
        self.c = self.xp.ascontiguousarray(draw[1] + self.xp.swapaxes(draw[1], -1, -2))
        self.dense = draw[2]
        self.eye = self.xp.eye(shape.n, dtype=shape.dtype)
        self.lower = self.eye - self.strict

    def competitors(self, operation):
        """Name -> function, ours first; the error of a result."""
        if isinstance(operation, int):
            return self._apply(operation)
        return {
            "causal_matmul": self._matmul,
            "resolvent": self._resolvent,
            "congruence": self._congruence,
            "causal_solve": lambda: self._solve(self.b, dense=False),
            "causal_solve dense": lambda: self._solve(self.dense, dense=True),
        }[operation]()

    def _matmul(self):
        xp, a, b = self.xp, self.a, self.b
        others = {"cupy a @ b": lambda: a @ b}
        if not self.shape.batch and self.shape.n >= 2048:
            others["cupy by blocks"] = lambda: by_blocks(xp, a, b)
        if self.jax:
            others["jax a @ b"] = self.jax.competitor(lambda a, b: a @ b, a, b)
        ours = {"dmftcore": lambda: twotime.causal_matmul(a, b)}
        return ours | others, self._error("product", self._first(a)[-1], self._first(b))

    def _congruence(self):
        xp, r, c = self.xp, self.a, self.c

        def transposed(array, library):
            return library.swapaxes(array, -1, -2)

        others = {"cupy r @ c @ r.T": lambda: r @ c @ transposed(r, xp)}
        if self.jax:
            others["jax r @ c @ r.T"] = self.jax.competitor(
                lambda r, c: r @ c @ transposed(r, self.jax.numpy), r, c
            )
        ours = {"dmftcore": lambda: twotime.congruence(r, c)}
        first = self._first(r)
        return ours | others, self._error("product", first[-1], self._first(c), first.T)

    def _resolvent(self):
        xp, strict, lower, eye = self.xp, self.strict, self.lower, self.eye
        others = {"cupy inv": lambda: xp.linalg.inv(lower)} | self._triangular(eye)
        ours = {"dmftcore": lambda: twotime.resolvent(strict)}
        return ours | others, self._error("equation", eye[-1], self._first(strict)[-1])

    def _solve(self, b, dense):
        strict = self.strict
        ours = {"dmftcore": lambda: twotime.causal_solve(strict, b, dense=dense)}
        others = self._triangular(b)
        if not others:
            others["cupy solve"] = lambda: self.xp.linalg.solve(self.lower, b)
        first = self._first(strict)[-1]
        return ours | others, self._error("equation", self._first(b)[-1], first)

    def _triangular(self, b):
        """Triangular solves with full right-hand sides; cupy has them for single matrices."""
        others, lower, options = {}, self.lower, {"lower": True, "unit_diagonal": True}
        if not self.shape.batch:

            def solve_triangular():
                from cupyx.scipy.linalg import solve_triangular

                return solve_triangular(lower, b, check_finite=False, **options)

            others["cupy solve_triangular"] = solve_triangular
        if self.jax:
            others["jax solve_triangular"] = self.jax.competitor(
                lambda lower, b: self.jax.linalg.solve_triangular(
                    lower, self.jax.numpy.broadcast_to(b, lower.shape), **options
                ),
                lower,
                b,
            )
        return others

    def _apply(self, m):
        strict = self.strict
        g = self.xp.ascontiguousarray(self.dense[..., :m])
        others = {"cupy k @ g": lambda: strict @ g}
        if self.jax:
            others["jax k @ g"] = self.jax.competitor(lambda k, g: k @ g, strict, g)
        ours = {"dmftcore": lambda: twotime.causal_apply(strict, g)}
        return ours | others, self._error("product", self._first(strict)[-1], self._first(g))

    def _first(self, array):
        return array[0] if self.shape.batch else array

    def _error(self, kind, *exact):
        """Error of the first matrix of a result, of cupy or of jax."""
        error = getattr(Row(self.xp), kind)(*exact)

        def of(result):
            if not isinstance(result, self.xp.ndarray):
                result = self.xp.from_dlpack(result)
            return error(self._first(result))

        return of


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [case for case in cases() if script.wants(case[0])]
    if script.options.dry_run:
        for title, shape, _, flops, moved in chosen:
            print(
                f"{title:40} {flops / 1e9:10.4g} GFLOP {moved / 1e9:10.4g} GB, "
                f"{shape.memory / 2**30:8.3g} GiB on the device"
            )
        return
    gpu, jax = script.gpu(), Jax()
    report = Report("gpu_operations", gpu)
    if jax.reason:
        print(f"without jax: {jax.reason}")
    for shape, group in groupby(chosen, key=lambda case: case[1]):
        measure(script, report, gpu, jax, shape, group)
    script.finish(report)


def measure(script, report, gpu, jax, shape, group):
    """The cases of one shape, whose arrays are gone when they are done."""
    too_large = script.refusal(gpu, shape.memory)
    kernels = None if too_large else Kernels(gpu, jax, shape)
    for title, _, operation, flops, moved in group:
        if refusal := too_large or script.refusal(gpu, 0):
            report.leave_out(title, refusal)
            continue
        competitors, error = kernels.competitors(operation)
        report.case(
            title,
            competitors,
            error=error,
            flops=flops,
            traffic=moved,
            floor=gpu.floor(flops=flops, traffic=moved, dtype=shape.dtype),
            bound=rounding(shape.n, shape.dtype),
            target=TARGETS.get(title),
            seconds=0.6,
        )
