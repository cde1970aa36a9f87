"""deep_linear_loss against dmftcore.solve, and its derivatives against differences of solve."""

from functools import partial

import numpy as np
import pytest

import dmftcore as dc

jax = pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")
# Before the first array is made. Compilation is what these tests spend their time in.
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

import jax.numpy as jnp  # noqa: E402

from dmftcore import jax as dj  # noqa: E402

RNG = np.random.default_rng(5)
X = RNG.normal(size=(4, 5))
GRAM = X @ X.T / 5
TARGETS = np.array([1.0, -1.0, 0.5, 2.0])
SEVERAL = RNG.normal(size=(4, 2))

#: Of losses of order one over twenty steps: both march the same equations in another order.
ROUNDING = 1e-12


def solved(*, targets=TARGETS, gram=GRAM, depth=3, lr=0.1, gamma=1.2, init_scale=0.9, steps=12):
    return dc.solve(
        dc.DeepLinear(depth, gamma=gamma, init_scale=init_scale),
        dc.Dataset(gram=gram, targets=targets),
        dc.GradientDescent(lr, steps),
        method="chain",
        kernel_times=[],
    ).train_loss


def ours(*, targets=TARGETS, gram=GRAM, depth=3, lr=0.1, gamma=1.2, init_scale=0.9, steps=12):
    return dj.deep_linear_loss(
        gram, targets, depth=depth, lr=lr, gamma=gamma, init_scale=init_scale, steps=steps
    )


@pytest.mark.parametrize("steps", [0, 7])
def test_losses_for_every_cut_into_stretches(steps):
    found = ours(steps=steps)
    assert found.shape == (steps + 1,)
    np.testing.assert_allclose(found, solved(steps=steps), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 1, "lr": 0.3, "gamma": 1.0, "init_scale": 1.0},
        {"depth": 4, "lr": 0.05, "gamma": 1.5, "init_scale": 1.1},
        {"depth": 1, "gamma": 0.0},
        {"depth": 3, "targets": SEVERAL},
    ],
    ids=["shallow", "deep", "lazy", "outputs"],
)
def test_losses(options):
    np.testing.assert_allclose(ours(**options), solved(**options), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "targets", [TARGETS, pytest.param(SEVERAL, marks=pytest.mark.slow)], ids=["one", "outputs"]
)
def test_slopes_against_differences_of_solve(targets):
    weights = np.linspace(1, 2, 13)
    direction = RNG.normal(size=GRAM.shape)
    direction += direction.T
    toward = RNG.normal(size=targets.shape)

    def value(run, x):
        data = {"gram": GRAM + x["gram"] * direction, "targets": targets + x["targets"] * toward}
        return weights @ run(**{**x, **data})

    # Five points: the error is h^4 f^(5) / 30, h = 1e-3 times the scale on which the loss changes
    # (f^(5) < 1e3 f in these units), beside rounding of 1e-14 / h.
    scales = {"lr": 0.1, "gamma": 1.0, "init_scale": 1.0, "gram": 0.1, "targets": 1.0}
    x = {"lr": 0.1, "gamma": 1.2, "init_scale": 0.9, "gram": 0.0, "targets": 0.0}
    slopes = jax.grad(partial(value, ours))(x)
    for name, scale in scales.items():
        h = 1e-3 * scale

        def referee(steps, name=name, h=h):
            return value(solved, {**x, name: x[name] + steps * h})

        differences = (8 * (referee(1) - referee(-1)) - referee(2) + referee(-2)) / (12 * h)
        assert abs(differences) > 0.1, name
        np.testing.assert_allclose(slopes[name], differences, rtol=1e-8, err_msg=name)
    assert slopes.keys() == scales.keys()


@pytest.mark.slow
def test_tangents_are_the_gradients():
    def last(lr):
        return ours(lr=lr, steps=7)[-1]

    np.testing.assert_allclose(
        jax.jvp(last, (0.1,), (1.0,))[1], jax.grad(last)(0.1), rtol=0, atol=ROUNDING
    )


@pytest.mark.slow
def test_lazy_slope_in_closed_form():
    # Delta(t + 1) = (1 - (lr / P) (L + 1) s^(2 L) K) Delta(t)
    depth, lr, scale, steps = 2, 0.1, 0.9, 10
    values, vectors = np.linalg.eigh(GRAM)
    rate = (depth + 1) * scale ** (2 * depth) * values / 4
    modes = (vectors.T @ TARGETS) ** 2 / 8
    slope = np.sum(modes * 2 * steps * (1 - lr * rate) ** (2 * steps - 1) * -rate)

    def last(lr, gamma):
        return ours(depth=depth, lr=lr, gamma=gamma, init_scale=scale, steps=steps)[-1]

    found, in_gamma = jax.grad(last, argnums=(0, 1))(lr, 0.0)
    np.testing.assert_allclose(found, slope, rtol=1e-12)
    # Only gamma^2 enters.
    assert in_gamma == 0


def test_vmap():
    rates = jnp.array([0.05, 0.1, 0.2])
    found = jax.vmap(lambda lr: ours(depth=1, lr=lr))(rates)
    expected = [solved(depth=1, lr=lr) for lr in rates.tolist()]
    np.testing.assert_allclose(found, expected, rtol=0, atol=ROUNDING)


@pytest.mark.slow
def test_curvature():
    def last(lr):
        return ours(depth=2, lr=lr, steps=6)[-1]

    # The error of the differences: h^2 / 6 times a fourth derivative, h = 1e-3 of the scale of lr.
    h = 1e-4
    differences = (jax.grad(last)(0.1 + h) - jax.grad(last)(0.1 - h)) / (2 * h)
    np.testing.assert_allclose(jax.hessian(last)(0.1), differences, rtol=1e-5)


def test_float32():
    found = ours(gram=GRAM.astype(np.float32), targets=TARGETS.astype(np.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, solved(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gram": np.zeros((4, 3))}, r"gram must be \(P, P\) with P >= 1, not \(4, 3\)"),
        ({"targets": np.zeros(3)}, r"targets must be \(4,\) or \(4, K\) for gram .* not \(3,\)"),
        ({"depth": 0}, "depth must be an integer >= 1, not 0"),
        ({"steps": -1}, "steps must be an integer >= 0, not -1"),
        ({"lr": np.ones(5)}, r"lr must be a scalar, not of shape \(5,\); for several use jax.vmap"),
        ({"gamma": "1"}, "gamma must be a scalar, not '1'"),
        ({"gram": np.zeros((0, 0)), "targets": np.zeros(0)}, r"with P >= 1, not \(0, 0\)"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ours(**options)
