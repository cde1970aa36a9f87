"""The ensemble march: exact where nothing is sampled, and the law of networks where it is.

Numbers without another source are reference tables, computed by independent programs from the same
equations and the same table of random numbers.
"""

import numpy as np
import pytest
from scipy.special import ndtri

import dmftcore as dc
from dmftcore import _core
from dmftcore.sampled.blocks import Sampling
from dmftcore.sampled.ensemble import Ensemble
from dmftcore.sampled.interfaces import RELIABLE
from dmftcore.sampled.particles import (
    CounterNormals,
    Directions,
    Particles,
    TableNormals,
    deflate,
    orthonormalised,
    products,
)

GRAM = np.array([[1.0, 0.3], [0.3, 0.8]])
TARGETS = np.array([[1.0], [-0.5]])
THREE = np.array([[1.0, 0.2, -0.1], [0.2, 0.8, 0.3], [-0.1, 0.3, 1.2]])
SIGNS = np.array([[1.0], [-1.0]])


def ensemble(limit, gram, targets, training, *, normals=None, fields=None, two_time=False, **how):
    how = {"size": 64, "tol": 1e-20} | how
    return Ensemble(
        limit.architecture,
        np.linalg.cholesky(gram),
        targets,
        training,
        Sampling(**how),
        fields=fields,
        two_time=two_time,
        normals=normals,
    )


def descend(lr, steps, **rest):
    return dc.GradientDescent(lr, steps, **rest)


def losses(outputs, targets):
    return ((targets - outputs[:, 0, : len(targets)]) ** 2).sum(axis=(1, 2)) / (2 * len(targets))


# -- a table of random numbers tests every operation of every step --------------------------------


def primes(count):
    found = [2]
    candidate = 3
    while len(found) < count:
        if all(candidate % p for p in found):
            found.append(candidate)
        candidate += 2
    return found


PRIMES = primes(60)

#: activation, match, control variates: loss(1..4), f(4), K(4)
TABLE = {
    ("tanh", False, False): (
        (0.1850917406, 0.117417958, 0.072778398, 0.0433808753),
        (0.6271954376, -0.3141499005),
        (0.8944172336, 0.0483458401, 1.3617300885),
    ),
    ("relu", False, False): (
        (0.1813723582, 0.0913971956, 0.0281706403, 0.0073128092),
        (0.949684295, -0.3365387919),
        (4.7697771766, 0.7375518782, 2.5340197698),
    ),
    ("tanh", False, True): (
        (0.1840911663, 0.1173796277, 0.0728823472, 0.0438109274),
        (0.6173659966, -0.330191493),
        None,
    ),
    ("gelu", False, True): ((0.1790599914, 0.0749295384, 0.0196661724, 0.0046655799), None, None),
    ("tanh", True, True): (
        (0.1856256235, 0.12054414, 0.0754648205, 0.0457235107),
        (0.6306959344, -0.2843415895),
        None,
    ),
    ("erf", True, True): ((0.1621935915, 0.0947931992, 0.0530154185, 0.0293273142), None, None),
}


@pytest.mark.parametrize(("activation", "match", "variates"), TABLE)
def test_a_table_of_random_numbers(activation, match, variates):
    table = TableNormals(lambda k, site: ndtri((site + 1) * np.sqrt(PRIMES[k]) % 1))
    march = ensemble(
        dc.Residual(2, activation),
        GRAM,
        TARGETS,
        descend(0.5, 4),
        normals=table,
        tol=1e-6,
        match=match,
        pool=20,
        control_variates=variates,
    )
    outputs = march.advance(np.arange(5))
    loss, f, ntk = TABLE[activation, match, variates]
    np.testing.assert_allclose(losses(outputs, TARGETS)[1:], loss, atol=1e-9)
    if f is not None:
        np.testing.assert_allclose(outputs[4, 0, :, 0], f, atol=1e-9)
    march.store_kernels()
    if ntk is not None:
        found = march.kernels.equal_time("ntk")[0][0, 0]
        np.testing.assert_allclose(found[np.triu_indices(2)], ntk, atol=1e-9)
    assert march.diagnostics()["ranks"] == [[10, 10], [10, 10]]


