"""The best learning rate of an infinitely wide deep linear network, by gradient descent.

The losses are differentiable functions of the learning rate, of the feature learning strength gamma
and of the initial scale: `dmftcore.jax.deep_linear_loss`. Descent on the logarithm of the rate, by
the slope of the loss averaged over training, finds the rate that a scan with `dmftcore.solve`
finds. Prints the path and both rates.
"""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np

import dmftcore as dc
from dmftcore import jax as dj

jax.config.update("jax_enable_x64", True)

DEPTH, GAMMA, STEPS = 2, 1.0, 15
START, UPDATES, PACE = 0.05, 20, 0.3


def problem():
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(6, 10))
    return inputs @ inputs.T / 10, rng.normal(size=6)


def mean_loss(log_rate, gram, targets):
    """Logarithm of the loss, averaged over training."""
    losses = dj.deep_linear_loss(
        gram, targets, depth=DEPTH, lr=jnp.exp(log_rate), gamma=GAMMA, init_scale=1.0, steps=STEPS
    )
    return jnp.log(jnp.mean(losses))


def tuned(gram, targets):
    """Descent on log(lr), with a pace that halves whenever the slope changes its sign."""
    value_and_slope = jax.jit(jax.value_and_grad(mean_loss))
    log_rate, pace, before = np.log(START), PACE, -1.0
    for update in range(UPDATES):
        value, slope = map(float, value_and_slope(log_rate, gram, targets))
        if update % 4 == 0:
            print(f"lr = {np.exp(log_rate):.4f}: loss {np.exp(value):.3e}, slope {slope:+.2e}")
        # Where training diverges the slope is not finite: the rate is too large.
        direction = np.sign(slope) if np.isfinite(slope) else 1.0
        if direction != np.sign(before):
            pace /= 2
        before = direction
        log_rate -= pace * direction
    return float(np.exp(log_rate))


def scanned(gram, targets, rates):
    """The best of many rates, by the solver, which warns of unstable ones and raises."""

    def loss(rate):
        limit, data = dc.DeepLinear(DEPTH, gamma=GAMMA), dc.Dataset(gram=gram, targets=targets)
        try:
            return dc.solve(limit, data, dc.GradientDescent(rate, STEPS)).train_loss.mean()
        except dc.DivergenceError:
            return np.inf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dc.StabilityWarning)
        losses = [loss(rate) for rate in rates.tolist()]
    return float(rates[np.argmin(losses)])


def main() -> dict[str, float]:
    gram, targets = problem()
    best = tuned(gram, targets)
    found = {"descent": best, "scan": scanned(gram, targets, best * np.geomspace(0.5, 2, 21))}
    print(f"best rate by descent {found['descent']:.4f}, by a scan {found['scan']:.4f}")
    return found


if __name__ == "__main__":
    main()
