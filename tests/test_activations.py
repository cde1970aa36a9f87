"""Activations and losses: their values, and derivatives against the complex step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

import dmftcore as dc
from dmftcore.activations import ACTIVATIONS, activation
from dmftcore.losses import LOSSES, check_targets, loss_function

H = np.concatenate([np.linspace(-4, 4, 41), [-40.0, 40.0, 800.0, -800.0, 1e-9]])

DEFINITIONS = {
    "linear": lambda h: h,
    "relu": lambda h: max(h, 0.0),
    "tanh": math.tanh,
    "erf": math.erf,
    "gelu": lambda h: h * scipy.stats.norm.cdf(h),
    "softplus": lambda h: max(h, 0.0) + math.log1p(math.exp(-abs(h))),
    "quadratic": lambda h: h * h,
}


def test_the_order_is_that_of_the_core():
    names = ("linear", "relu", "tanh", "erf", "gelu", "softplus", "quadratic")
    assert names == ACTIVATIONS
    assert set(DEFINITIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values(name):
    expected = [DEFINITIONS[name](h) for h in H]
    np.testing.assert_allclose(activation(name).value(H), expected, rtol=1e-14, atol=1e-300)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_derivatives(name):
    """Central differences: truncation h^2/6 |phi'''| < 1e-10 and rounding 1e-16 / 1e-5."""
    h, step = np.linspace(-4, 4, 40), 1e-5
    phi = activation(name)
    numerical = (phi.value(h + step) - phi.value(h - step)) / (2 * step)
    np.testing.assert_allclose(phi.slope(h), numerical, atol=1e-9)
    far = phi.slope(np.array([-800.0, 800.0]))
    assert np.isfinite(far).all()


def test_relu_has_slope_zero_at_the_kink():
    assert activation("relu").slope(np.zeros(1))[0] == 0
    assert not activation("relu").smooth
    assert [name for name in ACTIVATIONS if not activation(name).smooth] == ["relu"]


RNG = np.random.default_rng(5)
OUTPUTS = RNG.normal(size=(2, 4, 3))
TARGETS = {
    "square": RNG.normal(size=(4, 3)),
    "logistic": np.array([[1.0], [-1.0], [-1.0], [1.0]]),
    "softmax": np.eye(3)[[0, 2, 1, 1]],
}


def outputs_for(loss):
    return OUTPUTS[..., :1] if loss == "logistic" else OUTPUTS


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_is_its_definition(loss):
    f, y = outputs_for(loss), TARGETS[loss]
    by_point = {
        "square": lambda: 0.5 * ((y - f) ** 2).sum(-1),
        "logistic": lambda: np.log(1 + np.exp(-y * f))[..., 0],
        "softmax": lambda: -np.log((y * np.exp(f)).sum(-1) / np.exp(f).sum(-1)),
    }[loss]()
    np.testing.assert_allclose(loss_function(loss).of_points(f, y), by_point, rtol=1e-13)
    np.testing.assert_allclose(loss_function(loss).mean(f, y), by_point.mean(-1), rtol=1e-13)


@pytest.mark.parametrize("loss", LOSSES)
def test_errors_are_minus_the_gradient(loss):
    f, y, function = outputs_for(loss), TARGETS[loss], loss_function(loss)
    step, errors = 1e-5, function.errors(f, y)
    for index in np.ndindex(f.shape):
        moved = [f.copy(), f.copy()]
        moved[0][index] += step
        moved[1][index] -= step
        above, below = (function.of_points(g, y)[index[:2]] for g in moved)
        # Truncation step^2 / 6 and rounding 1e-16 / step.
        assert errors[index] == pytest.approx(-(above - below) / (2 * step), abs=1e-9)


@pytest.mark.parametrize("loss", ["logistic", "softmax"])
def test_large_outputs_do_not_overflow(loss):
    f, y = 2000 * outputs_for(loss), TARGETS[loss]
    function = loss_function(loss)
    assert np.isfinite(function.mean(f, y)).all()
    assert np.abs(function.errors(f, y)).max() <= 1


def test_targets_must_fit_the_loss():
    check_targets("square", targets=np.array([0.3]))
    check_targets("logistic", targets=np.array([1.0, -1.0]), test_targets=None)
    check_targets("softmax", targets=np.eye(3))
    with pytest.raises(ValueError, match=r"row of targets must be \+1 or -1; row 1 is 0.5"):
        check_targets("logistic", targets=np.array([1.0, 0.5]))
    with pytest.raises(ValueError, match="one output, but targets has 3: use loss='softmax'"):
        check_targets("logistic", targets=np.eye(3))
    with pytest.raises(ValueError, match="K > 1 classes, found"):
        check_targets("softmax", targets=np.ones((3, 1)))
    for rows in ([[1.0, 0], [1, 1]], [[1.0, 0], [0, 0]], [[1.0, 0], [2, -1]]):
        with pytest.raises(ValueError, match=r"test_targets must be one-hot.*row 1"):
            check_targets("softmax", test_targets=np.array(rows))


@pytest.mark.parametrize(
    ("limit", "data"),
    [
        (dc.DeepLinear(2), dc.Dataset(gram=np.eye(2), targets=[1, -1])),
        (dc.ProportionalLinear(1, 1.0, 1.0), None),
    ],
)
@pytest.mark.parametrize("verb", [dc.solve, dc.simulate])
def test_linear_theories_refuse_other_losses(verb, limit, data):
    with pytest.raises(ValueError, match=r"solved for loss='square'; .* activation='linear'"):
        verb(limit, data, dc.GradientDescent(0.1, 2, loss="logistic"))
