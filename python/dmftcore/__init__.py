"""Dynamical mean-field theory of learning: causal two-time kernels with a compiled core.

Three nouns, three verbs, one result::

    import dmftcore as dc

    limit = dc.DeepLinear(depth=3, gamma=1.5)
    data = dc.Dataset(inputs=x, targets=y)
    training = dc.GradientDescent(lr=0.02, steps=1000)

    theory = dc.solve(limit, data, training)
    experiment = dc.simulate(limit, data, training, width=1000, seeds=4)
    grid = dc.sweep(dc.solve, limit=[limit, ...], data=data, training=training)

The operations on two-time kernels that the solvers stand on are in `dmftcore.twotime`, those on the
resolvents of random matrices in `dmftcore.spectral`.
"""

from importlib.metadata import version

from dmftcore import spectral, twotime
from dmftcore._core import cuda_status, get_num_threads, set_num_threads
from dmftcore._simulate import simulate
from dmftcore._solve import solve
from dmftcore._sweep import sweep
from dmftcore._validate import INFINITE
from dmftcore.data import Dataset
from dmftcore.errors import AccuracyWarning, CudaError, DivergenceError, StabilityWarning
from dmftcore.limits.adaptive import AdaptiveKernel
from dmftcore.limits.attention import AttentionCore
from dmftcore.limits.linear import DeepLinear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.precision import PrecisionLaw
from dmftcore.limits.proportional import ProportionalLinear
from dmftcore.limits.residual import Residual
from dmftcore.limits.scaling import FeatureLearning, RandomFeatures
from dmftcore.limits.transformer import Transformer
from dmftcore.solution import Solution
from dmftcore.spectrum import PowerLaw, Spectrum
from dmftcore.training import GradientDescent, GradientFlow, OnlineSGD

__version__ = version("dmftcore")

__all__ = [
    "INFINITE",
    "MLP",
    "AccuracyWarning",
    "AdaptiveKernel",
    "AttentionCore",
    "CudaError",
    "Dataset",
    "DeepLinear",
    "DivergenceError",
    "FeatureLearning",
    "GradientDescent",
    "GradientFlow",
    "OnlineSGD",
    "PowerLaw",
    "PrecisionLaw",
    "ProportionalLinear",
    "RandomFeatures",
    "Residual",
    "Solution",
    "Spectrum",
    "StabilityWarning",
    "Transformer",
    "cuda_status",
    "get_num_threads",
    "set_num_threads",
    "simulate",
    "solve",
    "spectral",
    "sweep",
    "twotime",
]
