"""The primitives of dmftcore.jax on a GPU, against plain jax.numpy on the same arrays.

Both are compiled by jax.jit and called until their results are there; the pure one is the dense
operation on triangular matrices that a user would write. Also the gradient of a sum of squares with
respect to the first kernel. The error is that of the whole result against the processor, relative
to its largest element. kappa(z) has the path of bench/baselines/spectral_jax.py beside it.
Needs a jax that sees the device, and says so where there is none.
"""

from dataclasses import dataclass

import numpy as np

from bench._gpu import Jax, Script, random, rounding
from bench._harness import Report
from dmftcore import _core, twotime

#: What matters most comes first.
SIZES = (2048, 512, 8192)
#: The largest n for which the processor is asked for what is right.
REFEREE = 2048
COLUMNS = 64
#: z and modes.
KAPPA = ((256, 100_000), (4096, 600))
SAMPLES, FEATURES = 800.0, 600.0


@dataclass(frozen=True)
class Case:
    operation: str
    n: int
    gradient: bool = False

    @property
    def title(self):
        return f"{self.operation}{' gradient' * self.gradient} n={self.n}"

    @property
    def memory(self):
        return 8 * 8 * self.n**2


OPERATIONS = ("resolvent", "causal_matmul", "causal_solve", "congruence", "causal_apply")
CASES = tuple(
    Case(operation, n, gradient)
    for n in SIZES
    for operation in OPERATIONS
    for gradient in (False, True)
)


def arrays(xp, case):
    """Arguments of the operation: kernels of moderate norm."""
    n = case.n
    a = xp.tril(random(xp, n, n)) / (2 * n**0.5)
    if case.operation == "resolvent":
        return (a,)
    if case.operation == "causal_apply":
        return a, random(xp, n, COLUMNS, seed=1)
    b = random(xp, n, n, seed=1)
    return a, (b + b.T if case.operation == "congruence" else xp.tril(b))


def plain(jax, operation):
    """The operation in jax.numpy."""
    jnp, linalg = jax.numpy, jax.linalg

    def solve(a, b):
        return linalg.solve_triangular(
            jnp.eye(len(a)) - jnp.tril(a, -1), b, lower=True, unit_diagonal=True
        )

    return {
        "resolvent": lambda a: solve(a, jnp.eye(len(a))),
        "causal_matmul": lambda a, b: jnp.tril(jnp.tril(a) @ jnp.tril(b)),
        "causal_solve": lambda a, b: solve(a, jnp.tril(b)),
        "congruence": lambda r, c: jnp.tril(r) @ c @ jnp.tril(r).T,
        "causal_apply": lambda k, g: jnp.tril(k, -1) @ g,
    }[operation]


def slope(function):
    """The gradient of half the sum of squares, with respect to the first argument."""
    import jax

    return jax.grad(lambda *a: 0.5 * (function(*a) ** 2).sum())


def measure(report, gpu, jax, case):
    from dmftcore import jax as dj

    given = arrays(gpu.xp, case)
    ours, theirs = getattr(dj, case.operation), plain(jax, case.operation)
    if case.gradient:
        ours, theirs = slope(ours), slope(theirs)
    competitors = {
        "dmftcore.jax": jax.competitor(ours, *given),
        "jax.numpy": jax.competitor(theirs, *given),
    }
    error = None
    if case.n <= REFEREE:
        if case.gradient:
            expected = np.asarray(competitors["jax.numpy"]())
        else:
            expected = getattr(twotime, case.operation)(*map(gpu.xp.asnumpy, given))
        scale = np.abs(expected).max()

        def error(found):
            return float(np.abs(np.asarray(found) - expected).max() / scale)

    report.case(
        case.title,
        competitors,
        error=error,
        # A gradient takes three operations after another.
        bound=(8 if case.gradient else 1) * rounding(case.n, "float64"),
        seconds=0.3,
    )


def kappa_title(count, modes):
    return f"kappa z={count} modes={modes}"


def kappa(report, gpu, jax, count, modes):
    import dmftcore as dc
    from bench.baselines import spectral_jax
    from dmftcore import jax as dj

    rng = np.random.default_rng(0)
    lam = np.arange(1, modes + 1.0) ** -1.2
    mu = np.full(modes, 2000 / modes)
    z = 10 ** rng.uniform(-4, 1, count) * np.exp(1j * rng.uniform(0, 3.1, count))
    spectrum = dc.Spectrum(lam, lam, multiplicities=mu)
    some = slice(None, None, max(1, count // 16))
    expected = _core.spectral_kappa(np.ascontiguousarray(z[some]), lam, mu, SAMPLES, FEATURES)
    spectral_jax.TILE = max(128, min(modes, (1 << 25) // count))
    there = [gpu.xp.asarray(array) for array in (z, lam, lam * mu)]
    report.case(
        kappa_title(count, modes),
        {
            "dmftcore.jax": jax.competitor(
                lambda z: dj.deterministic_equivalent(z, spectrum, SAMPLES, FEATURES).kappa,
                there[0],
            ),
            "jax.numpy": jax.competitor(
                lambda z, lam, power: spectral_jax.kappa(z, lam, power, SAMPLES, FEATURES), *there
            ),
        },
        error=lambda found: float(np.abs(np.asarray(found)[some] / expected - 1).max()),
        bound=1e-10,
        seconds=0.5,
    )


def main(*arguments):
    script = Script(__doc__, arguments)
    chosen = [case for case in CASES if script.wants(case.title)]
    parameters = [size for size in KAPPA if script.wants(kappa_title(*size))]
    if script.options.dry_run:
        for case in chosen:
            print(f"{case.title:40} {case.memory / 2**30:8.3g} GiB on the device")
        for size in parameters:
            print(kappa_title(*size))
        return
    gpu = script.gpu()
    report, jax = Report("gpu_jax", gpu), Jax()
    if jax.reason:
        for title in [case.title for case in chosen] + [kappa_title(*s) for s in parameters]:
            report.left_out[title] = jax.reason
        print(f"not run: {jax.reason}")
        script.finish(report)
        return
    for n in SIZES:
        for case in (case for case in chosen if case.n == n):
            if refusal := script.refusal(gpu, case.memory):
                report.leave_out(case.title, refusal)
            else:
                measure(report, gpu, jax, case)
        for size in parameters if n == SIZES[0] else ():
            if refusal := script.refusal(gpu, 16 << 25):
                report.leave_out(kappa_title(*size), refusal)
            else:
                kappa(report, gpu, jax, *size)
    script.finish(report)
