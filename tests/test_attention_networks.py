"""Attention networks of finite width: their training rule, and the limits they approach."""

from __future__ import annotations

import numpy as np
import pytest

import dmftcore as dc
from attention_reference import attend
from dmftcore.limits.attention import _gaussian_rows

rng = np.random.default_rng(5)
LENGTH, DIMENSION = 3, 3
TOKENS = 2 * np.cos(1.3 * np.arange(1, 4) * np.arange(1, 7)[:, None] + 0.7 * np.arange(3))
DATA = dc.Dataset(
    inputs=TOKENS.reshape(2, LENGTH, DIMENSION), targets=[1.0, -1.0],
    test_inputs=rng.normal(size=(1, LENGTH, DIMENSION)), test_targets=[0.3],
)  # fmt: skip


def network(weights, inputs, gamma, exponent, attention, mask=None):
    """f of all sequences, from its definition: weights W_Q, W_K, W_V (H, N, D) and w (H, N, K)."""
    w_q, w_k, w_v, w = (weights[name] for name in ("W_Q", "W_K", "W_V", "w"))
    heads, keys, _ = w.shape
    outputs = []
    for x in inputs:
        f = 0
        for h in range(heads):
            q, k, v = (x @ matrix[h].T / np.sqrt(x.shape[1]) for matrix in (w_q, w_k, w_v))
            patterns = attend(attention, q @ k.T / keys**exponent, mask)
            f += w[h].T @ (patterns @ v).mean(axis=0)
        outputs.append(f / (gamma * keys * heads))
    return np.array(outputs)


@pytest.mark.parametrize(
    ("attention", "exponent", "mask", "outputs"),
    [
        ("softmax", 0.5, None, 1),
        ("softmax", 0.8, "causal", 2),
        ("linear", 0.8, None, 1),
        ("linear", 1.0, "causal", 2),
        ("exp", 0.5, "causal", 1),
        ("exp", 1.0, None, 2),
        ("relu", 0.8, "causal", 2),
        ("relu", 1.0, None, 1),
    ],
)
def test_training_is_gradient_descent(attention, exponent, mask, outputs):
    """Against central differences of the loss, with the learning rates of the definition."""
    heads, keys, gamma, lr, steps, h = 2, 3, 1.4, 0.05, 3, 1e-6
    generator = np.random.default_rng(0)
    weights = {k: generator.normal(size=(heads, keys, DIMENSION)) for k in ("W_Q", "W_K", "W_V")}
    weights["w"] = generator.normal(size=(heads, keys, outputs))
    limit = dc.AttentionCore(
        gamma=gamma, attention_exponent=exponent, attention=attention, parameters=weights, mask=mask
    )
    factors = np.array([1.0, -0.4])[:outputs]
    data = dc.Dataset(
        inputs=DATA.inputs, targets=np.outer(DATA.targets, factors), test_inputs=DATA.test_inputs
    )
    experiment = dc.simulate(limit, data, dc.GradientDescent(lr, steps))

    def loss(parameters):
        f = network(parameters, DATA.inputs, gamma, exponent, attention, mask)
        return np.sum((data.targets - f) ** 2) / (2 * len(f))

    weights = {name: array.copy() for name, array in weights.items()}
    for step in range(steps + 1):
        inputs = np.concatenate([DATA.inputs, DATA.test_inputs])
        f = network(weights, inputs, gamma, exponent, attention, mask)
        np.testing.assert_allclose(experiment.outputs[step], f[:2], rtol=0, atol=1e-7)
        np.testing.assert_allclose(experiment.test_outputs[step], f[2:], rtol=0, atol=1e-7)
        moves = {}
        for name, array in weights.items():
            rate = lr * gamma**2 * keys * heads
            rate *= keys ** (2 * (exponent - 1)) if name in ("W_Q", "W_K") else 1
            moves[name] = np.empty_like(array)
            for i in np.ndindex(array.shape):
                before, sides = array[i], []
                for array[i] in (before + h, before - h):
                    sides.append(loss(weights))
                array[i] = before
                moves[name][i] = -rate * (sides[0] - sides[1]) / (2 * h)
        for name, array in weights.items():
            array += moves[name]