# -- linear networks: nothing is sampled ----------------------------------------------------------

SOURCES = pytest.mark.parametrize(
    "sources", [{"unit": True, "size": 200}, {"size": 80, "pool": 80}, {"size": 171, "pool": 171}]
)


@SOURCES
def test_linear_perceptrons(sources):
    """Reference tables, exact in all printed digits."""
    march = ensemble(dc.MLP(2, "linear"), THREE, SIGNS, descend(0.15, 10), two_time=True, **sources)
    outputs = march.advance(np.arange(11))
    loss = losses(outputs, SIGNS)[[1, 5, 10]]
    np.testing.assert_allclose(loss, [0.35515625, 0.055953558, 0.0009243509], atol=1e-9)
    f = [0.9739682162, -0.9450477506, -0.5773300401]
    np.testing.assert_allclose(outputs[10, 0, :, 0], f, atol=1e-9)

    deep = ensemble(dc.MLP(3, "linear"), THREE, SIGNS, descend(0.15, 10), **sources)
    outputs = deep.advance(np.arange(11))
    loss = losses(outputs, SIGNS)[[1, 5, 10]]
    np.testing.assert_allclose(loss, [0.3125, 0.0078393801689, 7.6253498627e-07], atol=1e-10)
    deep.store_kernels()
    phi, g = (deep.kernels.equal_time(name)[0][:, 0] for name in ("Phi", "G"))
    found = [phi[2, 0, 0], phi[2, 1, 1], phi[2, 0, 1], g[0, 0, 0], g[1, 0, 0], g[2, 0, 0]]
    expected = [
        1.9278574395,
        1.7376504193,
        -0.7337789275,
        3.7007550513,
        2.1209463704,
        1.3231476711,
    ]
    np.testing.assert_allclose(found, expected, atol=1e-8)


@SOURCES
def test_linear_perceptron_with_decay_and_momentum(sources):
    march = ensemble(
        dc.MLP(3, "linear"),
        THREE,
        SIGNS,
        descend(0.15, 10, weight_decay=0.05, momentum=0.4),
        two_time=True,
        **sources,
    )
    rows = []
    for step in range(11):
        rows.append(march.advance(np.array([step])))
        if step in (0, 10):
            march.store_kernels()
    outputs = np.concatenate(rows)
    loss = losses(outputs, SIGNS)[[1, 5, 10]]
    np.testing.assert_allclose(loss, [0.3161959467, 0.0007835473, 0.0020696039], atol=1e-9)
    f = [0.9426514803, -0.9293631614, -0.5649571301]
    np.testing.assert_allclose(outputs[10, 0, :, 0], f, atol=1e-9)
    g = march.kernels.between_times("G")[0][0]
    np.testing.assert_allclose(g[1, 0, 1, 0], 2.9172144773, atol=1e-8)
    np.testing.assert_allclose(g[0, 0, 1, 0], 1.0670287548, atol=1e-8)


@SOURCES
def test_linear_residual_network(sources):
    """Reference tables, tolerance 1e-9."""
    march = ensemble(
        dc.Residual(3, "linear"), GRAM, TARGETS, descend(0.2, 5), two_time=True, **sources
    )
    rows = []
    for step in range(6):
        rows.append(march.advance(np.array([step])))
        march.store_kernels()
    f = [
        [0, 0],
        [0.5540740741, -0.0651851852],
        [0.7948301262, -0.2207619215],
        [0.9133806588, -0.3553689098],
        [0.9655454062, -0.4372662264],
        [0.9869544681, -0.4755674115],
    ]
    np.testing.assert_allclose(np.concatenate(rows)[:, 0, :, 0], f, atol=1e-9)
    kernels = march.kernels
    np.testing.assert_allclose(
        kernels.equal_time("sharpness")[0][0],
        [3.9640016078, 4.2504222784, 4.8055068880, 5.1999938809, 5.4152588615, 5.5133223886],
        atol=1e-8,
    )
    ntk = kernels.equal_time("ntk")[0][0]
    np.testing.assert_allclose(
        ntk[5], [[9.9898779066, 1.9598053739], [1.9598053739, 7.3220153058]], atol=1e-8
    )
    h = kernels.between_times("H")[3][0]
    np.testing.assert_allclose(
        h[5, :, 5], [[3.2333870887, 0.2479263226], [0.2479263226, 2.1165771129]], atol=1e-8
    )
    np.testing.assert_allclose(
        h[5, :, 0], [[2.5075293478, 0.6824099478], [0.5622307202, 1.9346129978]], atol=1e-8
    )
    np.testing.assert_allclose(kernels.between_times("G")[0][0, 5, :, 5], 4.0397078268, atol=1e-8)
    np.testing.assert_allclose(
        kernels.between_times("AG")[1][0, 5, :, 0],
        [[0.1765730782] * 2, [-0.0823385213] * 2],
        atol=1e-8,
    )
    np.testing.assert_allclose(
        kernels.between_times("BPhi")[1][0, 5, :, 0],
        [[0.1790348429, -0.0799458446]] * 2,
        atol=1e-8,
    )


