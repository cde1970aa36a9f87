r"""Random matrices in high dimension: resolvents, and learning curves made of them.

Inputs ``x`` in D dimensions are Gaussian with eigenvalues ``lambda_k`` of their covariance; the
target is linear, ``y = w . x`` plus noise. From P samples learns a model that sees the input
through N frozen random features (N = inf: through all of it). With the empirical covariance
``S = X^T X / P`` and the feature map ``F`` (D x N, entries of variance 1/N), everything follows
from the resolvent ``G(z) = (z + F F^T S)^{-1}``, which becomes deterministic:

.. math:: z G(z) \simeq \kappa (\kappa + \Lambda)^{-1}, \qquad z = \kappa R_1 R_3, \qquad
          R_1 = 1 - \mathrm{df}(\kappa)/P, \quad R_3 = 1 - \mathrm{df}(\kappa)/N,

``df(kappa) = sum_k lambda_k / (lambda_k + kappa)``. The spectrum is given by a `Spectrum` or a
`PowerLaw`, whose ``target`` is the square of w on each mode (the total over a mode with
multiplicities).

Source: Atanasov, Bordelon, Zavatone-Veth, Paquette & Pehlevan, "Two-point deterministic equivalence
for stochastic gradient dynamics in linear models" (2025).
"""

from dmftcore.spectral.one_point import (
    DeterministicEquivalent,
    deterministic_equivalent,
    spectral_edge,
)
from dmftcore.spectral.transform import transform, transform_diagonal
from dmftcore.spectral.two_point import TwoPoint, two_point

__all__ = [
    "DeterministicEquivalent",
    "TwoPoint",
    "deterministic_equivalent",
    "spectral_edge",
    "transform",
    "transform_diagonal",
    "two_point",
]
