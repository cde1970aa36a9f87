"""Residual networks of infinite depth, extrapolated from finite ones."""

import warnings

import numpy as np
import pytest
import scipy.integrate
from numpy.testing import assert_allclose

import dmftcore as dc
from dmftcore._verbs import unmarched
from dmftcore.config import read_config
from dmftcore.limits import ensemble_solve
from dmftcore.limits.depth import Depths, solve_infinite_depth
from dmftcore.march import SolveOptions
from dmftcore.richardson import Tableau
from dmftcore.schedule import Schedule

GRAM = np.array([[1.0, 0.3], [0.3, 0.8]])
DATA = dc.Dataset(gram=GRAM, targets=[1.0, -0.5])
LIMIT = dc.Residual(dc.INFINITE, "tanh")
SMALL = {"samples": 200, "replicas": 3}


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_weights_of_a_tableau(symmetric):
    tableau, fields = Tableau(symmetric=symmetric), np.random.default_rng(0).normal(size=(4, 3))
    for row in fields:
        tableau.add({"f": row})
        assert_allclose(tableau.weights @ fields[: tableau.levels], tableau.best["f"], rtol=1e-12)


# -- without feature learning: the flow of the exact kernels through depth ------------------------


def averages_of_erf(h):
    """<phi phi> and <phi' phi'> of phi = erf under N(0, h), at every pair of points."""
    d = 1 + 2 * np.diag(h)
    product = np.multiply.outer(d, d)
    slopes = 4 / np.pi / np.sqrt(product - 4 * h**2)
    return 2 / np.pi * np.arcsin(2 * h / np.sqrt(product)), slopes


def flow_of_erf(scale):
    """Phi and G at tau = 0 .. 1, (n, 2, 2), and the tangent kernel: the equations integrated."""
    tau = np.linspace(0, 1, 9)

    def forward(_, h):
        return scale**2 * averages_of_erf(h.reshape(2, 2))[0].ravel()

    options = {"rtol": 1e-11, "atol": 1e-12}
    h = scipy.integrate.solve_ivp(forward, (0, 1), GRAM.ravel(), dense_output=True, **options).sol

    def backward(t, state):
        phi, slopes = averages_of_erf(h(t).reshape(2, 2))
        g = state[:4].reshape(2, 2)
        return -(scale**2) * np.concatenate([(g * slopes).ravel(), (g * phi).ravel()])

    psi, slopes = averages_of_erf(h(1).reshape(2, 2))
    end = np.concatenate([slopes.ravel(), np.zeros(4)])
    down = scipy.integrate.solve_ivp(backward, (1, 0), end, dense_output=True, **options).sol
    gradients = np.array([down(t)[:4].reshape(2, 2) for t in tau])
    integral = down(0)[4:].reshape(2, 2)
    phi = np.array([averages_of_erf(h(t).reshape(2, 2))[0] for t in tau])
    return phi, gradients, psi + integral + gradients[0] * GRAM


def test_kernels_flow_through_depth():
    scale, steps, lr = 0.9, 6, 0.5
    phi, gradients, tangent = flow_of_erf(scale)
    limit = dc.Residual(dc.INFINITE, "erf", gamma=0, branch_scale=scale)
    found = dc.solve(limit, DATA, dc.GradientDescent(lr, steps), kernel_times=[0], save="Phi")
    # The wanted error is 1e-6 of the largest target; kernels are larger.
    assert found.diagnostics["depth_error"] < 1e-6
    assert_allclose(found.kernel("Phi", t=0, s=0), phi, atol=5e-6)
    assert_allclose(found.kernel("G", t=0, s=0), gradients, atol=5e-6)
    assert_allclose(found.ntk[0], tangent, atol=5e-6)
    assert_allclose(found.two_time["Phi"][8][0, :, 0], phi[8], atol=5e-6)
    f = np.zeros(2)
    for _ in range(steps):
        f += lr / 2 * tangent @ (DATA.targets - f)
    assert_allclose(found.outputs[-1], f, atol=2e-6)
    assert_allclose(found.diagnostics["depth_nodes"], np.linspace(0, 1, 9))


