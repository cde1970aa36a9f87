"""Nonlinear networks at gamma = 0: Gaussian averages, initial kernels, descent under them."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import dmftcore as dc
from dmftcore import gaussian
from dmftcore.activations import ACTIVATIONS, activation
from dmftcore.limits import lazy_networks
from dmftcore.limits.initial import initial_kernels
from dmftcore.limits.lazy_networks import LazyNetworks, solve_lazy_networks
from dmftcore.losses import loss_function
from dmftcore.march import SolveOptions
from dmftcore.schedule import Schedule
from referees import optimizer_tables

RNG = np.random.default_rng(8)
X = RNG.normal(size=(5, 6)) / 2
GRAM = X @ X.T
TARGETS = {
    "square": RNG.normal(size=5),
    "two outputs": RNG.normal(size=(5, 2)),
    "logistic": np.array([1.0, -1, -1, 1, 1]),
    "softmax": np.eye(3)[[0, 2, 1, 1, 0]],
}


def make_data(kind):
    return dc.Dataset(full_gram=GRAM, targets=TARGETS[kind][:4], test_targets=TARGETS[kind][4:])


def solve(limit, data, training, *, kernel_times=None, save=(), checkpoint=None):
    options = SolveOptions(
        Schedule.of(training.steps, None, kernel_times), save, None, None, "cpu", None
    )
    return solve_lazy_networks(limit, data, training, options, {})


# -- averages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.02, 1.0, 9.0])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_averages_are_integrals_over_two_variables(name, scale):
    """A tensor trapezoidal rule: spectral for smooth activations, O(spacing^2) at a kink."""
    covariance = scale * np.array([[1.0, 0.3, -0.8, 1.0], [0.3, 2.0, 0.5, 0.3],
                                   [-0.8, 0.5, 1.5, -0.8], [1.0, 0.3, -0.8, 1.0]])  # fmt: skip
    q = covariance.diagonal()
    z = np.linspace(-9, 9, 401)
    weights = np.exp(-(z**2) / 2)
    weights /= weights.sum()
    phi = activation(name)
    kinked = not phi.smooth
    for average, function in ((gaussian.features, phi.value), (gaussian.slopes, phi.slope)):
        found = average(name, covariance)
        expected = np.empty_like(found)
        for i, j in np.ndindex(found.shape):
            rho = np.clip(covariance[i, j] / np.sqrt(q[i] * q[j]), -1, 1)
            x = np.sqrt(q[i]) * z[:, None]
            y = np.sqrt(q[j]) * (rho * z[:, None] + np.sqrt(1 - rho**2) * z)
            expected[i, j] = weights @ (function(x) * function(y)) @ weights
        # At the kink a slope is off by up to half a spacing times the density.
        spacing = z[1] - z[0]
        tolerance = 0.5 * spacing if kinked else 1e-12 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1, scale))


def test_a_variable_that_vanishes():
    for name in ACTIVATIONS:
        c = np.array([[0.0, 0.0], [0.0, 1.0]])
        phi = activation(name)
        z = np.linspace(-9, 9, 4001)
        weights = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
        for average, function in ((gaussian.features, phi.value), (gaussian.slopes, phi.slope)):
            at_zero = function(np.zeros(1))[0]
            expected = [at_zero**2, at_zero * (weights @ function(z))]
            np.testing.assert_allclose(average(name, c)[0], expected, atol=1e-6)


def test_averages_that_are_not_known_are_refused():
    with pytest.raises(ArithmeticError, match=r"average of tanh .* variance up to 1e\+06"):
        gaussian.features("tanh", np.array([[1e6]]))


# -- initial kernels -------------------------------------------------------------------------------

NETWORKS = {
    "two layers": dc.MLP(2, "tanh", gamma=0),
    "three layers": dc.MLP(3, "relu", gamma=0),
    "blocks": dc.Residual(3, "gelu", gamma=0, branch_scale=1.3, readout_activation="tanh"),
    "two-layer blocks": dc.Residual(2, "softplus", gamma=0, branch_scale=0.8, block_layers=2),
}


def with_gamma(limit, gamma):
    fields = {name: getattr(limit, name) for name in limit.__dataclass_fields__}
    return type(limit)(**{**fields, "gamma": gamma})


@pytest.mark.parametrize("name", NETWORKS)
def test_initial_kernels_are_those_of_wide_networks(name):
    """Within standard errors of 30 networks, which have a bias of order 1 / width."""
    limit, data = NETWORKS[name], make_data("square")
    experiment = dc.simulate(
        with_gamma(limit, 1.0), data, dc.GradientDescent(0.1, 0), width=400, seeds=30
    )
    kernels = initial_kernels(limit.architecture, GRAM)
    fields = {
        "ntk": (experiment.ntk[0], kernels.tangent[:4, :4]),
        "H": (experiment.kernel("H", t=0, s=0), np.array(kernels.hidden)),
        "Phi": (experiment.kernel("Phi", t=0, s=0), np.array(kernels.features)),
        "G": (experiment.kernel("G", t=0, s=0), np.array(kernels.gradients)[:, :4, :4]),
    }
    for field, (measured, expected) in fields.items():
        error = experiment.stderr(field)
        error = error[0] if field == "ntk" else error[:, 0]
        z = (measured - expected) / error
        assert np.sqrt(np.mean(z**2)) < 2, field
        # The check sees deviations of a few percent.
        assert np.median(error / np.abs(expected)) < 0.05, field


@pytest.mark.parametrize("c", [1.0, 0.7])
def test_initial_kernels_of_linear_networks(c):
    """H^l = p^l Kx and G^l = p^{L+1-l}; with blocks p q^{l-1} Kx and p q^{L-l}, q = 1 + b^2 p."""
    scales = c * np.array([1.0, 0.9, 0.5, 1.1, -0.3])
    p = np.multiply.outer(scales, scales)
    kernels = initial_kernels(dc.MLP(3, "linear").architecture, GRAM, scales)
    np.testing.assert_allclose(kernels.tangent, 4 * p**3 * GRAM, rtol=1e-13)
    kernels = initial_kernels(dc.Residual(3, "linear", branch_scale=1.2).architecture, GRAM, scales)
    b2 = 1.2**2 / 3
    q = 1 + b2 * p
    for layer, (h, g) in enumerate(zip(kernels.hidden, kernels.gradients, strict=True)):
        np.testing.assert_allclose(h, p * q**layer * GRAM, rtol=1e-13)
        np.testing.assert_allclose(g, p * q ** (3 - layer), rtol=1e-13)
    np.testing.assert_allclose(
        kernels.tangent, (2 * p * q**3 + 3 * b2 * p**2 * q**2) * GRAM, rtol=1e-13
    )
    # Blocks of two layers: H^l = p q^{l-1} Kx and G^l = p q^{L+1-l} with q = 1 + b^2 p^2.
    limit = dc.Residual(3, "linear", branch_scale=1.2, block_layers=2)
    kernels = initial_kernels(limit.architecture, GRAM, scales)
    q = 1 + b2 * p**2
    np.testing.assert_allclose(kernels.gradients[0], p * q**3, rtol=1e-13)
    np.testing.assert_allclose(
        kernels.tangent, (2 * p * q**3 + 2 * 3 * b2 * p**3 * q**2) * GRAM, rtol=1e-13
    )


# -- descent ---------------------------------------------------------------------------------------

TRAININGS = {
    "plain": dc.GradientDescent(0.15, 12),
    "schedule": dc.GradientDescent(np.linspace(0.18, 0.05, 12), 12),
    "momentum": dc.GradientDescent(0.1, 12, momentum=0.7),
    "decay": dc.GradientDescent(0.15, 12, weight_decay=0.3),
    "all": dc.GradientDescent(np.linspace(0.15, 0.05, 12), 12, momentum=0.5, weight_decay=0.3),
}


def of_loss(training, loss):
    loss = "square" if loss == "two outputs" else loss
    return dc.GradientDescent(
        training.lr, training.steps, loss=loss,
        momentum=training.momentum, weight_decay=training.weight_decay,
    )  # fmt: skip


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("two layers", "square"),
        ("three layers", "two outputs"),
        ("blocks", "softmax"),
        ("two-layer blocks", "logistic"),
    ],
)
def test_outputs_are_sums_over_two_times(name, kind, training):
    """f(t) = sum_s kap(t,s) K(c(t), c(s)) Delta(s) / P, with the kernel of every pair of steps."""
    limit, training, data = NETWORKS[name], of_loss(TRAININGS[training], kind), make_data(kind)
    c, kap = optimizer_tables(training)
    targets = TARGETS[kind].reshape(5, -1)
    function = loss_function(training.loss)
    outputs = np.zeros((training.steps + 1, *targets.shape))

    @functools.cache
    def between(here, there):
        scales, twice = np.repeat([here, there], 5), np.tile(GRAM, (2, 2))
        return initial_kernels(limit.architecture, twice, scales).tangent[:5, 5:]

    for t in range(1, training.steps + 1):
        for s in range(t):
            kernel = between(c[t], c[s])
            errors = function.errors(outputs[s, :4], targets[:4])
            outputs[t] += kap[t, s] * kernel[:, :4] @ errors / 4
    solution = solve(limit, data, training, kernel_times=[0, 12])
    found = np.concatenate([solution.outputs, solution.test_outputs], axis=1)
    np.testing.assert_allclose(found.reshape(outputs.shape), outputs, rtol=0, atol=1e-9)
    assert np.abs(outputs[-1]).max() > 0.03
    k = targets.shape[1]
    for slot, step in enumerate((0, 12)):
        kernel = initial_kernels(limit.architecture, GRAM, c[step]).tangent[:4, :4]
        expected = np.einsum("mn,kj->mknj", kernel, np.eye(k))
        np.testing.assert_allclose(solution.ntk[slot].reshape(4, k, 4, k), expected, rtol=1e-12)
        largest = np.linalg.eigvalsh(kernel)[-1] / 4
        assert solution.sharpness[slot] == pytest.approx(largest, rel=1e-12)


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize(
    ("limit", "linear"),
    [
        (dc.MLP(3, "linear", gamma=0), dc.DeepLinear(3, gamma=0)),
        (
            dc.Residual(3, "linear", gamma=0, branch_scale=1.2),
            dc.DeepLinear(4, gamma=0, branch_scale=1.2),
        ),
    ],
)
def test_linear_networks_have_another_solver(limit, linear, training):
    training, data = TRAININGS[training], make_data("two outputs")
    expected = dc.solve(linear, data, training, save=("H",))
    found = solve(limit, data, training, save=("H", "Phi", "G"))
    for field in ("outputs", "test_outputs", "train_loss", "test_loss", "ntk", "sharpness"):
        np.testing.assert_allclose(getattr(found, field), getattr(expected, field), atol=1e-9)
    np.testing.assert_allclose(found.kernel("H"), expected.kernel("H"), atol=1e-12)
    np.testing.assert_allclose(found.kernel("Phi"), expected.kernel("H"), atol=1e-12)
    gradients = np.einsum("ltksj,mn->ltmksnj", _g(linear, data, training), np.ones((4, 4)))
    np.testing.assert_allclose(found.kernel("G"), gradients, atol=1e-12)


def _g(linear, data, training):
    return dc.solve(linear, data, training, save=("G",)).kernel("G")


@pytest.mark.parametrize("kind", ["square", "softmax"])
def test_two_time_kernels_at_equal_times_are_the_others(kind):
    training = of_loss(TRAININGS["all"], kind)
    solution = solve(
        NETWORKS["blocks"], make_data(kind), training, kernel_times=[0, 5, 12],
        save=("H", "Phi", "G"),
    )  # fmt: skip
    for name in ("H", "Phi", "G"):
        for slot, step in enumerate((0, 5, 12)):
            two_time = np.take(solution.two_time[name][2], slot, axis=0)
            at = np.take(two_time, slot, axis=(two_time.ndim - 1) // 2)
            np.testing.assert_allclose(at, solution.kernel(name, 2, step, step), rtol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_tend_to_the_lazy_limit(name):
    """Mean outputs of wide networks with a small gamma, within their standard errors."""
    limit, data = NETWORKS[name], make_data("square")
    training = TRAININGS["momentum"]
    theory = solve(limit, data, training)
    experiment = dc.simulate(
        with_gamma(limit, 0.03), data, training, width=500, seeds=8, kernel_times=[]
    )
    z = (experiment.outputs - theory.outputs)[1:] / experiment.stderr("outputs")[1:]
    assert np.sqrt(np.mean(z**2)) < 2
    assert np.abs(theory.outputs[-1]).max() > 20 * experiment.stderr("outputs")[-1].max()


def test_one_step_stops_where_the_loss_diverges():
    with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
        solve(NETWORKS["two layers"], make_data("square"), dc.GradientDescent(100.0, 60))
    assert len(caught.value.partial.train_loss) == caught.value.step < 60


@pytest.mark.parametrize("training", TRAININGS)
def test_a_resumed_run_is_the_uninterrupted_one(training):
    def start():
        net = NETWORKS["two layers"].architecture
        return LazyNetworks(net, make_data("two outputs"), TRAININGS[training])

    first, resumed = start(), start()
    first.advance(np.array([0, 7]))
    first.store_kernels()
    resumed.restore({name: part.copy() for name, part in first.state().items()})
    for march in (first, resumed):
        march.rows = march.advance(np.array([8, 12]))
        march.store_kernels()
    np.testing.assert_array_equal(first.rows, resumed.rows)
    np.testing.assert_array_equal(first.fields(())["ntk"], resumed.fields(())["ntk"])


def test_a_longer_run_may_need_other_nodes():
    net, data = NETWORKS["two layers"].architecture, make_data("square")
    short, long = (
        LazyNetworks(net, data, dc.GradientDescent(0.5, n, weight_decay=0.3)) for n in (3, 12)
    )
    with pytest.raises(ValueError, match="start it anew"):
        long.restore(short.state())


def test_what_is_not_there():
    data, training = make_data("square"), TRAININGS["plain"]
    with pytest.raises(ValueError, match=r"at gamma = 0 nothing responds.*save H, Phi, G"):
        solve(NETWORKS["blocks"], data, training, save=("AG",))


def test_a_kink_in_the_scale_is_reported(monkeypatch):
    """Momentum takes the weights through zero, where relu has a kink."""
    data = make_data("square")
    swinging = dc.GradientDescent(0.05, 120, momentum=0.95, weight_decay=0.3)
    solution = solve(NETWORKS["three layers"], data, swinging, kernel_times=[])
    assert 1e-9 < solution.diagnostics["scale_error"] < 1e-4
    monkeypatch.setattr(lazy_networks, "LARGEST_INTERPOLATION", 1e-8)
    with pytest.raises(ValueError, match="tangent kernel of 'relu' is not smooth"):
        solve(NETWORKS["three layers"], data, swinging)
