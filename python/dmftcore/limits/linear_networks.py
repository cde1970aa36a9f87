"""`MLP` and `Residual` with linear activations and the square loss: deep linear networks.

They are solved as such, by the growing network or the chain of two-time kernels, and answer in the
terms of networks with activations: what weights act on is Phi = H, and gradients, which do not
differ between patterns, are those of every one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from dmftcore._validate import INFINITE, FloatArray
from dmftcore.data import Dataset
from dmftcore.errors import DivergenceError
from dmftcore.limits.linear import DeepLinear, solve_deep_linear
from dmftcore.limits.mlp import MLP
from dmftcore.limits.residual import Residual
from dmftcore.march import SolveOptions
from dmftcore.solution import Layers, Solution
from dmftcore.training import GradientDescent

__all__ = ["METHODS", "is_deep_linear", "solve_linear_network"]

METHODS = ("growing", "chain")


def is_deep_linear(limit: MLP | Residual, training: GradientDescent) -> bool:
    """Whether the theory of `limit` is that of a `DeepLinear`."""
    if limit.activation != "linear" or training.loss != "square":
        return False
    if isinstance(limit, MLP):
        return True
    # Blocks that are switched off, or of two layers, are not among those of a DeepLinear.
    readout = limit.readout_activation or limit.activation
    return readout == "linear" and limit.block_layers == 1 and limit.branch_scale > 0


def solve_linear_network(
    limit: MLP | Residual,
    data: Dataset,
    training: GradientDescent,
    options: SolveOptions,
    config: dict[str, Any],
) -> Solution:
    """Solve a network that `is_deep_linear`; see `dmftcore.solve`."""
    if isinstance(limit, MLP):
        linear = DeepLinear(limit.depth, limit.gamma)
    else:
        linear = DeepLinear(
            # One more than blocks; infinity remains what it is.
            limit.depth + 1,
            limit.gamma,
            branch_scale=limit.branch_scale,
            branch=limit.branch,
        )
    wanted = {"H" if name == "Phi" else name for name in options.save}
    save = tuple(name for name in ("H", "G", "AG", "BPhi") if name in wanted)
    try:
        solution = solve_deep_linear(linear, data, training, replace(options, save=save), config)
    except DivergenceError as error:
        if error.partial is not None:
            _express(error.partial, linear, data, options.save)
        raise
    _express(solution, linear, data, options.save)
    return solution


def _express(solution: Solution, linear: DeepLinear, data: Dataset, save: tuple[str, ...]) -> None:
    """Turn the kernels of a deep linear network into those of a network with activations."""
    solution.diagnostics["reason"] = f"a linear network; {solution.diagnostics['reason']}"
    equal, two = solution.equal_time, solution.two_time
    if equal:
        equal["Phi"] = equal["H"]
        equal["G"] = _of_patterns(equal["G"], data, axes=(1, 2))
    if "Phi" in save:
        two["Phi"] = two["H"]
    if "H" not in save:
        two.pop("H", None)
    # (t, k, s, k), (t, m, s, k) and (t, k, s, m): the axes that count outputs.
    for name, axes in (("G", (1, 3)), ("AG", (3,)), ("BPhi", (1,))):
        if name in two:
            two[name] = _of_patterns(two[name], data, axes)
    for name in {"AG", "BPhi"} & two.keys():
        # Those of hidden weights: between W^0 or the readout and the layer beside it is no noise.
        if linear.depth != INFINITE:
            two[name] = {layer: two[name][layer] for layer in range(1, linear.depth)}
        if not two[name]:
            del two[name]


def _of_patterns(layers: Layers, data: Dataset, axes: tuple[int, ...]) -> Layers:
    """Kernels with each of the given axes, which count outputs, made (P[, K])."""
    found: Layers = {}
    for layer, values in layers.items():
        kernel: FloatArray = values
        for axis in reversed(axes):
            # Not copied: a view in which all patterns share their numbers.
            spread = np.expand_dims(kernel, axis)
            shape = (*kernel.shape[:axis], data.n_train, *kernel.shape[axis:])
            kernel = np.broadcast_to(spread, shape)
            if data.targets.ndim == 1:
                kernel = np.squeeze(kernel, axis + 1)
        found[layer] = kernel
    return found
