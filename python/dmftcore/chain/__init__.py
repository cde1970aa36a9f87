"""The hidden chain: two-time kernels of linear layers, marched one step at a time."""

from dmftcore.chain.base import LiftedRows, TwoTimeChain
from dmftcore.chain.continuum import ContinuumChain
from dmftcore.chain.couplings import Couplings
from dmftcore.chain.layers import hidden_layers
from dmftcore.chain.plain import HiddenChain
from dmftcore.chain.residual import ResidualChain

__all__ = [
    "ContinuumChain",
    "Couplings",
    "HiddenChain",
    "LiftedRows",
    "ResidualChain",
    "TwoTimeChain",
    "hidden_layers",
]
