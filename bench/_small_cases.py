"""Every operation on small device arrays, against the same operation on the host.

Small enough for compute-sanitizer, whose program this is; the sizes are odd, whole tiles, and one
more or less than a tile. Each array has an allocation of its own, so that an access beyond its
ends is one beyond an allocation.
"""

import sys

import numpy as np

import dmftcore as dc
from dmftcore import spectral, twotime
from dmftcore.activations import ACTIVATIONS
from dmftcore.sampled.particles import CounterNormals, blend, products

SIZES = (1, 2, 7, 31, 64, 65, 129, 200)
BATCHES = ((), (3,))
DTYPES = ("float64", "float32")
RANK = 16


def operations(n, batch, dtype):
    """(title, function of the arrays, arrays on the host)"""
    rng = np.random.default_rng(n)

    def draw(*shape):
        return rng.standard_normal((*batch, *shape)).astype(dtype)

    a, b, d = draw(n, n), draw(n, n), draw(n, 5)
    a /= 2 * np.sqrt(n).astype(dtype)
    c = np.tril(b) + np.swapaxes(np.tril(b, -1), -1, -2)
    for block in (1, 3) if n % 3 == 0 else (1,):
        title = f"n={n} batch={batch} block={block} {dtype}"

        def with_block(name, block=block, **more):
            return lambda *arrays: getattr(twotime, name)(*arrays, block=block, **more)

        yield f"causal_matmul {title}", with_block("causal_matmul"), (a, b)
        yield f"causal_solve {title}", with_block("causal_solve"), (a, b)
        yield f"causal_solve dense {title}", with_block("causal_solve", dense=True), (a, d)
        yield f"resolvent {title}", with_block("resolvent"), (a,)
        yield f"congruence {title}", with_block("congruence"), (a, c)
        yield f"causal_apply {title}", with_block("causal_apply"), (a, d)
    if not batch:
        for m in (1, 4):
            yield from rows(n, m, a, c, rng, dtype)


def rows(n, m, a, c, rng, dtype):
    x, w = (rng.standard_normal((m, n)).astype(dtype) for _ in range(2))
    u, v = (rng.standard_normal((n, RANK)).astype(dtype) for _ in range(2))
    title = f"n={n} m={m} {dtype}"
    yield f"rows_causal {title}", twotime.rows_causal, (x, a)
    yield f"rows_causal_transposed {title}", twotime.rows_causal_transposed, (x, a)
    yield f"rows_causal_pair {title}", twotime.rows_causal_pair, (x, w, a)
    yield f"rows_symmetric {title}", twotime.rows_symmetric, (x, c)
    yield f"rows_congruence {title}", twotime.rows_congruence, (x, c, a)
    yield f"rows_low_rank {title}", twotime.rows_low_rank, (x, u, v)


def particles(n, dtype):
    """Two runs of n particles that use different numbers of directions."""
    rng = np.random.default_rng(n)

    def draw(*shape):
        return rng.standard_normal((2, *shape)).astype(dtype)

    a, b, used = draw(RANK + 3, n), draw(5, n), np.array([RANK + 3, 2])
    for count in (1, 3, 13, 40):
        x, title = draw(count, n), f"S={n} columns={count} {dtype}"
        c, d = rng.standard_normal((2, RANK + 3, count)), rng.standard_normal((2, 5, count))

        def product(x, a, used, b, count=count):
            return products(x, count, (a, used), (b, None), reference=x / 2, gram=True)

        def expansion(x, a, used, c, b, d, count=count):
            y, value = x.copy(), x.copy()
            rest = {"base": x, "field": x, "y": y, "value": value}
            blend(count, (a, used), c, (b, None), d, activation="tanh", **rest)
            return y, value

        yield f"particle_products {title}", product, (x, a, used, b)
        yield f"particle_expansion {title}", expansion, (x, a, used, c, b, d)
    h = draw(1, n)
    for name in ACTIVATIONS:

        def activation(h, name=name):
            value = h.copy()
            blend(1, base=h, activation=name, value=value)
            return value

        yield f"{name} S={n} {dtype}", activation, (h,)

    def normals(x):
        CounterNormals(n).fill(x[0], 1, 2, 3)
        return x

    yield f"normals S={n} {dtype}", normals, (draw(3, n),)


def random_matrices(cupy):
    """(title, found, expected) of the functions of random matrices; one team of warps, and many."""
    rng = np.random.default_rng(0)
    z = 10 ** rng.uniform(-2, 1, 33) * np.exp(1j * rng.uniform(0, 3, 33))
    for modes in (7, 200, 20_000):
        population = dc.PowerLaw(1.0, 1.5, modes)
        for function, arguments in (
            (spectral.deterministic_equivalent, (z,)),
            (spectral.two_point, (z[:5], z)),
        ):
            given = (population, 0.5 * modes, 1.5 * modes)
            here = function(*arguments, *given)
            there = function(*map(cupy.asarray, arguments), *given)
            for name in ("kappa", "R1", "R3") if len(arguments) == 1 else ("test", "train"):
                yield f"{name} modes={modes}", getattr(there, name), getattr(here, name)


def attention(cupy):
    """(title, found, expected) of heads of attention: products with C, with tokens, and scores."""
    rng = np.random.default_rng(0)
    training = dc.GradientDescent(0.05, 3)
    for dimension in (2, 20):
        x, y = rng.normal(size=(5, 3, dimension)), rng.normal(size=5)
        data = dc.Dataset(inputs=x[:3], targets=y[:3], test_inputs=x[3:], test_targets=y[3:])
        for key_dim in (3, dc.INFINITE):
            limit = dc.AttentionCore(key_dim=key_dim, attention_exponent=0.5)
            here, there = (
                dc.solve(limit, data, training, samples=16, kernel_times=[], device=device)
                for device in ("cpu", "cuda")
            )
            title = f"attention dimension={dimension} key_dim={key_dim}"
            yield title, cupy.asarray(there.outputs), here.outputs


#: Largest deviations of these: kappa is found to 1e-12, and differences of it follow.
FAMILIES = {random_matrices: 1e-9, attention: 1e-10}


def difference(found, expected, dtype):
    """Largest deviation, in units of rounding: eps times the number of terms and the scale."""
    if np.array_equal(found, expected):
        return 0.0
    terms = max(expected.shape) + RANK
    scale = np.abs(expected).max() * terms * np.finfo(dtype).eps
    return float(np.abs(found - expected).max() / scale)


def main():
    import cupy

    cupy.cuda.set_allocator(None)
    wrong, count = [], 0
    for n in SIZES:
        for batch in (*BATCHES, None):
            for dtype in DTYPES:
                every = particles(n, dtype) if batch is None else operations(n, batch, dtype)
                for title, function, arrays in every:
                    count += 1
                    expected = function(*arrays)
                    found = function(*map(cupy.asarray, arrays))
                    pairs = (
                        zip(found, expected, strict=True)
                        if isinstance(found, tuple)
                        else [(found, expected)]
                    )
                    # The longest chain of operations sums three times, here and there.
                    deviation = max(difference(cupy.asnumpy(f), e, dtype) for f, e in pairs)
                    if not deviation < 16:
                        wrong.append(f"{title}: {deviation:.3g} times rounding")
    for family, tolerance in FAMILIES.items():
        for title, found, expected in family(cupy):
            count += 1
            deviation = np.abs(cupy.asnumpy(found) - expected).max() / np.abs(expected).max()
            if not deviation < tolerance:
                wrong.append(f"{title}: {deviation:.3g}")
    for line in wrong:
        print(line)
    print(f"{count} cases, {len(wrong)} of them wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
