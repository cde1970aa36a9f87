"""dmftcore.jax against dmftcore.twotime, and its derivatives against those of plain jax.numpy."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest

jax = pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")
# Before the first array is made. Compilation is what these tests spend their time in.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

import jax.numpy as jnp  # noqa: E402

from dmftcore import _core, twotime  # noqa: E402
from dmftcore import jax as dj  # noqa: E402

N, M = 12, 5

#: Sums of N products of numbers of order one, three of them in a row: N eps is 3e-15, and the
#: factors grow the error by less than 1e3 (the largest derivative that occurs).
TOLERANCE = 1e-11


# -- the same functions, dense and with masks --------------------------------------------------


def causal(a, block, strict=False):
    time = np.arange(a.shape[-1]) // block
    return jnp.where(time[:, None] > time if strict else time[:, None] >= time, a, 0.0)


def transposed(a):
    return jnp.swapaxes(a, -1, -2)


def plain_matmul(a, b, *, block):
    return causal(a, block) @ causal(b, block)


def plain_solve(a, b, *, block):
    return jnp.linalg.solve(jnp.eye(a.shape[-1]) - causal(a, block, True), causal(b, block))


def plain_solve_dense(a, b, *, block):
    return jnp.linalg.solve(jnp.eye(a.shape[-1]) - causal(a, block, True), b)


def plain_resolvent(a, *, block):
    return jnp.linalg.inv(jnp.eye(a.shape[-1]) - causal(a, block, True))


def plain_congruence(r, c, *, block):
    r, c = causal(r, block), causal(c, 1) + transposed(causal(c, 1, True))
    return r @ c @ transposed(r)


def plain_apply(k, g, *, block, strict):
    trailing = g.reshape(*k.shape[:-1], -1)
    return (causal(k, block, strict) @ trailing).reshape(g.shape)


# name: our function, the plain one, the trailing axes of the second argument, or None for (n, n)
OPERATIONS = {
    "causal_matmul": (dj.causal_matmul, plain_matmul, None),
    "causal_solve": (dj.causal_solve, plain_solve, None),
    "causal_solve_dense": (partial(dj.causal_solve, dense=True), plain_solve_dense, (M,)),
    "resolvent": (dj.resolvent, plain_resolvent, None),
    "congruence": (dj.congruence, plain_congruence, None),
    "causal_apply": (dj.causal_apply, partial(plain_apply, strict=True), (2, M)),
    "causal_apply_full": (
        partial(dj.causal_apply, strict=False),
        partial(plain_apply, strict=False),
        (),
    ),
}
TWOTIME = {
    "causal_solve_dense": partial(twotime.causal_solve, dense=True),
    "causal_apply_full": partial(twotime.causal_apply, strict=False),
}


def random_arrays(name, seed, batch=(), dtype=np.float64):
    """Arguments of an operation; kernels of the size that keeps a resolvent of order one."""
    rng = np.random.default_rng(seed)
    *_, trailing = OPERATIONS[name]
    shapes = [(*batch, N, N)]
    if name != "resolvent":
        shapes.append((*batch, N, N) if trailing is None else (*batch, N, *trailing))
    return tuple((rng.normal(size=shape) / np.sqrt(N)).astype(dtype) for shape in shapes)


def close(found, expected, tolerance=TOLERANCE):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


#: Operations whose second derivatives are always tested: these rules are used in all others.
SECOND = ("causal_solve", "congruence", "resolvent")

every_operation = pytest.mark.parametrize("name", OPERATIONS)
kinds = pytest.mark.parametrize(("block", "batch"), [(1, ()), (3, (2,))], ids=["single", "blocks"])


# -- values -------------------------------------------------------------------------------------


@every_operation
@kinds
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_values_are_those_of_twotime(name, block, batch, dtype):
    ours, *_ = OPERATIONS[name]
    reference = TWOTIME.get(name) or getattr(twotime, name)
    arrays = random_arrays(name, 1, batch, dtype)
    expected = reference(*arrays, block=block)
    for found in (ours(*arrays, block=block), jax.jit(partial(ours, block=block))(*arrays)):
        assert isinstance(found, jax.Array)
        assert found.dtype == dtype
        # The same core: the same bits.
        np.testing.assert_array_equal(found, expected)


@every_operation
def test_no_times(name):
    ours, *_ = OPERATIONS[name]
    arrays = [a[:0, :0] if a.shape == (N, N) else a[:0] for a in random_arrays(name, 1)]
    found = ours(*arrays)
    assert found.shape == arrays[-1].shape
    (gradient,) = jax.vjp(ours, *arrays)[1](found)[:1]
    assert gradient.shape == arrays[0].shape


@every_operation
@pytest.mark.parametrize(
    "axes", [(0, None), (None, 1), pytest.param((-1, 0), marks=pytest.mark.slow)]
)
def test_vmap_against_a_loop(name, axes):
    ours, *_ = OPERATIONS[name]
    many = [random_arrays(name, seed) for seed in range(3)]
    count = len(many[0])
    # Of a single argument, that one.
    axes = axes[:count] if count > 1 else (axes[0] or 0,)
    columns = list(zip(*many, strict=True))
    stacked = [
        c[0] if axis is None else np.stack(c, axis) for c, axis in zip(columns, axes, strict=True)
    ]
    chosen = [
        [c[0 if axis is None else i] for c, axis in zip(columns, axes, strict=True)]
        for i in range(3)
    ]
    found = jax.jit(jax.vmap(partial(ours, block=3), in_axes=axes))(*stacked)
    one = jax.jit(partial(ours, block=3))
    expected = np.stack([one(*arrays) for arrays in chosen])
    # Columns that are merged are summed in the same order, in another kernel perhaps.
    close(found, expected, 1e-14)

    @jax.jit
    def gradients(*arrays):
        return jax.grad(lambda *a: jnp.sum(jnp.sin(ours(*a, block=3))), argnums=range(count))(
            *arrays
        )

    found = jax.jit(jax.vmap(gradients, in_axes=axes))(*stacked)
    expected = [gradients(*arrays) for arrays in chosen]
    for position in range(count):
        close(found[position], np.stack([e[position] for e in expected]), 1e-13)


def test_two_vmaps_and_a_batch():
    a = np.random.default_rng(0).normal(size=(2, 3, 4, N, N)) / N
    found = jax.vmap(jax.vmap(dj.resolvent, in_axes=1), in_axes=2)(a)
    assert found.shape == (4, 3, 2, N, N)
    np.testing.assert_array_equal(found[1, 2], twotime.resolvent(np.ascontiguousarray(a[:, 2, 1])))


def test_inside_scan():
    a, b = random_arrays("causal_matmul", 3)

    @jax.jit
    def power(a, b):
        return jax.lax.scan(lambda x, _: (dj.causal_matmul(a, x), x[-1, 0]), b, None, length=5)

    found, seen = power(a, b)
    expected = np.tril(b)
    for i in range(5):
        close(seen[i], expected[-1, 0], 1e-14)
        expected = np.tril(a) @ expected
    close(found, expected, 1e-14)

    def plain(a, b):
        return jnp.sum(jnp.linalg.matrix_power(jnp.tril(a), 5) @ jnp.tril(b))

    for found, expected in zip(
        jax.grad(lambda a, b: jnp.sum(power(a, b)[0]), argnums=(0, 1))(a, b),
        jax.grad(plain, argnums=(0, 1))(a, b),
        strict=True,
    ):
        close(found, expected, 1e-12)


@pytest.mark.parametrize("transposed", ["a", "b"])
def test_products_with_a_transpose(transposed):
    a, b = random_arrays("causal_matmul", 13)
    ours = partial(dj.causal_matmul, transposed=transposed, block=3)

    def plain(a, b):
        a, b = causal(a, 3), causal(b, 3)
        return causal(a.T @ b if transposed == "a" else a @ b.T, 3)

    np.testing.assert_array_equal(
        ours(a, b), twotime.causal_matmul(a, b, transposed=transposed, block=3)
    )
    for found, expected in zip(
        jax.jit(jax.jacrev(ours, argnums=(0, 1)))(a, b),
        jax.jit(jax.jacrev(plain, argnums=(0, 1)))(a, b),
        strict=True,
    ):
        close(found, expected)


def test_a_transposed_kernel_applied():
    k, g = random_arrays("causal_apply", 14)
    ours = partial(dj.causal_apply, transposed=True)
    np.testing.assert_array_equal(ours(k, g), twotime.causal_apply(k, g, transposed=True))

    def plain(k, g):
        return jnp.tensordot(jnp.tril(k, -1).T, g, 1)

    for found, expected in zip(
        jax.jit(jax.jacrev(ours, argnums=(0, 1)))(k, g),
        jax.jit(jax.jacrev(plain, argnums=(0, 1)))(k, g),
        strict=True,
    ):
        close(found, expected)


# -- derivatives --------------------------------------------------------------------------------


def scalar(function, block):
    """A function of the result that is not linear, so that second derivatives do not vanish."""
    weights = jnp.cos(jnp.arange(1, 1 + N * N * M * 4.0))

    def value(*arrays):
        y = function(*arrays, block=block).reshape(-1)
        return jnp.sum(weights[: y.size] * y + 0.3 * jnp.sin(y) ** 2)

    return value


@every_operation
@kinds
def test_gradients_and_tangents(name, block, batch):
    ours, plain, _ = OPERATIONS[name]
    arrays, tangents = random_arrays(name, 4, batch), random_arrays(name, 5, batch)
    every = tuple(range(len(arrays)))
    for found, expected in zip(
        jax.jit(jax.grad(scalar(ours, block), argnums=every))(*arrays),
        jax.jit(jax.grad(scalar(plain, block), argnums=every))(*arrays),
        strict=True,
    ):
        assert np.abs(expected).max() > 0.1
        close(found, expected)
    for found, expected in zip(
        jax.jit(partial(jax.jvp, partial(ours, block=block)))(arrays, tangents),
        jax.jit(partial(jax.jvp, partial(plain, block=block)))(arrays, tangents),
        strict=True,
    ):
        close(found, expected)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in SECOND else pytest.mark.slow) for name in OPERATIONS],
)
def test_second_derivatives(name):
    block = 3
    ours, plain, _ = OPERATIONS[name]
    arrays, tangents = random_arrays(name, 6), random_arrays(name, 7)
    every = tuple(range(len(arrays)))

    def forward_over_reverse(function):
        gradient = jax.grad(scalar(function, block), argnums=every)
        return jax.jvp(gradient, arrays, tangents)[1]

    def reverse_over_reverse(function):
        gradient = jax.grad(scalar(function, block), argnums=every)

        def slope(*arrays):
            return sum(jnp.vdot(g, t) for g, t in zip(gradient(*arrays), tangents, strict=True))

        return jax.grad(slope, argnums=every)(*arrays)

    # Not compiled: of the plain congruence jaxlib 0.6.0 makes a matrix that reverse over reverse
    # contradicts, and so does the same without jit.
    expected = forward_over_reverse(plain)
    assert max(np.abs(e).max() for e in expected) > 0.1
    for order in (forward_over_reverse, reverse_over_reverse):
        for found, e in zip(jax.jit(order, static_argnums=0)(ours), expected, strict=True):
            close(found, e)


@every_operation
def test_what_is_not_read_has_no_derivative(name):
    ours, *_ = OPERATIONS[name]
    arrays = random_arrays(name, 8)
    every = tuple(range(len(arrays)))
    gradients = jax.jit(jax.grad(scalar(ours, 1), argnums=every))
    slopes = jax.jit(partial(jax.jvp, partial(ours, block=1)))
    tangents = random_arrays(name, 9)
    clean, slope = gradients(*arrays), slopes(arrays, tangents)[1]
    dense = {1} if name in ("causal_solve_dense", "causal_apply") else set()
    for i, (array, tangent) in enumerate(zip(arrays, tangents, strict=True)):
        if i not in dense and array.shape == (N, N):
            array[np.triu_indices(N, 1)] = np.nan
            tangent[np.triu_indices(N, 1)] = np.nan
    for found, expected in zip(gradients(*arrays), clean, strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(slopes(arrays, tangents)[1], slope)


@every_operation
def test_float32_derivatives(name):
    ours, plain, _ = OPERATIONS[name]
    arrays = random_arrays(name, 10, dtype=np.float32)
    expected = jax.jit(jax.grad(scalar(plain, 3)))(*(np.float64(a) for a in arrays))
    found = jax.jit(jax.grad(scalar(ours, 3)))(*arrays)
    assert found.dtype == np.float32
    # As TOLERANCE, with the eps of float32.
    close(found, expected, TOLERANCE * np.finfo(np.float32).eps / np.finfo(np.float64).eps / 100)


def test_jacobians_both_ways():
    a, g = random_arrays("causal_apply_full", 11)
    forward, backward = jax.jacfwd(dj.causal_apply), jax.jacrev(dj.causal_apply)
    close(forward(a, g), backward(a, g))
    close(jax.jacrev(dj.causal_apply, argnums=1)(a, g), np.tril(a, -1))


# -- errors -------------------------------------------------------------------------------------


def zeros(*shape):
    return np.zeros(shape)


@pytest.mark.parametrize(
    ("name", "arrays", "options"),
    [
        ("causal_matmul", (zeros(3), zeros(3)), {}),
        ("causal_matmul", (zeros(3, 3), zeros(2, 3, 3)), {}),
        ("causal_solve", (zeros(3, 3), zeros(3)), {"dense": True}),
        ("causal_solve", (zeros(3, 3), zeros(4, 4)), {}),
        ("resolvent", (zeros(3, 2),), {}),
        ("resolvent", (zeros(4, 4),), {"block": 3}),
        ("resolvent", (zeros(4, 4),), {"block": 0}),
        ("resolvent", (zeros(4, 4),), {"block": 2.0}),
        ("causal_matmul", (zeros(3, 3), zeros(3, 3)), {"transposed": "c"}),
        ("causal_matmul", (zeros(3, 3), zeros(3, 3)), {"transposed": True}),
        ("causal_solve", (zeros(3, 3), zeros(3, 3)), {"dense": "yes"}),
        ("causal_apply", (zeros(3, 3), zeros(3)), {"transposed": "a"}),
        ("congruence", (zeros(3, 3), zeros(4, 4)), {}),
        ("causal_apply", (zeros(2, 3, 3), zeros(3, 3)), {}),
    ],
)
def test_shapes_are_refused_in_the_words_of_twotime(name, arrays, options):
    with pytest.raises((TypeError, ValueError)) as expected:
        getattr(twotime, name)(*arrays, **options)
    traced = jax.jit(partial(getattr(dj, name), **options))
    for call in (partial(getattr(dj, name), **options), traced):
        with pytest.raises(expected.type) as found:
            call(*arrays)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.tolist(), r"b must be a jax array, not list; pass jax\.numpy\.asarray\(b\)"),
        (lambda a: a.astype(int), r"b must be float64 or float32, not int64; pass b.astype"),
        (lambda a: a + 0j, "b must be float64 or float32, not complex128; pass b.real and b.imag"),
        (lambda a: a.astype(np.float16), "b must be float64 or float32, not float16"),
        (np.float32, r"a is float64 but b is float32; all arrays .* pass b.astype\(a.dtype\)"),
    ],
)
def test_dtypes_are_refused(change, message):
    with pytest.raises(TypeError, match=message):
        dj.causal_matmul(zeros(3, 3), change(zeros(3, 3)))


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda a, block: dj.resolvent(a, block=block), "block"),
        (lambda a, dense: dj.causal_solve(a, a, dense), "dense"),
        (lambda a, strict: dj.causal_apply(a, a, strict), "strict"),
        (lambda a, transposed: dj.causal_apply(a, a, transposed=transposed), "transposed"),
        (
            lambda a, steps: dj.deep_linear_loss(
                a, a, depth=1, lr=0.1, gamma=1.0, init_scale=1.0, steps=steps
            ),
            "steps",
        ),
    ],
)
def test_options_are_known_when_a_call_is_traced(call, option):
    with pytest.raises(TypeError, match=f"{option} must be known .* static_argnames='{option}'"):
        jax.jit(call)(zeros(3, 3), 1)


def test_float64_is_not_cut_to_float32():
    jax.config.update("jax_enable_x64", False)
    try:
        with pytest.raises(TypeError, match=r"which jax would cut to float32: call jax\.config"):
            dj.resolvent(zeros(3, 3))
        assert dj.resolvent(np.zeros((3, 3), np.float32)).dtype == np.float32
    finally:
        jax.config.update("jax_enable_x64", True)


def test_the_handler_refuses_what_it_would_read_beyond():
    def call(target, *arrays, **attributes):
        result = jax.ShapeDtypeStruct(arrays[-1].shape, arrays[-1].dtype)
        return jax.ffi.ffi_call(f"dmftcore_{target}", result)(*arrays, **attributes)

    one = np.int64(1)
    with pytest.raises(Exception, match=r"dmftcore: kernels must be \(\*batch, n, n\)"):
        call("resolvent", zeros(3, 2), block=one)
    with pytest.raises(Exception, match="dmftcore: there is no attribute block"):
        call("resolvent", zeros(3, 3))
    with pytest.raises(Exception, match="dmftcore: the attribute block must be an int64"):
        call("resolvent", zeros(3, 3), block=np.int32(1))
    with pytest.raises(Exception, match="dmftcore: the size must be a multiple of block"):
        call("resolvent", zeros(3, 3), block=np.int64(2))
    with pytest.raises(Exception, match="dmftcore: expected 2 arguments and one result"):
        call("causal_matmul", zeros(3, 3), block=one)
    with pytest.raises(Exception, match="dmftcore: the kernels must have one shape"):
        call("causal_matmul", zeros(3, 3), zeros(4, 4), block=one, transposed=one)
    with pytest.raises(Exception, match="dmftcore: the arguments must have one dtype"):
        call("causal_matmul", zeros(3, 3), np.zeros((3, 3), np.float32), block=one)
    with pytest.raises(Exception, match="dmftcore: arrays must be float64 or float32"):
        call("resolvent", np.zeros((3, 3), int), block=one)
    with pytest.raises(Exception, match=r"dmftcore: the second argument must be \(\*batch, n"):
        call("causal_apply", zeros(3, 3), zeros(4), block=one, strict=one, transposed=one)
    with pytest.raises(Exception, match="dmftcore: transposed must be 0, 1 or 2"):
        call("causal_matmul", zeros(3, 3), zeros(3, 3), block=one, transposed=np.int64(3))


# -- platforms ----------------------------------------------------------------------------------


def lowered(platform):
    return jax.jit(dj.resolvent).trace(zeros(3, 3)).lower(lowering_platforms=(platform,)).as_text()


def test_lowering_names_the_target():
    assert "dmftcore_resolvent" in lowered("cpu")


def test_a_platform_without_the_core():
    with pytest.raises(NotImplementedError, match="resolvent is not available on tpu"):
        lowered("tpu")


def test_cuda_where_it_was_built():
    if _core.cuda_compiler():
        assert "dmftcore_resolvent" in lowered("cuda")
    else:
        with pytest.raises(NotImplementedError, match="this dmftcore was built without CUDA"):
            lowered("cuda")


@pytest.mark.gpu
@every_operation
def test_on_a_gpu(name):
    try:
        device = jax.devices("gpu")[0]
    except RuntimeError:
        pytest.skip("jax sees no GPU")
    ours, plain, _ = OPERATIONS[name]
    arrays = [jax.device_put(a, device) for a in random_arrays(name, 12)]
    close(jax.jit(partial(ours, block=3))(*arrays), plain(*arrays, block=3))
    close(jax.grad(scalar(ours, 3))(*arrays), jax.grad(scalar(plain, 3))(*arrays))


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_the_package_does_not_load_jax():
    done = python("import sys, dmftcore; assert 'jax' not in sys.modules")
    assert done.returncode == 0, done.stderr


def test_without_jax_the_import_says_what_to_do():
    done = python("import sys; sys.modules['jax'] = None; import dmftcore.jax")
    assert 'ImportError: dmftcore.jax needs jax >= 0.6: pip install "dmftcore[jax]"' in done.stderr
