"""What a picture reads of a solution."""

from __future__ import annotations

from dmftcore._validate import FloatArray
from dmftcore.solution import Solution

__all__ = ["layers_of", "targets_of", "training_kernels"]


def targets_of(solution: Solution) -> FloatArray:
    """Training targets; errors of the square loss are y - f."""
    targets: FloatArray = solution.outputs[0] + solution.errors[0]
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
