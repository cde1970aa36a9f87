"""Finite networks on random data: their training rule, their data, and the theory beside them."""

from __future__ import annotations

import math

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import memory
from dmftcore._simulate import networks, proportional

GD, SGD = dc.GradientDescent, dc.OnlineSGD
MODES = dc.Spectrum([0.5, 2.0], [1.0, 2.0], weights=[0.75, 0.25])


# -- the rule, from the definition of the loss alone ------------------------------------------


def reference_predictor(parameters, limit):
    """beta, where f(x) = beta . x / sqrt(D), by feeding the network the unit vectors."""
    first, *hidden, readout = parameters
    width, dimension = first.shape
    h = first / np.sqrt(dimension)
    for matrix in hidden:
        through = matrix @ h / np.sqrt(width)
        h = through if limit.branch_factor is None else h + limit.branch_factor * through
    kap = limit.gamma * (np.sqrt(limit.width_ratio) if limit.parameterization == "mup" else 1.0)
    return np.sqrt(dimension) * (readout[0] @ h) / (kap * np.sqrt(width))


def reference_gradient(parameters, loss):
    """By the complex step, which has neither subtraction nor truncation error."""
    gradient = []
    for which, parameter in enumerate(parameters):
        slots = np.empty(parameter.shape)
        for index in np.ndindex(parameter.shape):
            moved = [p.astype(complex) for p in parameters]
            moved[which][index] += 1e-30j
            slots[index] = np.imag(loss(moved)) / 1e-30
        gradient.append(slots)
    return gradient


def reference_training(limit, training, parameters, draw):
    """(beta, Delta, x) at every step."""
    kap2 = limit.gamma**2 * (limit.width_ratio if limit.parameterization == "mup" else 1.0)
    dimension = parameters[0].shape[1]
    momentum, decay = getattr(training, "momentum", 0.0), getattr(training, "weight_decay", 0.0)
    velocities = [np.zeros_like(p) for p in parameters]
    trajectory = []
    for step in range(training.steps + 1):
        x, y = draw(step)

        def errors(moved, x=x, y=y):
            return y - x @ reference_predictor(moved, limit) / np.sqrt(dimension)

        def loss(moved, errors=errors):
            return np.sum(errors(moved) ** 2) / (2 * len(errors(moved)))

        trajectory.append((reference_predictor(parameters, limit), errors(parameters), x))
        if step == training.steps:
            return trajectory
        gradient = reference_gradient(parameters, loss)
        velocities = [
            momentum * v - dimension * kap2 * g - decay * p
            for v, g, p in zip(velocities, gradient, parameters, strict=True)
        ]
        parameters = [
            p + training.rates[step] * v for p, v in zip(parameters, velocities, strict=True)
        ]


