"""Which engine solves a residual transformer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from dmftcore._validate import INFINITE
from dmftcore.data import Dataset
from dmftcore.limits import transformer_solve
from dmftcore.limits.depth import Depths, solve_infinite_depth
from dmftcore.limits.transformer import FIELDS, RESPONSES, Transformer
from dmftcore.limits.transformer_ensemble import solve_on_particles
from dmftcore.march import SolveOptions
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["FIELDS", "METHODS", "solve_transformers"]

#: What `method` of `dmftcore.solve` may name.
METHODS = (*transformer_solve.METHODS, "growing", "ensemble")

#: Tokens times steps, over the root of the depth, up to which the chain is the faster one: its cost
#: is cubic in them and linear in depth, that of exact sources linear in the steps once ranks have
#: saturated, and quadratic in depth.
CHAIN_UP_TO = 500

#: Kernels with a limit at fixed l/L. Those of p vanish: each block sends down 1/L of the whole.
_KERNELS = ("H", "G", "O")
#: Depths from which infinite depth is extrapolated; of sampled heads a fourth one would add more
#: noise than it removes error. What their `tol` truncates are bases.
DEPTHS = Depths(4, 3, 6, tol=1e-2, kernels=_KERNELS)
SAMPLED_DEPTHS = Depths(4, 3, 3, tol=1e-2, kernels=_KERNELS)


def solve_transformers(
    limit: Transformer,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Solve the theory of `limit`; see `dmftcore.solve`.

    Heads of finitely many dimensions, and MLP blocks that are not linear, are sampled. Without them
    nothing is random: a chain of two-time kernels, or exact sources for long runs. Infinite depth
    is extrapolated: with ``depth_exponent = 1`` a block adds 1/L of what it adds to a stream of
    depth 1, and layers are steps of size 1/L through a continuous depth (`dmftcore.limits.depth`).
    """
    sampled = _why_sampled(limit)
    if options.method is None:
        method, reason = (
            ("ensemble", sampled) if sampled else _without_samples(limit, data, training, options)
        )
    else:
        method, reason = options.method, f"method={options.method!r}"
    if method in ("chain", "growing") and sampled:
        raise ValueError(f"method={method!r}: {sampled}; use method='ensemble', or leave it out")
    if method == "ensemble" and not sampled:
        raise ValueError(
            "method='ensemble': with infinitely many dimensions and no nonlinear MLP blocks "
            "attention is deterministic, there is nothing to sample; leave method out"
        )
    options = replace(options, method=method)
    engine = transformer_solve.solve_transformer if method == "chain" else solve_on_particles
    if limit.depth != INFINITE:
        return engine(limit, data, training, options, config, reason=reason)
    depths = SAMPLED_DEPTHS
    if method != "ensemble":
        depths = DEPTHS if options.tol is None else replace(DEPTHS, tol=options.tol)
        # What truncates is the depth alone.
        options = replace(options, tol=None)

    def at_depth(depth: int, options: SolveOptions) -> Solution:
        at = replace(limit, depth=depth)
        return engine(at, data, training, options, config, reason=reason)

    return solve_infinite_depth(at_depth, data, training, options, config, depths)


def _why_sampled(limit: Transformer) -> str:
    """What is random in the limit; nothing if empty."""
    if limit.key_dim != INFINITE:
        return "heads of finitely many dimensions differ by chance, and are sampled"
    if limit.mlp_activation not in (None, "linear"):
        return "neurons of nonlinear MLP blocks are sampled"
    return ""


def _without_samples(
    limit: Transformer, data: Dataset, training: GradientDescent, options: SolveOptions
) -> tuple[str, str]:
    """Which of the deterministic engines, and why."""
    if limit.mlp_activation is not None:
        return "growing", "linear MLP blocks are marched by exact sources"
    asked = any(name in RESPONSES for name in options.save) or limit.responses != "all"
    if asked or limit.depth == INFINITE or options.device == "cuda":
        return "chain", "heads of infinitely many dimensions are all the same"
    size, most = (training.steps + 1) * len(data.kernel), CHAIN_UP_TO * math.sqrt(limit.depth)
    if size > most:
        return "growing", f"a long run: {size} tokens times steps, more than {most:.0f}"
    return "chain", f"a short run: {size} tokens times steps, at most {most:.0f}"