def test_a_network_depends_on_its_own_seed_alone():
    limit, training = dc.AttentionCore(heads=2, key_dim=3), dc.GradientDescent(0.05, 4)
    few, many = (dc.simulate(limit, DATA, training, seeds=n, seed=7) for n in (2, 5))
    np.testing.assert_allclose(
        few.per_seed["outputs"], many.per_seed["outputs"][:2], rtol=0, atol=1e-14
    )
    other = dc.simulate(limit, DATA, training, seeds=2, seed=8)
    assert np.abs(few.per_seed["outputs"] - other.per_seed["outputs"]).max() > 1e-3
    assert (many.outputs[0] == 0).all()


def test_simulation_goes_on_from_its_checkpoint(tmp_path):
    limit, path = dc.AttentionCore(heads=2, key_dim=3), tmp_path / "run.npz"
    options = {"seeds": 3, "kernel_times": [0, 4]}
    whole = dc.simulate(limit, DATA, dc.GradientDescent(0.05, 9), **options)
    dc.simulate(limit, DATA, dc.GradientDescent(0.05, 5), checkpoint=path, **options)
    resumed = dc.simulate(limit, DATA, dc.GradientDescent(0.05, 9), checkpoint=path, **options)
    np.testing.assert_array_equal(resumed.per_seed["outputs"], whole.per_seed["outputs"])
    for name, values in whole.order_parameters.items():
        np.testing.assert_array_equal(resumed.order_parameters[name], values)


@pytest.mark.parametrize(
    ("limit", "width", "text"),
    [
        (dc.AttentionCore(), 12, "infinitely many heads and keys says neither"),
        (dc.AttentionCore(heads=5), 12, "width = 12 is not a multiple of heads=5"),
        (dc.AttentionCore(key_dim=5), 12, "width = 12 is not a multiple of key_dim=5"),
        (dc.AttentionCore(heads=5), None, "width is missing"),
        (dc.AttentionCore(heads=2, key_dim=5), 12, "width must be 10"),
        (dc.AttentionCore(initial_correlations=[0.1, 0.2]), 12, "says neither"),
        (dc.AttentionCore(heads=1, attention_exponent=0.5, initial_correlations=[0.1]), 4,
         "need attention_exponent=1"),
    ],
)  # fmt: skip
def test_widths_that_make_no_network(limit, width, text):
    with pytest.raises(ValueError, match=text):
        dc.simulate(limit, DATA, dc.GradientDescent(0.1, 2), width=width)


def test_divergence_of_a_network():
    limit = dc.AttentionCore(heads=2, key_dim=3, gamma=2, attention="exp")
    with pytest.raises(dc.DivergenceError, match="lower lr") as caught:
        dc.simulate(limit, DATA, dc.GradientDescent(20.0, 50))
    assert np.isfinite(caught.value.partial.train_loss).all()


# -- the limits -------------------------------------------------------------------------------

STEPS = 20
TRAINING = dc.GradientDescent(0.03, STEPS)
OPTIONS = {"kernel_times": [0, STEPS]}
#: What is compared, at the last step: one number of each sequence, and of each kind.
COMPARED = ("outputs", "test_outputs", "S_mean", "S_var", "A_mean", "V_mean", "Z_mean")


def at_the_end(solution, name):
    """Value and standard error at the last step."""
    fields = solution.order_parameters
    value = fields[name] if name in fields else getattr(solution, name)
    error = solution.standard_errors.get(name)
    return value[-1], np.zeros_like(value[-1]) if error is None else error[-1]


