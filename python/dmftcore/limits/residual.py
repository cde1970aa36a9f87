"""Nonlinear residual networks on a fixed data set, at infinite width.

Source of the theory: Bordelon, Noci, Li, Hanin & Pehlevan, "Depthwise hyperparameter transfer in
residual networks: dynamics and scaling limit" (2023), in discrete time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmftcore._validate import INFINITE, integer, non_negative, one_of
from dmftcore.activations import ACTIVATIONS
from dmftcore.limits.architecture import Architecture

__all__ = ["Residual"]


@dataclass(frozen=True)
class Residual:
    """Residual network of infinite width in the mean-field scaling.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = h^l + (b / sqrt(N)) W^l phi(h^l)`` for l = 1..L,
    ``f_k = w_k . psi(h^{L+1}) / (gamma N)``, all weights iid N(0, 1) at the start. A block of two
    layers is ``h^{l+1} = h^l + (b / sqrt(N)) V^l phi(W^l h^l / sqrt(N))``.

    Parameters
    ----------
    depth : int or INFINITE
        Number L of blocks; there are L + 1 hidden states. INFINITE is the limit in which the depth
        becomes a continuous variable.
    activation : {"linear", "relu", "tanh", "erf", "gelu", "softplus", "quadratic"}
        phi, as in `MLP`.
    gamma : float
        Feature-learning strength gamma_0 >= 0; 0 is the exact lazy (tangent-kernel) limit.
    branch_scale : float
        Scale beta_0 >= 0 of the blocks.
    branch : {"sqrt", "none"}
        Branch factor b of a block: "sqrt" is beta_0 / sqrt(L), "none" is beta_0.
    readout_activation : str, optional
        psi; None is `activation`.
    block_layers : {1, 2}
        Weight matrices of a block.

    Raises
    ------
    TypeError, ValueError
        For values out of range, and for a depth without limit.

    Notes
    -----
    Source of the theory: Bordelon, Noci, Li, Hanin & Pehlevan, "Depthwise hyperparameter transfer
    in residual networks: dynamics and scaling limit" (2023), in discrete time.
    """

    depth: int
    activation: str
    gamma: float = 1.0
    branch_scale: float = 1.0
    branch: str = "sqrt"
    readout_activation: str | None = None
    block_layers: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "activation", one_of("activation", self.activation, ACTIVATIONS))
        object.__setattr__(self, "gamma", non_negative("gamma", self.gamma))
        scale = non_negative("branch_scale", self.branch_scale)
        object.__setattr__(self, "branch_scale", scale)
        object.__setattr__(self, "branch", one_of("branch", self.branch, ("sqrt", "none")))
        if self.readout_activation is not None:
            readout = one_of("readout_activation", self.readout_activation, ACTIVATIONS)
            object.__setattr__(self, "readout_activation", readout)
        layers = integer("block_layers", self.block_layers, at_least=1)
        if layers > 2:
            raise ValueError(f"block_layers must be 1 or 2, not {layers}")
        object.__setattr__(self, "block_layers", layers)
        if self.depth != INFINITE:
            object.__setattr__(self, "depth", integer("depth", self.depth, at_least=1))
        elif self.branch != "sqrt":
            raise ValueError(
                'depth = INFINITE needs blocks whose scale falls with depth: pass branch="sqrt"'
            )

    @property
    def architecture(self) -> Architecture:
        """The network as a member of its family, at finite depth.

        Raises
        ------
        ValueError
            At infinite depth.
        """
        if self.depth == INFINITE:
            raise ValueError("a network of infinite depth has no architecture: take a finite depth")
        return Architecture(
            blocks=self.depth,
            skip=1,
            branch=self.branch_scale / (math.sqrt(self.depth) if self.branch == "sqrt" else 1),
            activation=self.activation,
            readout_activation=self.readout_activation or self.activation,
            gamma=self.gamma,
            block_layers=self.block_layers,
        )