def test_unit_sources_against_the_growing_network():
    """Two programs for the same network: the compiled one grows neurons, as this does columns."""
    rng = np.random.default_rng(0)
    data = dc.Dataset(inputs=rng.normal(size=(3, 4)), targets=[1.0, -1.0, 0.5])
    training = descend(0.15, 40, momentum=0.2)
    limit = dc.Residual(3, "linear")
    grown = dc.solve(limit, data, training, method="growing", tol=1e-14)
    march = Ensemble(
        limit.architecture,
        data.coordinates,
        data.targets[:, None],
        training,
        Sampling(600, tol=1e-24, unit=True),
    )
    outputs = march.advance(np.arange(41))[:, 0, :, 0]
    np.testing.assert_allclose(outputs, grown.outputs, atol=1e-12)


def test_errors_propagate_alone_or_with_every_output():
    """Linear, three outputs: both backward passes give the same network."""
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(4, 4)), rng.normal(size=(4, 3))
    results = []
    for fields in (True, False):
        march = ensemble(
            dc.Residual(2, "linear"),
            inputs @ inputs.T / 4,
            targets,
            descend(0.1, 8),
            fields=fields,
            unit=True,
            size=400,
        )
        outputs = march.advance(np.arange(9))
        march.store_kernels()
        results.append((outputs, march.kernels.equal_time("ntk")[0]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-9)


def test_test_points_do_not_matter():
    """Linear, where nothing is sampled."""
    with_test = ensemble(dc.MLP(3, "linear"), THREE, SIGNS, descend(0.15, 10), size=100)
    alone = ensemble(dc.MLP(3, "linear"), THREE[:2, :2], SIGNS, descend(0.15, 10), size=100)
    stops = np.arange(11)
    np.testing.assert_allclose(with_test.advance(stops)[:, :, :2], alone.advance(stops), atol=1e-12)


def test_two_layer_blocks_do_not_depend_on_the_sample_where_they_are_linear():
    runs = [
        ensemble(
            dc.Residual(2, "linear", block_layers=2),
            GRAM,
            TARGETS,
            descend(0.15, 6, momentum=0.3),
            size=size,
            seed=size,
            pool=size,
        ).advance(np.arange(7))
        for size in (90, 140)
    ]
    np.testing.assert_allclose(*runs, atol=1e-10)


def test_unit_sources_are_counted():
    march = ensemble(dc.MLP(2, "linear"), THREE, SIGNS, descend(0.15, 10), size=8, unit=True)
    with pytest.raises(ValueError, match="unit sources: 9 are needed so far, but there are 8"):
        march.advance(np.arange(11))
    with pytest.raises(ValueError, match="nothing is nonlinear"):
        ensemble(dc.MLP(2, "tanh"), THREE, SIGNS, descend(0.15, 10), unit=True)


# -- the law of networks --------------------------------------------------------------------------


def z_scores(one, other):
    """Of differences of means and of variances, for samples (runs, observables)."""
    first, second = (np.concatenate([x, (x - x.mean(axis=0)) ** 2], axis=1) for x in (one, other))
    error = np.sqrt(first.var(axis=0) / len(first) + second.var(axis=0) / len(second))
    return (first.mean(axis=0) - second.mean(axis=0)) / error


LAWS = {
    "residual, decay and momentum": (
        dc.Residual(2, "tanh", branch_scale=1.2),
        descend(0.4, 6, weight_decay=0.1, momentum=0.3),
        1,
    ),
    "perceptron, softmax": (dc.MLP(3, "tanh", gamma=1.3), descend(0.6, 6, loss="softmax"), 3),
    "blocks of two layers": (dc.Residual(2, "relu", block_layers=2), descend(0.2, 5), 1),
}


@pytest.mark.parametrize("case", LAWS)
def test_law_of_networks_of_the_same_size(case):
    """Without matched sources S particles are a network of width S, in law.

    Sampling without the projection on the opposite basis is off by more than ten standard errors.
    """
    limit, training, outputs = LAWS[case]
    width, runs = 30, 500
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(4, 3))
    targets = np.eye(3) if outputs == 3 else np.array([[1.0], [-1.0], [0.5]])
    data = dc.Dataset(
        inputs=inputs[:3],
        test_inputs=inputs[3:],
        targets=targets if outputs == 3 else targets[:, 0],
    )
    networks = dc.simulate(limit, data, training, width=width, seeds=runs, kernel_times=[])
    points = inputs / np.sqrt(3)
    how = Sampling(size=width, runs=runs, tol=1e-12, match=False, seed=5)
    march = Ensemble(limit.architecture, points, targets, training, how)
    sampled = march.advance(np.arange(training.steps + 1))
    times = [1, 3, training.steps]
    seeds = networks.per_seed
    trained = np.concatenate([seeds["outputs"], seeds["test_outputs"]], axis=2)[:, times]
    z = z_scores(sampled.swapaxes(0, 1)[:, times].reshape(runs, -1), trained.reshape(runs, -1))
    # Of some 24 to 72 correlated numbers.
    assert np.sqrt(np.mean(z**2)) < 1.7
    assert np.abs(z).max() < 4.5


