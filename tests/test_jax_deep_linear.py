"""deep_linear_loss against dmftcore.solve, and its derivatives against differences of solve."""

from functools import partial

import numpy as np
import pytest

import dmftcore as dc

jax = pytest.importorskip("jax", minversion="0.6", reason="jax is not installed")
# Before the first array is made.
jax.config.update("jax_enable_x64", True)

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


@pytest.mark.parametrize("steps", [0, 1, 2, 8, 11])
def test_losses_for_every_cut_into_stretches(steps):
    found = ours(steps=steps)
    assert found.shape == (steps + 1,)
    np.testing.assert_allclose(found, solved(steps=steps), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    "options",
    [
        {"depth": 1, "lr": 0.3, "gamma": 1.0, "init_scale": 1.0},
        {"depth": 4, "lr": 0.05, "gamma": 1.5, "init_scale": 1.1},
        {"depth": 2, "gamma": 0.0},
        {"depth": 3, "targets": SEVERAL},
    ],
    ids=["shallow", "deep", "lazy", "outputs"],
)
def test_losses(options):
    np.testing.assert_allclose(ours(**options), solved(**options), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("targets", [TARGETS, SEVERAL], ids=["one", "outputs"])
@pytest.mark.parametrize("name", ["lr", "gamma", "init_scale"])
def test_slopes_against_differences_of_solve(name, targets):
    values = {"lr": 0.1, "gamma": 1.2, "init_scale": 0.9}
    weights = np.linspace(1, 2, 13)

    def theory(value):
        return weights @ ours(**{**values, name: value}, targets=targets)

    def referee(value):
        return weights @ solved(**{**values, name: value}, targets=targets)

    # Five points: the error is h^4 f^(5) / 30, with h = 1e-3 and derivatives up to 1e3 (in lr the
    # scale is 0.1), beside rounding of 1e-14 / h.
    h = 1e-3 * (0.1 if name == "lr" else 1.0)
    x = values[name]
    differences = (
        8 * (referee(x + h) - referee(x - h)) - referee(x + 2 * h) + referee(x - 2 * h)
    ) / (12 * h)
    slope = jax.grad(theory)(x)
    assert abs(slope) > 0.1
    np.testing.assert_allclose(slope, differences, rtol=1e-8)
    np.testing.assert_allclose(jax.jvp(theory, (x,), (1.0,))[1], slope, rtol=1e-12)


def test_slopes_in_the_data():
    direction = RNG.normal(size=GRAM.shape)
    direction += direction.T
    toward = RNG.normal(size=TARGETS.shape)

    def last(move, run):
        return run(gram=GRAM + move * direction, targets=TARGETS + move * toward)[-1]

    h = 1e-4
    differences = (last(h, solved) - last(-h, solved)) / (2 * h)
    # The error of the differences: h^2 times a third derivative of order one.
    np.testing.assert_allclose(jax.grad(partial(last, run=ours))(0.0), differences, rtol=1e-6)


def test_lazy_slope_in_closed_form():
    # Delta(t + 1) = (1 - (lr / P) (L + 1) s^(2 L) K) Delta(t)
    depth, lr, scale, steps = 2, 0.1, 0.9, 10
    values, vectors = np.linalg.eigh(GRAM)
    rate = (depth + 1) * scale ** (2 * depth) * values / 4
    modes = (vectors.T @ TARGETS) ** 2 / 8
    slope = np.sum(modes * 2 * steps * (1 - lr * rate) ** (2 * steps - 1) * -rate)
    found = jax.grad(
        lambda lr: ours(depth=depth, lr=lr, gamma=0.0, init_scale=scale, steps=steps)[-1]
    )(lr)
    np.testing.assert_allclose(found, slope, rtol=1e-12)
    # Only gamma^2 enters.
    assert jax.grad(lambda gamma: ours(gamma=gamma)[-1])(0.0) == 0


def test_vmap_and_curvature():
    def last(lr):
        return ours(depth=2, lr=lr, steps=6)[-1]

    rates = jnp.array([0.05, 0.1, 0.2])
    np.testing.assert_allclose(
        jax.vmap(last)(rates), [last(lr) for lr in rates], rtol=0, atol=ROUNDING
    )
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
        ({"gram": np.zeros((4, 3))}, r"gram must be \(P, P\), not \(4, 3\)"),
        ({"targets": np.zeros(3)}, r"targets must be \(4,\) or \(4, K\) for gram .* not \(3,\)"),
        ({"depth": 0}, "depth must be an integer >= 1, not 0"),
        ({"steps": -1}, "steps must be an integer >= 0, not -1"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        ours(**options)