def test_linear_blocks_without_feature_learning():
    """In closed form: K = Kx e^(beta_0^2) (2 + beta_0^2). Other losses have no other solver."""
    limit = dc.Residual(dc.INFINITE, "linear", gamma=0)
    data = dc.Dataset(gram=GRAM, targets=[1.0, -1.0])
    training = dc.GradientDescent(0.3, 3, loss="logistic", weight_decay=0.1)
    found = dc.solve(limit, data, training, kernel_times=[0], tol=1e-8)
    assert_allclose(found.ntk[0], 3 * np.e * GRAM, rtol=1e-7)
    kernel = GRAM * np.exp(np.linspace(0, 1, 9))[:, None, None]
    assert_allclose(found.kernel("H", t=0, s=0), kernel, rtol=1e-7)
    assert_allclose(found.errors[0], [0.5, -0.5])


# -- with feature learning -------------------------------------------------------------------------


def test_linear_blocks_against_the_collocation():
    """Another method in depth, exact to rounding; the errors of three depths are those printed."""
    training = dc.GradientDescent(0.2, 5)
    exact = dc.solve(dc.Residual(dc.INFINITE, "linear"), DATA, training)
    options = SolveOptions(
        schedule=Schedule.of_training(training, None, None), save=(), tol=None, method=None,
        device="cpu", progress=None,
    )  # fmt: skip

    def at_depth(depth, _):
        return dc.solve(dc.Residual(depth, "linear"), DATA, training)

    depths = Depths(8, 3, 3, tol=1e-2, kernels=("H", "G"), bottom=1)
    found = solve_infinite_depth(at_depth, DATA, training, options, {}, depths)
    # In reference tables 0.00021 with two orders removed and 0.0013 with one.
    error = np.abs(found.outputs - exact.outputs).max()
    assert_allclose(error, 0.00021, rtol=0.05)
    assert_allclose(found.diagnostics["depth_error"], 0.0013, atol=0.00035)
    assert_allclose(found.ntk[5], exact.ntk[5], rtol=2e-3)


def test_sampled_linear_blocks():
    limit, training = dc.Residual(dc.INFINITE, "linear"), dc.GradientDescent(0.2, 5)
    exact = dc.solve(limit, DATA, training, kernel_times=[])
    found = dc.solve(
        limit, DATA, training, method="ensemble", samples=1000, replicas=6, kernel_times=[]
    )
    z = (found.outputs - exact.outputs)[1:] / found.stderr("outputs")[1:]
    # Of five degrees of freedom.
    assert np.abs(z).max() < 5


def test_depths_that_it_does_not_use():
    """A theory of 48 blocks is off by c / 48; its own extrapolation from 24 agrees."""
    training = dc.GradientDescent(0.5, 6)
    options = {"samples": 250, "kernel_times": [0, 6]}
    found = dc.solve(LIMIT, DATA, training, **options)
    coarse, fine = (
        dc.solve(dc.Residual(depth, "tanh"), DATA, training, seed=7, **options)
        for depth in (24, 48)
    )
    for name in ("outputs", "ntk", "sharpness"):
        runs = [getattr(s, name) for s in (found, fine, coarse)]
        errors = [s.stderr(name) for s in (found, fine, coarse)]
        # No smaller than the true one: the depths share their random numbers.
        error = np.sqrt(errors[0] ** 2 + 4 * errors[1] ** 2 + errors[2] ** 2)
        known = error > 1e-12
        z = (runs[0] - 2 * runs[1] + runs[2])[known] / error[known]
        assert np.abs(z).max() < 4, name
    # The kernel of the start is known without samples.
    start = dc.solve(dc.Residual(dc.INFINITE, "tanh", gamma=0), DATA, training, kernel_times=[0])
    z = (found.ntk[0] - start.ntk[0]) / found.stderr("ntk")[0]
    assert np.abs(z).max() < 4