def test_a_small_set_fills_up_and_goes_on():
    """With as many visited directions as particles it is a network of that width."""
    march = ensemble(
        dc.Residual(2, "relu"), GRAM, TARGETS, descend(0.2, 40), size=16, runs=3, tol=1e-6
    )
    outputs = march.advance(np.arange(41))
    ranks = np.array([interface.ranks for interface in march.interfaces])
    assert ranks.max() <= 16
    # The pool and the bases do not fit beside each other.
    assert ranks.min() + 4 >= 14
    assert (losses(outputs, TARGETS)[-1] < 0.01).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_matched_sources(dtype):
    particles = Particles(2, 500, dtype, CounterNormals(0), pool=6)
    none = np.zeros(2, dtype=np.int64)
    opposite = particles.directions()
    first = particles.draw(none + 3, 0, none)
    opposite.append(orthonormalised(particles.draw(none + 2, 1, none), none + 2), none + 2)
    fresh = particles.draw(np.array([2, 1]), 2, none, opposite)
    eps = np.finfo(dtype).eps
    for basis in (opposite.basis, (first, none + 3), (np.ones((2, 1, 500), dtype), none + 1)):
        assert np.abs(products(fresh, 2, basis)[0]).max() < 20 * eps
    gram = products(fresh, 2, gram=True)[2]
    np.testing.assert_allclose(gram[0], np.eye(2), atol=20 * eps)
    assert not fresh[1, 1].any()
    assert particles.pool.used.tolist() == [6, 6]


# -- what is the same, and what is nearly so ------------------------------------------------------


class Shifted(CounterNormals):
    """The random numbers of later runs."""

    def __init__(self, seed, shift):
        super().__init__(seed)
        self._shift = shift

    def fill(self, out, run, stream, column, dimension=None):
        super().fill(out, run + self._shift, stream, column, dimension)


