"""Which engine solves a residual transformer."""

from __future__ import annotations

from typing import Any

from dmftcore._validate import INFINITE
from dmftcore.data import Dataset
from dmftcore.limits.transformer import FIELDS, Transformer
from dmftcore.limits.transformer_depth import solve_infinite_depth
from dmftcore.limits.transformer_solve import METHODS, solve_transformer
from dmftcore.march import SolveOptions
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["FIELDS", "METHODS", "solve_transformers"]


def solve_transformers(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Solve the theory of `limit`; see `dmftcore.solve`."""
    call = limit, data, training, options, config
    if limit.depth == INFINITE:
        return solve_infinite_depth(*call)
    return solve_transformer(*call)
