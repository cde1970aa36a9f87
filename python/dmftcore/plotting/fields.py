"""What a picture reads of a solution."""

from __future__ import annotations

import numpy as np

from dmftcore._validate import FloatArray
from dmftcore.solution import SIDES, Solution

__all__ = ["has_diagonal", "layers_of", "targets_of", "training_kernels"]


def has_diagonal(name: str) -> bool:
    """Whether both sides of the kernel `name` count the same: not points and outputs."""
    first, second = SIDES.get(name, ("", ""))
    return first == second


def targets_of(solution: Solution) -> FloatArray:
    """Training targets, from errors -d loss / d f."""
    loss = solution.config.get("training", {}).get("loss", "square")
    errors = solution.errors[0]
    targets: FloatArray = solution.outputs[0] + errors
    if loss == "logistic":
        targets = np.sign(errors)
    elif loss == "softmax":
        # One-hot minus probabilities: positive for the class of the pattern alone.
        targets = (errors > 0).astype(np.float64)
    return targets


def layers_of(solution: Solution, name: str) -> list[int]:
    """Layers with an equal-time kernel `name` between points; random data have none."""
    if solution.outputs is None:
        return []
    return sorted(solution.equal_time.get(name, {})) if len(solution.kernel_times) else []


def training_kernels(solution: Solution, name: str, layer: int) -> FloatArray:
    """Kernel `name` of a layer between training points, (n_kernel_times, P, P)."""
    points = solution.outputs.shape[1]
    return solution.equal_time[name][layer][:, :points, :points]
