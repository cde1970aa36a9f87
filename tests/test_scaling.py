"""Learned and random features: printed numbers, referees, and how they fit into the verbs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.integrate

import dmftcore as dc
from dmftcore import spectral
from dmftcore.config import Config, ConfigError, read_config, write_config
from dmftcore.limits.feature_learning import FeatureMarch
from dmftcore.spectral.arguments import Population

INF = dc.INFINITE
EPS = np.finfo(float).eps


def power_law(modes, b, a):
    k = np.arange(1.0, modes + 1)
    return dc.Spectrum(k**-b, k ** (b - a))


#: Of the printed tables.
SPECTRUM = power_law(40, 1.5, 1.75)
DESCENT = dc.GradientDescent(lr=0.1, steps=20)


# -- the printed tables of the reference -----------------------------------------------------------

#: (gamma, N): L(1), L(5), L(20); C_w(20,20), C_w(20,7), C_u(20,7).
PRINTED = {
    (0.0, INF): [
        *(1.65791118812, 1.08746614274, 0.500788652118),
        *(1.15941461097, 0.617892542762, 0.134933954901),
    ],
    (1.0, INF): [
        *(1.65791118812, 1.03323015555, 0.362968581508),
        *(0.976818102513, 0.568577840886, 0.046007382414),
    ],
    (0.0, 30): [
        *(1.65879905941, 1.10856357607, 0.563848554826),
        *(1.08853959231, 0.586183371123, 0.124788678751),
    ],
    (1.0, 30): [
        *(1.65879905941, 1.05854857942, 0.439577129505),
        *(0.92289419497, 0.540362305331, 0.0454923868156),
    ],
}


@pytest.mark.parametrize(
    ("gamma", "features", "method"),
    [(*case, "chain") for case in PRINTED] + [(gamma, INF, "closed") for gamma in (0.0, 1.0)],
)
def test_learned_features_have_the_printed_numbers(gamma, features, method):
    theory = dc.solve(
        dc.FeatureLearning(features, gamma), SPECTRUM, DESCENT, save="all", method=method
    )
    found = [
        *(2 * theory.test_loss[[1, 5, 20]]),
        theory.kernel("C_w", t=20, s=20),
        theory.kernel("C_w", t=20, s=7),
        theory.kernel("C_u", t=20, s=7),
    ]
    np.testing.assert_allclose(found, PRINTED[gamma, features], rtol=1e-9)
    np.testing.assert_array_equal(theory.train_loss, theory.test_loss)
    np.testing.assert_allclose(np.diag(theory.kernel("C0")), 2 * theory.test_loss, rtol=1e-14)


#: P, N: losses L of test and of training at t = 1, 100, 1e4 of the flow, then of descent at 1, 8
#: and 32 steps, and L(8, 3).
CURVES = {
    (80, INF): (
        [0.6716949367, 0.106313810939, 0.26744859146],
        [0.612426428718, 0.0190690166772, 2.3815326793e-05],
        [0.872629967638, 0.268792258742, 0.144874151275],
        [0.819914362317, 0.202871401127, 0.0737207481877],
        0.330996605412,
    ),
    (80, 60): (
        [0.709757980221, 0.200799214806, 0.39868913707],
        [0.649895541998, 0.0637285572859, 0.02681129903],
        [0.891600255247, 0.340316542507, 0.229574396285],
        [0.838884649927, 0.265408695228, 0.134240645236],
        0.395869768012,
    ),
    (INF, 60): (
        [0.689579924288, 0.124456321422, 0.106755265421],
        [0.689579924288, 0.124456321422, 0.106755265421],
        [0.882697070625, 0.307748732084, 0.184041591604],
        [0.882697070625, 0.307748732084, 0.184041591604],
        0.364950827947,
    ),
}


@pytest.mark.parametrize(("samples", "features"), CURVES)
def test_random_features_have_the_printed_numbers(samples, features):
    limit = dc.RandomFeatures(samples, features, noise_variance=0.05)
    spectrum = power_law(100, 1.2, 1.9)
    test, train, steps_test, steps_train, pair = CURVES[samples, features]
    flow = dc.solve(limit, spectrum, dc.GradientFlow([1.0, 100.0, 1e4]))
    np.testing.assert_allclose(2 * flow.test_loss, test, rtol=1e-9)
    # 11 digits of the initial loss are what a contour has.
    np.testing.assert_allclose(2 * flow.train_loss, train, rtol=1e-9, atol=1e-12)
    descent = dc.solve(limit, spectrum, dc.GradientDescent(0.5, 32), save="all")
    np.testing.assert_allclose(2 * descent.test_loss[[1, 8, 32]], steps_test, rtol=1e-9)
    np.testing.assert_allclose(2 * descent.train_loss[[1, 8, 32]], steps_train, rtol=1e-9)
    assert descent.kernel("C0", t=8, s=3) == pytest.approx(pair, rel=1e-9)
    for name, curve in (("C0", descent.test_loss), ("CD", descent.train_loss)):
        np.testing.assert_allclose(np.diag(descent.kernel(name)), 2 * curve, rtol=1e-9)


def test_one_pass_training_has_the_printed_numbers():
    limit = dc.RandomFeatures(INF, 60, noise_variance=0.05)
    training = dc.OnlineSGD(0.3, 32, batch=4)
    theory = dc.solve(limit, power_law(100, 1.2, 1.9), training, kernel_times=[0, 1], save="all")
    np.testing.assert_allclose(
        2 * theory.test_loss[[1, 8, 32]], [1.23848685669, 0.45690797382, 0.254967088862], rtol=1e-9
    )
    assert theory.kernel("CD", t=1, s=0) == 0.0


# -- referees --------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("lr", [0.1, np.linspace(0.02, 0.2, 40)], ids=["constant", "schedule"])
def test_two_engines_agree(gamma, lr):
    limit, training = dc.FeatureLearning(INF, gamma), dc.GradientDescent(lr, 40)
    chain, closed = (
        dc.solve(limit, SPECTRUM, training, save="all", method=method)
        for method in ("chain", "closed")
    )
    np.testing.assert_allclose(chain.test_loss, closed.test_loss, rtol=1e-12)
    for name in ("C0", "C_w", "C_u"):
        expected = closed.kernel(name)
        np.testing.assert_allclose(
            chain.kernel(name), expected, rtol=1e-12, atol=1e-12 * expected.max()
        )


def descent_of_moments(spectrum, gamma, lr, steps):
    """L and C_w(t,t) of gradient descent in y, M = B^T B and q: no neuron, no response."""
    values, target = spectrum.values, np.sqrt(spectrum.target)
    y, m, q = np.zeros(len(values)), np.eye(len(values)), 0.0
    rows = []
    for _ in range(steps + 1):
        g = values * (target - y)
        rows.append((g @ (g / values), q))
        gy, mg = g @ y, m @ g
        rank = gamma * lr
        y, m, q = (
            y + lr * mg + rank * g * (q + lr * gy),
            m + rank * (np.outer(y, g) + np.outer(g, y)) + rank**2 * q * np.outer(g, g),
            q + 2 * lr * gy + lr**2 * (g @ mg),
        )
    return np.array(rows).T


def test_infinitely_many_features_follow_their_moments():
    loss, q = descent_of_moments(SPECTRUM, 1.5, 0.08, 200)
    theory = dc.solve(dc.FeatureLearning(INF, 1.5), SPECTRUM, dc.GradientDescent(0.08, 200))
    np.testing.assert_allclose(2 * theory.test_loss, loss, rtol=1e-11)
    np.testing.assert_allclose(theory.equal_time["C_w"][0], q, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 4.0])
def test_the_flow_follows_the_moments(gamma):
    """The closed flow of v alone against that of v, M and q by a general integrator."""
    spectrum = power_law(6, 1.2, 1.6)
    values, target = spectrum.values, np.sqrt(spectrum.target)
    size = len(values)

    def slope(_, state):
        v, m, q = state[:size], state[size:-1].reshape(size, size), state[-1]
        g = values * v
        y = target - v
        dv = -(m @ g + gamma * q * g)
        # dM/dt = gamma (y g^T + g y^T), with y = B^T w.
        return np.concatenate([dv, gamma * (np.outer(y, g) + np.outer(g, y)).ravel(), [2 * y @ g]])

    times = np.array([0.1, 1.0, 10.0])
    start = np.concatenate([target, np.eye(size).ravel(), [0.0]])
    found = scipy.integrate.solve_ivp(
        slope, (0, 10), start, method="DOP853", t_eval=times, rtol=1e-12, atol=1e-14
    )
    theory = dc.solve(
        dc.FeatureLearning(INF, gamma), spectrum, dc.GradientFlow(times), tol=1e-9, save=("C_u",)
    )
    assert theory.diagnostics["error_estimate"]["test_loss"] <= 1e-9
    v = found.y[:size].T
    np.testing.assert_allclose(2 * theory.test_loss, v**2 @ values, rtol=2e-9)
    np.testing.assert_allclose(theory.equal_time["C_w"][0], found.y[-1], rtol=1e-8)
    g = values * v
    np.testing.assert_allclose(theory.kernel("C_u"), g @ g.T, rtol=1e-8)


def test_small_steps_tend_to_the_flow():
    limit = dc.FeatureLearning(INF, 1.0)
    flow = dc.solve(limit, SPECTRUM, dc.GradientFlow([4.0]), tol=1e-8).test_loss[0]
    errors = [
        dc.solve(limit, SPECTRUM, dc.GradientDescent(4 / n, n)).test_loss[-1] / flow - 1
        for n in (200, 400, 800)
    ]
    # Euler's method: without the part that halves with the step, what is left is quartered.
    coarse, fine = 2 * errors[1] - errors[0], 2 * errors[2] - errors[1]
    assert abs(coarse) < 0.1 * abs(errors[1])
    assert coarse / fine == pytest.approx(4, rel=0.1)


def test_without_feature_learning_they_are_random_features():
    """Two-time equations, with a Gauss rule for the many modes, against contour integrals."""
    spectrum, training = power_law(500, 1.5, 1.75), dc.GradientDescent(0.1, 40)
    chain = dc.solve(dc.FeatureLearning(30, 0.0), spectrum, training, save=("C0",))
    contours = dc.solve(dc.RandomFeatures(INF, 30), spectrum, training, save=("C0",))
    np.testing.assert_allclose(chain.test_loss, contours.test_loss, rtol=1e-10)
    np.testing.assert_allclose(chain.kernel("C0"), contours.kernel("C0"), rtol=1e-10)


def test_many_features_are_infinitely_many():
    """At a distance that falls as 1/N."""
    infinite = dc.solve(dc.FeatureLearning(INF, 1.0), SPECTRUM, DESCENT).test_loss[-1]
    gaps = [
        dc.solve(dc.FeatureLearning(n, 1.0), SPECTRUM, DESCENT).test_loss[-1] - infinite
        for n in (2000.0, 4000.0)
    ]
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("features", [12.5, INF])
def test_groups_stand_for_their_directions(features):
    values = np.array([1.0, 1.0, 0.4, 0.2, 0.2, 0.2])
    target = np.array([0.7, 0.4, 1.0, 0.1, 0.5, 0.3])
    single = dc.Spectrum(values, target)
    grouped = dc.Spectrum([1.0, 0.4, 0.2], [1.1, 1.0, 0.9], multiplicities=[2, 1, 3])
    limit, training = dc.FeatureLearning(features, 0.8), dc.GradientDescent(0.3, 25)
    found = [dc.solve(limit, s, training, save="all", method="chain") for s in (single, grouped)]
    for name in ("C0", "C_w", "C_u"):
        expected = found[1].kernel(name)
        np.testing.assert_allclose(found[0].kernel(name), expected, atol=1e-12 * expected.max())


# -- what an answer is worth -----------------------------------------------------------------------


@pytest.mark.parametrize("features", [30, INF])
def test_the_residual_is_rounding_and_sees_faults(features):
    march = FeatureMarch(dc.FeatureLearning(features, 1.0), Population.of(SPECTRUM), DESCENT)
    march.advance(np.array([20]))
    assert march.residual() < 100 * EPS
    for name, history in march._known.items():
        before = history[9, 4]
        history[9, 4] += 1e-6 * np.abs(history).max()
        assert march.residual() > 1e-8, name
        history[9, 4] = before


def test_engines_are_chosen_by_cost():
    limit = dc.FeatureLearning(INF, 1.0)
    long = dc.solve(limit, SPECTRUM, dc.GradientDescent(0.1, 300), kernel_times=[])
    assert long.diagnostics["engine"] == "closed"
    wide = dc.solve(limit, power_law(2000, 1.5, 1.75), DESCENT)
    assert wide.diagnostics["engine"] == "chain"
    assert dc.solve(dc.FeatureLearning(9, 1.0), SPECTRUM, DESCENT).diagnostics["engine"] == "chain"


def test_a_growing_loss_diverges():
    """A long run at a rate that learned features make too large: no number overflows."""
    training = dc.GradientDescent(0.5, 3000)
    with pytest.raises(dc.DivergenceError, match="the loss grew at step") as caught:
        dc.solve(dc.FeatureLearning(INF, 0.3), power_law(400, 1.5, 1.45), training)
    partial = caught.value.partial
    assert partial.times[-1] == caught.value.step - 1
    assert np.all(np.diff(partial.test_loss) <= 0)
    assert len(partial.equal_time["C_w"][0]) == len(partial.kernel_times)


@pytest.mark.parametrize("features", [30, INF])
def test_an_unstable_rate_is_announced(features):
    bound = 2 / spectral.spectral_edge(SPECTRUM, INF, features)
    training = dc.GradientDescent(1.3 * bound, 200)
    with (
        pytest.warns(dc.StabilityWarning, match="largest stable rate at step 0"),
        pytest.raises(dc.DivergenceError),
    ):
        dc.solve(dc.FeatureLearning(features, 0.0), SPECTRUM, training)


def test_the_flow_says_when_it_missed_its_tolerance():
    with pytest.warns(dc.AccuracyWarning, match="exceeds tol = 1e-18"):
        dc.solve(dc.FeatureLearning(INF, 1.0), SPECTRUM, dc.GradientFlow([1.0, 10.0]), tol=1e-18)


def test_it_is_said_where_a_run_is():
    for limit, training in (
        (dc.FeatureLearning(9, 1.0), DESCENT),
        (dc.FeatureLearning(INF, 1.0), dc.GradientFlow([1.0])),
    ):
        told = dc.solve(limit, SPECTRUM, training, device="cuda").diagnostics
        assert told["device"] == "cpu"
        assert "runs on the CPU" in told["reason"]


def test_memory_is_planned():
    with pytest.raises(MemoryError, match="use fewer steps, or a spectrum of fewer modes"):
        dc.solve(dc.FeatureLearning(30, 1.0), SPECTRUM, dc.GradientDescent(0.1, 10**6))


# -- wiring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("features", [12, INF])
def test_an_interrupted_run_goes_on_bit_for_bit(features, tmp_path):
    limit, training = dc.FeatureLearning(features, 1.0), dc.GradientDescent(0.1, 60)
    whole = dc.solve(limit, SPECTRUM, training, save="all")

    def stop(step, _):
        if step >= 23:
            raise KeyboardInterrupt

    path = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt, match="holds the run"):
        dc.solve(limit, SPECTRUM, training, save="all", progress=stop, checkpoint=path)
    rest = dc.solve(limit, SPECTRUM, training, save="all", checkpoint=path)
    assert rest.diagnostics["resumed_from"]
    for name in ("C0", "C_w", "C_u"):
        np.testing.assert_array_equal(rest.kernel(name), whole.kernel(name))
    longer = dc.GradientDescent(0.1, 90)
    extended = dc.solve(limit, SPECTRUM, longer, save="all", checkpoint=path)
    fresh = dc.solve(limit, SPECTRUM, longer, save="all")
    np.testing.assert_array_equal(extended.test_loss, fresh.test_loss)


@pytest.mark.parametrize(
    ("limit", "training", "names"),
    [
        (dc.FeatureLearning(9, 1.0), DESCENT, {"C0", "C_w", "C_u"}),
        (dc.FeatureLearning(INF, 1.0), dc.GradientFlow([0.5, 2.0]), {"C0", "C_u"}),
        (dc.RandomFeatures(20, INF, 0.1), DESCENT, {"C0", "CD"}),
    ],
)
def test_solutions_are_stored_and_drawn(limit, training, names, tmp_path):
    pytest.importorskip("h5netcdf")
    pytest.importorskip("matplotlib")
    theory = dc.solve(limit, SPECTRUM, training, save=sorted(names))
    theory.save(tmp_path / "theory.nc")
    loaded = dc.Solution.load(tmp_path / "theory.nc")
    assert set(loaded.two_time) == names
    for name in names:
        np.testing.assert_array_equal(loaded.kernel(name), theory.kernel(name))
        t = theory.kernel_times[1]
        assert loaded.kernel(name, t=t, s=t) == pytest.approx(theory.kernel(name)[1, 1], rel=1e-9)
    np.testing.assert_array_equal(loaded.test_loss, theory.test_loss)
    loaded.plot().savefig(tmp_path / "theory.png")


def test_sweep_over_features():
    pytest.importorskip("xarray")
    grid = dc.sweep(
        dc.solve,
        limit=[dc.FeatureLearning(n, 1.0) for n in (8, 16)],
        data=SPECTRUM,
        training=DESCENT,
        options={"kernel_times": []},
    )
    assert grid.features.values.tolist() == [8, 16]
    assert float(grid.test_loss.sel(features=16)[-1]) < float(grid.test_loss.sel(features=8)[-1])


CONFIG = """
[limit]
type = "{limit}"
features = {features}
{more}
[data]
type = "PowerLaw"
b = 1.5
a = 1.75
modes = 12
[training]
type = "GradientDescent"
lr = 0.1
steps = 6
[simulate]
seeds = 2
"""
FEATURES = CONFIG.format(limit="FeatureLearning", features=9, more="gamma = 1.0")
RANDOM = CONFIG.format(limit="RandomFeatures", features="inf", more="samples = 20")


def test_files_describe_them(tmp_path):
    pytest.importorskip("tomli_w")
    path = tmp_path / "run.toml"
    limits = dc.FeatureLearning(9, 1.0), dc.RandomFeatures(20, INF)
    for text, limit in zip((FEATURES, RANDOM), limits, strict=True):
        path.write_text(text)
        config = read_config(path)
        assert config.limit == limit
        assert config.data == dc.PowerLaw(1.5, 1.75, 12)
    write_config(Config(dc.RandomFeatures(INF, 7.0), SPECTRUM, DESCENT), path)
    again = read_config(path)
    assert (again.limit, again.data) == (dc.RandomFeatures(INF, 7.0), SPECTRUM)
    path.write_text(FEATURES.replace("gamma", "gama"))
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        read_config(path)


@pytest.mark.parametrize("text", [FEATURES, RANDOM])
def test_the_command_line_runs_them(text, tmp_path, monkeypatch):
    pytest.importorskip("typer")
    pytest.importorskip("h5netcdf")
    from typer.testing import CliRunner

    from dmftcore import _commands

    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(text)
    result = CliRunner().invoke(_commands.app, ["solve", "run.toml", "-o", "out.nc"])
    assert result.exit_code == 0, result.output
    theory = dc.Solution.load("out.nc", group="theory")
    experiment = dc.Solution.load("out.nc", group="experiment")
    assert theory.test_loss[0] == pytest.approx(experiment.test_loss[0], rel=1e-12)
    kept = CliRunner().invoke(
        _commands.app, ["solve", "run.toml", "-o", "out.nc", "--checkpoint", "run.npz"]
    )
    if text is RANDOM:
        assert kept.exit_code != 0
        assert "nothing to resume" in " ".join(kept.output.split())
    else:
        assert kept.exit_code == 0, kept.output


# -- errors ----------------------------------------------------------------------------------------

LEARNED, LAZY = dc.FeatureLearning(9, 1.0), dc.RandomFeatures(20, 30)
WEIGHTED = dc.Spectrum([1.0, 0.5], [1.0, 1.0], weights=[0.5, 0.5])
ENDLESS = dc.PowerLaw(1.5, 2.0, 10**14)
DATA = dc.Dataset(gram=np.eye(2), targets=[1.0, -1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dc.RandomFeatures(0, 1), "samples must be a number > 0"),
        (lambda: dc.RandomFeatures(1, float("nan")), "features must be a number > 0"),
        (lambda: dc.RandomFeatures(1, 1, -0.1), "noise_variance must be a number >= 0"),
        (lambda: dc.FeatureLearning(-INF, 1), "features must be a number > 0"),
        (lambda: dc.FeatureLearning(1, -1), "gamma must be a number >= 0"),
        (lambda: dc.solve(LEARNED, WEIGHTED, DESCENT), "give it multiplicities"),
        (lambda: dc.solve(LAZY, WEIGHTED, DESCENT), "give it multiplicities"),
        (
            lambda: dc.solve(LEARNED, SPECTRUM, dc.GradientDescent(0.1, 3, momentum=0.5)),
            "momentum: a FeatureLearning is trained without",
        ),
        (
            lambda: dc.simulate(LEARNED, SPECTRUM, dc.GradientDescent(0.1, 3, weight_decay=0.5)),
            "weight_decay: a FeatureLearning is trained without",
        ),
        (
            lambda: dc.solve(LAZY, SPECTRUM, dc.GradientDescent(0.1, 3, weight_decay=0.5)),
            "weight_decay: a RandomFeatures is trained without",
        ),
        (lambda: dc.solve(LEARNED, SPECTRUM, DESCENT, tol=1e-6), "tol: "),
        (lambda: dc.solve(LAZY, SPECTRUM, DESCENT, tol=1e-6), "tol: "),
        (lambda: dc.solve(LEARNED, SPECTRUM, DESCENT, method="closed"), "use method='chain'"),
        (lambda: dc.solve(LEARNED, SPECTRUM, DESCENT, method="growing"), "method must be one of"),
        (lambda: dc.solve(LAZY, SPECTRUM, DESCENT, method="chain"), "method must be one of"),
        (lambda: dc.solve(LEARNED, SPECTRUM, DESCENT, save="H"), "save must be one of"),
        (lambda: dc.solve(LEARNED, SPECTRUM, dc.GradientFlow([1.0])), "needs features=INFINITE"),
        (
            lambda: dc.solve(
                dc.FeatureLearning(INF, 1), SPECTRUM, dc.GradientFlow([1.0]), save="all"
            ),
            "save='C_w': a GradientFlow has it at equal times only",
        ),
        (
            lambda: dc.solve(
                dc.FeatureLearning(INF, 1), SPECTRUM, dc.GradientFlow([1.0]), method="chain"
            ),
            "method='chain' marches in steps",
        ),
        (lambda: dc.solve(LAZY, SPECTRUM, dc.OnlineSGD(0.1, 3)), "batch: "),
        (lambda: dc.solve(LAZY, SPECTRUM, dc.OnlineSGD(0.1, 3, 4)), "pass samples=INFINITE"),
        (lambda: dc.simulate(LAZY, SPECTRUM, dc.OnlineSGD(0.1, 3, 4)), "pass samples=INFINITE"),
        (lambda: dc.solve(LAZY, SPECTRUM, DESCENT, checkpoint="x.npz"), "nothing to resume"),
        (lambda: dc.simulate(LEARNED, SPECTRUM, DESCENT, width=5), "leave width out"),
        (
            lambda: dc.simulate(dc.FeatureLearning(INF, 1), SPECTRUM, DESCENT),
            "needs finitely many features",
        ),
        (lambda: dc.simulate(dc.RandomFeatures(2.5, 3), SPECTRUM, DESCENT), "samples must be a wh"),
        (lambda: dc.simulate(dc.RandomFeatures(2, 3.5), SPECTRUM, DESCENT), "features must be a w"),
        (
            lambda: dc.simulate(LAZY, dc.Spectrum([1.0], [1.0], multiplicities=[1.5]), DESCENT),
            "multiplicities must be whole",
        ),
    ],
)
def test_bad_values(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("endless", [ENDLESS, ENDLESS.grouped()])
def test_endless_spectra_are_not_simulated(endless):
    with pytest.raises(MemoryError, match="pass a spectrum of fewer directions"):
        dc.simulate(LAZY, endless, DESCENT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dc.solve(LEARNED, None, DESCENT), "data must be a Spectrum or a PowerLaw"),
        (lambda: dc.solve(LAZY, DATA, DESCENT), "data must be a Spectrum or a PowerLaw"),
        (lambda: dc.solve(LEARNED, SPECTRUM, dc.OnlineSGD(0.1, 3, 4)), "training must be a"),
        (lambda: dc.solve(dc.DeepLinear(2), SPECTRUM, DESCENT), "data must be a Dataset"),
        (lambda: dc.simulate(LAZY, SPECTRUM, dc.GradientFlow([1.0])), "use GradientDescent"),
    ],
)
def test_bad_types(call, message):
    with pytest.raises(TypeError, match=message):
        call()
