"""What a run has found, in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from dmftcore.solution import Solution

__all__ = ["error_estimate", "losses", "stability", "summary"]

#: What an estimate of the error may contain.
_ERRORS = (
    ("outputs", "outputs"),
    ("train_loss", "relative training loss"),
    ("test_loss", "relative test loss"),
)


def summary(solution: Solution) -> Iterator[str]:
    """Time and losses, the edge of stability, the error of truncation."""
    found = solution.diagnostics
    seconds = [f"{found['wall_seconds']:.3g} s"] if "wall_seconds" in found else []
    yield ", ".join([*seconds, *losses(solution)])
    if "stability" in found:
        yield stability(found["stability"])
    if "error_estimate" in found:
        yield error_estimate(found["error_estimate"])


def losses(solution: Solution) -> Iterator[str]:
    """First and last losses."""
    if len(solution.train_loss):
        yield f"training loss {solution.train_loss[0]:.4g} -> {solution.train_loss[-1]:.4g}"
        if solution.test_loss is not None:
            yield f"test loss {solution.test_loss[0]:.4g} -> {solution.test_loss[-1]:.4g}"


def stability(found: dict[str, Any]) -> str:
    """Where training was beyond the edge of stability."""
    largest = f"{found['largest']:.4g} at step {found['largest_at']}"
    if found["unstable"] is None:
        return f"stable: {found['quantity']} stays below {found['bound']:g}, at most {largest}"
    first, last = found["unstable"]
    return (
        f"beyond the edge of stability from step {first} to step {last}: {found['quantity']} "
        f"exceeds {found['bound']:g}, at most {largest}"
    )


def error_estimate(found: dict[str, Any]) -> str:
    """What an engine estimates its error to be, or why it has no estimate."""

    def errors(part: dict[str, float]) -> str:
        return ", ".join(f"{text} {part[name]:.1e}" for name, text in _ERRORS if name in part)

    if "reason" in found:
        return f"truncation error: none, {found['reason']}"
    if "relative" in found:
        return f"estimated error of Delta: {found['relative']:.1e} of its largest entry"
    if "after_edge" in found:
        before, after = errors(found["before_edge"]), errors(found["after_edge"])
        return f"truncation error: {before} before the edge of stability, {after} beyond"
    return f"truncation error: {errors(found)}"