RULES = {
    "plain": (dc.ProportionalLinear(2, 1.0, 1.5, noise=0.3), GD(0.1, 3)),
    "one layer": (dc.ProportionalLinear(1, 0.5, 0.5, gamma=0.7), GD(0.1, 3)),
    "deep, ntk": (
        dc.ProportionalLinear(3, 2.0, 1.0, gamma=1.3, parameterization="ntk", init_scale=0.8),
        GD(0.05, 3),
    ),
    "residual, modes": (
        dc.ProportionalLinear(3, 1.0, 1.5, noise=0.2, branch_scale=0.7, spectrum=MODES),
        GD([0.1, 0.05, 0.02], 3),
    ),
    "one-pass": (dc.ProportionalLinear(2, 1.0, 1.0, noise=0.3, spectrum=MODES), SGD(0.1, 3)),
    "momentum and decay": (
        dc.ProportionalLinear(2, 1.0, 1.5), GD(0.1, 3, momentum=0.6, weight_decay=0.3),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", RULES)
def test_the_networks_descend_the_gradient_of_their_loss(case):
    limit, training = RULES[case]
    width, seeds, seed = 4, 2, 3
    found = dc.simulate(limit, None, training, width=width, seeds=seeds, seed=seed, save="all")
    inputs, samples = proportional.sizes(limit, width)
    data = proportional.Samples(limit, inputs=inputs, samples=samples, seeds=seeds, seed=seed)
    weights = networks.initial_weights(
        limit, width=width, rank=inputs, outputs=1, seeds=seeds, seed=seed
    )
    means = {"Cp": 0.0, "CD": 0.0, "Cv": 0.0}
    for network in range(seeds):
        fresh = isinstance(training, SGD)

        def draw(step, network=network, fresh=fresh):
            x, y = data.draw(step if fresh else 0)
            return x[network].copy(), y[network].copy()

        parameters = [w[network] for w in weights.all]
        beta, errors, x = map(
            np.array, zip(*reference_training(limit, training, parameters, draw), strict=True)
        )
        teacher = data.teacher[network]
        distance = np.sqrt(data.values) * (teacher - beta)
        gradient = np.sqrt(inputs) / samples * np.einsum("tp,tpi->ti", errors, x)
        wanted = {
            "test_loss": np.mean(distance**2, axis=1) / 2,
            "train_loss": np.mean(errors**2, axis=1) / 2,
            "overlap": beta @ teacher / inputs,
        }
        for name, values in wanted.items():
            np.testing.assert_allclose(found.per_seed[name][network], values, rtol=1e-11)
        for name, vectors in (("Cp", distance), ("CD", errors), ("Cv", gradient)):
            means[name] = means[name] + vectors @ vectors.T / vectors.shape[1] / seeds
    for name, kernel in means.items():
        np.testing.assert_allclose(found.kernel(name), kernel, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(found.kernel(name, t=2, s=2), kernel[2, 2], rtol=1e-10)


def test_the_kernels_of_the_hidden_layers():
    """H and G are of what the weights have moved along, which is known from where they went."""
    limit, lr, width = dc.ProportionalLinear(2, 0.5, 1.5, gamma=0.8), 0.1, 6
    inputs, samples = proportional.sizes(limit, width)
    options = {"seeds": 1, "seed": 4}
    found = dc.simulate(limit, None, GD(lr, 1), width=width, **options, save=("H", "G", "Cv"))
    data = proportional.Samples(limit, inputs=inputs, samples=samples, **options)
    w0, w1, w = (
        x[0] for x in networks.initial_weights(
            limit, width=width, rank=inputs, outputs=1, **options
        ).all
    )  # fmt: skip
    x, y = (array[0] for array in data.draw(0))
    kap = 0.8 * np.sqrt(0.5)
    features = []
    gradients = []
    for step in range(2):
        g2 = w[0]
        g1 = w1.T @ g2 / np.sqrt(width)
        beta = w0.T @ g1 / (kap * np.sqrt(width))
        v = np.sqrt(inputs) / samples * x.T @ (y - x @ beta / np.sqrt(inputs))
        h1 = w0 @ v / np.sqrt(inputs)
        h2 = w1 @ h1 / np.sqrt(width)
        features.append((h1, h2))
        gradients.append((g1, g2))
        if step == 0:
            w0 = w0 + lr * kap / np.sqrt(width) * np.outer(g1, v)
            w1 = w1 + lr * kap * np.sqrt(inputs) / width * np.outer(g2, h1)
            w = w + lr * kap * np.sqrt(inputs / width) * h2
    for layer in (1, 2):
        for name, vectors in (("H", features), ("G", gradients)):
            rows = np.array([pair[layer - 1] for pair in vectors])
            np.testing.assert_allclose(found.kernel(name, layer), rows @ rows.T / width, rtol=1e-12)


# -- the data ---------------------------------------------------------------------------------


def make_samples(limit, inputs=8, samples=6, seeds=3, seed=0):
    return proportional.Samples(limit, inputs=inputs, samples=samples, seeds=seeds, seed=seed)


def test_samples_have_the_law_of_the_limit():
    limit = dc.ProportionalLinear(1, 1.0, 1.0, noise=0.5, spectrum=MODES)
    data = make_samples(limit, samples=20_000, seeds=2)
    assert data.values.tolist() == [0.5] * 6 + [2.0] * 2
    np.testing.assert_allclose(data.teacher**2, [np.where(data.values == 0.5, 1.0, 2.0)] * 2)
    assert (data.teacher > 0).any()
    assert (data.teacher < 0).any()
    x, y = data.draw(0)
    error = 5 * math.sqrt(2 / 20_000)  # five standard errors of a variance, relative
    np.testing.assert_allclose((x**2).mean(axis=1) / data.values, 1, atol=error)
    noise = y - np.einsum("spi,si->sp", x, data.teacher) / math.sqrt(8)
    np.testing.assert_allclose((noise**2).mean(axis=1) / 0.25, 1, atol=error)
    product = (x[0, :, 0] * x[0, :, 1]).mean() / 0.5
    assert abs(product) < 5 / math.sqrt(20_000)


def test_random_numbers_belong_to_seed_network_and_step():
    limit = dc.ProportionalLinear(1, 1.0, 1.0, noise=0.5)
    draw = {step: tuple(a.copy() for a in make_samples(limit).draw(step)) for step in (0, 1)}
    for first, second in zip(draw[0], draw[1], strict=True):
        assert not np.isclose(first, second).any()
    fewer = make_samples(limit, seeds=1).draw(1)
    np.testing.assert_array_equal(fewer[0][0], draw[1][0][0])
    assert not np.isclose(make_samples(limit, seed=1).draw(0)[0], draw[0][0]).any()
    assert not np.isclose(draw[0][0][0], draw[0][0][1]).any()


def test_a_network_does_not_depend_on_those_beside_it():
    limit = dc.ProportionalLinear(2, 1.0, 1.5, noise=0.3)
    for training in (GD(0.1, 4), SGD(0.1, 4)):
        two, three = (
            dc.simulate(limit, None, training, width=4, seeds=seeds, seed=1) for seeds in (2, 3)
        )
        for name, curves in two.per_seed.items():
            np.testing.assert_array_equal(curves, three.per_seed[name][:2])


def test_one_pass_training_meets_fresh_samples():
    """Their mean loss is the population error, which samples that were seen fall below."""
    limit = dc.ProportionalLinear(2, 1.0, 1.0, noise=0.8)
    online, batch = (
        dc.simulate(limit, None, training, width=16, seeds=400, times=[10, 20])
        for training in (SGD(0.05, 20), GD(0.05, 20))
    )
    for result, fresh in ((online, True), (batch, False)):
        gap = result.per_seed["test_loss"] + 0.8**2 / 2 - result.per_seed["train_loss"]
        error = gap.std(axis=0, ddof=1) / math.sqrt(400)
        assert np.all(np.abs(gap.mean(axis=0)) < 4 * error) == fresh
        if not fresh:
            assert np.all(gap.mean(axis=0) > 10 * error)


# -- the start, in closed form at any size ----------------------------------------------------


@pytest.mark.parametrize(
    "limit",
    [
        dc.ProportionalLinear(2, 0.5, 1.5, gamma=0.7, noise=0.5, init_scale=0.9),
        dc.ProportionalLinear(
            4, 2.0, 2.0, noise=0.3, branch_scale=0.8, parameterization="ntk", spectrum=MODES
        ),
    ],
)
def test_start(limit):
    inputs, s2 = 8, limit.init_scale**2
    found = dc.simulate(limit, None, GD(0.1, 0), width=int(inputs * limit.width_ratio), seeds=4000)
    modes = limit.modes
    lam, weight, target = modes.values, modes.weights, modes.target
    block = s2 if limit.branch_factor is None else 1 + limit.branch_factor**2 * s2
    g1 = s2 * block ** (limit.depth - 1)
    beta2 = target + s2 * g1 / limit.output_scale**2
    cp = np.sum(weight * lam * beta2)
    samples, lbar = limit.sample_ratio * inputs, np.sum(weight * lam)
    # Products of four Gaussians: at finite P the square of the mean gradient has one term more.
    cv = np.sum(weight * lam**2 * beta2) * (1 + 1 / samples)
    cv += lbar / limit.sample_ratio * (cp + limit.noise**2)
    wanted = {"Cp": [cp], "CD": [cp + limit.noise**2], "Cv": [cv]}
    wanted["G"] = [s2 * block ** (limit.depth - layer) for layer in range(1, limit.depth + 1)]
    # The features meet the weights that made the gradient, except where P -> infinity.
    for name, values in wanted.items():
        measured = np.array([layer[0] for layer in found.equal_time[name].values()])
        assert np.all(np.abs(measured - values) < 4 * found.stderr(name)[:, 0]), name
    np.testing.assert_allclose(found.test_loss, found.kernel("Cp", t=0, s=0) / 2)
    np.testing.assert_allclose(found.train_loss, found.kernel("CD", t=0, s=0) / 2)
    assert abs(found.overlap[0]) < 4 * found.stderr("overlap")[0]


# -- runs -------------------------------------------------------------------------------------

LIMIT = dc.ProportionalLinear(2, 1.0, 1.5, noise=0.3)


def test_standard_errors_are_those_of_the_networks():
    found = dc.simulate(LIMIT, None, GD(0.1, 3), width=4, seeds=5)
    for name, curves in found.per_seed.items():
        assert curves.shape == (5, 4)
        np.testing.assert_allclose(getattr(found, name), curves.mean(axis=0))
        np.testing.assert_allclose(found.stderr(name), curves.std(axis=0, ddof=1) / math.sqrt(5))
    np.testing.assert_allclose(found.stderr("Cp")[0], 2 * found.stderr("test_loss"))
    np.testing.assert_allclose(found.stderr("CD")[0], 2 * found.stderr("train_loss"))
    assert found.stderr("H").shape == found.stderr("G").shape == (2, 4)
    assert dc.simulate(LIMIT, None, GD(0.1, 3), width=4).standard_errors == {}


def test_results_survive_storage(tmp_path):
    pytest.importorskip("h5netcdf")
    found = dc.simulate(LIMIT, None, SGD(0.1, 3), width=4, seeds=3, save="all")
    found.save(tmp_path / "run.nc")
    again = dc.Solution.load(tmp_path / "run.nc")
    for group in ("equal_time", "two_time"):
        for name, layers in getattr(found, group).items():
            for layer, values in layers.items():
                np.testing.assert_array_equal(getattr(again, group)[name][layer], values)
    for name in found.standard_errors:
        np.testing.assert_array_equal(again.stderr(name), found.stderr(name))
    np.testing.assert_array_equal(again.per_seed["overlap"], found.per_seed["overlap"])
    assert again.config == found.config


@pytest.mark.parametrize("training", [GD(0.1, 6, momentum=0.5), SGD(0.1, 6)])
def test_an_interrupted_run_goes_on_to_the_same_bits(tmp_path, training):
    def interrupt(step, loss):
        if step == 3:
            raise KeyboardInterrupt

    keywords = {"width": 4, "seeds": 2, "save": "all"}
    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        dc.simulate(LIMIT, None, training, **keywords, checkpoint=path, progress=interrupt)
    resumed = dc.simulate(LIMIT, None, training, **keywords, checkpoint=path)
    whole = dc.simulate(LIMIT, None, training, **keywords)
    assert resumed.diagnostics["resumed_from"] == [3]
    for name, curves in whole.per_seed.items():
        np.testing.assert_array_equal(resumed.per_seed[name], curves)
    for name in proportional.KERNELS:
        np.testing.assert_array_equal(resumed.kernel(name), whole.kernel(name))


def test_progress_is_the_mean_training_loss():
    seen = {}
    found = dc.simulate(LIMIT, None, GD(0.1, 4), width=4, seeds=3, progress=seen.__setitem__)
    np.testing.assert_allclose([seen[step] for step in range(5)], found.train_loss)


def test_a_diverging_network_is_an_error():
    with pytest.raises(dc.DivergenceError, match=r"diverged at step \d+: lower lr") as caught:
        dc.simulate(LIMIT, None, GD(20.0, 50), width=8, seeds=2, kernel_times=[])
    partial = caught.value.partial
    assert len(partial.train_loss) == caught.value.step
    assert np.isfinite(partial.train_loss).all()


def test_memory_is_planned(monkeypatch):
    monkeypatch.setattr(memory, "_available_memory", lambda: 1_000_000)
    with pytest.raises(MemoryError, match=r"samples .*; lower width or seeds"):
        dc.simulate(LIMIT, None, GD(0.1, 3), width=200, seeds=2)


@pytest.mark.parametrize(
    ("limit", "training", "width", "text"),
    [
        (LIMIT, GD(0.1, 3), 5, r"P = sample_ratio \* D = 7.5, which is no whole number"),
        (dc.ProportionalLinear(2, 1.5, 1.0), GD(0.1, 3), 10, r"D = width / width_ratio = 6.66667"),
        (LIMIT, SGD(0.1, 3, batch=4), 4, "leave batch out"),
        (
            dc.ProportionalLinear(2, 1.0, 1.0, spectrum=dc.PowerLaw(1.5, 1.2, 10)),
            GD(0.1, 3), 8, "the spectrum has 10 modes, and some have no direction among the D = 8",
        ),
        (
            dc.ProportionalLinear(dc.INFINITE, 1.0, 1.0, branch_scale=1.0),
            GD(0.1, 3), 8, "simulate needs a finite depth",
        ),
    ],
)  # fmt: skip
def test_networks_that_cannot_be(limit, training, width, text):
    with pytest.raises(ValueError, match=text):
        dc.simulate(limit, None, training, width=width)


# -- theory against networks ------------------------------------------------------------------

#: Input dimensions, and networks of each: the bias falls as 1/D.
DIMENSIONS = {8: 5000, 16: 4000, 48: 3000}
#: The largest deviation accepted, in standard errors, of some thirty that are not independent.
SIGMAS = 4.0
TIMES = [0, 2, 4, 8]

THEORIES = {
    "full batch": (dc.ProportionalLinear(2, 0.5, 1.5, noise=0.3, init_scale=0.9), GD(0.08, 8)),
    "one-pass": (dc.ProportionalLinear(2, 1.0, 0.75, noise=0.3), SGD(0.06, 8)),
    "residual, ntk, modes": (
        dc.ProportionalLinear(
            3, 2.0, 1.5, gamma=0.8, noise=0.2, branch_scale=1.0, parameterization="ntk",
            spectrum=MODES,
        ),
        GD(0.02, 8),
    ),
    "one layer": (dc.ProportionalLinear(1, 1.0, 2.0, gamma=0.7), GD(0.15, 8)),
    "three layers": (dc.ProportionalLinear(3, 1.0, 2.0, gamma=1.2), GD(0.03, 8)),
    "momentum and decay": (
        dc.ProportionalLinear(2, 1.0, 2.0, noise=0.3),
        GD(0.03, 8, momentum=0.6, weight_decay=0.3),
    ),
    "residual, one-pass": (
        dc.ProportionalLinear(3, 1.0, 1.0, noise=0.5, branch_scale=0.8, spectrum=MODES),
        SGD(0.03, 8),
    ),
}  # fmt: skip
QUICK = {"full batch", "one-pass"}


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[] if c in QUICK else [pytest.mark.slow]) for c in THEORIES]
)
def test_networks_approach_the_theory_as_one_over_dimension(case):
    """Far from the edge of stability, where the approach is slow.

    The bias is seen at small D in many standard errors, falls in proportion to 1/D, and
    extrapolates to zero within the standard errors.
    """
    limit, training = THEORIES[case]
    keywords = {"times": TIMES, "kernel_times": TIMES}
    theory = dc.solve(limit, None, training, **keywords)
    runs = {
        dimension: dc.simulate(
            limit, None, training, width=int(dimension * limit.width_ratio), seeds=seeds,
            seed=dimension, **keywords,
        )
        for dimension, seeds in DIMENSIONS.items()
    }  # fmt: skip
    clear = set()
    for name in ("test_loss", "train_loss", "overlap", "H", "G", "Cv"):
        expected = field(theory, name)
        bias = {d: field(run, name) - expected for d, run in runs.items()}
        error = {d: run.stderr(name).reshape(bias[d].shape) for d, run in runs.items()}
        small, middle, large = DIMENSIONS
        # Where the bias is clearest.
        seen = np.unravel_index(np.argmax(np.abs(bias[small]) / error[small]), expected.shape)
        if np.abs(bias[small][seen]) > 7 * error[small][seen]:
            # A factor of six is expected.
            falling = np.abs(bias[small][seen]) / 3 + 2 * error[large][seen]
            assert np.abs(bias[large][seen]) < falling, name
            clear.add(name)
        # The straight line in 1/D through the two larger D, up to the O(1/D^2) left by it: at most
        # all of the bias at the smallest.
        intercept = (large * bias[large] - middle * bias[middle]) / (large - middle)
        noise = np.hypot(large * error[large], middle * error[middle]) / (large - middle)
        left = np.abs(bias[small]) * small**2 / (middle * large)
        assert np.all(np.abs(intercept) < SIGMAS * noise + left), name
        # And nothing is hidden by large standard errors.
        assert np.all(noise < 0.1 * np.max(expected)), name
    # There are enough networks to see the finite size.
    assert {"test_loss", "overlap"} <= clear


def field(solution, name):
    """A curve, or an equal-time kernel of all layers."""
    if name in solution.equal_time:
        return np.array(list(solution.equal_time[name].values()))
    return np.asarray(getattr(solution, name))


def test_two_time_kernels_carry_the_scatter_of_networks(tmp_path):
    """At equal times the error is that of the equal-time kernel; stored and read again."""
    pytest.importorskip("h5netcdf")
    limit = dc.ProportionalLinear(2, width_ratio=1.0, sample_ratio=2.0)
    networks = dc.simulate(limit, None, dc.GradientDescent(0.1, 4), width=20, seeds=3, save="H")
    error = networks.stderr("H_two_time")
    assert error.shape == (2, 5, 5)
    np.testing.assert_allclose(
        np.diagonal(error, axis1=1, axis2=2), networks.stderr("H"), rtol=1e-10
    )
    networks.save(tmp_path / "networks.nc")
    again = dc.Solution.load(tmp_path / "networks.nc")
    np.testing.assert_array_equal(again.stderr("H_two_time"), error)
