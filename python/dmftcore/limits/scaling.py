"""Models of neural scaling laws: random features, and features that are learned.

Sources of the theory: Bordelon, Atanasov & Pehlevan, "A dynamical model of neural scaling laws"
(2024, arXiv:2402.01092) for random features, and "How feature learning can improve neural scaling
laws" (2024, arXiv:2409.17858) for learned ones. The data have a spectrum: inputs are
``psi_k = sqrt(lambda_k) N(0, 1)``, the target is ``sum_k w*_k psi_k``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dmftcore._validate import INFINITE, non_negative, positive

__all__ = ["FeatureLearning", "RandomFeatures"]


@dataclass(frozen=True)
class RandomFeatures:
    """Linear model on N frozen random features of P samples.

    ``f(x) = a . F^T psi(x)`` with F (D x N) of iid entries N(0, 1/N), labels
    ``y = w* . psi(x) + noise``, trained from a = 0 on ``(1/2P) sum (y - f)^2``.

    Parameters
    ----------
    samples : float or INFINITE
        Number P > 0 of training samples; INFINITE trains on the gradient of the population, and is
        what `OnlineSGD` needs, which never sees a sample twice.
    features : float or INFINITE
        Number N > 0 of features; INFINITE is linear regression on psi itself.
    noise_variance : float
        Variance >= 0 of the label noise.

    Raises
    ------
    TypeError, ValueError
        For values out of range.

    Notes
    -----
    Source of the theory: Bordelon, Atanasov & Pehlevan, "A dynamical model of neural scaling laws"
    (2024, arXiv:2402.01092).
    """

    samples: float
    features: float
    noise_variance: float = 0.0

    def __post_init__(self) -> None:
        for name in ("samples", "features"):
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        variance = non_negative("noise_variance", self.noise_variance)
        object.__setattr__(self, "noise_variance", variance)


@dataclass(frozen=True)
class FeatureLearning:
    """Linear model on N random features that a trained hidden layer recombines.

    ``f(x) = (1/N) w^T B A psi(x)`` with A (N x D) frozen, of entries N(0, 1); the readout w and the
    hidden layer B (N x N) are trained from w = 0 and B = 1 on the population, w at the rate lr and
    B at gamma lr. So ``A(t) = B(t) A`` moves by the gradient projected on the random features.

    Parameters
    ----------
    features : float or INFINITE
        Number N > 0 of features.
    gamma : float
        Feature-learning strength >= 0; 0 is a `RandomFeatures` of infinitely many samples.

    Raises
    ------
    TypeError, ValueError
        For values out of range.

    Notes
    -----
    Noise of batches and finitely many samples are not part of the model. On tasks so easy that this
    noise sets the exponent of lazy training, the exponent found here is that of its absence.

    Source of the theory: Bordelon, Atanasov & Pehlevan, "How feature learning can improve neural
    scaling laws" (2024, arXiv:2409.17858).
    """

    features: float
    gamma: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "features", _count("features", self.features))
        object.__setattr__(self, "gamma", non_negative("gamma", self.gamma))


def _count(name: str, value: Any) -> float:
    """`value` as a float > 0, which may be infinite."""
    if isinstance(value, float) and math.isinf(value) and value > 0:
        return float(INFINITE)
    return positive(name, value)
