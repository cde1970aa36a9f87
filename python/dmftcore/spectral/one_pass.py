"""One-pass SGD: a loss that feeds back on itself through the noise of the gradients."""

from __future__ import annotations

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.spectral.arguments import ComplexArray
from dmftcore.spectral.curve import LearningCurve, judged
from dmftcore.spectral.filters import Descent, described
from dmftcore.spectral.interpolation import thin
from dmftcore.spectral.problem import Problem

__all__ = ["one_pass"]

#: rho^t for 0 <= rho <= 1.
POWERS = Descent(1.0, edge=1.0)


def one_pass(problem: Problem, rates: FloatArray, times: FloatArray, batch: float) -> LearningCurve:
    r"""SGD with one learning rate, (1,), by generating functions.

    F and K are sums over eigenvalues s of S, of (1 - lr s)^{2t} with the weights of g, and of
    lr^2 s^2 / B. With ``F^(rho) = sum_t rho^{-t} F(t)``,

    .. math:: \hat F = \frac{\sqrt\rho}{2\eta} \big( g(z_+) - g(z_-) \big), \qquad
              z_\pm = \frac{\pm\sqrt\rho - 1}{\eta}, \qquad
              \hat L = \frac{\hat F}{1 - \hat K / \rho}, \qquad
              L(t) = \oint \rho^{t-1} \hat L \frac{d\rho}{2\pi i}.

    K is a mixture of decays y^t with 0 <= y < 1, and K^/rho = sum 1 / (rho - y) has no value 1 off
    the real axis: while K sums to less than 1, all singularities of L^ lie on [0, 1].
    """
    lr = float(rates[0])
    total = _noise_gain(problem, lr, batch)
    if total >= 1:
        raise ValueError(
            f"batch = {batch:g} makes the noise of SGD grow without bound: K sums to {total:.3g}, "
            "not below 1; take more samples a step, or a smaller lr"
        )

    thinned = thin(times, POWERS.smooth_from)
    # rho = 1 + z
    pieces = POWERS.pieces(thinned.times)
    z = np.concatenate([piece.contour.z for piece in pieces])
    rho = 1 + z
    root = np.sqrt(rho)
    plus, minus = z / ((1 + root) * lr), np.negative(1 + root) / lr
    g, h = problem.residual_and_noise(np.concatenate([plus, minus]))
    forcing = root / (2 * lr) * _difference(g)
    kernel = root * lr / (2 * batch) * _difference(h)
    transforms = np.stack([forcing / (1 - kernel / rho), forcing, kernel]) / rho

    evaluations = np.zeros((2, 3, len(thinned.times)))  # of L, F and K
    first = 0
    for piece in pieces:
        last = first + len(piece.contour.z)
        weights = transforms[:, first:last] * piece.contour.dz
        evaluations[piece.turn, :, piece.where] = 2 * (piece.values @ weights.T).real
        first = last
    everywhere = thinned.everywhere(evaluations.reshape(6, -1)).reshape(2, 3, -1)
    (loss, forcing, kernel), errors = judged(everywhere, problem.initial_loss)
    return LearningCurve(
        times,
        loss,
        loss,
        errors[0],
        errors[0],
        "generating functions: " + described(pieces, thinned.times),
        forcing=forcing,
        kernel=kernel,
    )


def _difference(values: ComplexArray) -> ComplexArray:
    """First half less the second."""
    plus, minus = values.reshape(2, -1)
    return np.asarray(plus - minus, np.complex128)


def _noise_gain(problem: Problem, lr: float, batch: float) -> float:
    """The sum of K over all times, K^ at rho = 1."""
    beyond = np.array([-2 / lr * (1 - 1e-10j)])
    _, noise = problem.residual_and_noise(beyond)
    # At z = 0 it is tr S.
    gain = problem.population.power.sum() - noise[0].real
    return float(lr / (2 * batch) * gain)
