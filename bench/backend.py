"""Our operations under programs of others, on one core, float64.

* Two programs of examples/backend as they are, with dense arrays and with the lines that put
  dmftcore under them: a notebook solver in JAX that iterates over whole trajectories, and a p-spin
  solver in numpy.
* Single operations in jitted JAX, and their gradients by all arguments. "jnp" is what notebooks
  write, "triangular" solves triangular systems where others invert, and is the strongest there is
  in JAX alone.

The error is the largest difference from the dense program, relative to its largest element.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import numpy as np

from bench._facts import ROOT
from bench._harness import ONE_THREAD_OF_XLA, Report, restart_on_one_core
from dmftcore import _core

#: Times of the notebook with 10 points, steps of the p-spin solver, and sizes of single operations.
NOTEBOOK_TIMES = (20, 40, 80)
SPIN_STEPS = (250, 500, 1000)
SIZES = (128, 256, 512, 1024, 2048)
GRADIENT_SIZES = (128, 256, 512, 1024)


def example(name):
    """A module of examples/backend."""
    path = ROOT / "examples" / "backend" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


def relative_to(expected):
    """The largest difference from arrays, relative to their largest element."""
    expected = [np.asarray(array) for array in expected]

    def error(found):
        pairs = zip(found, expected, strict=True)
        return max(float(np.abs(np.asarray(f) - e).max() / np.abs(e).max()) for f, e in pairs)

    return error


# -- programs -----------------------------------------------------------------------------------


def notebook(report, times, seconds):
    """One sweep over all layers."""
    import jax
    import jax.numpy as jnp

    module = example("notebook_dmft")
    module.TIMES = times
    gram, targets = map(jnp.asarray, module.problem())

    class Triangular(module.Dense):
        def resolvent(a, block):
            return triangular_solve(a, jnp.eye(len(a)))

    # Kernels of some sweeps: those of the start are zero where others are dense.
    kernels = module.start(gram, targets)
    for _ in range(3):
        kernels = module.sweep(module.Dense, kernels, gram, targets)

    def program(algebra):
        one = jax.jit(lambda kernels: module.sweep(algebra, kernels, gram, targets))
        return lambda: [jax.block_until_ready(one(kernels))[-1]]

    dense = program(module.Dense)
    report.case(
        f"notebook times={times}",
        {"dmftcore": program(module.Causal), "jnp": dense, "triangular": program(Triangular)},
        error=relative_to(dense()),
        bound=1e-9,
        seconds=seconds,
    )


def p_spin(report, steps, seconds):
    module = example("spherical_pspin")

    def program(algebra):
        def run():
            found = module.solve(module.Model(), 0.02, steps, algebra, tol=1e-12)
            return found.energy, found.c, found.r

        return run

    dense = program(module.Dense)
    report.case(
        f"p-spin steps={steps}",
        {"dmftcore": program(module.Causal), "numpy": dense},
        error=relative_to(dense()),
        bound=1e-9,
        seconds=seconds,
    )


# -- operations ---------------------------------------------------------------------------------


def triangular_solve(a, b):
    """(1 - a)^-1 b for strictly causal a."""
    import jax.numpy as jnp
    from jax.scipy.linalg import solve_triangular

    return solve_triangular(jnp.eye(len(a)) - a, b, lower=True, unit_diagonal=True)


def operations(n):
    """Title -> arguments, and implementations of one function of them."""
    import jax.numpy as jnp

    from dmftcore import jax as dj

    rng = np.random.default_rng(0)
    a, b, c = (rng.standard_normal((n, n)) for _ in range(3))
    causal, strict = np.tril(a), np.tril(b, -1) / (2 * np.sqrt(n))
    one, symmetric = np.eye(n), c + c.T
    return {
        "causal_matmul": (
            (causal, strict),
            {"dmftcore": dj.causal_matmul, "jnp": lambda a, b: a @ b},
        ),
        "resolvent": (
            (strict,),
            {
                "dmftcore": dj.resolvent,
                "jnp": lambda a: jnp.linalg.inv(one - a),
                "triangular": lambda a: triangular_solve(a, one),
            },
        ),
        "congruence": (
            (causal, symmetric),
            {"dmftcore": dj.congruence, "jnp": lambda r, c: r @ c @ r.T},
        ),
        "causal_solve": (
            (strict, causal),
            {
                "dmftcore": dj.causal_solve,
                "jnp": lambda a, b: jnp.linalg.solve(one - a, b),
                "triangular": triangular_solve,
            },
        ),
    }


def forward(report, n, seconds):
    import jax

    for title, (arguments, functions) in operations(n).items():
        on_device = [jax.device_put(array) for array in arguments]

        def program(function, on_device=on_device):
            compiled = jax.jit(function)
            return lambda: [jax.block_until_ready(compiled(*on_device))]

        report.case(
            f"{title} n={n}",
            {name: program(function) for name, function in functions.items()},
            error=relative_to(program(functions["jnp"])()),
            bound=1e-9,
            seconds=seconds,
        )


def gradients(report, n, seconds):
    """Those of a sum of all elements with fixed weights."""
    import jax
    import jax.numpy as jnp

    weights = np.random.default_rng(1).standard_normal((n, n))
    for title, (arguments, functions) in operations(n).items():
        on_device = [jax.device_put(array) for array in arguments]
        diagonals = [0 if array.diagonal().any() else -1 for array in arguments]

        def program(function, title=title, on_device=on_device, diagonals=diagonals):
            def total(*given):
                # Everyone differentiates by lower triangles, strict where the kernel is.
                below = [
                    jnp.tril(array, diagonal)
                    for array, diagonal in zip(given, diagonals, strict=True)
                ]
                if title == "congruence":
                    below[1] = below[1] + jnp.tril(below[1], -1).T
                return jnp.sum(weights * function(*below))

            compiled = jax.jit(jax.grad(total, argnums=tuple(range(len(on_device)))))
            return lambda: jax.block_until_ready(compiled(*on_device))

        report.case(
            f"gradient of {title} n={n}",
            {name: program(function) for name, function in functions.items()},
            error=relative_to(program(functions["jnp"])()),
            bound=1e-9,
            seconds=seconds,
        )


def main():
    os.environ["XLA_FLAGS"] = ONE_THREAD_OF_XLA
    restart_on_one_core()
    _core.set_num_threads(1)
    import jax

    jax.config.update("jax_enable_x64", True)
    report = Report("backend", packages=("jax", "jaxlib"))
    for times in NOTEBOOK_TIMES:
        notebook(report, times, seconds=4)
    for steps in SPIN_STEPS:
        p_spin(report, steps, seconds=4)
    for n in SIZES:
        forward(report, n, seconds=1)
    for n in GRADIENT_SIZES:
        gradients(report, n, seconds=1)
    report.write()


if __name__ == "__main__":
    main()
