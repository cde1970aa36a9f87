r"""Learning curves of linear models: test and training loss at any times.

With the filter p_t of the training method, both losses are integrals around the spectrum of
F F^T S,

.. math:: L(t, t') = \frac{1}{(2\pi i)^2} \oint\oint \frac{p_t(z)}{z} \frac{p_{t'}(z')}{z'}
                     \Phi(z, z') dz dz'

with the two-point function Phi of `two_point`, label noise included. The training loss, and for
infinitely many samples the test loss, follow from a function of one parameter,

.. math:: L_{tr}(t, t') = \frac{1}{2\pi i} \oint p_t(z) p_{t'}(z) g(z) dz, \qquad
          g(z) = \frac{R_1}{z} \Big( \sigma^2 + \sum_k \frac{\lambda_k w_k^2 \kappa}{\lambda_k +
          \kappa} \Big).

One-pass SGD, whose noise feeds on the loss itself, is a division of generating functions; its loss
is an integral of their quotient (`one_pass`). With learning rates that vary the noise makes no
convolution, and all steps are gone through, at the nodes of a contour (`any_rates`).
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._validate import FloatArray, non_negative, one_of, positive, real_array
from dmftcore.errors import AccuracyWarning
from dmftcore.spectral.any_rates import any_rates, two_time_losses
from dmftcore.spectral.arguments import size
from dmftcore.spectral.curve import LearningCurve
from dmftcore.spectral.filters import Descent, Flow, Schedule
from dmftcore.spectral.full_batch import full_batch
from dmftcore.spectral.one_pass import one_pass
from dmftcore.spectral.problem import Problem
from dmftcore.spectrum import AnySpectrum

__all__ = ["learning_curve"]

METHODS = ("gradient_flow", "gradient_descent", "sgd")


def learning_curve(
    times: Any,
    spectrum: AnySpectrum,
    samples: float,
    features: float,
    noise_variance: float = 0.0,
    method: str = "gradient_flow",
    lr: Any = None,
    momentum: float = 0.0,
    batch: float | None = None,
    two_time: bool = False,
    device: str | None = None,
) -> LearningCurve:
    r"""Learning curves of linear regression, and of linear random features.

    A target ``y = w . x + noise`` of Gaussian inputs is learned from P samples by a model that
    sees the input through N random features (inf: through all of it) and starts from 0, by

    * ``"gradient_flow"`` on the mean squared error halved,
    * ``"gradient_descent"``, full batch, with momentum (heavy ball) and with a schedule of rates,
    * ``"sgd"``, one pass: each step takes a batch of B fresh samples, with a schedule of rates.

    No cost grows with time, except where learning rates change from step to step: as the steps
    then, and with momentum at first, up to about 70 / (1 - m) steps. Nor does it grow with the
    number of times, once there are dozens in an octave, from which others are interpolated.

    Parameters
    ----------
    times : (n_times,) array
        Times >= 0 in any order; whole numbers of steps except for gradient flow.
    spectrum : Spectrum or PowerLaw
        Eigenvalues > 0 of the covariance, with multiplicities; the squared target, summed over
        each mode.
    samples, features : float
        P and N, real numbers > 0, or inf. ``"sgd"`` sees each sample once: samples = inf.
    noise_variance : float
        Variance sigma^2 of the labels' noise.
    method : str
        See above.
    lr : float, or (steps,) array
        Learning rate of descent and SGD, or one for each step, at least up to the last time.
    momentum : float
        0 <= m < 1, of gradient descent: with a velocity ``u <- m u - grad`` the parameters move by
        ``lr(t) u``.
    batch : float
        B > 0, of SGD.
    two_time : bool
        Also the tables of all pairs of times.
    device : {"cpu", "cuda"}, optional
        Where sums over the modes, and over pairs of nodes, are done; the losses are numpy arrays.

    Returns
    -------
    LearningCurve

    Raises
    ------
    TypeError
        An argument is of another type.
    ValueError
        Times, sizes or variances are negative; a learning rate is so large that training diverges,
        ``lr edge >= 2 (1 + m)`` with the `spectral_edge`, or SGD with so small a batch that its
        noise grows, ``sum K >= 1``; parameters that the method does not have; times for which no
        contour is known (momentum close to 1, schedules and tables of SGD of more than a million
        steps or so).

    Warns
    -----
    AccuracyWarning
        The test loss has decayed below its absolute accuracy. A training loss below its error
        estimate is not remarkable: models that can fit their data do so.

    Notes
    -----
    Errors are about 1e-12 of the loss at time 0. SGD to leading order in 1/B and 1/D.

    Source: Atanasov, Bordelon, Zavatone-Veth, Paquette & Pehlevan, "Two-point deterministic
    equivalence for stochastic gradient dynamics in linear models" (2025); Bordelon, Atanasov &
    Pehlevan, "A dynamical model of neural scaling laws" (2024).
    """
    problem = Problem(
        spectrum,
        size("samples", samples),
        size("features", features),
        non_negative("noise_variance", noise_variance),
        device if device is None else one_of("device", device, ("cpu", "cuda")),
    )
    one_of("method", method, METHODS)
    when = _checked_times(times, whole=method != "gradient_flow")
    if method == "gradient_flow":
        _refuse(method, lr=lr, batch=batch, momentum=momentum or None)
        curve = full_batch(problem, Flow(), when, two_time)
    elif method == "gradient_descent":
        _refuse(method, batch=batch)
        m = non_negative("momentum", momentum)
        if m >= 1:
            raise ValueError(f"momentum must be < 1, not {momentum!r}")
        rates = _checked_rates(lr, when, method)
        _check_stability(problem, rates, m)
        filter_ = (
            Schedule(rates, problem.edge, m)
            if np.ndim(lr)
            else Descent(float(rates[0]), problem.edge, m)
        )
        curve = full_batch(problem, filter_, when, two_time)
    else:
        _refuse(method, momentum=momentum or None)
        if not np.isinf(samples):
            raise ValueError(
                "samples must be inf for one-pass SGD, which sees each sample once, not "
                f"{samples!r}"
            )
        if batch is None:
            raise ValueError("method 'sgd' needs batch, the number of samples of a step")
        rates = _checked_rates(lr, when, method)
        _check_stability(problem, rates, 0.0)
        b = positive("batch", batch)
        by_rate = any_rates if np.ndim(lr) else one_pass
        curve = by_rate(problem, rates, when, b)
        if two_time:
            each = np.broadcast_to(rates, int(when.max())) if np.ndim(lr) == 0 else rates
            table = two_time_losses(problem, each, when, b)
            curve = replace(curve, test_two_time=table, train_two_time=table)
    _warn_of_noise(curve)
    return curve


def _checked_times(times: Any, whole: bool) -> FloatArray:
    when = real_array("times", times, 1)
    if (when < 0).any():
        raise ValueError(f"times must be >= 0, found {when.min():g}")
    if whole and (when != np.round(when)).any():
        wrong = when[when != np.round(when)][0]
        raise ValueError(f"times must be whole numbers of steps, found {wrong:g}")
    return when


def _checked_rates(lr: Any, times: FloatArray, method: str) -> FloatArray:
    if lr is None:
        raise ValueError(f"method {method!r} needs lr, the learning rate")
    if np.ndim(lr) == 0:
        return np.array([positive("lr", lr)])
    rates = real_array("lr", lr, 1)
    if (rates < 0).any():
        raise ValueError(f"lr must be >= 0, found {rates.min():g}")
    if len(rates) < times.max():
        raise ValueError(f"lr has {len(rates)} steps, but times go up to {times.max():g}")
    return rates


def _refuse(method: str, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise ValueError(f"{name} does not belong to method {method!r}; leave it out")


def _warn_of_noise(curve: LearningCurve) -> None:
    lost = np.flatnonzero(curve.test < curve.error_estimate)
    if lost.size:
        warnings.warn(
            "the test loss has decayed below its absolute accuracy, "
            f"{curve.error_estimate[lost[0]]:.1g}, at t = {curve.times[lost[0]]:g}: its digits "
            "there are noise",
            AccuracyWarning,
            stacklevel=3,
        )


def _check_stability(problem: Problem, rates: FloatArray, momentum: float) -> None:
    bound = 2 * (1 + momentum) / problem.edge
    if rates.max() >= bound:
        raise ValueError(
            f"lr = {rates.max():g} makes training diverge: it must be below "
            f"{bound:g}, 2 (1 + momentum) over the edge of the spectrum"
        )
