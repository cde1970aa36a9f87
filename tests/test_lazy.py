"""The limit gamma = 0 with residual blocks, momentum, weight decay and schedules."""

import numpy as np
import pytest

import dmftcore as dc
from dmftcore.limits.lazy import LazyMarch
from dmftcore.modes import LinearProblem
from referees import optimizer_tables

RNG = np.random.default_rng(8)
X = RNG.normal(size=(5, 6)) / 2
GRAM = X @ X.T
Y = RNG.normal(size=(5, 2))
DATA = dc.Dataset(full_gram=GRAM, targets=Y[:4], test_targets=Y[4:])

TRAININGS = {
    "plain": dc.GradientDescent(0.1, 25),
    "schedule": dc.GradientDescent(np.linspace(0.15, 0.02, 25), 25),
    "momentum": dc.GradientDescent(0.05, 25, momentum=0.7),
    "decay": dc.GradientDescent(0.1, 25, weight_decay=0.3),
    "all": dc.GradientDescent(np.linspace(0.1, 0.02, 25), 25, momentum=0.6, weight_decay=0.2),
}
LIMITS = {
    "one layer": dc.DeepLinear(1, gamma=0),
    "three layers": dc.DeepLinear(3, gamma=0, init_scale=0.9),
    "three blocks": dc.DeepLinear(4, gamma=0, init_scale=0.8, branch_scale=1.2),
    "infinite depth": dc.DeepLinear(dc.INFINITE, gamma=0, init_scale=0.9, branch_scale=1.1),
}


