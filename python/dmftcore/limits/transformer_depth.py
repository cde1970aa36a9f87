"""A residual transformer of infinite depth, extrapolated from finite ones.

With ``depth_exponent = 1`` a block adds 1/L of what it adds to a stream of depth 1: the layers are
steps of size 1/L through a continuous depth (`dmftcore.limits.depth`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dmftcore.data import Dataset
from dmftcore.limits import depth
from dmftcore.limits.transformer import Transformer
from dmftcore.limits.transformer_solve import solve_transformer
from dmftcore.march import SolveOptions
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["solve_infinite_depth"]

#: Wanted error of the outputs, relative to the largest target.
DEFAULT_TOL = 1e-2

#: Kernels with a limit at fixed l/L. Those of p vanish: each block sends down 1/L of the whole.
KERNELS = ("H", "G", "O")


def solve_infinite_depth(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Extrapolate `limit` of depth INFINITE; see `dmftcore.solve`.

    Layers of its kernels are nodes at the depths l/L = 0, 1/4, ...
    """

    def at_depth(blocks: int, options: SolveOptions) -> Solution:
        return solve_transformer(replace(limit, depth=blocks), data, training, options, config)

    tol = DEFAULT_TOL if options.tol is None else options.tol
    depths = depth.Depths(first=4, least=3, most=6, tol=tol, kernels=KERNELS)
    # What truncates is the depth alone.
    chain = replace(options, tol=None)
    return depth.solve_infinite_depth(at_depth, data, training, chain, config, depths)
