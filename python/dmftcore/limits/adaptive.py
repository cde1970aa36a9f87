"""The adaptive kernel: Bayesian networks of infinite width that learn features, without time.

Networks of the `MLP` family drawn from the posterior

    exp( -|theta|^2 / 2 - beta N gamma^2 sum_mu (y_mu - f_mu)^2 / 2 )

(the sum over training points, not their mean) predict, as the width N tends to infinity,

    f = beta Phi Delta,     Delta = y - f     on training points, and f(x) = beta Phi(x, .) Delta,

with a kernel Phi that the data have changed. Of one hidden layer its neurons h are distributed as

    p(h) ~ N(h; 0, Kx) exp( (beta gamma)^2 (Delta . phi(h))^2 / 2 ),       Phi = <phi phi>_p.

In a linear network of L layers everything changes along Delta, by a single number rho,

    Phi^l = Kx + ((1 + rho)^l - 1) Kx Delta Delta^T Kx / q,     q = Delta . Kx Delta,
    rho = (beta gamma)^2 (1 + rho)^L q,     Delta = (1 + beta (1 + rho)^L Kx)^{-1} y:

from p_l(h) ~ N(h; 0, Phi^{l-1}) exp(-h . Q^l h / 2) with Q^L = -(beta gamma)^2 Delta Delta^T and
Q^{l-1} = (Phi^{l-1})^{-1} - (Phi^{l-1})^{-1} Phi^l (Phi^{l-1})^{-1}, all of rank one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.optimize

from dmftcore._validate import FloatArray, integer, non_negative, one_of, positive
from dmftcore.activations import ACTIVATIONS, activation
from dmftcore.data import Dataset
from dmftcore.memory import Plan, check_memory
from dmftcore.observables import curves
from dmftcore.solution import Layers, Solution

__all__ = ["AdaptiveKernel", "solve_adaptive"]

DEFAULT_SAMPLES = 100_000
#: Below it the weights of a few samples decide.
SMALLEST_EFFECTIVE_SAMPLE = 100
#: Step of the damped iteration; its end, relative to the targets; and how many steps it may take.
DAMPING = 0.3
CONVERGED = 1e-10
ITERATIONS = 1000
#: Parts of the sample whose scatter gives the standard errors.
PARTS = 16
#: Where 1 + rho is looked for.
GROWTHS = np.geomspace(1, 1e6, 2000)
#: Eigenvalues of the Gram matrix below this part of the largest are rounding.
RANK_TOLERANCE = 1e-14


@dataclass(frozen=True)
class AdaptiveKernel:
    """Bayesian multi-layer perceptron of infinite width in the mean-field scaling.

    The network of `MLP`; it is static: `solve` takes no training.

    Parameters
    ----------
    depth : int
        Number L of hidden layers; 1 unless the activation is linear.
    activation : str
        As in `MLP`; "quadratic" at gamma = 0 only: in the posterior its neurons would have a
        density that grows without end.
    gamma : float
        Feature-learning strength gamma_0 >= 0; at 0 the prior is not changed.
    beta : float
        Inverse temperature > 0, in units of the mean-field scaling.

    Raises
    ------
    TypeError, ValueError
        For values out of range, for several nonlinear layers, and where there is no posterior.
    """

    depth: int
    activation: str
    gamma: float
    beta: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", integer("depth", self.depth, at_least=1))
        object.__setattr__(self, "activation", one_of("activation", self.activation, ACTIVATIONS))
        object.__setattr__(self, "gamma", non_negative("gamma", self.gamma))
        object.__setattr__(self, "beta", positive("beta", self.beta))
        if self.depth > 1 and self.activation != "linear":
            raise ValueError(
                f"depth = {self.depth} with activation={self.activation!r}: beyond one hidden "
                "layer the adaptive kernel has been verified for activation='linear' only; take "
                "depth=1"
            )
        if self.activation == "quadratic" and self.gamma > 0:
            raise ValueError(
                "activation='quadratic' with gamma > 0 has no adaptive kernel: p(h) grows as "
                "exp(h^4), since a single neuron may learn it all; take another activation, or "
                "gamma=0"
            )


def solve_adaptive(
    limit: AdaptiveKernel, data: Dataset, *, samples: int | None, seed: int, config: dict[str, Any]
) -> Solution:
    """Solve the theory of `limit`; see `dmftcore.solve`.

    Raises
    ------
    ValueError
        For data of several outputs, and for samples of a linear network.
    MemoryError
        Before anything is drawn, if the samples cannot fit.
    ArithmeticError
        If the samples do not cover the posterior, or the iteration does not converge.
    """
    if data.n_outputs > 1:
        raise ValueError(f"targets: an AdaptiveKernel has one output, found {data.n_outputs}")
    y, changes = data.targets.ravel(), None
    if limit.activation == "linear":
        for name, value in (("samples", samples), ("seed", seed or None)):
            if value is not None:
                raise ValueError(f"{name}: a linear network is not sampled; leave {name} out")
        delta, kernels, report = _linear(limit, data.kernel, y)
    else:
        count = DEFAULT_SAMPLES if samples is None else samples
        need = 8 * count * (3 * len(data.kernel) + 8)
        check_memory(Plan({"samples": need}), {"samples": "pass fewer samples"})
        delta, kernels, report, changes = _sampled(limit, data.kernel, y, count, seed)
    f = limit.beta * kernels[limit.depth][:, : len(y)] @ delta
    at = np.zeros(1, dtype=np.int64)
    return Solution(
        at,
        at,
        **curves(data, f[None, :, None]),
        standard_errors={} if changes is None else _standard_errors(data, f, *changes),
        equal_time={"Phi": {layer: kernel[None] for layer, kernel in kernels.items()}},
        diagnostics={"engine": "adaptive", "device": "cpu", **report},
        config=config,
    )


def _linear(
    limit: AdaptiveKernel, gram: FloatArray, y: FloatArray
) -> tuple[FloatArray, Layers, dict[str, Any]]:
    """Delta, Phi^1..Phi^L, and what there is to report: in closed form but for rho."""
    values, vectors = np.linalg.eigh(gram[: len(y), : len(y)])
    values, along = np.maximum(values, 0), vectors.T @ y
    strength, depth = (limit.beta * limit.gamma) ** 2, limit.depth

    def excess(growth: float) -> float:
        """rho less what it should be, at 1 + rho."""
        q = np.sum(values * (along / (1 + limit.beta * growth**depth * values)) ** 2)
        return float(growth - 1 - strength * growth**depth * q)

    # The branch that gamma = 0 begins: the smallest root.
    above = next((i for i, growth in enumerate(GROWTHS) if excess(growth) >= 0), None)
    if above is None:
        raise ArithmeticError(f"no kernel within {GROWTHS[-1]:g} times the prior: lower gamma")
    growth = 1.0
    if above > 0:
        growth = scipy.optimize.brentq(excess, GROWTHS[above - 1], GROWTHS[above], xtol=1e-15)
    delta = vectors @ (along / (1 + limit.beta * growth**depth * values))
    image = gram[:, : len(y)] @ delta
    q = float(delta @ image[: len(y)])
    learned = np.multiply.outer(image, image) / q if q > 0 else np.zeros_like(gram)
    kernels = {layer: gram + (growth**layer - 1) * learned for layer in range(1, limit.depth + 1)}
    return delta, kernels, {"growth": growth}


def _sampled(
    limit: AdaptiveKernel, gram: FloatArray, y: FloatArray, samples: int, seed: int
) -> tuple[FloatArray, Layers, dict[str, Any], tuple[FloatArray, FloatArray]]:
    """The same of one hidden layer, with neurons sampled from the prior and weighted.

    Last what every one of `PARTS` parts of the sample does to the outputs, (PARTS, P + Q), and to
    the kernel, (PARTS, P + Q, P + Q).
    """
    values, vectors = np.linalg.eigh(gram)
    kept = values > RANK_TOLERANCE * len(values) * values[-1]
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))
    half = generator.standard_normal((-(-samples // 2), int(kept.sum())))
    h = np.concatenate([half, -half]) @ (vectors[:, kept] * np.sqrt(values[kept])).T
    phi = activation(limit.activation).value(h)
    strength, p = (limit.beta * limit.gamma) ** 2, len(y)

    def weights(delta: FloatArray) -> FloatArray:
        exponents = strength * (phi[:, :p] @ delta) ** 2 / 2
        unscaled = np.exp(exponents - exponents.max())
        scaled: FloatArray = unscaled / unscaled.sum()
        return scaled

    delta = y.copy()
    iterations = 0
    while iterations < ITERATIONS:
        iterations += 1
        kernel = _average(weights(delta), phi)
        change = np.linalg.solve(np.eye(p) + limit.beta * kernel[:p, :p], y) - delta
        delta = delta + DAMPING * change
        if np.abs(change).max() <= CONVERGED * np.abs(y).max():
            break
    else:
        raise ArithmeticError(
            f"the adaptive kernel has not converged in {ITERATIONS} iterations: lower gamma or beta"
        )
    weight = weights(delta)
    kernel, effective = _average(weight, phi), float(1 / np.sum(weight**2))
    if not effective >= SMALLEST_EFFECTIVE_SAMPLE:
        raise ArithmeticError(
            f"{len(h)} samples of the prior count as {effective:.3g} of the posterior: pass more "
            "samples, or lower gamma or beta"
        )
    report = {"samples": len(h), "effective_samples": effective, "iterations": iterations}
    report["relative_error"] = 1 / math.sqrt(effective)
    parts = _parts(limit, weight, phi, delta, kernel)
    return delta, {1: kernel}, report, parts


def _average(weights: FloatArray, phi: FloatArray, other: FloatArray | None = None) -> FloatArray:
    """``sum_i weights_i phi_i other_i^T`` over the sample; `other` is `phi` by default."""
    product: FloatArray = phi.T @ (weights[:, None] * (phi if other is None else other))
    return product


def _parts(
    limit: AdaptiveKernel,
    weights: FloatArray,
    phi: FloatArray,
    delta: FloatArray,
    kernel: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """First-order changes of f and Phi by the noise of every part of the sample.

    A part adds ``xi = sum_i w_i (phi_i phi_i^T - Phi)`` to Phi. Delta follows by the derivative of
    ``Delta + beta Phi(Delta) Delta = y``, and Phi follows Delta through the weights.
    """
    beta, strength, p = limit.beta, (limit.beta * limit.gamma) ** 2, len(delta)
    along, image = phi[:, :p] @ delta, kernel[:, :p] @ delta
    # The derivative of Phi Delta by Delta.
    slope = kernel[:, :p] + strength * (
        _average(weights * along**2, phi, phi[:, :p]) - np.outer(image, image[:p])
    )
    outputs, kernels = [], []
    # The two signs of a draw, half the sample apart, are of one part.
    of_part = np.arange(len(phi)) % (len(phi) // 2) % PARTS
    for part in range(PARTS):
        inside = of_part == part
        noise = _average(weights[inside], phi[inside]) - weights[inside].sum() * kernel
        direct = noise[:, :p] @ delta
        shift = -np.linalg.solve(np.eye(p) + beta * slope[:p], beta * direct[:p])
        outputs.append(beta * (direct + slope @ shift))
        tilt = along * (phi[:, :p] @ shift)
        followed = _average(weights * tilt, phi) - (weights @ tilt) * kernel
        kernels.append(noise + strength * followed)
    return np.array(outputs), np.array(kernels)


def _standard_errors(
    data: Dataset, f: FloatArray, outputs: FloatArray, kernels: FloatArray
) -> dict[str, FloatArray]:
    """Standard errors of fields of a `Solution` from the changes by every part of a sample."""
    p, q, k = data.n_train, data.n_test, data.targets.shape[1:]
    train, test = outputs[:, :p], outputs[:, p:]
    changes = {
        "outputs": train.reshape(PARTS, p, *k),
        "train_loss": train @ (data.targets.ravel() - f[:p]) / p,
        "Phi": kernels[:, None],
    }
    if q:
        changes["test_outputs"] = test.reshape(PARTS, q, *k)
    if data.test_targets is not None:
        changes["test_loss"] = test @ (data.test_targets.ravel() - f[p:]) / q
    # The changes add up to zero, which takes a degree of freedom; the first axis is a time or, of
    # the kernel, the layer.
    freedom = PARTS - 1
    return {
        name: np.sqrt(PARTS / freedom * (values**2).sum(axis=0))[None]
        for name, values in changes.items()
    }