def scaled(limit, factor):
    """The limit with initial weights `factor` times as large."""
    return dc.DeepLinear(
        limit.depth, gamma=0, init_scale=limit.init_scale * factor,
        branch_scale=limit.branch_scale, branch=limit.branch,
    )  # fmt: skip


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("limit", LIMITS)
def test_outputs_are_sums_over_two_times(limit, training):
    """f(t) = sum_s kap(t,s) kappa(c(t) c(s)) Kx Delta(s) / P, point by point.

    kappa(c c') is the tangent kernel of random weights whose variance is c c' sigma^2.
    """
    limit, training = LIMITS[limit], TRAININGS[training]
    c, kap = optimizer_tables(training)
    outputs = np.zeros((training.steps + 1, 5, 2))
    for t in range(1, training.steps + 1):
        for s in range(t):
            kappa = scaled(limit, np.sqrt(c[t] * c[s])).initial_tangent_scale
            errors = Y[:4] - outputs[s, :4]
            outputs[t] += kap[t, s] * kappa * GRAM[:, :4] @ errors / 4
    solution = dc.solve(limit, DATA, training)
    assert solution.diagnostics["engine"] == "lazy"
    found = np.concatenate([solution.outputs, solution.test_outputs], axis=1)
    np.testing.assert_allclose(found, outputs, rtol=0, atol=1e-13)
    for t in (0, 7, 25):
        kappa = scaled(limit, c[t]).initial_tangent_scale
        expected = kappa * np.einsum("mn,kj->mknj", GRAM[:4, :4], np.eye(2))
        np.testing.assert_allclose(solution.ntk[t], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("limit", ["one layer", "three layers", "three blocks"])
def test_growing_network_tends_to_lazy(limit, training):
    """Outputs and all kernels, with a distance that falls as gamma^2."""
    lazy_limit, training = LIMITS[limit], TRAININGS[training]
    options = {"kernel_times": [0, 3, 25], "save": ("H", "G")}
    lazy = dc.solve(lazy_limit, DATA, training, **options)

    def distance(gamma):
        limit = dc.DeepLinear(
            lazy_limit.depth, gamma=gamma, init_scale=lazy_limit.init_scale,
            branch_scale=lazy_limit.branch_scale,
        )  # fmt: skip
        near = dc.solve(limit, DATA, training, **options)
        fields = [(near.outputs, lazy.outputs), (near.test_outputs, lazy.test_outputs)]
        fields += [(near.kernel(name), lazy.kernel(name)) for name in ("H", "G")]
        fields += [(near.ntk, lazy.ntk), (near.sharpness, lazy.sharpness)]
        return np.array([np.abs(a - b).max() for a, b in fields])

    np.testing.assert_allclose(distance(1e-3) / distance(1e-2), 1e-2, rtol=0.02)


@pytest.mark.parametrize("limit", LIMITS)
def test_recursion_is_the_closed_form(limit):
    """A constant schedule is marched step by step, a constant rate in one stride."""
    limit = LIMITS[limit]
    jump = dc.solve(limit, DATA, dc.GradientDescent(0.1, 60))
    steps = dc.solve(limit, DATA, dc.GradientDescent(np.full(60, 0.1), 60))
    np.testing.assert_allclose(steps.outputs, jump.outputs, rtol=0, atol=1e-13)


def test_infinite_depth_is_the_limit_of_many_blocks():
    """The distance falls as 1 / depth, and two depths extrapolate to the limit."""
    training = TRAININGS["all"]
    limit = dc.solve(LIMITS["infinite depth"], DATA, training)
    at = {
        depth: dc.solve(
            dc.DeepLinear(depth + 1, gamma=0, init_scale=0.9, branch_scale=1.1), DATA, training
        )
        for depth in (50, 100)
    }
    for field in ("outputs", "test_outputs", "ntk", "sharpness"):
        expected = getattr(limit, field)
        far, near = (np.abs(getattr(at[n], field) - expected).max() for n in (50, 100))
        assert near / far == pytest.approx(0.5, rel=0.03)
        extrapolated = 2 * getattr(at[100], field) - getattr(at[50], field)
        assert np.abs(extrapolated - expected).max() < 0.03 * near


def test_infinite_depth_has_no_layers():
    solution = dc.solve(LIMITS["infinite depth"], DATA, TRAININGS["plain"])
    assert solution.ntk.shape == (26, 4, 2, 4, 2)
    with pytest.raises(KeyError, match="no kernel named 'H'"):
        solution.kernel("H", 1, 0, 0)


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
def test_the_bound_on_the_rate_is_sharp(momentum):
    """Just below 2 (1 + m) / sharpness the loss falls, just above it grows."""

    def losses(factor):
        bound = dc.solve(
            LIMITS["three blocks"], DATA, dc.GradientDescent(1.0, 0, momentum=momentum)
        ).diagnostics["stability_bound"]
        training = dc.GradientDescent(factor * bound, 2000, momentum=momentum)
        return dc.solve(LIMITS["three blocks"], DATA, training, kernel_times=[]).train_loss

    below = losses(0.99)
    assert below[-1] < 1e-12 * below[0]
    with pytest.raises(dc.DivergenceError) as caught:
        losses(1.01)
    assert len(caught.value.partial.train_loss) == caught.value.step


@pytest.mark.filterwarnings("ignore::dmftcore.StabilityWarning")
def test_divergence_is_found_at_its_step_by_the_recursion():
    """Wherever the stops are, as in closed form."""
    steps = set()
    for lr in (3.0, np.full(500, 3.0)):
        for options in ({"times": [0, 500]}, {}):
            with pytest.raises(dc.DivergenceError) as caught:
                dc.solve(
                    LIMITS["three layers"], DATA, dc.GradientDescent(lr, 500),
                    kernel_times=[], **options,
                )  # fmt: skip
            steps.add(caught.value.step)
    assert len(steps) == 1


def test_warnings_know_momentum():
    bound = dc.solve(
        LIMITS["three layers"], DATA, dc.GradientDescent(1.0, 0, momentum=0.5, weight_decay=0.2)
    ).diagnostics["stability_bound"]
    sharpness = LIMITS["three layers"].initial_tangent_scale * np.linalg.norm(GRAM[:4, :4], 2) / 4
    assert bound == pytest.approx(2 * 1.5 / (sharpness + 0.2))
    for factor, warned in ((0.99, False), (1.01, True)):
        training = dc.GradientDescent([factor * bound, 0.1], 2, momentum=0.5, weight_decay=0.2)
        if warned:
            with pytest.warns(dc.StabilityWarning, match="momentum"):
                dc.solve(LIMITS["three layers"], DATA, training)
        else:
            dc.solve(LIMITS["three layers"], DATA, training)


@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize("limit", ["three blocks", "infinite depth"])
def test_a_resumed_run_is_the_uninterrupted_one(limit, training):
    limit, training = LIMITS[limit], TRAININGS[training]

    def start():
        problem = LinearProblem(
            DATA, depth=limit.depth, gamma=0.0, init_scale=limit.init_scale,
            branch=limit.branch_factor, training=training, follow_ntk=False, loss_limit=1e99,
        )  # fmt: skip
        return LazyMarch(problem, limit.branch_scale)

    first, resumed = start(), start()
    first.advance(np.array([0, 11]))
    first.store_kernels()
    resumed.restore({name: part.copy() for name, part in first.state().items()})
    for march in (first, resumed):
        march.rows = march.advance(np.array([12, 25]))
        march.store_kernels()
    np.testing.assert_array_equal(first.rows, resumed.rows)
    np.testing.assert_array_equal(first.tangent_kernels(), resumed.tangent_kernels())