def test_the_error_of_a_run_is_that_of_its_extrapolation():
    """Replicas are extrapolated one by one, and their scatter is the standard error."""
    training = dc.GradientDescent(0.5, 4)
    found = dc.solve(LIMIT, DATA, training, **SMALL)
    runs = [dc.solve(dc.Residual(depth, "tanh"), DATA, training, **SMALL) for depth in (8, 16, 32)]
    weights = np.array([1 / 3, -2, 8 / 3])
    outputs = np.einsum("i,irtm->rtm", weights, [run.per_seed["outputs"] for run in runs])
    assert_allclose(found.per_seed["outputs"], outputs, atol=1e-12)
    assert_allclose(found.stderr("outputs"), outputs.std(axis=0, ddof=1) / np.sqrt(3), atol=1e-12)
    assert_allclose(found.train_loss, ((outputs - DATA.targets) ** 2 / 2).mean(axis=(0, 2)))
    errors = [run.stderr("G")[:: run.stderr("G").shape[0] // 8] for run in runs]
    assert_allclose(
        found.stderr("G"), np.sqrt(np.einsum("i,i...->...", weights**2, np.square(errors)))
    )
    change = found.outputs - (2 * runs[2].outputs - runs[1].outputs)
    assert_allclose(found.diagnostics["depth_error"], np.abs(change).max())


@pytest.mark.slow
def test_against_trained_networks():
    """Networks of 16 and 32 blocks, extrapolated likewise; 1 / width is below their errors."""
    training = dc.GradientDescent(0.5, 6)
    theory = dc.solve(LIMIT, DATA, training, samples=1000, kernel_times=[])
    coarse, fine = (
        dc.simulate(
            dc.Residual(depth, "tanh"), DATA, training, width=400, seeds=12, kernel_times=[]
        )
        for depth in (16, 32)
    )
    error = np.sqrt(
        theory.stderr("outputs") ** 2
        + 4 * fine.stderr("outputs") ** 2
        + coarse.stderr("outputs") ** 2
    )[1:]
    z = (theory.outputs - 2 * fine.outputs + coarse.outputs)[1:] / error
    assert np.sqrt(np.mean(z**2)) < 2.2


# -- what a solution holds, and refusals -----------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_several_outputs_and_test_points(gamma, tmp_path):
    rng = np.random.default_rng(1)
    data = dc.Dataset(
        inputs=rng.normal(size=(3, 4)),
        targets=np.eye(3)[:, :2],
        test_inputs=rng.normal(size=(1, 4)),
        test_targets=[[0.0, 1.0]],
    )
    how = SMALL if gamma else {}
    limit = dc.Residual(dc.INFINITE, "erf", gamma=gamma, readout_activation="linear")
    found = dc.solve(
        limit, data, dc.GradientDescent(0.2, 3), kernel_times=[0, 3], save=("H", "G"), **how
    )
    assert found.outputs.shape == (4, 3, 2)
    assert found.test_outputs.shape == (4, 1, 2)
    assert found.ntk.shape == (2, 3, 2, 3, 2)
    assert found.kernel("H").shape == (9, 2, 4, 2, 4)
    assert found.kernel("G").shape == (9, 2, 3, 2, 2, 3, 2)
    assert_allclose(found.errors, data.targets - found.outputs, atol=1e-12)
    assert set(found.equal_time) == {"H", "Phi", "G"}
    assert [entry["depth"] for entry in found.diagnostics["finite_depths"]][:3] == [8, 16, 32]
    found.save(tmp_path / "deep.nc")
    loaded = dc.Solution.load(tmp_path / "deep.nc")
    assert loaded.diagnostics == found.diagnostics
    assert np.array_equal(loaded.kernel("H"), found.kernel("H"))
    for name, error in found.standard_errors.items():
        assert np.array_equal(loaded.stderr(name), error)


def test_infinite_depth_in_a_sweep():
    limits = [dc.Residual(depth, "relu", gamma=0) for depth in (1, 64, dc.INFINITE)]
    grid = dc.sweep(
        dc.solve, limit=limits, data=DATA, training=dc.GradientDescent(0.2, 3),
        options={"kernel_times": []},
    )  # fmt: skip
    one, deep, infinite = grid["train_loss"].isel(time=-1).values.ravel()
    assert abs(deep - infinite) < abs(one - infinite) / 30


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"save": "AG"}, r"save='AG': at depth=INFINITE single blocks do nothing, and only H, Phi"),
        ({"checkpoint": "run.npz"}, "checkpoint: depth=INFINITE is extrapolated from several"),
        ({"method": "quadrature"}, "depth"),
    ],
)
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_refusals(options, text, gamma, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    limit = dc.Residual(dc.INFINITE, "tanh", gamma=gamma)
    with pytest.raises(ValueError, match=text):
        dc.solve(limit, DATA, dc.GradientDescent(0.2, 2), **options)


def test_an_error_that_is_too_large_is_reported():
    limit = dc.Residual(dc.INFINITE, "relu", gamma=0)
    with pytest.warns(dc.AccuracyWarning, match="estimated error of the outputs.*exceeds 1e-15"):
        found = dc.solve(limit, DATA, dc.GradientDescent(0.2, 2), tol=1e-15, estimate_error=True)
    assert found.diagnostics["error_estimate"]["outputs"] == found.diagnostics["depth_error"]
    assert found.diagnostics["reason"].endswith("64, 128, 256")


def test_instability_is_reported_once():
    limit = dc.Residual(dc.INFINITE, "relu", gamma=0)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        dc.solve(limit, DATA, dc.GradientDescent(2.0, 4))
    assert [entry.category for entry in found] == [dc.StabilityWarning]
    assert found[0].filename == __file__


def test_divergence_names_the_depth():
    with pytest.raises(
        dc.DivergenceError, match="at depth = 32 the training loss diverged"
    ) as stop:
        dc.solve(dc.Residual(dc.INFINITE, "relu"), DATA, dc.GradientDescent(60.0, 30), **SMALL)
    assert stop.value.partial is None
    assert stop.value.step > 0


def test_what_does_not_fit_is_refused_first(monkeypatch):
    """Before shallower networks are solved."""
    solved = []

    def engine(limit, *_):
        solved.append(limit.depth)
        raise MemoryError

    monkeypatch.setattr(ensemble_solve, "solve_ensemble", engine)
    with pytest.raises(MemoryError):
        dc.solve(LIMIT, DATA, dc.GradientDescent(0.2, 2))
    assert solved == [32]


def test_infinite_depth_from_a_file(tmp_path):
    (tmp_path / "deep.toml").write_text(
        "[limit]\ntype = 'Residual'\ndepth = inf\nactivation = 'erf'\ngamma = 0\n"
        "[data]\ntype = 'Dataset'\ngram = [[1, 0.3], [0.3, 0.8]]\ntargets = [1, -0.5]\n"
        "[training]\ntype = 'GradientDescent'\nlr = 0.2\nsteps = 3\n"
    )
    config = read_config(tmp_path / "deep.toml")
    assert config.limit == dc.Residual(dc.INFINITE, "erf", gamma=0)
    # Which the command line asks before it makes a checkpoint.
    assert unmarched(config.limit, config.training) is not None
    assert unmarched(dc.Residual(dc.INFINITE, "linear"), config.training) is None
    found = dc.solve(config.limit, config.data, config.training)
    assert_allclose(found.outputs, dc.solve(config.limit, DATA, dc.GradientDescent(0.2, 3)).outputs)