@pytest.mark.parametrize("limit", [dc.MLP(3, "tanh"), dc.Residual(2, "relu")])
def test_a_replica_is_a_run_of_its_own(limit):
    training, stops = descend(0.3, 12), np.arange(13)
    together = ensemble(limit, THREE, SIGNS, training, size=200, runs=3, tol=1e-5)
    together = together.advance(stops)
    for run in range(3):
        alone = ensemble(limit, THREE, SIGNS, training, size=200, tol=1e-5, normals=Shifted(0, run))
        np.testing.assert_allclose(together[:, run], alone.advance(stops)[:, 0], atol=1e-11)


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize(
    "limit",
    [dc.Residual(2, "gelu"), dc.Residual(2, "gelu", block_layers=2), dc.MLP(1, "gelu")],
    ids=["residual", "blocks", "one layer"],
)
def test_restored_bit_for_bit(limit, outputs):
    targets = np.eye(2)[:, :outputs]
    training = descend(0.2, 10, momentum=0.5, weight_decay=0.02)

    def start():
        return ensemble(limit, GRAM, targets, training, size=90, runs=2, tol=1e-6)

    whole, first, second = start(), start(), start()
    expected = whole.advance(np.arange(11))
    whole.store_kernels()
    first.advance(np.arange(5))
    first.store_kernels()
    saved = first.state()
    second.restore({name: x.copy() for name, x in saved.items()})
    for march in (first, second):
        rows = march.advance(np.arange(5, 11))
        march.store_kernels()
        assert np.array_equal(rows, expected[5:])
        last = march.kernels.equal_time("ntk")[0][:, -1]
        assert np.array_equal(last, whole.kernels.equal_time("ntk")[0][:, -1])


def test_storing_kernels_changes_nothing():
    """Also where it needs gradients that the march does without."""
    limit, training = dc.MLP(3, "tanh"), descend(0.3, 6)
    marches = [
        ensemble(limit, GRAM, np.eye(2), training, size=100, runs=2, tol=1e-6) for _ in range(2)
    ]
    for step in range(7):
        rows = [march.advance(np.array([step])) for march in marches]
        marches[0].store_kernels()
        assert np.array_equal(*rows)


def test_permuted_and_repeated_points():
    limit, training, stops = dc.Residual(2, "tanh"), descend(0.3, 8), np.arange(9)
    inputs = np.random.default_rng(2).normal(size=(3, 3))
    targets = np.array([[1.0], [-1.0], [0.3]])

    def outputs(order):
        march = Ensemble(
            limit.architecture, inputs[order], targets[order], training, Sampling(300, tol=1e-6)
        )
        return march.advance(stops)[:, 0, :, 0]

    order = np.array([2, 0, 1])
    np.testing.assert_allclose(outputs(order), outputs(np.arange(3))[:, order], atol=1e-9)
    repeated = outputs(np.array([0, 1, 1, 2]))
    np.testing.assert_allclose(repeated[:, 1], repeated[:, 2], atol=1e-13)


def test_the_lazy_limit():
    """Without feature learning the tangent kernel K(0) drives the errors."""
    for gamma in (0.1, 0.01, 0.001):
        march = ensemble(
            dc.Residual(2, "tanh", gamma=gamma), GRAM, TARGETS, descend(0.3, 8), size=1000, tol=1e-6
        )
        first = march.advance(np.array([0]))
        march.store_kernels()
        kernel = march.kernels.equal_time("ntk")[0][0, 0]
        errors = TARGETS.copy()
        for _ in range(8):
            errors -= 0.3 / 2 * kernel @ errors
        last = march.advance(np.array([8]))
        assert not first.any()
        distance = np.abs(TARGETS - errors - last[0, 0]).max()
        # What is learned is of second order; what is sampled, of first.
        assert distance < gamma**2 + 5 * gamma / np.sqrt(1000)


