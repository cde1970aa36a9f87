"""Operations on particles against their definition as loops."""

import numpy as np
import pytest

import reference
from dmftcore import _core
from dmftcore.activations import ACTIVATIONS
from dmftcore.losses import LOSSES, loss_function

ISAS = ["baseline", "v3", "v4"]
DTYPES = [np.float64, np.float32]


@pytest.fixture(params=ISAS)
def isa(request):
    before = _core.isa()
    try:
        _core.set_isa(request.param)
    except ValueError:
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    _core.set_isa(before)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def bound(dtype, terms):
    """Rounding of a sum of `terms` products of numbers of order one, with some room."""
    return 8 * np.finfo(dtype).eps * np.sqrt(terms + 1)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("particles", "n", "ranks"),
    [(1, 1, (1, 1)), (37, 3, (5, 0)), (530, 5, (9, 6)), (70, 0, (2, 2))],
)
def test_products(rng, dtype, particles, n, ranks):
    runs, capacity = 2, 11
    x, x0 = rng.normal(size=(2, runs, n + 1, particles)).astype(dtype)
    a, b = rng.normal(size=(2, runs, capacity, particles)).astype(dtype)
    used_a, used_b = np.array(ranks), np.array(ranks[::-1])
    # What is not in use is not read.
    for run in range(runs):
        a[run, used_a[run] :] = np.nan
        b[run, used_b[run] :] = np.nan
    c, d, gram = np.full((2, runs, capacity, n), np.nan), None, np.full((runs, n, n), np.nan)
    c, d = c
    _core.particle_products(
        x=x, n=n, reference=x0, a=a, used_a=used_a, b=b, used_b=used_b, c=c, d=d, gram=gram
    )
    for run in range(runs):
        ka, kb = used_a[run], used_b[run]
        expected = reference.particle_products(x[run], n, x0[run], a[run, :ka], b[run, :kb])
        tolerance = bound(dtype, particles)
        np.testing.assert_allclose(c[run, :ka], expected[0], atol=tolerance, rtol=0)
        np.testing.assert_allclose(d[run, :kb], expected[1], atol=tolerance, rtol=0)
        np.testing.assert_allclose(gram[run], expected[2], atol=tolerance, rtol=tolerance)
        assert not c[run, ka:].any()
        assert not d[run, kb:].any()
        assert np.array_equal(gram[run], gram[run].T)


def test_products_of_some_kinds_only(rng):
    x, a = rng.normal(size=(1, 2, 9)), rng.normal(size=(1, 3, 9))
    d, gram = np.empty((1, 3, 2)), np.empty((1, 2, 2))
    _core.particle_products(x=x, n=2, b=a, d=d)
    _core.particle_products(x=x, n=2, gram=gram)
    _, expected, square = reference.particle_products(x[0], 2, b=a[0])
    np.testing.assert_allclose(d[0], expected, atol=1e-15)
    np.testing.assert_allclose(gram[0], square, atol=1e-15)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_expansion(rng, dtype, name):
    runs, particles, n, repeat = 2, 523, 3, 2
    a, b = rng.normal(size=(2, runs, 10, particles)).astype(dtype)
    base, field = rng.normal(size=(2, runs, n + 1, particles)).astype(dtype)
    used_a, used_b = np.array([9, 0]), np.array([1, 10])
    c, d = rng.normal(size=(2, runs, 10, n)) / 4
    for run in range(runs):
        a[run, used_a[run] :] = np.nan
        b[run, used_b[run] :] = np.nan
    u, y, value = np.full((3, runs, n, particles), np.nan, dtype)
    arguments = {"skip": 0.7, "scale": 1.3, "repeat": repeat}
    _core.particle_expansion(
        n=n,
        a=a,
        used_a=used_a,
        c=c,
        b=b,
        used_b=used_b,
        d=d,
        base=base,
        field=field,
        activation=ACTIVATIONS.index(name),
        u=u,
        y=y,
        value=value,
        **arguments,
    )
    for run in range(runs):
        ka, kb = used_a[run], used_b[run]
        expected = reference.particle_expansion(
            n,
            particles,
            a[run, :ka],
            c[run],
            b[run, :kb],
            d[run],
            base=base[run],
            field=field[run],
            name=name,
            **arguments,
        )
        # Conditioning of the functions on numbers below 10 is below 20.
        for found, wanted in zip((u, y, value), expected, strict=True):
            tolerance = 20 * bound(dtype, 22)
            np.testing.assert_allclose(found[run], wanted, atol=tolerance, rtol=tolerance)


