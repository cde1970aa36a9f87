"""Shapes of the arguments of operations on two-time kernels: the checks, and their words.

The arguments are arrays of any library, or stand for such.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = [
    "check_flags",
    "check_functions",
    "check_kernels",
    "check_right_side",
    "transposed_factor",
]

#: Which factor of a product is transposed: the numbers of the compiled core.
TRANSPOSED = {None: 0, "a": 1, "b": 2}


def check_kernels(block: int, **kernels: Any) -> None:
    """Square matrices of equal shape, of a whole number of blocks."""
    if isinstance(block, bool) or not isinstance(block, (int, np.integer)):
        raise TypeError(f"block must be an integer, not {type(block).__name__}")
    if block < 1:
        raise ValueError(f"block must be at least 1, not {block}")
    (first, reference), *others = kernels.items()
    shape = tuple(reference.shape)
    if len(shape) < 2 or shape[-1] != shape[-2]:
        raise ValueError(f"{first} must be (*batch, n, n), not {shape}")
    if shape[-1] % block:
        raise ValueError(f"{first} has n = {shape[-1]}, which is not a multiple of block = {block}")
    for name, kernel in others:
        if tuple(kernel.shape) != shape:
            raise ValueError(
                f"{name} must have the shape {shape} of {first}, not {tuple(kernel.shape)}; batch "
                "axes are not broadcast: pass numpy.ascontiguousarray(numpy.broadcast_to(...))"
            )


def check_flags(**flags: Any) -> None:
    """Arguments that are True or False."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, not {value!r}")


def transposed_factor(transposed: str | None) -> int:
    """The number of the core for the argument `transposed` of a product."""
    if transposed is not None and not isinstance(transposed, str):
        raise TypeError(f"transposed must be a string, not {type(transposed).__name__}")
    if transposed not in TRANSPOSED:
        raise ValueError(f'transposed must be None, "a" or "b", not {transposed!r}')
    return TRANSPOSED[transposed]


def check_right_side(a: Any, b: Any) -> None:
    """Columns b (*batch, n, m) for kernels a (*batch, n, n)."""
    if b.ndim < 2 or b.shape[:-1] != a.shape[:-1]:
        raise ValueError(
            f"b must be {_tuple(*a.shape[:-1], 'm')} for a of shape {tuple(a.shape)}, "
            f"not {tuple(b.shape)}; for one right-hand side pass b[..., None]"
        )


def check_functions(k: Any, g: Any) -> None:
    """Functions of time g (*batch, n, *trailing) for kernels k (*batch, n, n)."""
    if g.shape[: k.ndim - 1] != k.shape[:-1]:
        raise ValueError(
            f"g must be {_tuple(*k.shape[:-1], '*trailing')} for k of shape "
            f"{tuple(k.shape)}, not {tuple(g.shape)}"
        )


def _tuple(*items: object) -> str:
    return f"({', '.join(map(str, items))})"
