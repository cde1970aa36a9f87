"""Learning curves of linear models: reference tables, closed forms, the march in time, contours."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.spectral import learning_curve, spectral_edge, volterra
from dmftcore.spectral.arguments import Population
from dmftcore.spectral.contours import ellipses, hyperbola, ladder
from dmftcore.spectral.filters import Descent
from linear_march import gradient_responses, march

INF = np.inf
K = np.arange(1, 101)
#: The spectrum of the reference tables, and their label noise.
POWER = dc.PowerLaw(b=1.2, a=1.9, modes=100)
NOISE = 0.05
SIZES = ((80, INF), (80, 60), (INF, 60))
#: A spectrum with multiplicities, of 75 directions.
GROUPS = dc.Spectrum([2.0, 0.7, 0.1], [1.0, 3.0, 5.0], multiplicities=[5.0, 20.0, 50.0])

# Reference tables: noise_variance = 0.05, one tuple for each of SIZES.
FLOW = {
    1: (0.6716949367, 0.709757980221, 0.689579924288),
    1e2: (0.106313810939, 0.200799214806, 0.124456321422),
    1e4: (0.26744859146, 0.39868913707, 0.106755265421),
}
FLOW_TRAIN = {
    1: (0.612426428718, 0.649895541998),
    1e2: (0.0190690166772, 0.0637285572859),
    1e4: (2.3815326793e-05, 0.02681129903),
}
DESCENT = {
    1: (0.872629967638, 0.891600255247, 0.882697070625),
    8: (0.268792258742, 0.340316542507, 0.307748732084),
    32: (0.144874151275, 0.229574396285, 0.184041591604),
    1e3: (0.130773481973, 0.234393171496, 0.108870200458),
    1e6: (0.283068545475, 0.427021062031, 0.106755265508),
}
DESCENT_TRAIN = {
    1: (0.819914362317, 0.838884649927),
    8: (0.202871401127, 0.265408695228),
    32: (0.0737207481877, 0.134240645236),
}
DESCENT_8_3 = (0.330996605412, 0.395869768012, 0.364950827947)
HEAVY_BALL = (
    (1.17075977, 0.2343437692, 0.1123460785),
    (1.177589074, 0.3393278082, 0.2050535588),
    (1.174383927, 0.2922247428, 0.1420761573),
)
SGD = {
    INF: (1.22341519266, 0.383380174899, 0.167631254495),
    60: (1.23848685669, 0.45690797382, 0.254967088862),
}
FORCING = {INF: (1.16798843231, 0.143231191227), 60: (1.17438392741, 0.217923420736)}
KERNEL = {
    INF: (0.0310999204135, 0.0181464748971, 0.000538716042525),
    60: (0.0359681133502, 0.0202115711969, 0.000521008608177),
}
#: The minimum-norm predictor.
LIMIT = (0.283068545, 0.427021062, 0.106755265)


def close(value, printed, digits=9):
    np.testing.assert_allclose(value, printed, rtol=10.0**-digits)


@pytest.mark.parametrize("case", range(3), ids=str)
class TestReferenceTables:
    def test_gradient_flow(self, case):
        curve = learning_curve(list(FLOW), POWER, *SIZES[case], NOISE)
        close(curve.test, [row[case] for row in FLOW.values()])
        train = FLOW_TRAIN if case < 2 else FLOW
        close(curve.train, [row[case] for row in train.values()])

    def test_gradient_descent(self, case):
        def descend(times, **more):
            return learning_curve(
                times, POWER, *SIZES[case], NOISE, method="gradient_descent", lr=0.5, **more
            )

        close(descend(list(DESCENT)).test, [row[case] for row in DESCENT.values()])
        train = DESCENT_TRAIN if case < 2 else {t: DESCENT[t] for t in DESCENT_TRAIN}
        close(descend(list(train)).train, [row[case] for row in train.values()])
        close(descend([8, 3], two_time=True).test_two_time[0, 1], DESCENT_8_3[case])

    def test_heavy_ball(self, case):
        curve = learning_curve(
            [1, 8, 32], POWER, *SIZES[case], NOISE, "gradient_descent", lr=0.3, momentum=0.8
        )
        close(curve.test, HEAVY_BALL[case])

    def test_the_last_predictor(self, case):
        late = learning_curve([1e9, 1e12], POWER, *SIZES[case], NOISE)
        close(late.test, LIMIT[case], 8)

    def test_the_march(self, case):
        population = Population.of(POWER)
        steps = [1, 8, 32]
        losses = march(gradient_responses(np.full(32, 0.5)), population, *SIZES[case], NOISE)
        close(losses.test[steps, steps], [DESCENT[t][case] for t in steps])
        train = DESCENT_TRAIN if case < 2 else DESCENT
        close(losses.train[steps, steps], [train[t][case] for t in steps])
        ball = march(gradient_responses(np.full(32, 0.3), 0.8), population, *SIZES[case], NOISE)
        close(ball.test[steps, steps], HEAVY_BALL[case])


@pytest.mark.parametrize("features", SGD)
def test_reference_tables_of_one_pass_sgd(features):
    curve = learning_curve([1, 8, 32, 0, 31], POWER, INF, features, NOISE, "sgd", 0.3, batch=4)
    close(curve.test[:3], SGD[features])
    close(curve.forcing[[0, 2]], FORCING[features])
    close(curve.kernel[[3, 0, 4]], KERNEL[features])
    losses = march(
        gradient_responses(np.full(32, 0.3)), Population.of(POWER), INF, features, NOISE, 4.0
    )
    close(losses.test[[1, 8, 32], [1, 8, 32]], SGD[features])


# -- the time domain -----------------------------------------------------------------------------


RNG = np.random.default_rng(1)
#: Learning rates in units of the inverse edge of the spectrum, momentum.
RULES = {
    "slow": (0.4, 0.0),
    "to the other side": (1.3, 0.0),
    "nearly unstable": (1.99, 0.0),
    "heavy ball": (0.4, 0.7),
    "heavy ball, nearly unstable": (3.3, 0.7),
    "schedule": (1.9 * RNG.random(40), 0.0),
    "schedule with heavy ball": (3.3 * RNG.random(40), 0.7),
}


@pytest.mark.parametrize("spectrum", [POWER, GROUPS], ids=["power law", "groups"])
@pytest.mark.parametrize(
    "sizes", [(50, INF), (40, 30.5), (30, 300), (INF, 60), (INF, INF)], ids=str
)
@pytest.mark.parametrize("rule", RULES)
def test_tables_agree_with_the_march(rule, sizes, spectrum):
    relative, momentum = RULES[rule]
    lr = relative / spectral_edge(spectrum, *sizes)
    steps = np.arange(41)
    curve = learning_curve(
        steps, spectrum, *sizes, 0.3, "gradient_descent", lr, momentum, two_time=True
    )
    theta = gradient_responses(np.broadcast_to(lr, 40), momentum)
    losses = march(theta, Population.of(spectrum), *sizes, 0.3)
    for table, expected in (
        (curve.test_two_time, losses.test),
        (curve.train_two_time, losses.train),
    ):
        np.testing.assert_allclose(table, expected, rtol=0, atol=1e-12 * losses.test[0, 0])
    for losses_, expected in ((curve.test, losses.test), (curve.train, losses.train)):
        np.testing.assert_allclose(
            losses_, np.diag(expected), rtol=0, atol=1e-12 * losses.test[0, 0]
        )


@pytest.mark.parametrize("features", [INF, 30])
@pytest.mark.parametrize("spectrum", [POWER, GROUPS], ids=["power law", "groups"])
def test_sgd_agrees_with_the_march(spectrum, features):
    lr, steps = 1.2 / spectral_edge(spectrum, INF, features), np.arange(101)
    curve = learning_curve(steps, spectrum, INF, features, 0.3, "sgd", lr, batch=40)
    losses = march(
        gradient_responses(np.full(100, lr)), Population.of(spectrum), INF, features, 0.3, 40.0
    )
    np.testing.assert_allclose(curve.test, np.diag(losses.test), rtol=1e-12)
    some = [7, 0, 90]
    table = learning_curve(some, spectrum, INF, features, 0.3, "sgd", lr, batch=40, two_time=True)
    np.testing.assert_allclose(table.test_two_time, losses.test[np.ix_(some, some)], rtol=1e-12)


@pytest.mark.parametrize("features", [INF, 30])
def test_sgd_with_rates_that_vary_agrees_with_the_march(features):
    rates = 1.9 / spectral_edge(GROUPS, INF, features) * RNG.random(60)
    some = [7, 0, 60, 59, 7]
    curve = learning_curve(some, GROUPS, INF, features, 0.3, "sgd", rates, batch=40, two_time=True)
    theta = gradient_responses(rates)
    losses = march(theta, Population.of(GROUPS), INF, features, 0.3, 40.0).test
    np.testing.assert_allclose(curve.test_two_time, losses[np.ix_(some, some)], rtol=1e-12)
    np.testing.assert_allclose(curve.test, losses[some, some], rtol=1e-12)
    assert (np.abs(curve.test - losses[some, some]) <= curve.error_estimate).all()


def test_sgd_with_rates_that_decay_for_long():
    """Each mode for itself: a recursion of as many numbers as there are modes."""
    rates, batch = 0.5 * np.geomspace(1, 0.01, 1500), 20
    signal, losses = POWER.values * POWER.target, []
    for rate in rates:
        losses.append(signal.sum() + NOISE)
        signal = (1 - rate * POWER.values) ** 2 * signal
        signal += rate**2 / batch * POWER.values**2 * losses[-1]
    curve = learning_curve(np.arange(1500), POWER, INF, INF, NOISE, "sgd", rates, batch=batch)
    np.testing.assert_allclose(curve.test, losses, rtol=1e-11)


def test_a_march_with_rates_that_vary_is_gradient_descent_on_the_spectrum():
    """Infinitely many samples and features: every mode learns for itself."""
    rates = 0.8 * RNG.random(30)
    losses = march(gradient_responses(rates), Population.of(GROUPS), INF, INF, 0.1)
    left = np.vstack([np.ones(3), np.cumprod(1 - np.outer(rates, GROUPS.values), axis=0)])
    expected = (left * GROUPS.values * GROUPS.target) @ left.T + 0.1
    np.testing.assert_allclose(losses.test, expected, rtol=1e-12)


# -- late times ----------------------------------------------------------------------------------


@pytest.mark.parametrize("relative", [0.4, 1.0, 1.3, 1.9, 1.99])
def test_late_steps_agree_with_the_ellipse(relative):
    """A schedule takes an ellipse however late; constant rates go over to hyperbolas."""
    lr = relative / spectral_edge(POWER, 80, 60)
    times = np.array([64, 65, 100, 127, 128, 200, 999])
    hyperbolas = learning_curve(times, POWER, 80, 60, NOISE, "gradient_descent", lr)
    assert "hyperbola" in hyperbolas.engine
    one = learning_curve(times, POWER, 80, 60, NOISE, "gradient_descent", np.full(999, lr))
    assert "hyperbola" not in one.engine
    for name in ("test", "train"):
        np.testing.assert_allclose(getattr(hyperbolas, name), getattr(one, name), rtol=1e-11)


def test_late_steps_at_the_edge_of_stability():
    """Modes that change sign in each step last for thousands of steps."""
    lr = 1.9999 / spectral_edge(GROUPS, INF, INF)
    times = np.array([64, 1001, 3000, 12_345, 1_000_001])
    curve = learning_curve(times, GROUPS, INF, INF, 0.1, "gradient_descent", lr, two_time=True)
    left = (1 - lr * GROUPS.values) ** times[:, None]
    expected = (left * GROUPS.values * GROUPS.target) @ left.T + 0.1
    assert np.abs(expected - 0.1).max() > 1
    np.testing.assert_allclose(curve.test_two_time, expected, rtol=1e-11)
    np.testing.assert_allclose(curve.test, np.diag(expected), rtol=1e-11)


@pytest.mark.parametrize(
    ("relative", "momentum"), [(0.4, 0.75), (2.0, 0.75), (3.4, 0.75), (2.96, 0.5), (2.5, 0.3)]
)
def test_late_steps_of_a_heavy_ball_agree_with_the_march(relative, momentum):
    lr = relative / spectral_edge(GROUPS, 40, 30)
    first = int(np.ceil(Descent(lr, spectral_edge(GROUPS, 40, 30), momentum).late))
    times = np.array([first - 1, first, 300])
    assert first < 300
    curve = learning_curve(times, GROUPS, 40, 30, 0.3, "gradient_descent", lr, momentum)
    assert "hyperbola" in curve.engine
    losses = march(
        gradient_responses(np.full(300, lr), momentum), Population.of(GROUPS), 40, 30, 0.3
    )
    for found, table in ((curve.test, losses.test), (curve.train, losses.train)):
        np.testing.assert_allclose(found, table[times, times], rtol=1e-11)


@pytest.mark.parametrize("features", [INF, 60])
def test_sgd_solves_the_volterra_equation(features):
    steps = np.arange(200_001)
    curve = learning_curve(steps, POWER, INF, features, NOISE, "sgd", 0.3, batch=4)
    loss = volterra(curve.forcing, curve.kernel)
    np.testing.assert_allclose(curve.test, loss, rtol=1e-12)


def test_forcing_and_kernel_of_sgd_without_feature_bottleneck():
    lr, batch, steps = 0.3, 4, np.arange(3000)
    curve = learning_curve(steps, POWER, INF, INF, NOISE, "sgd", lr, batch=batch)
    left = (1 - lr * POWER.values) ** (2 * steps[:, None])
    forcing = left @ (POWER.values * POWER.target) + NOISE
    kernel = lr**2 / batch * left @ POWER.values**2
    np.testing.assert_allclose(curve.forcing, forcing, rtol=1e-12)
    np.testing.assert_allclose(curve.kernel, kernel, rtol=0, atol=1e-13 * kernel[0])
    np.testing.assert_allclose(curve.test, volterra(forcing, kernel), rtol=1e-12)


def test_sgd_at_the_end_of_time():
    """L = F + L sum K, once all has been learned."""
    lr, batch, modes = 0.3, 4, POWER.values
    gain = np.sum(lr * modes / (2 - lr * modes)) / batch
    late = learning_curve([1e9, 1e12], POWER, INF, INF, NOISE, "sgd", lr, batch=batch)
    np.testing.assert_allclose(late.test, NOISE / (1 - gain), rtol=1e-11)


def test_volterra_against_loops():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 100):
        forcing, kernel = rng.random(n), rng.random(n) / (n + 1)
        loss = np.zeros(n)
        for t in range(n):
            loss[t] = forcing[t] + sum(kernel[t - 1 - s] * loss[s] for s in range(t))
        np.testing.assert_allclose(volterra(forcing, kernel), loss, rtol=1e-13)


# -- closed forms --------------------------------------------------------------------------------


def test_infinitely_many_samples_and_features():
    """Each mode for itself; also the error estimates can be held against the error."""
    times = np.append(0, np.geomspace(1e-3, 1e6, 200))
    signal = POWER.values * POWER.target
    curve = learning_curve(times, POWER, INF, INF, NOISE)
    expected = np.exp(-2 * times[:, None] * POWER.values) @ signal + NOISE
    np.testing.assert_allclose(curve.test, expected, rtol=1e-12)
    assert (np.abs(curve.test - expected) <= 3 * curve.error_estimate).all()
    steps = np.unique(times.round())
    curve = learning_curve(steps, POWER, INF, INF, NOISE, "gradient_descent", lr=1.7)
    expected = (1 - 1.7 * POWER.values) ** (2 * steps[:, None]) @ signal + NOISE
    np.testing.assert_allclose(curve.test, expected, rtol=1e-12)


@pytest.mark.parametrize("order", ["sorted", "shuffled"])
def test_many_times_are_interpolated(order):
    """Against each mode for itself, and against the same times one by one."""
    times = np.linspace(0, 300, 20_001)
    if order == "shuffled":
        times = RNG.permutation(times)
    curve = learning_curve(times, POWER, INF, INF, NOISE)
    expected = np.exp(-2 * times[:, None] * POWER.values) @ (POWER.values * POWER.target) + NOISE
    np.testing.assert_allclose(curve.test, expected, rtol=1e-12)
    assert (np.abs(curve.test - expected) <= curve.error_estimate).all()
    for lr in (0.3, 1.2):  # the latter with negative roots
        steps = np.arange(2000)
        many = learning_curve(steps, POWER, 80, 60, NOISE, "gradient_descent", lr)
        few = learning_curve(steps[7::211], POWER, 80, 60, NOISE, "gradient_descent", lr)
        for name in ("test", "train"):
            found, wanted = getattr(many, name)[7::211], getattr(few, name)
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * many.test[0])


def wishart(ratio, filter_values, signal, noise):
    """Test and training loss on white inputs from the Marchenko-Pastur law; ratio = D / P."""
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    n = 4000
    theta = np.pi * (np.arange(n) + 0.5) / n
    x = (low + high) / 2 + (high - low) / 2 * np.cos(theta)
    density = ((high - low) / 2 * np.sin(theta)) ** 2 / (2 * np.pi * ratio * x) * np.pi / n
    p = filter_values(x)
    atom = max(0.0, 1 - 1 / ratio)  # directions without a sample
    test = noise + signal * (p**2 @ density + atom) + noise * ratio * ((1 - p) ** 2 / x) @ density
    train = signal * (x * p**2) @ density + noise * (1 - ratio * (1 - p**2) @ density)
    return test, train


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_white_inputs(ratio):
    dimension, signal, noise = 40.0, 1.7, 0.3
    white = dc.Spectrum([1.0], [signal], multiplicities=[dimension])
    times = np.array([0.05, 1.0, 7.0, 300.0])
    curve = learning_curve(times, white, dimension / ratio, INF, noise)
    for i, t in enumerate(times):
        expected = wishart(ratio, lambda x, t=t: np.exp(-x * t), signal, noise)
        np.testing.assert_allclose([curve.test[i], curve.train[i]], expected, rtol=0, atol=3e-12)
    lr, steps = 0.3, np.array([1, 5, 40, 90, 1000])
    curve = learning_curve(steps, white, dimension / ratio, INF, noise, "gradient_descent", lr)
    for i, t in enumerate(steps):
        expected = wishart(ratio, lambda x, t=t: (1 - lr * x) ** t, signal, noise)
        np.testing.assert_allclose([curve.test[i], curve.train[i]], expected, rtol=0, atol=3e-12)


def test_many_samples_and_features_are_like_infinitely_many():
    times = [0.0, 3.0, 1e3]
    for sizes in ((1e9, 60), (80, 1e9), (1e9, 1e9)):
        finite = learning_curve(times, POWER, *sizes, NOISE)
        limit = learning_curve(times, POWER, *(INF if s == 1e9 else s for s in sizes), NOISE)
        # Corrections are tr / P, here about 100 / 1e9.
        np.testing.assert_allclose(finite.test, limit.test, rtol=1e-6)


# -- what any request gets -----------------------------------------------------------------------


REQUESTS = {
    "flow": {},
    "descent": {"method": "gradient_descent", "lr": 0.3},
    "heavy ball": {"method": "gradient_descent", "lr": 0.5, "momentum": 0.5},
    "schedule": {"method": "gradient_descent", "lr": np.linspace(0.3, 0.1, 400)},
    "sgd": {"method": "sgd", "lr": 0.3, "batch": 100},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_times_in_any_order(name):
    samples = INF if name == "sgd" else 70
    times = np.array([300, 0, 5, 70, 5, 1])
    curve = learning_curve(times, GROUPS, samples, 50, 0.1, **REQUESTS[name])
    np.testing.assert_allclose(curve.test[[1]], 0.1 + GROUPS.values @ GROUPS.target, rtol=1e-13)
    np.testing.assert_array_equal(curve.times, times)
    for i, t in enumerate(times):
        alone = learning_curve([t], GROUPS, samples, 50, 0.1, **REQUESTS[name])
        np.testing.assert_allclose(curve.test[i], alone.test[0], rtol=1e-11)
        np.testing.assert_allclose(curve.train[i], alone.train[0], rtol=1e-11)
    assert (curve.error_estimate < 1e-11).all()
    assert (curve.train_error_estimate < 1e-11).all()


@pytest.mark.parametrize("name", ["flow", "descent", "heavy ball"])
def test_tables_of_times_far_apart(name):
    times = np.array([0, 1e5, 3, 100, 2e5, 700])
    curve = learning_curve(times, GROUPS, 70, 50, 0.1, two_time=True, **REQUESTS[name])
    for table, losses in (
        (curve.test_two_time, curve.test),
        (curve.train_two_time, curve.train),
    ):
        np.testing.assert_array_equal(table, table.T)
        np.testing.assert_allclose(np.diag(table), losses, rtol=0, atol=1e-12 * table[0, 0])
        assert np.linalg.eigvalsh(table).min() > -1e-12 * table[0, 0]
    # Scalar products of residuals of gradient flow depend on the sum of the times.
    if name == "flow":
        sums = learning_curve([50_050.0, 350.0], GROUPS, 70, 50, 0.1)
        found = [curve.train_two_time[1, 3], curve.train_two_time[0, 5]]
        np.testing.assert_allclose(found, sums.train, rtol=0, atol=1e-12 * table[0, 0])


def test_the_noise_of_a_loss_that_has_vanished_is_reported():
    with pytest.warns(dc.AccuracyWarning, match=r"test loss .* at t = 1e\+06"):
        curve = learning_curve([1.0, 1e6], GROUPS, 200, INF)
    assert abs(curve.test[1]) <= curve.error_estimate[1] < 1e-12
    curve = learning_curve([1.0, 1e6], GROUPS, 30, INF, 0.1)
    assert abs(curve.train[1]) <= curve.train_error_estimate[1] < 1e-12


INVALID = [
    ({"times": [-1.0]}, ValueError, "times must be >= 0, found -1"),
    ({"times": [0.5], "method": "gradient_descent", "lr": 0.1}, ValueError, "whole numbers"),
    ({"times": [np.inf]}, ValueError, "times holds a non-finite value"),
    ({"times": []}, ValueError, "times is empty"),
    ({"samples": 0}, ValueError, "samples must be a number > 0"),
    ({"features": -3}, ValueError, "features must be a number > 0"),
    ({"noise_variance": -1}, ValueError, "noise_variance must be a number >= 0"),
    ({"method": "adam"}, ValueError, "method must be one of"),
    ({"spectrum": [1.0]}, TypeError, "spectrum must be a Spectrum"),
    ({"lr": 0.1}, ValueError, "lr does not belong to method 'gradient_flow'"),
    ({"momentum": 0.1}, ValueError, "momentum does not belong to method 'gradient_flow'"),
    ({"batch": 3}, ValueError, "batch does not belong to method 'gradient_flow'"),
    ({"method": "gradient_descent"}, ValueError, "needs lr"),
    ({"method": "gradient_descent", "lr": -1}, ValueError, "lr must be a number > 0"),
    ({"method": "gradient_descent", "lr": [0.1, -1]}, ValueError, "lr must be >= 0"),
    ({"method": "gradient_descent", "lr": [0.1]}, ValueError, "lr has 1 steps, but times go up"),
    ({"method": "gradient_descent", "lr": 5}, ValueError, "makes training diverge"),
    ({"method": "gradient_descent", "lr": [0.1, 5]}, ValueError, "lr = 5 makes training diverge"),
    ({"method": "gradient_descent", "lr": 0.1, "batch": 3}, ValueError, "batch does not belong"),
    ({"method": "gradient_descent", "lr": 0.1, "momentum": 1}, ValueError, "momentum must be < 1"),
    ({"method": "sgd", "lr": 0.1, "batch": 3}, ValueError, "samples must be inf"),
    ({"method": "sgd", "samples": INF, "batch": 3}, ValueError, "needs lr"),
    ({"method": "sgd", "samples": INF, "lr": 0.1}, ValueError, "needs batch"),
    ({"method": "sgd", "samples": INF, "lr": 0.4, "batch": 1}, ValueError, "K sums to"),
    (
        {"method": "sgd", "samples": INF, "lr": [0.4] * 9999, "batch": 0.1, "times": [9999]},
        ValueError,
        "batch = 0.1 makes the noise of SGD grow without bound",
    ),
    (
        {"method": "sgd", "samples": INF, "lr": 0.1, "batch": 9, "momentum": 0.5},
        ValueError,
        "momentum does not belong",
    ),
    (
        {"method": "gradient_descent", "lr": 0.1, "momentum": 0.999, "times": [50_000]},
        ValueError,
        "momentum",
    ),
]


@pytest.mark.parametrize(("change", "error", "words"), INVALID, ids=lambda x: str(x)[:60])
def test_errors(change, error, words):
    request = {"times": [1, 2], "spectrum": GROUPS, "samples": 70, "features": 50} | change
    with pytest.raises(error, match=words):
        learning_curve(**request)


def test_volterra_wants_equal_lengths():
    with pytest.raises(ValueError, match="kernel has 2 times, but forcing has 3"):
        volterra(np.ones(3), np.ones(2))


# -- contours ------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1e-4, 1.0, 1e9])
def test_a_hyperbola_serves_two_octaves_wherever_the_spectrum_ends(first):
    contour = hyperbola(first)
    eigenvalues = np.append(0, np.geomspace(1e-9, 1e9, 500)) / first
    for t in first * np.linspace(1, 4, 17):
        weights = contour.dz * np.exp(contour.z * t)
        found = 2 * (weights @ (1 / (contour.z[:, None] + eigenvalues))).real
        # The sum of the weights' sizes times the rounding of each, and what the nodes leave out.
        np.testing.assert_allclose(found, np.exp(-eigenvalues * t), rtol=0, atol=2e-14)


@pytest.mark.parametrize("edge", [0.3, 40.0])
@pytest.mark.parametrize("degree", [1, 30, 3000])
def test_an_ellipse_serves_polynomials(degree, edge):
    def powers(z):
        return (1 + 1.9 / edge * z) ** degree

    contour, _ = ellipses(edge, lambda z: np.abs(powers(z)).max())
    # As many nodes as the square root of the degree, with room for a factor.
    assert len(contour.z) < 20 + 15 * np.sqrt(degree)
    eigenvalues = np.linspace(0, edge, 400)
    weights = contour.dz * powers(contour.z)
    found = 2 * (weights @ (1 / (contour.z[:, None] + eigenvalues))).real
    np.testing.assert_allclose(found, powers(-eigenvalues), rtol=0, atol=1e-12)


def test_hyperbolas_in_log_rho_are_refused_where_they_would_wind_around():
    with pytest.raises(ValueError, match="t = 5 is too early"):
        Descent(0.5, 1.0).late_contour(5.0)
    Descent(0.5, 1.0).late_contour(100.0)


def test_each_time_stands_on_two_rungs():
    times = np.array([8.0, 1.0, 2.0, 5.0, 0.7, 100.0, 7.99])
    served = {rung.first: (times[rung.where], rung.turn) for rung in ladder(times)}
    assert sorted(served) == [0.25, 0.5, 1, 2, 4, 8, 32, 64]
    for first, (here, turn) in served.items():
        assert ((first * 2**turn <= here) & (here < first * 2 ** (turn + 1))).all()
    for turn in (0, 1):
        found = np.concatenate([here[turns == turn] for here, turns in served.values()])
        np.testing.assert_array_equal(np.sort(found), np.sort(times))