def test_expansion_in_place(rng):
    a, y = rng.normal(size=(1, 2, 600)), rng.normal(size=(1, 3, 600))
    c, before = rng.normal(size=(1, 2, 3)), y.copy()
    _core.particle_expansion(n=3, a=a, c=c, base=y, y=y, skip=0.5, scale=-2.0)
    np.testing.assert_allclose(y[0], 0.5 * before[0] - 2 * c[0].T @ a[0], atol=1e-14)


def two_layer(rng, *, particles, train=4, outputs=1, momentum=0.0, rates=(0.1, 0.05), dtype=float):
    """Arguments of a march of two runs."""
    given = {
        "a": rng.normal(size=(2, 3, particles)).astype(dtype),
        "w": rng.normal(size=(2, outputs, particles)).astype(dtype),
        "x": rng.normal(size=(4, 3)),
        "targets": rng.normal(size=(train, outputs)),
        "centre": rng.normal(size=(2, 4, outputs)) / 8,
        "rates": np.array(rates),
        "f": np.full((1 + len(rates), 2, 4, outputs), np.nan),
        "activation": 2,
        "loss": 0,
        "gamma": 0.8,
        "momentum": momentum,
        "decay": 0.1,
    }
    if momentum:
        velocities = {f"{name}_velocity": rng.normal(size=given[name].shape) / 8 for name in "aw"}
        given |= {name: x.astype(dtype) for name, x in velocities.items()}
    return given


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize(
    ("particles", "train", "outputs", "momentum"),
    [(1, 1, 1, 0.5), (577, 3, 2, 0.0), (64, 4, 1, 0.9)],
)
def test_two_layer_march(rng, dtype, name, particles, train, outputs, momentum):
    given = two_layer(
        rng, particles=particles, train=train, outputs=outputs, momentum=momentum, dtype=dtype
    )
    given["activation"] = ACTIVATIONS.index(name)
    none = np.zeros_like(given["a"]), np.zeros_like(given["w"])
    before = [given["a"].copy(), given["w"].copy()]
    velocities = [
        given.get(f"{name}_velocity", zero).copy() for name, zero in zip("aw", none, strict=True)
    ]
    _core.two_layer_march(**given)
    for run in range(2):
        weights, moving = [x[run] for x in before], [x[run] for x in velocities]
        f = reference.two_layer_outputs(*weights, given["x"], name) / given["gamma"]
        for step in range(3):
            expected = f - given["centre"][run]
            # Conditioning as in `test_expansion`, of sums of some 20 terms in a neuron.
            tolerance = 20 * bound(dtype, 22)
            np.testing.assert_allclose(
                given["f"][step, run], expected, atol=tolerance, rtol=tolerance
            )
            if step < 2:
                weights, moving, f = reference.two_layer_step(
                    weights,
                    moving,
                    given["x"],
                    given["targets"],
                    expected,
                    name,
                    gamma=given["gamma"],
                    rate=given["rates"][step],
                    momentum=momentum,
                    decay=given["decay"],
                )
        for array, velocity, wanted, moved in zip("aw", "aw", weights, moving, strict=True):
            np.testing.assert_allclose(given[array][run], wanted, atol=tolerance, rtol=tolerance)
            if momentum:
                np.testing.assert_allclose(
                    given[f"{velocity}_velocity"][run], moved, atol=tolerance, rtol=tolerance
                )


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("name", ["tanh", "gelu", "relu"])
def test_two_layer_march_of_triangular_points(name):
    """What it saves are zeros: one that is almost none makes it add them all."""
    results = []
    for corner in (0.0, 1e-300):
        given = two_layer(np.random.default_rng(0), particles=131, train=3, momentum=0.5)
        given["x"] = np.tril(given["x"])
        given["x"][0, 2] = corner
        _core.two_layer_march(**given | {"activation": ACTIVATIONS.index(name)})
        results.append([given[key] for key in ("f", "a", "w", "a_velocity", "w_velocity")])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-14)


#: Of a run, whose numbers are kept between steps and too many for that.
SMALL, LARGE = 3_001, 80_001


@pytest.mark.parametrize("particles", [SMALL, LARGE])
def test_two_layer_march_takes_no_notice_of_threads_neighbours_and_stops(rng, particles):
    given = two_layer(rng, particles=particles, momentum=0.5)
    names = ("a", "w", "a_velocity", "w_velocity")
    results, before = [], _core.get_num_threads()
    for threads, runs, pieces in ((1, 2, (2,)), (5, 2, (2,)), (2, 1, (2,)), (1, 2, (0, 1, 1))):
        _core.set_num_threads(threads)
        one = {**given, **{name: given[name][:runs].copy() for name in names}}
        one["centre"], outputs, first = given["centre"][:runs], [], 0
        for count in pieces:
            f = np.empty((count + 1, runs, 4, 1))
            rates = given["rates"][first : first + count]
            _core.two_layer_march(**one | {"rates": rates, "f": f})
            outputs.append(f[:-1])
            first += count
        results.append([*(one[name] for name in names), np.concatenate([*outputs, f[-1:]], axis=0)])
    _core.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0][:4], other[:4], strict=True):
            assert np.array_equal(first[: len(second)], second)
        assert np.array_equal(results[0][4][:, : other[4].shape[1]], other[4])