def test_single_precision():
    """The same random numbers: the difference is that of rounding."""
    runs = [
        ensemble(
            dc.MLP(2, "tanh"), THREE, SIGNS, descend(0.3, 20), size=500, tol=1e-4, dtype=dtype
        ).advance(np.arange(21))
        for dtype in ("float64", "float32")
    ]
    np.testing.assert_allclose(*runs, atol=2e-4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_what_is_not_visited_is_known_from_inner_products(dtype):
    """Down to the part of a field that the interfaces rely on, and not far below."""
    eps = float(np.finfo(dtype).eps)
    rng = np.random.default_rng(3)
    worst = 0.0
    for size in (300, 3000):
        basis = Directions(1, size, dtype)
        columns = rng.normal(size=(1, 80, size)).astype(dtype)
        count = np.array([80])
        basis.append(orthonormalised(orthonormalised(columns, count), count), count)
        x = np.einsum("ki,kp->ip", rng.normal(size=(80, 6)), basis.rows[0, :80])
        x = (x[None] / np.sqrt(80)).astype(dtype)
        along, _, gram = products(x, 6, basis.basis, gram=True)
        estimated = np.einsum("rjj->rj", gram) - np.sum(along**2, axis=1)
        rest = x.copy()
        deflate(rest, basis.basis)
        deflate(rest, basis.basis)
        exact = np.square(rest, dtype=float).mean(axis=2)
        worst = max(worst, float(np.abs(estimated - exact).max()))
    assert worst < RELIABLE * eps / 10


@pytest.mark.parametrize(
    ("activation", "loss", "momentum"),
    [
        ("tanh", "square", 0.0),
        ("relu", "square", 0.7),
        ("softplus", "logistic", 0.0),
        ("gelu", "softmax", 0.5),
    ],
)
def test_one_hidden_layer_at_once_or_by_operations(activation, loss, momentum):
    targets = np.eye(2) if loss == "softmax" else np.array([[1.0], [-1.0]])
    training = descend(0.3, 12, weight_decay=0.1, momentum=momentum, loss=loss)

    def march():
        return ensemble(dc.MLP(1, activation), THREE, targets, training, size=1000, runs=2)

    at_once, by_operations = march(), march()
    assert at_once._at_once
    by_operations._at_once = False
    times = np.array([0, 3, 4, 12])
    one, other = at_once.advance(times), by_operations.advance(times)
    assert np.abs(one[-1]).max() > 0.1
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    for either in (at_once, by_operations):
        either.store_kernels()
    for name in ("H", "Phi", "G", "ntk"):
        found, wanted = (x.kernels.equal_time(name)[0] for x in (at_once, by_operations))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-11)


#: limit, outputs, how it is sampled
PASSES = {
    "perceptron": (dc.MLP(3, "tanh"), 1, {"tol": 1e-4}),
    "control variates": (dc.Residual(2, "gelu"), 1, {"tol": 1e-6, "control_variates": True}),
    "blocks": (dc.Residual(1, "erf", block_layers=2), 2, {"tol": 1e-3, "quasi": False}),
    "without a pool": (dc.MLP(2, "relu"), 2, {"tol": 1e-5, "match": False}),
    "full": (dc.MLP(2, "tanh"), 1, {"size": 9, "pool": 3}),
}


def passed(name, *, at_once=True):
    limit, outputs, how = PASSES[name]
    training = descend(0.3, 12, momentum=0.3, weight_decay=0.05)
    how = {"size": 150, "runs": 3} | how
    march = ensemble(limit, THREE, np.eye(3)[:2, :outputs], training, **how)
    for interface in march.interfaces:
        interface._at_once = at_once
    return march.advance(np.arange(13)), march


@pytest.mark.parametrize("name", PASSES)
def test_interfaces_at_once_or_by_operations(name):
    """The one is compiled, the other what devices do."""
    (one, compiled), (other, by_operations) = passed(name), passed(name, at_once=False)
    # Rounding, amplified by Gram-Schmidt and by training.
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)
    for first, second in zip(compiled.interfaces, by_operations.interfaces, strict=True):
        for mine, theirs in zip(first.ranks, second.ranks, strict=True):
            assert np.array_equal(mine, theirs)
        assert mine.max() > 3
        np.testing.assert_allclose(first.dropped, second.dropped, rtol=1e-6, atol=1e-12)


def test_threads_do_not_matter():
    before, results = _core.get_num_threads(), []
    for threads in (1, 2, 5):
        _core.set_num_threads(threads)
        results.append(passed("perceptron")[0])
    _core.set_num_threads(before)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("limit", [dc.Residual(2, "relu"), dc.MLP(1, "relu")])
@pytest.mark.parametrize("lr", [30.0, 1e200])
def test_divergence_stops_the_march(limit, lr):
    march = ensemble(limit, GRAM, TARGETS, descend(lr, 50), size=100, tol=1e-4)
    outputs = march.advance(np.arange(51))
    assert 0 < len(outputs) == march.step < 50
    assert np.isfinite(outputs).all()
