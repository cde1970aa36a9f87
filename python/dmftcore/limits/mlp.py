"""Nonlinear multi-layer perceptrons on a fixed data set, at infinite width.

Source of the theory: Bordelon & Pehlevan, "Self-consistent dynamical field theory of kernel
evolution in wide neural networks" (2022), in discrete time.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmftcore._validate import INFINITE, integer, non_negative, one_of
from dmftcore.activations import ACTIVATIONS
from dmftcore.limits.architecture import Architecture

__all__ = ["MLP"]


@dataclass(frozen=True)
class MLP:
    """Multi-layer perceptron of infinite width in the mean-field scaling.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l phi(h^l) / sqrt(N)``,
    ``f_k = w_k . phi(h^L) / (gamma N)``, all weights iid N(0, 1) at the start.

    Parameters
    ----------
    depth : int
        Number L of hidden layers.
    activation : {"linear", "relu", "tanh", "erf", "gelu", "softplus", "quadratic"}
        phi: ``max(h, 0)`` with slope 0 at 0, ``erf(h)``, ``h`` times the normal distribution
        function for "gelu", ``log(1 + e^h)``, ``h^2``.
    gamma : float
        Feature-learning strength gamma_0 >= 0; 0 is the exact lazy (tangent-kernel) limit.

    Raises
    ------
    TypeError, ValueError
        For values out of range.

    Notes
    -----
    Source of the theory: Bordelon & Pehlevan, "Self-consistent dynamical field theory of kernel
    evolution in wide neural networks" (2022), in discrete time.
    """

    depth: int
    activation: str
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.depth == INFINITE:
            raise ValueError(
                "depth: a network without skips has no limit of infinite depth: use "
                "Residual(depth=INFINITE, ...)"
            )
        object.__setattr__(self, "depth", integer("depth", self.depth, at_least=1))
        object.__setattr__(self, "activation", one_of("activation", self.activation, ACTIVATIONS))
        object.__setattr__(self, "gamma", non_negative("gamma", self.gamma))

    @property
    def architecture(self) -> Architecture:
        """The network as a member of its family."""
        return Architecture(
            blocks=self.depth - 1,
            skip=0,
            branch=1.0,
            activation=self.activation,
            readout_activation=self.activation,
            gamma=self.gamma,
        )
