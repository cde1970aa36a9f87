"""The chain of the hidden layers of a network: which of them it is."""

from __future__ import annotations

from typing import Any

from dmftcore._validate import INFINITE
from dmftcore.chain.base import TwoTimeChain
from dmftcore.chain.continuum import NODES, ContinuumChain
from dmftcore.chain.couplings import Couplings
from dmftcore.chain.plain import HiddenChain
from dmftcore.chain.residual import ResidualChain

__all__ = ["hidden_layers"]


def hidden_layers(
    couplings: Couplings, *, depth: int, branch: float | None, nodes: int = NODES, **common: Any
) -> TwoTimeChain:
    """The chain of a network of L = `depth` hidden layers.

    Parameters
    ----------
    couplings : Couplings
    depth : int or INFINITE
    branch : float, optional
        Factor b of a residual block, beta_0 at infinite depth; None without skips.
    nodes : int
        Nodes in depth, at infinite depth.
    **common
        Further arguments of `TwoTimeChain`.
    """
    if branch is None:
        return HiddenChain(couplings, depth=depth, **common)
    if depth == INFINITE:
        return ContinuumChain(couplings, branch_scale=branch, nodes=nodes, **common)
    return ResidualChain(couplings, depth=depth, branch=branch, **common)
