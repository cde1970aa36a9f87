"""The family of nonlinear networks that `MLP` and `Residual` belong to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Architecture"]


@dataclass(frozen=True)
class Architecture:
    """A network of infinite width and finite depth in the mean-field scaling.

    With B hidden matrices, activations phi and psi, skip s and branch factor b::

        h^1 = W^0 x / sqrt(D)
        h^{l+1} = s h^l + (b / sqrt(N)) W^l phi(h^l),                               l = 1..B
        h^{l+1} = s h^l + (b / sqrt(N)) V^l phi(W^l h^l / sqrt(N))     (block_layers = 2)
        f_k = w_k . psi(h^{B+1}) / (gamma N)

    All weights are iid N(0, 1) at the start. An MLP of L hidden layers has B = L - 1, s = 0, b = 1
    and psi = phi; a residual net of L blocks B = L and s = 1.

    Attributes
    ----------
    blocks : int
        B >= 0.
    skip : {0, 1}
        s.
    branch : float
        b >= 0.
    activation, readout_activation : str
        phi and psi, names in `dmftcore.activations`.
    gamma : float
        Feature-learning strength gamma_0 >= 0.
    block_layers : {1, 2}
        Weight matrices of a block.
    """

    blocks: int
    skip: int
    branch: float
    activation: str
    readout_activation: str
    gamma: float
    block_layers: int = 1

    @property
    def depth(self) -> int:
        """Number of hidden states h^1, ..., h^{B+1}."""
        return self.blocks + 1

    @property
    def is_linear(self) -> bool:
        """Whether f is linear in the inputs."""
        return self.activation == self.readout_activation == "linear"