def deviations(theory, experiment):
    """By name: the difference of both, in root mean square, and its standard error."""
    found = {}
    for name in COMPARED:
        (a, first), (b, second) = at_the_end(theory, name), at_the_end(experiment, name)
        error = np.sqrt(np.mean(first**2 + second**2))
        found[name] = np.sqrt(np.mean((a - b) ** 2)), error
    return found


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_networks_of_finitely_many_heads_and_keys(exponent):
    """Networks in their overlaps, drawn as triangles, against networks in their weights."""
    limit = dc.AttentionCore(heads=3, key_dim=20, attention_exponent=exponent, gamma=1.5)
    theory = dc.solve(limit, DATA, TRAINING, samples=800, **OPTIONS)
    experiment = dc.simulate(limit, DATA, TRAINING, seeds=800, **OPTIONS)
    assert theory.diagnostics["heads"] == [800, 3]
    for name, (difference, error) in deviations(theory, experiment).items():
        assert difference < 3 * error, name
        # Both sides have about the same error: that of 800 networks.
        (_, first), (_, second) = at_the_end(theory, name), at_the_end(experiment, name)
        np.testing.assert_allclose(first, second, rtol=0.35, atol=1e-12, err_msg=name)


def test_triangles_have_the_overlaps_of_gaussian_vectors():
    """Wishart matrices W / N of N degrees of freedom: mean 1, variances 2/N and 1/N, det."""
    rows, keys, count = 6, 9, 20_000
    generator = np.random.default_rng(1)
    drawn = _gaussian_rows(generator, count, rows, keys)
    assert drawn.shape == (count, rows, rows)
    overlaps = drawn @ drawn.swapaxes(1, 2) / keys
    error = np.sqrt(2 / keys / count)
    np.testing.assert_allclose(overlaps.mean(axis=0), np.eye(rows), rtol=0, atol=4.5 * error)
    # The fourth moments of these numbers are below 20.
    variances = (1 + np.eye(rows)) / keys
    np.testing.assert_allclose(
        overlaps.var(axis=0), variances, rtol=4.5 * np.sqrt(20 / count), atol=0
    )
    # E det(W) = N (N - 1) ... (N - rows + 1), which sees all of them at once.
    found = np.linalg.det(overlaps * keys)
    expected = np.prod(keys - np.arange(rows), dtype=float)
    assert abs(found.mean() - expected) < 4 * found.std() / np.sqrt(count)
    assert _gaussian_rows(generator, 2, rows, 3).shape == (2, rows, 3)


#: Limit; a network and its widths, small and large; seeds.
APPROACHES = {
    "infinite keys": (dc.AttentionCore(heads=2, gamma=1.5), 2, (8, 64), 200),
    "warm start": (
        dc.AttentionCore(heads=2, gamma=1.5, initial_correlations=[-0.5, 0.9]), 2, (8, 64), 200,
    ),
    "infinite keys, Gaussian scores": (
        dc.AttentionCore(heads=4, gamma=1.5, attention_exponent=0.5), 4, (1, 32), 800,
    ),
    "infinite heads, alpha = 1/2": (
        dc.AttentionCore(key_dim=4, gamma=1.5, attention_exponent=0.5), 4, (2, 64), 200,
    ),
    "infinite heads, alpha = 1": (dc.AttentionCore(key_dim=4, gamma=1.5), 4, (2, 64), 200),
    "two outputs, masked, infinite keys": (
        dc.AttentionCore(heads=2, gamma=1.5, mask="causal"), 2, (8, 64), 200,
    ),
    "two outputs, masked, infinite heads": (
        dc.AttentionCore(key_dim=4, gamma=1.5, attention_exponent=0.5, mask="causal"),
        4, (2, 64), 200,
    ),
}  # fmt: skip
#: The same sequences, with a second target for each.
TWO = dc.Dataset(
    inputs=DATA.inputs, targets=[[1.0, 0.5], [-1.0, 0.2]],
    test_inputs=DATA.test_inputs, test_targets=[[0.3, 0.1]],
)  # fmt: skip


