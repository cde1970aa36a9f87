"""Gradient flow: against printed numbers, closed forms, trained networks, and itself done twice."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.config import Config, ConfigError, read_config, write_config
from dmftcore.growing import stiff
from dmftcore.limits import linear_flow
from dmftcore.modes import Modes

POINTS = np.arange(4)
GRAM = np.exp(-((POINTS[:, None] - POINTS) ** 2) / 4.5)
DATA = dc.Dataset(gram=GRAM, targets=np.cos(POINTS))
TWO = np.stack([np.cos(POINTS), np.sin(1 + 2 * POINTS)], axis=1)
METHODS = ("richardson", "stiff")


def relative(found, wanted, targets):
    """Largest deviation of outputs in units of the largest error Delta at the same time."""
    scale = np.abs(targets - wanted).max(axis=tuple(range(1, wanted.ndim)), keepdims=True)
    return np.max(np.abs(found - wanted) / scale)


# -- the noun ---------------------------------------------------------------------------------


class TestNoun:
    def test_times_are_kept(self):
        flow = dc.GradientFlow([0, 1, 2.5])
        np.testing.assert_array_equal(flow.times, [0.0, 1.0, 2.5])
        assert not flow.times.flags.writeable

    def test_equal_flows_are_equal(self):
        assert dc.GradientFlow([1, 2]) == dc.GradientFlow((1.0, 2.0))
        assert hash(dc.GradientFlow([1, 2])) == hash(dc.GradientFlow([1.0, 2.0]))
        assert dc.GradientFlow([1, 2]) != dc.GradientFlow([1, 3])
        assert dc.GradientFlow([1, 2]) != dc.GradientDescent(0.1, 2)

    @pytest.mark.parametrize(
        ("times", "error", "text"),
        [
            ([-1.0, 2.0], ValueError, "times must be >= 0 and increase strictly"),
            ([1.0, 1.0], ValueError, "times must be >= 0 and increase strictly"),
            ([0.0, np.inf], ValueError, "times holds a non-finite value at index"),
            ([], ValueError, "times is empty"),
            (3.0, ValueError, "times must have 1 axes"),
            (["a"], TypeError, "times must hold real numbers"),
        ],
    )
    def test_times_that_make_no_flow(self, times, error, text):
        with pytest.raises(error, match=text):
            dc.GradientFlow(times)


# -- numbers ----------------------------------------------------------------------------------

PRINTED_TIMES = [0.5, 2.0, 5.0, 50.0]
# limit, mean Delta^2 at PRINTED_TIMES, accuracy of the table: a few units of its last digit. Its
# second line was printed with fewer digits, and the first number there is off by 3.5e-9.
PRINTED = {
    "LT4": (dc.DeepLinear(2),
            [2.6160418308e-01, 3.8394092588e-03, 1.6665275538e-04, 1.3023039332e-05], 1e-10),
    "LT5": (dc.DeepLinear(3, gamma=3.0),
            [8.42844419e-03, 1.156856219e-04, 5.67895467e-05, 4.00413056e-09], 4e-9),
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PRINTED)
def test_printed_losses(name, method):
    """Digits of numpy prototypes, from Richardson extrapolation; losses there are 2 train_loss."""
    limit, expected, accuracy = PRINTED[name]
    # The loss has twice the relative error of Delta. The prototype of the integrator agreed with
    # the table to 3e-9.
    tol, accuracy = (accuracy / 3, accuracy) if method == "richardson" else (1e-8, 4e-9)
    solution = dc.solve(
        limit, DATA, dc.GradientFlow(PRINTED_TIMES), method=method, tol=tol, kernel_times=[]
    )
    assert solution.diagnostics["engine"] == method
    np.testing.assert_allclose(2 * solution.train_loss, expected, rtol=accuracy)


@pytest.mark.parametrize(
    ("depth", "tol", "steps"), [(1, 1e-4, 82), (2, 1e-4, 86), (3, 1e-4, 91), (1, 1e-6, 233)]
)
def test_steps_to_long_times(depth, tol, steps):
    """Power-law data of 60 modes to tau = 1e5: the steps of the prototype, within a third."""
    edges = np.geomspace(1, 2e6, 61)
    variances = np.sqrt(edges[1:] * edges[:-1]) ** -1.5
    parts = edges[:-1] ** -0.9 - edges[1:] ** -0.9
    data = dc.Dataset(gram=np.diag(60 * variances), targets=np.sqrt(60 * parts))
    network = stiff.FlowNetwork(Modes.of(data), depth=depth, gamma=1.0, init_scale=1.0, tol=tol)
    for time in np.geomspace(1, 1e5, 6):
        network.flow(time, lambda: None)
    assert network.steps == pytest.approx(steps, rel=1 / 3)
    assert network.rejected <= 9


# -- closed forms -----------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_one_layer_one_point(method):
    """L = 1, P = 1: f = (s2 / 2 gamma) (v - 1/v) with dv/dtau = 2 gamma y v - s2 (v^2 - 1).

    The Riccati equation of v = exp(2 gamma int Delta), the limit of the product formula of
    gradient descent, has the solution (v - v+) / (v - v-) = C exp(-s2 (v+ - v-) tau).
    """
    gamma, s2, y = 1.3, 0.64, 1.2
    times = np.array([0.0, 0.1, 0.5, 1.0, 3.0, 5.0])
    middle = gamma * y / s2
    upper, lower = middle + np.hypot(middle, 1), middle - np.hypot(middle, 1)
    ratio = (1 - upper) / (1 - lower) * np.exp(-s2 * (upper - lower) * times)
    v = (upper - ratio * lower) / (1 - ratio)
    expected = s2 / (2 * gamma) * (v - 1 / v)

    data = dc.Dataset(gram=[[1.0]], targets=[y])
    limit = dc.DeepLinear(1, gamma=gamma, init_scale=np.sqrt(s2))
    solution = dc.solve(limit, data, dc.GradientFlow(times), method=method, tol=1e-8)
    assert solution.outputs[0, 0] == 0
    assert relative(solution.outputs[:, 0], expected, y) < 1e-8


@pytest.mark.parametrize("method", [None, "stiff", "richardson"])
def test_lazy_flow_is_exponential(method):
    """gamma = 0: Delta(tau) = exp(-tau (L + 1) s2^L Kx / P) y, and kernels at rest."""
    sigma, depth, points = 0.9, 2, 3
    targets = np.cos(np.arange(4.0))
    data = dc.Dataset(full_gram=GRAM, targets=targets[:points], test_targets=targets[points:])
    times = np.array([0.0, 0.3, 1.0, 4.0])
    solution = dc.solve(
        dc.DeepLinear(depth, gamma=0, init_scale=sigma), data, dc.GradientFlow(times),
        method=method, tol=1e-10, save="H",
    )  # fmt: skip
    assert solution.diagnostics["engine"] == (method if method == "richardson" else "lazy")
    values, vectors = np.linalg.eigh(GRAM[:points, :points])
    scale = (depth + 1) * sigma ** (2 * depth) / points
    for index, time in enumerate(times):
        learned = vectors @ ((1 - np.exp(-scale * values * time)) * (vectors.T @ targets[:points]))
        outside = GRAM[points:, :points] @ np.linalg.solve(GRAM[:points, :points], learned)
        np.testing.assert_allclose(solution.outputs[index], learned, atol=1e-10)
        np.testing.assert_allclose(solution.test_outputs[index], outside, atol=1e-9)
    h = sigma ** (2 * depth) * GRAM
    np.testing.assert_allclose(solution.kernel("H", depth, 0.3, 4.0), h, rtol=1e-9)


# -- two ways, one answer -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "data"),
    [
        (dc.DeepLinear(1, gamma=2.0), DATA),
        (dc.DeepLinear(2), dc.Dataset(full_gram=GRAM, targets=TWO[:3], test_targets=TWO[3:])),
        (dc.DeepLinear(3, gamma=1.5, init_scale=0.9), dc.Dataset(full_gram=GRAM, targets=[1, -1])),
    ],
    ids=["one layer", "outputs and a test point", "three layers, test points without targets"],
)
def test_extrapolation_and_integration_agree_in_every_field(limit, data):
    # Not so long that rounding is what is left of Delta.
    flow = dc.GradientFlow([0.0, 0.4, 1.0, 2.7])
    options = {"tol": 1e-7, "save": ("H", "G"), "kernel_times": [0.0, 1.0, 2.7]}
    first, second = (dc.solve(limit, data, flow, method=m, **options) for m in METHODS)
    targets = data.targets
    assert relative(second.outputs, first.outputs, targets) < 2e-7
    for field in ("train_loss", "test_outputs", "test_loss", "ntk", "sharpness", "errors"):
        a, b = getattr(first, field), getattr(second, field)
        assert (a is None) == (b is None), field
        if a is not None:
            np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-7, err_msg=field)
    for name in ("H", "G"):
        for layer in range(1, limit.depth + 1):
            a, b = (s.kernel(name, layer) for s in (first, second))
            # Kernels are of order one; they follow the weights, which move by as much as Delta.
            np.testing.assert_allclose(b, a, atol=1e-6)
            np.testing.assert_allclose(first.kernel(name, layer, 1.0, 1.0), a[1, :, 1], atol=1e-12)
        assert np.abs(a[0] - a[2]).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_estimated_error_bounds_the_error(method):
    flow = dc.GradientFlow(np.linspace(0.5, 20, 40))
    limit = dc.DeepLinear(2, gamma=2.0)
    exact = dc.solve(limit, DATA, flow, method="richardson", tol=1e-11, kernel_times=[]).outputs
    errors = []
    for tol in (1e-3, 1e-5, 1e-7):
        solution = dc.solve(limit, DATA, flow, method=method, tol=tol, kernel_times=[])
        error = relative(solution.outputs, exact, DATA.targets)
        estimate = solution.diagnostics["error_estimate"]
        assert error < estimate["relative"] <= tol
        assert np.abs(solution.outputs - exact).max() < estimate["absolute"]
        errors.append(error)
    assert errors[0] > 10 * errors[1] > 100 * errors[2]


@pytest.mark.parametrize(
    ("limit", "method"),
    [
        (dc.DeepLinear(2, gamma=1.5), "stiff"),
        (dc.DeepLinear(3, gamma=1.5, branch_scale=1.0), None),
        (dc.DeepLinear(dc.INFINITE, gamma=0, branch_scale=0.8), None),
    ],
    ids=["plain", "residual blocks", "lazy blocks without end"],
)
def test_gradient_descent_tends_to_the_flow(limit, method):
    """The distance falls in proportion to lr."""
    tau = 2.0
    flow = dc.solve(limit, DATA, dc.GradientFlow([tau]), method=method, tol=1e-9).outputs[-1]
    distances = [
        np.abs(dc.solve(limit, DATA, dc.GradientDescent(tau / n, n)).outputs[-1] - flow).max()
        for n in (100, 200, 400)
    ]
    ratios = np.array(distances[:-1]) / distances[1:]
    np.testing.assert_allclose(ratios, 2, rtol=0.05)
    assert abs(ratios[1] - 2) < abs(ratios[0] - 2)


def test_networks_trained_in_small_steps():
    """Finite networks, extrapolated to infinite width, against the flow in standard errors."""
    lr, limit = 0.01, dc.DeepLinear(2, gamma=1.5)
    steps = np.array([10, 30, 60, 100])
    flow = dc.solve(limit, DATA, dc.GradientFlow(lr * steps)).outputs
    networks = {
        width: dc.simulate(
            limit, DATA, dc.GradientDescent(lr, 100), width=width, seeds=seeds, times=steps,
            kernel_times=[],
        )
        for width, seeds in ((16, 2000), (64, 1000))
    }  # fmt: skip
    small, large = networks.values()
    # The bias of a width N is of order 1/N: a straight line to 1/N = 0.
    outputs = (64 * large.outputs - 16 * small.outputs) / 48
    error = np.hypot(64 * large.stderr("outputs"), 16 * small.stderr("outputs")) / 48
    # What the finite step changes, at most lr, is below the standard errors.
    assert np.max(np.abs(outputs - flow) / error) < 4
    fast = dc.solve(limit, DATA, dc.GradientFlow(1.1 * lr * steps)).outputs
    assert np.max(np.abs(outputs - fast) / error) > 7


# -- the integrator -----------------------------------------------------------------------------


def test_radau_conditions():
    """Radau IIA is collocation: A integrates polynomials of degree 2 up to every node."""
    for power in range(3):
        wanted = stiff.NODES ** (power + 1) / (power + 1)
        np.testing.assert_allclose(stiff.MATRIX @ stiff.NODES**power, wanted, rtol=1e-13)
    weights = stiff.MATRIX[-1]
    for power in range(3, 5):
        assert weights @ stiff.NODES**power == pytest.approx(1 / (power + 1), rel=1e-13)
    eigenvalues = np.linalg.eigvals(np.linalg.inv(stiff.MATRIX))
    (real,) = eigenvalues[np.abs(eigenvalues.imag) < 1e-9].real
    assert real == pytest.approx(stiff.REAL_EIGENVALUE, rel=1e-13)


def test_features_and_gradients_of_one_layer_and_point_are_alike():
    """L = 1, P = 1, Kx = 1: dh/dtau = gamma Delta g and dg/dtau = gamma Delta h, so H^1 = G^1."""
    data = dc.Dataset(gram=[[1.0]], targets=[1.5])
    flow = dc.GradientFlow([0.0, 0.3, 1.0, 4.0])
    solution = dc.solve(dc.DeepLinear(1, gamma=2.0), data, flow, method="stiff", tol=1e-9)
    h, g = (solution.equal_time[name][1][:, 0, 0] for name in ("H", "G"))
    np.testing.assert_allclose(h, g, rtol=1e-8)
    assert g[-1] > 2


def test_nothing_to_learn():
    data = dc.Dataset(gram=GRAM, targets=np.zeros((4, 2)))
    for method in METHODS:
        solution = dc.solve(dc.DeepLinear(2), data, dc.GradientFlow([1.0, 9.0]), method=method)
        np.testing.assert_array_equal(solution.outputs, np.zeros((2, 4, 2)))
        np.testing.assert_allclose(solution.equal_time["H"][2], [GRAM, GRAM], atol=1e-12)


def test_steps_that_never_converge_end(monkeypatch):
    monkeypatch.setattr(stiff, "ITERATIONS", 0)
    with pytest.raises(ValueError, match=r"tol: no step .* at tau = .*method='richardson'"):
        dc.solve(dc.DeepLinear(2), DATA, dc.GradientFlow([1.0]), method="stiff")


def test_first_time_and_only_time_zero():
    for method in METHODS:
        solution = dc.solve(dc.DeepLinear(2), DATA, dc.GradientFlow([0.0]), method=method, save="H")
        np.testing.assert_array_equal(solution.outputs, np.zeros((1, 4)))
        np.testing.assert_allclose(solution.kernel("H", 2, 0, 0), GRAM, atol=1e-12)


def test_decayed_errors_end_the_search_for_accuracy():
    """Where Delta has fallen to rounding, nothing is asked of its digits."""
    solution = dc.solve(
        dc.DeepLinear(1), dc.Dataset(gram=[[2.0]], targets=[1.0]), dc.GradientFlow([10.0, 1000.0]),
        method="stiff",
    )  # fmt: skip
    assert np.abs(solution.errors).max() < 1e-8
    assert solution.diagnostics["error_estimate"]["relative"] < 1e-6
    assert solution.diagnostics["steps"] < 400


# -- the verb -----------------------------------------------------------------------------------


class TestSolve:
    def test_times_of_the_solution(self, tmp_path):
        flow = dc.GradientFlow(np.linspace(0.1, 3, 30))
        solution = dc.solve(dc.DeepLinear(1), DATA, flow, save="all")
        assert solution.in_flow_time
        np.testing.assert_array_equal(solution.times, flow.times)
        np.testing.assert_array_equal(solution.kernel_times, flow.times)
        full = solution.kernel("H", 1)
        # 0.1 + 2 * 0.1 is not the 0.3 of linspace, bit by bit.
        np.testing.assert_array_equal(solution.kernel("H", 1, 0.1 + 0.1 + 0.1, 1.0), full[2, :, 9])
        equal = solution.kernel("H", 1, 0.1 + 0.1 + 0.1, 0.3)
        np.testing.assert_array_equal(equal, solution.equal_time["H"][1][2])
        with pytest.raises(KeyError, match=r"kernels at time 0.35 were not stored"):
            solution.kernel("H", 1, 0.35, 0.35)
        pytest.importorskip("h5netcdf")
        solution.save(tmp_path / "flow.nc")
        copy = dc.Solution.load(tmp_path / "flow.nc")
        np.testing.assert_array_equal(copy.times, solution.times, strict=True)
        np.testing.assert_array_equal(copy.kernel_times, solution.kernel_times, strict=True)
        np.testing.assert_array_equal(copy.kernel("H", 1, 0.3, 1.0), full[2, :, 9])
        assert copy.in_flow_time
        assert copy.diagnostics == solution.diagnostics

    def test_many_times_have_fewer_kernels(self):
        flow = dc.GradientFlow(np.linspace(0, 1, 500))
        solution = dc.solve(dc.DeepLinear(1, gamma=0), DATA, flow)
        assert len(solution.times) == 500
        assert len(solution.kernel_times) == 64
        assert solution.kernel_times[[0, -1]].tolist() == [0, 1]
        assert solution.sharpness.shape == (64,)

    def test_chosen_kernel_times(self):
        flow = dc.GradientFlow([0.1, 0.2, 0.3])
        solution = dc.solve(dc.DeepLinear(1), DATA, flow, kernel_times=[0.1 + 0.1 + 0.1])
        np.testing.assert_array_equal(solution.kernel_times, flow.times[2:])
        assert dc.solve(dc.DeepLinear(1), DATA, flow, kernel_times=[]).ntk is None

    @pytest.mark.parametrize("method", METHODS)
    def test_progress(self, method):
        calls = []
        flow = dc.GradientFlow(np.linspace(1, 30, 10))
        solution = dc.solve(
            dc.DeepLinear(2), DATA, flow, method=method, progress=lambda *call: calls.append(call)
        )
        reached = np.array([call[0] for call in calls])
        assert reached.max() == 10
        assert (reached == 10).sum() >= 2  # The runs whose difference is the error estimate.
        assert len(calls) > 40
        assert calls[-1][1] == pytest.approx(solution.train_loss[-1], rel=1e-2)

    def test_default_method(self):
        short, long = dc.GradientFlow([1.0]), dc.GradientFlow([1000.0])
        for flow, engine in ((short, "richardson"), (long, "stiff")):
            diagnostics = dc.solve(dc.DeepLinear(1), DATA, flow, kernel_times=[]).diagnostics
            assert diagnostics["engine"] == engine
            assert "tau_max * sharpness" in diagnostics["reason"]
        lazy = dc.solve(dc.DeepLinear(1, gamma=0), DATA, long).diagnostics
        assert lazy["reason"] == "gamma = 0 has a closed form"

    def test_sharpening_makes_the_coarsest_step_smaller(self):
        """The sharpness at the start says little about the one at the end of rich training."""
        limit, flow = dc.DeepLinear(3, gamma=5.0), dc.GradientFlow(np.linspace(0.5, 3, 6))
        solution = dc.solve(limit, DATA, flow, method="richardson", tol=1e-5)
        assert solution.sharpness.max() > 3 * 4 * np.linalg.eigvalsh(GRAM)[-1] / 4
        assert solution.diagnostics["coarsest_step"] * solution.sharpness.max() < 1
        assert solution.diagnostics["error_estimate"]["relative"] < 1e-5

    def test_tolerance_out_of_reach(self, monkeypatch):
        monkeypatch.setattr(linear_flow, "LEVELS", 3)
        with pytest.warns(dc.AccuracyWarning, match=r"is 0.0\d* and exceeds tol = 1e-05; pass"):
            solution = dc.solve(
                dc.DeepLinear(1), DATA, dc.GradientFlow([1.0]), method="richardson", tol=1e-5
            )
        assert solution.diagnostics["levels"] == 3
        assert 1e-5 < solution.diagnostics["error_estimate"]["relative"] < 0.1
        with pytest.raises(ValueError, match=r"tol = 1e-12 is beyond .* method='richardson'"):
            dc.solve(dc.DeepLinear(1), DATA, dc.GradientFlow([9.0]), method="stiff", tol=1e-12)

    @pytest.mark.parametrize(
        ("options", "error", "text"),
        [
            ({"times": [0.5]}, ValueError, r"times: those of a flow are given as GradientFlow"),
            ({"kernel_times": [0.7]}, ValueError, "kernel_times of a GradientFlow must be some of"),
            ({"kernel_times": [1.0, 0.5]}, ValueError, "increasing"),
            ({"kernel_times": 1.0}, TypeError, "kernel_times must be a sequence of times"),
            ({"method": "growing"}, ValueError, "method must be one of 'richardson', 'stiff'"),
            ({"save": "A"}, ValueError, "save must be one of 'H', 'G', 'all'"),
        ],
    )
    def test_wrong_options(self, options, error, text):
        with pytest.raises(error, match=text):
            dc.solve(dc.DeepLinear(1), DATA, dc.GradientFlow([0.5, 1.0]), **options)

    def test_methods_of_flows_are_not_those_of_descent(self):
        with pytest.raises(ValueError, match="method must be one of 'growing', 'chain'"):
            dc.solve(dc.DeepLinear(1), DATA, dc.GradientDescent(0.1, 2), method="stiff")

    def test_residual_blocks_are_extrapolated(self):
        limit = dc.DeepLinear(2, branch_scale=1.0)
        with pytest.raises(ValueError, match=r"branch_scale .* use method='richardson'"):
            dc.solve(limit, DATA, dc.GradientFlow([1.0]), method="stiff")

    def test_networks_know_no_flow(self):
        with pytest.raises(TypeError, match="use GradientDescent with a small lr"):
            dc.simulate(dc.DeepLinear(1), DATA, dc.GradientFlow([1.0]), width=8)


# -- files --------------------------------------------------------------------------------------

TOML = """
[limit]
type = "DeepLinear"
depth = 2
[data]
type = "Dataset"
gram = [[1.0, 0.5], [0.5, 1.0]]
targets = [1.0, -1.0]
[training]
type = "GradientFlow"
times = [0.5, 1.0, 2.0]
"""


class TestFiles:
    def test_round_trip(self, tmp_path):
        pytest.importorskip("tomli_w")
        flow = dc.GradientFlow(np.geomspace(0.1, 1e5, 13))
        write_config(Config(dc.DeepLinear(2), DATA, flow), tmp_path / "flow.toml")
        assert read_config(tmp_path / "flow.toml").training == flow

    def test_lists_and_options(self, tmp_path):
        path = tmp_path / "flow.toml"
        path.write_text(TOML + '[solve]\nkernel_times = [0.5, 2.0]\nmethod = "stiff"\n')
        config = read_config(path)
        assert config.training == dc.GradientFlow([0.5, 1, 2])
        solution = dc.solve(config.limit, config.data, config.training, **config.solve)
        np.testing.assert_array_equal(solution.kernel_times, [0.5, 2.0])

    @pytest.mark.parametrize(
        ("section", "text"),
        [
            ("[solve]\nkernel_times = [3.0]\n", r"\[solve\] kernel_times of a GradientFlow must"),
            ("[solve]\ntimes = [1.0]\n", r"\[solve\] times: those of a flow"),
            ("[simulate]\nwidth = 8\n", r"\[simulate\] networks are trained in steps"),
        ],
    )
    def test_what_cannot_run_is_refused_at_once(self, tmp_path, section, text):
        path = tmp_path / "flow.toml"
        path.write_text(TOML + section)
        with pytest.raises(ConfigError, match=text):
            read_config(path)

    def test_command_line(self, tmp_path):
        testing = pytest.importorskip("typer.testing")
        pytest.importorskip("h5netcdf")
        pytest.importorskip("matplotlib")
        from dmftcore._commands import app

        path = tmp_path / "flow.toml"
        path.write_text(TOML)
        command = [
            "solve",
            str(path),
            "-o",
            str(tmp_path / "o.nc"),
            "--plot",
            str(tmp_path / "o.png"),
        ]
        result = testing.CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        loaded = dc.Solution.load(tmp_path / "o.nc", group="theory")
        np.testing.assert_array_equal(loaded.times, [0.5, 1.0, 2.0])
        assert (tmp_path / "o.png").stat().st_size > 0


def test_pictures_label_flow_time():
    plotting = pytest.importorskip("dmftcore.plotting")
    figures = pytest.importorskip("matplotlib.figure")
    flow = dc.GradientFlow(np.concatenate([[0], np.geomspace(0.01, 5, 20)]))
    training = dc.GradientDescent(0.1, 50)
    theory = dc.solve(dc.DeepLinear(1), DATA, flow, save="H")
    descent = dc.solve(dc.DeepLinear(1), DATA, training)
    ax = figures.Figure().subplots()
    plotting.plot_losses(ax, {"flow": theory, "descent": descent})
    assert ax.get_xlabel() == r"time $\tau$ = lr $\times$ step"
    lines = {line.get_label(): line.get_xdata() for line in ax.get_lines()}
    np.testing.assert_array_equal(lines["flow"], flow.times)
    # Steps beside a flow stand where their tau is.
    np.testing.assert_allclose(lines["descent"], 0.1 * np.arange(51))
    uneven = dc.solve(dc.DeepLinear(1), DATA, dc.GradientDescent([0.1, 0.2], 2))
    with pytest.raises(ValueError, match="uneven: the steps of a schedule cannot be drawn beside"):
        plotting.plot_losses(ax, {"flow": theory, "uneven": uneven})
    titles = [ax.get_title() for ax in theory.plot().axes]
    assert r"stiff, $\tau = 5$" in titles or r"richardson, $\tau = 5$" in titles
    assert [ax.get_ylabel() for ax in theory.plot().axes].count(r"time $\tau$") == 1
