"""Deep linear networks on a fixed data set, at infinite width."""

from __future__ import annotations

from dataclasses import dataclass

from dmftcore._validate import integer, non_negative, one_of, positive

__all__ = ["DeepLinear"]


@dataclass(frozen=True)
class DeepLinear:
    """Deep linear network of infinite width in the mean-field scaling.

    ``h^1 = W^0 x / sqrt(D)``, ``h^{l+1} = W^l h^l / sqrt(N)``, ``f_k = w_k . h^L / (gamma N)``,
    all weights iid N(0, init_scale^2) at the start.

    Parameters
    ----------
    depth : int
        Number L of hidden layers.
    gamma : float
        Feature-learning strength gamma_0 >= 0; 0 is the exact lazy (tangent-kernel) limit.
    init_scale : float
        Standard deviation sigma of the initial weights.
    readout : {"gd", "ntk"}
        "gd" is exact gradient descent at any learning rate. "ntk" moves the outputs by the
        tangent kernel, ``f(t+1) = f(t) + (lr/P) K(t) (y - f(t))``, first order in the learning
        rate; it exists for comparison with solvers that do so.
    """

    depth: int
    gamma: float = 1.0
    init_scale: float = 1.0
    readout: str = "gd"

    def __post_init__(self) -> None:
        object.__setattr__(self, "depth", integer("depth", self.depth, at_least=1))
        object.__setattr__(self, "gamma", non_negative("gamma", self.gamma))
        object.__setattr__(self, "init_scale", positive("init_scale", self.init_scale))
        object.__setattr__(self, "readout", one_of("readout", self.readout, ("gd", "ntk")))