@pytest.mark.parametrize("name", APPROACHES)
def test_networks_approach_the_limit(name):
    """The deviation is far from zero at the small width, and falls by more than the root of both.

    It is of order 1/width in the end, but saturates at small widths.
    """
    limit, unit, widths, seeds = APPROACHES[name]
    samples, data = {}, TWO if "two outputs" in name else DATA
    if not limit.is_deterministic:
        samples = {"samples": 800 if limit.heads != dc.INFINITE else 16384}
    theory = dc.solve(limit, data, TRAINING, **samples, **OPTIONS)
    small, large = (
        dc.simulate(limit, data, TRAINING, width=unit * width, seeds=seeds, **OPTIONS)
        for width in widths
    )
    ratio = np.sqrt(widths[0] / widths[1])
    near, far = deviations(theory, large), deviations(theory, small)
    for quantity in ("outputs", "S_mean", "S_var", "V_mean"):
        (difference, error), (before, error_before) = near[quantity], far[quantity]
        assert difference < ratio * before + 3 * (error + ratio * error_before), quantity
    assert any(before > 5 * error for before, error in far.values())


def test_all_heads_and_keys_at_once():
    """alpha = 1/2, infinitely many keys and heads: networks with both growing."""
    limit = dc.AttentionCore(gamma=1.5, attention_exponent=0.5)
    theory = dc.solve(limit, DATA, TRAINING, samples=16384, **OPTIONS)
    before = np.inf
    for heads, keys in ((4, 4), (64, 64)):
        experiment = dc.simulate(
            dc.AttentionCore(heads=heads, key_dim=keys, gamma=1.5, attention_exponent=0.5),
            DATA, TRAINING, seeds=40, **OPTIONS,
        )  # fmt: skip
        difference, error = deviations(theory, experiment)["outputs"]
        assert difference < before / 4 + 3 * error
        before = difference
    assert before < 0.02


def test_few_keys_lead_to_infinitely_many():
    """The average over heads of N keys tends to the limit N = infinity as 1/N."""
    theory = dc.solve(dc.AttentionCore(gamma=1.5), DATA, TRAINING, **OPTIONS)
    widths, found, collapse = np.array([64, 256, 1024]), [], []
    for keys in widths.tolist():
        limit = dc.AttentionCore(key_dim=keys, gamma=1.5)
        average = dc.solve(limit, DATA, TRAINING, samples=4096, **OPTIONS)
        found.append(deviations(theory, average)["outputs"])
        collapse.append(average.diagnostics["collapse"][-1])
    # c / N (1 - c' / N): the next order, from the first two widths, is 4 times less at the last.
    (first, _), (second, _), (third, error) = found
    correction = abs(4 * second / first - 1)
    assert abs(4 * third / second - 1) < correction / 4 + 3 * 4 * error / second + 0.02
    # The variance among heads is c / N, for it is 0 in the limit.
    assert -1.02 < np.log(collapse[2] / collapse[1]) / np.log(4) < -0.9


def test_monte_carlo_errors_are_those_between_runs():
    limit = dc.AttentionCore(key_dim=4, gamma=1.5, attention_exponent=0.5)
    runs = [
        dc.solve(limit, DATA, TRAINING, samples=512, seed=seed, kernel_times=[])
        for seed in range(24)
    ]
    scatter = np.std([run.outputs[-1] for run in runs], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([run.stderr("outputs")[-1] ** 2 for run in runs], axis=0))
    # A standard deviation of 24 has an error of 1 / sqrt(46); a claim of 24 x 7 degrees less.
    np.testing.assert_allclose(scatter / claimed, 1, atol=4 / np.sqrt(46))


def test_antithetic_pairs_start_at_zero():
    for limit in (dc.AttentionCore(key_dim=4), dc.AttentionCore(attention_exponent=0.5)):
        solution = dc.solve(limit, DATA, dc.GradientDescent(0.1, 2), samples=32)
        np.testing.assert_allclose(solution.outputs[0], 0, atol=1e-15)
        assert np.abs(solution.outputs[1]).min() > 0
