"""`solve` for perceptrons and residual networks: the answers, their errors, storage, refusals."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student

import dmftcore as dc
from dmftcore import _core, memory
from dmftcore.config import Config, read_config, write_config
from dmftcore.errors import StabilityWarning
from dmftcore.limits.ensemble_solve import triangular

GRAM = np.array([[1.0, 0.2, -0.1], [0.2, 0.8, 0.3], [-0.1, 0.3, 1.2]])
DATA = dc.Dataset(full_gram=GRAM, targets=[1.0, -1.0], test_targets=[0.3])
SMALL = {"samples": 200, "replicas": 3}


def combined(error, other):
    return np.sqrt(np.square(error) + np.square(other))


def assert_within(found, error, expected, expected_error, sigmas=4):
    z = (np.asarray(found) - expected) / combined(error, expected_error)
    assert np.abs(z).max() < sigmas, z


# -- reference tables, with their standard errors -------------------------------------------------

PERCEPTRONS = {
    ("tanh", 2): {
        "loss": ([0.15972, 0.02462], [0.00028, 0.00008]),
        "f": ([0.78406, -0.77226, -0.42367], [0.00043, 0.00039, 0.00017]),
        "Phi": ([0.94367, 0.9665], [0.00101, 0.0009]),
        "G": ([0.4218, 0.9040], [0.0011, 0.0010]),
    },
    ("relu", 2): {
        "loss": ([0.1517], [0.0008]),
        "f": ([0.99736, -0.98917, -0.34199], [0.00009, 0.00017, 0.00136]),
        "Phi": ([2.5496, 4.1154], [0.0006, 0.0016]),
        "G": ([4.367, 2.921], [0.017, 0.016]),
    },
    ("tanh", 3): {
        "loss": ([0.15406, 0.01993], [0.00023, 0.00007]),
        "f": ([0.80366, -0.79705, -0.48019], [0.00040, 0.00033, 0.00019]),
        "Phi": ([0.87304, 0.78807, 0.96343], [0.00069, 0.00042, 0.00034]),
        "G": ([0.20474, 0.41736, 0.82469], [0.00032, 0.00081, 0.00106]),
    },
}


#: The errors in the table are from the scatter of five runs, and uncertain themselves: deviations
#: in units of one have Student's distribution with 4 degrees of freedom. With this factor, four of
#: them are exceeded as rarely as four of a normal distribution.
OF_FIVE_RUNS = student.isf(norm.sf(4), 4) / 4


def check_perceptron(activation, depth, **how):
    limit = dc.MLP(depth, activation, gamma=1.5)
    solution = dc.solve(
        limit, DATA, dc.GradientDescent(0.3, 10), kernel_times=[10], tol=1e-5, **how
    )
    wanted = {
        name: (mean, OF_FIVE_RUNS * np.array(error))
        for name, (mean, error) in PERCEPTRONS[activation, depth].items()
    }
    steps = [5, 10][: len(wanted["loss"][0])]
    errors = solution.stderr("train_loss")[steps]
    assert_within(solution.train_loss[steps], errors, *wanted["loss"])
    f = np.concatenate([solution.outputs[10], solution.test_outputs[10]])
    errors = [*solution.stderr("outputs")[10], *solution.stderr("test_outputs")[10]]
    assert_within(f, errors, *wanted["f"])
    for name in ("Phi", "G"):
        kernels, errors = solution.kernel(name, t=10, s=10), solution.stderr(name)[:, 0]
        traces = np.trace(kernels[:, :2, :2], axis1=1, axis2=2)
        # Of the two diagonal elements, if they move together.
        errors = np.trace(errors[:, :2, :2], axis1=1, axis2=2)
        assert_within(traces, errors, *wanted[name])


@pytest.mark.parametrize(("activation", "depth"), [("tanh", 2), ("relu", 2)])
def test_perceptrons(activation, depth):
    check_perceptron(activation, depth)


@pytest.mark.slow
@pytest.mark.parametrize(("activation", "depth"), PERCEPTRONS)
def test_perceptrons_in_detail(activation, depth):
    check_perceptron(activation, depth, samples=20_000, seed=1)


#: activation, readout, depth, gamma, lr; losses and their standard errors in units of 1e-5, at
#: steps 1, 4, 7, 10, or 1, 3, 6.
RESIDUALS = [
    (("tanh", None, 3, 1.0, 0.5), (31615, 20492, 11529, 5338), (37, 57, 63, 53)),
    (("gelu", None, 3, 1.0, 0.4), (30866, 20850, 16662, 13470), (31, 55, 36, 70)),
    (("relu", None, 3, 0.7, 0.3), (32145, 23490, 18812, 15515), (20, 31, 56, 66)),
    (("tanh", "linear", 2, 1.0, 0.4), (26659, 19147, 11167), (20, 18, 24)),
]


def check_residual(case, **how):
    (activation, readout, depth, gamma, lr), loss, error = case
    inputs = np.random.default_rng(0).standard_normal((3, 5))
    data = dc.Dataset(inputs=inputs, targets=[1, -1, 0.5])
    steps = [1, 4, 7, 10] if len(loss) == 4 else [1, 3, 6]
    limit = dc.Residual(depth, activation, gamma=gamma, readout_activation=readout)
    training = dc.GradientDescent(lr, steps[-1])
    solution = dc.solve(limit, data, training, kernel_times=[], **how)
    found, errors = solution.train_loss[steps], solution.stderr("train_loss")[steps]
    assert_within(found, errors, np.array(loss) * 1e-5, np.array(error) * 1e-5)


def test_residual_networks():
    check_residual(RESIDUALS[0], samples=1000)
    check_residual(RESIDUALS[3], samples=1000)


@pytest.mark.slow
@pytest.mark.parametrize("case", RESIDUALS, ids=lambda case: "-".join(map(str, case[0])))
def test_residual_networks_in_detail(case):
    check_residual(case, samples=10_000, seed=3)


@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_one_hidden_layer_against_quadrature(activation):
    """The other engine integrates the neurons; here they are sampled."""
    limit = dc.MLP(1, activation, gamma=1.5)
    data = dc.Dataset(gram=[[1, 0.5], [0.5, 1]], targets=[1.0, -0.4])
    training = dc.GradientDescent(0.2, 10, momentum=0.3)
    exact = dc.solve(limit, data, training, method="quadrature")
    sampled = dc.solve(limit, data, training, samples=20_000)
    for name in ("outputs", "train_loss", "ntk", "sharpness"):
        known = sampled.stderr(name) > 0
        z = (getattr(sampled, name) - getattr(exact, name))[known] / sampled.stderr(name)[known]
        # Seven degrees of freedom, and few independent numbers.
        assert np.sqrt(np.mean(z**2)) < 3, name


def test_theory_against_trained_networks():
    """At a finite width, whose own distance of order 1 / width is below the sampling errors."""
    limit = dc.MLP(2, "gelu", gamma=0.8)
    rng = np.random.default_rng(5)
    data = dc.Dataset(
        inputs=rng.normal(size=(3, 3)),
        targets=np.eye(3),
        test_inputs=rng.normal(size=(1, 3)),
        test_targets=np.eye(3)[:1],
    )
    training = dc.GradientDescent(0.4, 12, loss="softmax", weight_decay=0.02, momentum=0.5)
    theory = dc.solve(limit, data, training, kernel_times=[0, 12], samples=4000)
    networks = dc.simulate(limit, data, training, width=500, seeds=12, kernel_times=[0, 12], seed=2)
    for name in ("outputs", "test_outputs", "train_loss", "test_loss", "ntk", "H", "Phi", "G"):
        if name in ("H", "Phi", "G"):
            pair = [
                np.stack([np.stack(list(s.equal_time[name].values()))]) for s in (theory, networks)
            ]
        else:
            pair = [getattr(s, name) for s in (theory, networks)]
        error = combined(theory.stderr(name), networks.stderr(name))
        known = error > 0
        z = ((pair[0] - pair[1]).reshape(error.shape))[known] / error[known]
        # With eleven degrees of freedom, and correlated: 0.8 to 1.4 in practice.
        assert np.sqrt(np.mean(z**2)) < 2.2, name


# -- what a solution holds ------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[None, 2])
def solution(request):
    outputs = request.param
    targets = [1.0, -1.0] if outputs is None else np.eye(2)
    data = dc.Dataset(full_gram=GRAM, targets=targets)
    return dc.solve(
        dc.Residual(2, "tanh"), data, dc.GradientDescent(0.3, 4), save="all", tol=1e-8, **SMALL
    )


def test_shapes_and_symmetries(solution):
    k = solution.outputs.shape[2:]
    assert solution.outputs.shape == (5, 2, *k)
    assert solution.test_outputs.shape == (5, 1, *k)
    assert solution.ntk.shape == (5, 2, *k, 2, *k)
    assert solution.kernel("H").shape == solution.kernel("Phi").shape == (3, 5, 3, 5, 3)
    assert solution.kernel("G").shape == (3, 5, 2, *k, 5, 2, *k)
    assert solution.kernel("AG").shape == (2, 5, 3, 5, 2, *k)
    assert solution.kernel("BPhi").shape == (2, 5, 2, *k, 5, 3)
    for name in ("H", "Phi", "G"):
        for layer in (1, 2, 3):
            two = solution.two_time[name][layer]
            half = two.ndim // 2
            size = int(np.prod(two.shape[:half]))
            np.testing.assert_allclose(two.reshape(size, size), two.reshape(size, size).T)
            for t in range(5):
                # But for what the truncation of the bases has dropped, at the scale of sqrt(tol).
                equal = solution.equal_time[name][layer][t]
                at_t = two[t][(slice(None),) * (half - 1) + (t,)]
                np.testing.assert_allclose(at_t, equal, atol=1e-6)
    square = solution.ntk.reshape(5, int(np.prod(solution.outputs.shape[1:])), -1)
    np.testing.assert_allclose(solution.sharpness, np.linalg.eigvalsh(square)[:, -1] / 2)


def test_every_sampled_field_has_an_error(solution):
    for name in ("outputs", "train_loss", "test_outputs", "ntk", "sharpness", "H", "Phi", "G"):
        assert np.isfinite(solution.stderr(name)).all()
    for name in ("AG", "BPhi"):
        assert solution.stderr(name).shape == solution.kernel(name).shape
    assert solution.stderr("outputs")[1:].min() > 0
    diagnostics = solution.diagnostics
    assert diagnostics["engine"] == "ensemble"
    assert diagnostics["samples"] == 200
    assert diagnostics["replicas"] == 3
    assert 0 <= diagnostics["dropped"] <= 1e-8
    assert diagnostics["replica_scatter"] > 0
    assert len(diagnostics["ranks"]) == 2
    assert diagnostics["memory"] > 0


def test_features_of_the_start_answer_to_no_gradient(solution):
    """A^l is strictly causal; what is sampled of it vanishes within its error."""
    for layer in (1, 2):
        first, error = solution.kernel("AG", layer)[0], solution.stderr("AG")[layer - 1, 0]
        assert np.abs(first).max() < 6 * error.max() + 1e-12


def test_storage(solution, tmp_path):
    pytest.importorskip("h5netcdf")
    solution.save(tmp_path / "solution.nc")
    again = dc.Solution.load(tmp_path / "solution.nc")
    for name in ("H", "Phi", "G", "AG", "BPhi"):
        assert np.array_equal(again.kernel(name), solution.kernel(name))
        assert np.array_equal(again.stderr(name), solution.stderr(name))
    assert np.array_equal(again.ntk, solution.ntk)
    assert again.config == solution.config


def test_equal_calls_give_equal_bits():
    limit, training = dc.MLP(2, "tanh"), dc.GradientDescent(0.2, 5)
    one, same, other = (
        dc.solve(limit, DATA, training, seed=seed, **SMALL).outputs for seed in (4, 4, 5)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_threads_do_not_matter():
    results, before = [], _core.get_num_threads()
    for threads in (1, 3):
        _core.set_num_threads(threads)
        solution = dc.solve(
            dc.Residual(2, "gelu"), DATA, dc.GradientDescent(0.2, 5), samples=3000, replicas=2
        )
        results.append((solution.outputs, solution.ntk))
    _core.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert np.array_equal(one, other)


def test_sweep_over_activations():
    grid = dc.sweep(
        dc.solve,
        limit=[dc.MLP(2, "tanh"), dc.Residual(1, "relu")],
        data=DATA,
        training=dc.GradientDescent(0.2, 4),
        **SMALL,
    )
    assert np.isfinite(grid["train_loss"].values).all()
    assert grid["train_loss"].shape == (2, 5)


def test_more_replicas_keep_the_first():
    limit, training = dc.MLP(2, "tanh"), dc.GradientDescent(0.2, 5)
    few, more = (
        dc.solve(limit, DATA, training, samples=200, replicas=replicas).per_seed["outputs"]
        for replicas in (2, 4)
    )
    np.testing.assert_allclose(few, more[:2], atol=1e-11)


def test_one_replica_has_no_errors():
    solution = dc.solve(
        dc.MLP(2, "tanh"), DATA, dc.GradientDescent(0.2, 3), samples=100, replicas=1
    )
    with pytest.raises(KeyError, match="no standard error"):
        solution.stderr("outputs")
    assert np.isfinite(solution.ntk).all()


def test_estimate_error_names_the_standard_errors():
    solution = dc.solve(
        dc.MLP(1, "tanh"), DATA, dc.GradientDescent(0.2, 3), estimate_error=True, **SMALL
    )
    assert "stderr" in solution.diagnostics["error_estimate"]["reason"]


def test_progress_is_the_mean_loss():
    seen = []
    solution = dc.solve(
        dc.MLP(2, "erf"),
        DATA,
        dc.GradientDescent(0.2, 6),
        progress=lambda step, loss: seen.append((step, loss)),
        **SMALL,
    )
    steps, losses = zip(*seen, strict=True)
    np.testing.assert_allclose(losses, solution.train_loss[list(steps)], rtol=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_checkpoint(tmp_path, momentum):
    limit = dc.Residual(2, "tanh")

    def run(steps, **options):
        training = dc.GradientDescent(0.1, steps, momentum=momentum)
        return dc.solve(limit, DATA, training, save=("H", "AG"), **SMALL, **options)

    path = tmp_path / "run.npz"
    run(4, checkpoint=path)
    extended, whole = run(9, checkpoint=path), run(9)
    assert extended.diagnostics["resumed_from"] == [4]
    for name in ("outputs", "ntk", "sharpness"):
        assert np.array_equal(getattr(extended, name), getattr(whole, name))
    for name in ("H", "AG"):
        assert np.array_equal(extended.kernel(name), whole.kernel(name))
    with pytest.raises(ValueError, match="another run"):
        dc.solve(
            limit,
            DATA,
            dc.GradientDescent(0.1, 12, momentum=momentum),
            save=("H", "AG"),
            samples=300,
            replicas=3,
            checkpoint=path,
        )


def test_configuration(tmp_path):
    pytest.importorskip("tomli_w")
    config = Config(
        dc.Residual(2, "relu", block_layers=2),
        DATA,
        dc.GradientDescent(0.1, 3),
        solve={"samples": 100, "replicas": 2, "seed": 7, "dtype": "float32", "tol": 1e-4},
    )
    write_config(config, tmp_path / "run.toml")
    again = read_config(tmp_path / "run.toml")
    assert again.limit == config.limit
    assert again.solve == config.solve
    solution = dc.solve(again.limit, again.data, again.training, **again.solve)
    assert solution.config["solve"]["dtype"] == "float32"


# -- refusals -------------------------------------------------------------------------------------


def solve(limit=None, training=None, **options):
    limit = dc.MLP(2, "tanh") if limit is None else limit
    return dc.solve(limit, DATA, training or dc.GradientDescent(0.2, 3), **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"samples": 1}, "samples must be an integer >= 2"),
        ({"replicas": 0}, "replicas must be an integer >= 1"),
        ({"seed": -1}, "seed must be an integer >= 0"),
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"dtype": "float32", "tol": 1e-9}, "below the rounding noise of dtype='float32'"),
        ({"tol": 1.0}, "would drop all of every field"),
        ({"limit": dc.MLP(2, "tanh", gamma=0), "seed": 1}, "seed: the limit gamma = 0 draws no"),
        ({"method": "stiff"}, "method must be one of 'ensemble'"),
        ({"save": "A"}, "save must be one of"),
        ({"limit": dc.MLP(2, "tanh", gamma=0), "method": "ensemble"}, "needs gamma > 0"),
    ],
)
def test_refusals(options, text):
    with pytest.raises(ValueError, match=text):
        solve(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"save": 3}, "save must be a name or a sequence of names, not 3"),
        ({"progress": 3}, "progress must be a function"),
    ],
)
def test_wrong_types_are_named(options, text):
    with pytest.raises(TypeError, match=text):
        solve(**options)
    with pytest.raises(TypeError, match=text):
        dc.simulate(dc.MLP(2, "tanh"), DATA, dc.GradientDescent(0.2, 3), width=4, **options)


def test_numbers_are_no_truth_values():
    with pytest.raises(TypeError, match="gamma must be a number >= 0, not True"):
        dc.MLP(2, "tanh", gamma=True)


@pytest.mark.parametrize("gamma", [0, 1])
def test_a_decay_that_turns_weights_around_is_told(gamma):
    decay = dc.GradientDescent(0.5, 2, weight_decay=2.0)
    with pytest.warns(StabilityWarning, match=r"lr \* weight_decay = 1: .* leaves nothing"):
        solve(dc.MLP(1, "tanh", gamma=gamma), decay, **(SMALL if gamma else {}))


def test_flows_are_refused():
    with pytest.raises(TypeError, match=r"which train an MLP, .* with a small lr"):
        solve(training=dc.GradientFlow([0, 1.0]))


@pytest.mark.parametrize(
    "options", [{"samples": 10}, {"replicas": 2}, {"seed": 1}, {"dtype": "float32"}]
)
def test_limits_that_are_not_sampled_refuse_what_is_for_sampling(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"{name}: the theory of a DeepLinear draws no"):
        solve(limit=dc.DeepLinear(2), **options)


def test_divergence():
    with pytest.raises(dc.DivergenceError, match="diverged at step") as stop:
        solve(limit=dc.MLP(2, "relu"), training=dc.GradientDescent(40.0, 60), **SMALL)
    bound = 2 / stop.value.partial.sharpness[0]
    assert f"lower lr (now 40, stable below {bound:.3g} at step 0)" in str(stop.value)
    assert len(stop.value.partial.times) == stop.value.step
    assert np.isfinite(stop.value.partial.outputs).all()


@pytest.mark.parametrize("verb", ["particles", "quadrature", "networks"])
def test_where_there_is_nothing_to_learn_nothing_diverges(verb):
    """Outputs stay zero up to rounding or, at finite width under weight decay, their first size."""
    nothing = dc.Dataset(gram=[[1.0]], targets=[0.0])
    training = dc.GradientDescent(0.2, 10, weight_decay=0.1)
    limit = dc.MLP(1 if verb == "quadrature" else 2, "tanh")
    if verb == "networks":
        solution = dc.simulate(limit, nothing, training, width=50)
    else:
        how = SMALL if verb == "particles" else {"method": verb}
        solution = dc.solve(limit, nothing, training, **how)
    assert solution.train_loss.max() < (1e-30 if verb == "quadrature" else 0.1)


@pytest.mark.parametrize("limit", [dc.MLP(1, "gelu"), dc.Residual(2, "tanh")], ids=["one", "more"])
def test_weight_decay_leaves_no_noise_of_the_initial_outputs(limit):
    """Which is of order 1 / gamma; and the limit gamma -> 0 is the lazy one, up to gamma^2."""
    training = dc.GradientDescent(0.2, 15, weight_decay=0.2)

    def at(gamma, **how):
        return dc.solve(replace(limit, gamma=gamma), DATA, training, kernel_times=[], **how)

    strong, weak, lazy = (
        at(1.0, samples=400, replicas=16), at(0.02, samples=400, replicas=16), at(0),
    )  # fmt: skip
    # Both are of the order 1 / sqrt(samples replicas).
    assert weak.stderr("outputs").max() < 3 * strong.stderr("outputs").max()
    assert_within(weak.outputs[1:], weak.stderr("outputs")[1:], lazy.outputs[1:], 2e-3)


def test_two_time_kernels_have_the_errors_of_equal_times():
    limit, steps = dc.Residual(1, "tanh"), [0, 4]
    solution = dc.solve(
        limit, DATA, dc.GradientDescent(0.2, 4), save=("H", "Phi", "G"), kernel_times=steps, **SMALL
    )
    for name in ("H", "Phi", "G"):
        across = solution.stderr(f"{name}_two_time")
        assert across.shape == solution.kernel(name).shape
        # Up to `tol`, what visited columns leave out of a field.
        for i in range(2):
            equal = solution.stderr(name)[:, i]
            np.testing.assert_allclose(across[:, i, :, i], equal, rtol=0.01, atol=1e-5)


def test_divergence_of_superlinear_activations_is_explained():
    with pytest.raises(dc.DivergenceError, match="does not exist for activation 'quadratic'"):
        solve(limit=dc.MLP(2, "quadratic"), training=dc.GradientDescent(0.5, 60), **SMALL)


def test_the_edge_of_stability_is_reported():
    sharpness = solve(training=dc.GradientDescent(0.1, 0), **SMALL).sharpness[0]
    with pytest.warns(StabilityWarning, match="edge of stability"):
        solution = solve(training=dc.GradientDescent(2.3 / sharpness, 3), **SMALL)
    assert solution.diagnostics["stability"]["unstable"][0] == 0


def test_memory_is_planned(monkeypatch):
    monkeypatch.setattr(memory, "_available_memory", lambda: 10_000_000)
    with pytest.raises(MemoryError, match="lower samples or replicas"):
        solve(samples=10_000)


def test_the_plan_covers_what_is_used():
    """Relu visits a new direction with every gradient."""
    limit, training = dc.Residual(2, "relu"), dc.GradientDescent(0.1, 30)
    solution = dc.solve(limit, DATA, training, kernel_times=[], samples=500, replicas=2)
    (below, above), _ = solution.diagnostics["ranks"]
    assert below <= 31 * 3
    assert above <= 31 * 2
    columns = 2 * sum(map(sum, solution.diagnostics["ranks"])) * 500 * 2 * 8
    assert columns < solution.diagnostics["memory"]


@pytest.mark.parametrize("shape", [(4, 4), (5, 3), (3, 1)])
def test_coordinates_of_one_hidden_layer_are_triangular(shape):
    points = np.random.default_rng(0).normal(size=shape)
    found = triangular(points)
    assert found.shape == shape
    assert not np.triu(found, 1).any()
    np.testing.assert_allclose(found @ found.T, points @ points.T, rtol=0, atol=1e-14)