def test_losses_of_the_two_layer_march(rng):
    """Errors of the first update, against those of the losses themselves."""
    for number, name in enumerate(LOSSES):
        outputs = 2 if name == "softmax" else 1
        targets = np.eye(2)[[0, 1, 1]] if outputs == 2 else np.array([[1.0], [-1.0], [1.0]])
        given = two_layer(rng, particles=70, train=3, outputs=outputs, rates=(0.3,))
        given |= {"loss": number, "targets": targets, "activation": 0, "decay": 0.0}
        a, w = given["a"].copy(), given["w"].copy()
        _core.two_layer_march(**given)
        errors = given["gamma"] / 3 * loss_function(name).errors(given["f"][0, :, :3], targets)
        h = np.einsum("mi,rip->rmp", given["x"][:3], a)
        moved = w + 0.3 * np.einsum("rmk,rmp->rkp", errors, h)
        np.testing.assert_allclose(given["w"], moved, rtol=0, atol=1e-13)


def test_two_layer_march_refuses_arguments_out_of_bounds(rng):
    given = two_layer(rng, particles=5, train=4, outputs=2)
    for name, wrong, text in (
        ("w", np.zeros((2, 2, 6)), "a must be"),
        ("x", np.zeros((4, 2)), "x must be"),
        ("f", np.zeros((1, 2, 4, 2)), "f must be"),
        ("targets", np.zeros((5, 2)), "targets must be"),
        ("centre", np.zeros((1, 4, 2)), "centre must be"),
        ("a_velocity", given["a"], "velocities must be"),
        ("activation", 7, "no such activation"),
        ("loss", 3, "no such loss"),
    ):
        with pytest.raises(ValueError, match=text):
            _core.two_layer_march(**given | {name: wrong})


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_not_finite_stays_so(name, dtype):
    for h in (np.nan, np.inf):
        field, value = np.full((1, 1, 3), h, dtype), np.empty((1, 1, 3), dtype)
        _core.particle_expansion(n=1, base=field, value=value, activation=ACTIVATIONS.index(name))
        if np.isnan(h):
            assert np.isnan(value).all()
        else:
            assert (value == (1 if name in ("tanh", "erf") else np.inf)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_matter(rng, dtype):
    x = rng.normal(size=(3, 4, 40_001)).astype(dtype)
    a = rng.normal(size=(3, 20, 40_001)).astype(dtype)
    results, before = [], _core.get_num_threads()
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        c, y = np.empty((3, 20, 4)), np.empty_like(x)
        _core.particle_products(x=x, n=4, a=a, c=c)
        _core.particle_expansion(n=4, a=a, c=c, base=x, y=y, scale=-1.0)
        z = np.empty((5, 40_001), dtype)
        _core.normals(z, seed=1, run=0, stream=0, column=0)
        results.append((c, y, z))
    _core.set_num_threads(before)
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert np.array_equal(first, second)


def test_a_run_does_not_depend_on_its_neighbours(rng):
    x, a = rng.normal(size=(3, 4, 1000)), rng.normal(size=(3, 20, 1000))
    c, alone = np.empty((3, 20, 4)), np.empty((1, 20, 4))
    _core.particle_products(x=x, n=4, a=a, c=c)
    _core.particle_products(x=x[1:2], n=4, a=a[1:2], c=alone)
    assert np.array_equal(c[1:2], alone)


def test_normals():
    which = {"seed": 2**40 + 5, "run": 3, "stream": 1, "column": 6}
    x = np.empty((2, 9))
    _core.normals(x, **which)
    np.testing.assert_allclose(x, reference.normals(2, 9, **which), rtol=1e-13)
    rounded = np.empty((2, 9), np.float32)
    _core.normals(rounded, **which)
    assert np.array_equal(rounded, x.astype(np.float32))
    # Known answer of the generator's authors for a counter and a key of ones.
    ones = reference.philox((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF)
    assert ones == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)


def test_normals_are_normal():
    x = np.empty((4, 100_000))
    _core.normals(x, seed=0, run=0, stream=0, column=0)
    size = x.shape[1]
    moments = [x, x**2 - 1, x**3, x**4 - 3]
    variances = [1, 2, 15, 96]
    z = [m.mean(axis=1) / np.sqrt(v / size) for m, v in zip(moments, variances, strict=True)]
    correlations = (np.corrcoef(x) - np.eye(4)) * np.sqrt(size)
    neighbours = (x[:, 1:] * x[:, :-1]).mean(axis=1) * np.sqrt(size)
    assert max(np.abs(z).max(), np.abs(correlations).max(), np.abs(neighbours).max()) < 4.5


def test_arguments_out_of_bounds_are_refused():
    x, a = np.zeros((1, 2, 5)), np.zeros((1, 3, 5))
    with pytest.raises(ValueError, match="x must be"):
        _core.particle_products(x=x, n=3)
    with pytest.raises(ValueError, match="a must be"):
        _core.particle_products(x=x, n=2, a=a, used_a=np.array([4]), c=np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="c must be"):
        _core.particle_products(x=x, n=2, a=a, c=np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match="c must be"):
        _core.particle_expansion(n=2, a=a, y=x)
    with pytest.raises(ValueError, match="no such activation"):
        _core.particle_expansion(n=2, base=x, value=x, activation=7)
    with pytest.raises(TypeError):
        _core.particle_products(x=x, n=2, a=a.astype(np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_pass_adds_no_more_columns_than_there_are_fields(rng, dtype):
    """Of fields that depend on each other nothing but rounding is left after two of them."""
    fields, size = 3, 40
    x = rng.normal(size=(1, 2, size))
    x = np.concatenate([x, x.sum(axis=1, keepdims=True)], axis=1).astype(dtype)
    rows = [np.zeros((1, fields, size), dtype) for _ in range(6)]
    used = [np.zeros(1, int) for _ in range(4)]
    _core.interface_pass(
        x=x,
        n=fields,
        visited=rows[0],
        used_visited=used[0],
        responding=rows[1],
        fresh=rows[2],
        used_fresh=used[1],
        opposite=rows[3],
        used_opposite=used[2],
        pool=rows[4],
        used_pool=used[3],
        room=0,
        match=False,
        quasi=False,
        matrix=np.zeros((1, fields, fields)),
        transposed=False,
        kept=1.0,
        tol=0.0,
        formed=True,
        normals=lambda out, run, *place: out.__setitem__(slice(None), rng.normal(size=out.shape)),
        along=np.zeros((1, fields, fields)),
        response=np.zeros((1, fields, fields)),
        gram=np.zeros((1, fields, fields)),
        levels=np.zeros((1, 2)),
        y=rows[5],
    )
    assert used[0] == used[1] <= fields


def test_passes_out_of_bounds_are_refused():
    none, one = np.array([0]), np.array([1])
    given = {"x": np.zeros((1, 1, 5)), "n": 1, "y": np.zeros((1, 1, 6)), "normals": print}
    given |= {
        "visited": np.zeros((1, 2, 5)),
        "used_visited": one,
        "responding": np.zeros((1, 3, 5)),
    }
    given |= {"fresh": np.zeros((1, 2, 6)), "used_fresh": one, "opposite": np.zeros((1, 3, 6))}
    given |= {"used_opposite": none, "pool": np.zeros((1, 4, 6)), "used_pool": one, "room": 4}
    given |= {"match": True, "quasi": False, "matrix": np.zeros((1, 3, 2)), "transposed": False}
    given |= {"kept": 1.0, "tol": 0.1, "formed": False, "along": np.zeros((1, 2, 1))}
    given |= {"response": np.zeros((1, 3, 1)), "gram": np.zeros((1, 1, 1))}
    given |= {"levels": np.zeros((1, 2))}
    _core.interface_pass(**given)
    for name, wrong, text in (
        ("n", 2, "x must be"),
        ("reference", np.zeros((1, 2, 5)), "reference must be"),
        ("used_visited", np.array([2]), "visited must have room"),
        ("used_fresh", np.array([2]), "fresh must have room"),
        ("used_fresh", none, "each visited column"),
        ("room", 5, "pool must have its room"),
        ("opposite", np.zeros((1, 3, 5)), "opposite must be"),
        ("used_opposite", np.array([4]), "opposite must be"),
        ("responding", np.zeros((1, 3, 6)), "responding must be"),
        ("transposed", True, "matrix must be"),
        ("along", np.zeros((1, 1, 1)), "results must be"),
        ("base", np.zeros((1, 1, 5)), "base must be"),
        ("activation", 7, "no such activation"),
    ):
        with pytest.raises(ValueError, match=text):
            _core.interface_pass(**given | {name: wrong})
    with pytest.raises(ValueError, match="numbers must be"):
        _core.quasi_normals(np.zeros(3), numbers=np.zeros(31, np.uint32), shift=0)
