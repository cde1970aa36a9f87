"""Which engine solves a nonlinear network, `MLP` or `Residual`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from dmftcore._validate import INFINITE
from dmftcore.data import Dataset
from dmftcore.limits import ensemble_solve, linear_networks, quadrature
from dmftcore.limits.depth import Depths, solve_infinite_depth
from dmftcore.limits.lazy_networks import solve_lazy_networks
from dmftcore.limits.mlp import MLP
from dmftcore.limits.residual import Residual
from dmftcore.march import SolveOptions
from dmftcore.solution import Solution
from dmftcore.training import GradientDescent

__all__ = ["FIELDS", "METHODS", "solve_network"]

#: What `save` and `method` of `dmftcore.solve` may name.
FIELDS = ensemble_solve.FIELDS
METHODS = (*ensemble_solve.METHODS, "quadrature", *linear_networks.METHODS)

Engine: TypeAlias = Callable[
    [Any, Dataset, GradientDescent, SolveOptions, dict[str, Any]], Solution
]

#: Depths from which infinite depth is extrapolated: an expansion in 1 / depth is of use from about
#: 8 blocks on. Of sampled theories a fourth one would add more noise than it removes error.
SAMPLED_DEPTHS = Depths(8, 3, 3, tol=1e-2, kernels=("H", "Phi", "G"), bottom=1)
LAZY_DEPTHS = Depths(8, 3, 6, tol=1e-6, kernels=("H", "Phi", "G"), bottom=1)


def solve_network(
    limit: MLP | Residual,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Solve the theory of `limit`; see `dmftcore.solve`.

    Linear networks and gamma = 0 have theories that need no samples, and are sampled only with
    ``method="ensemble"``. Infinite depth is extrapolated, but for linear networks.
    """
    method, call = options.method, (limit, data, training, options, config)
    linear = linear_networks.is_deep_linear(limit, training)
    if method in linear_networks.METHODS and not linear:
        raise ValueError(
            f"method={method!r} is for linear networks, with the square loss and blocks of one "
            "layer: use method='ensemble'"
        )
    if method == "quadrature":
        return quadrature.solve_quadrature(*call)
    if linear and method != "ensemble":
        _check_not_sampled("a linear network", options)
        return linear_networks.solve_linear_network(*call)
    engine: Engine = ensemble_solve.solve_ensemble
    depths = SAMPLED_DEPTHS
    if limit.gamma == 0 and method != "ensemble":
        _check_not_sampled("the limit gamma = 0", options)
        engine = solve_lazy_networks
        depths = LAZY_DEPTHS if options.tol is None else replace(LAZY_DEPTHS, tol=options.tol)
    if limit.depth != INFINITE:
        return engine(*call)

    def at_depth(depth: int, options: SolveOptions) -> Solution:
        return engine(replace(limit, depth=depth), data, training, options, config)

    return solve_infinite_depth(at_depth, data, training, options, config, depths)


def _check_not_sampled(theory: str, options: SolveOptions) -> None:
    for name in ("samples", "replicas"):
        if getattr(options, name) is not None:
            raise ValueError(
                f"{name}: {theory} is not sampled; leave {name} out, or pass method='ensemble'"
            )
    if options.seed != 0:
        raise ValueError(f"seed: {theory} draws no random numbers; leave seed out")
    if options.dtype != "float64":
        raise ValueError(f"dtype={options.dtype!r}: {theory} is solved in float64; leave dtype out")
