"""Deep linear networks on random data: samples, width and input dimension in proportion.

Source of the theory: Bordelon & Pehlevan, "Deep linear network training dynamics from random
initialization: data, width, depth, and hyperparameter transfer" (2025, arXiv:2502.02531).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dmftcore._validate import INFINITE, integer, non_negative, one_of, positive
from dmftcore.spectrum import AnySpectrum, PowerLaw, Spectrum

__all__ = ["ProportionalLinear"]


@dataclass(frozen=True)
class ProportionalLinear:
    """Deep linear network on random data, with width N and samples P in proportion to D.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l h^l / sqrt(N)``, ``f = w . h^L / (kap sqrt(N))``,
    all weights iid N(0, init_scale^2) at the start. Inputs are ``x_i = sqrt(lambda_i) N(0, 1)``,
    targets ``y = beta* . x / sqrt(D) + noise N(0, 1)``. Every parameter moves by
    ``theta <- theta - lr D kap^2 grad(loss)``, ``loss = (1/2P) sum (y - f)^2``. With
    `branch_scale` the hidden layers are residual blocks,
    ``h^{l+1} = h^l + b W^l h^l / sqrt(N)``, ``b = branch_scale / sqrt(L - 1)``.

    Parameters
    ----------
    depth : int or INFINITE
        Number L of hidden layers; INFINITE, of residual blocks only, is extrapolated from finite
        depths.
    width_ratio : float
        nu = N / D > 0.
    sample_ratio : float
        alpha = P / D > 0; of the samples in each batch, in `OnlineSGD`.
    gamma : float
        Feature-learning strength gamma_0 > 0.
    noise : float
        Standard deviation >= 0 of the label noise.
    init_scale : float
        Standard deviation sigma of the initial weights.
    spectrum : Spectrum or PowerLaw, optional
        Covariance and target: eigenvalues, the mean of ``beta*^2`` over the directions of each
        mode, and the weights of the modes, by default all the same. None is isotropic:
        all eigenvalues and all ``beta*^2`` are 1.
    parameterization : {"mup", "ntk"}
        ``kap = gamma sqrt(nu)``, where the initial output vanishes at large width and learning
        does not change with it, or ``kap = gamma``.
    branch_scale : float, optional
        Scale beta_0 > 0 of the L - 1 residual blocks; None for a network without skips.
    """

    depth: int
    width_ratio: float
    sample_ratio: float
    gamma: float = 1.0
    noise: float = 0.0
    init_scale: float = 1.0
    spectrum: AnySpectrum | None = None
    parameterization: str = "mup"
    branch_scale: float | None = None

    def __post_init__(self) -> None:
        for name in ("width_ratio", "sample_ratio", "gamma", "init_scale"):
            object.__setattr__(self, name, positive(name, getattr(self, name)))
        object.__setattr__(self, "noise", non_negative("noise", self.noise))
        kind = one_of("parameterization", self.parameterization, ("mup", "ntk"))
        object.__setattr__(self, "parameterization", kind)
        if self.branch_scale is not None:
            scale = positive("branch_scale", self.branch_scale)
            object.__setattr__(self, "branch_scale", scale)
        if self.depth == INFINITE:
            if self.branch_scale is None:
                raise ValueError("depth = INFINITE needs residual blocks: pass branch_scale")
        else:
            at_least = 1 if self.branch_scale is None else 2
            object.__setattr__(self, "depth", integer("depth", self.depth, at_least=at_least))
        if self.spectrum is not None:
            if not isinstance(self.spectrum, Spectrum | PowerLaw):
                raise TypeError(f"spectrum must be a Spectrum or a PowerLaw, not {self.spectrum!r}")
            if self.spectrum.multiplicities is not None:
                raise ValueError(
                    "spectrum: here modes are parts of all directions; give it weights, which sum "
                    "to 1, instead of multiplicities"
                )

    @property
    def output_scale(self) -> float:
        """kap, the factor in ``f = w . h^L / (kap sqrt(N))``."""
        return self.gamma * (math.sqrt(self.width_ratio) if self.parameterization == "mup" else 1.0)

    @property
    def branch_factor(self) -> float | None:
        """Factor b of a residual block at finite depth; None for a network without skips."""
        if self.branch_scale is None or self.depth == INFINITE:
            return None
        return self.branch_scale / math.sqrt(self.depth - 1)

    @property
    def modes(self) -> Spectrum:
        """The spectrum, with the weights of its modes."""
        if self.spectrum is None:
            return Spectrum([1.0], [1.0], weights=[1.0])
        values, weights = self.spectrum.values, self.spectrum.weights
        if weights is None:
            weights = np.full(len(values), 1 / len(values))
        return Spectrum(values, self.spectrum.target, weights=weights)
