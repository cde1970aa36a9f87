"""Operations of the compiled core as JAX primitives: tracing, compilation, batches.

Only public interfaces of jax are used, those of jax 0.6 and later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import jax
    import jax.numpy as jnp
    from jax.extend.core import Primitive
    from jax.interpreters import batching, mlir
except ImportError as error:
    raise ImportError(
        'dmftcore.jax needs jax >= 0.6: pip install "dmftcore[jax]"', name="jax"
    ) from error

from dmftcore import _core

__all__ = ["primitive"]

#: Platforms of jax, as lowering rules name them, and the operations that the core has for each.
LOWERING_PLATFORM = {"cpu": "cpu", "CUDA": "cuda"}


def primitive(operation: str, *, trailing: bool = False) -> Primitive:
    """An operation of the core as a primitive: ``bind(*arrays, **attributes)``.

    The arrays have a common dtype, float64 or float32, and leading axes in common; the result has
    the shape of the last of them. Shapes have been checked. Attributes are integers. Rules of
    differentiation are left to the caller.

    Parameters
    ----------
    operation : str
        Its name in csrc/ops.hpp.
    trailing : bool
        Whether the last of two arrays may have any number of trailing axes, on which the operation
        acts elementwise.
    """
    new = Primitive(f"dmftcore_{operation}")
    new.def_abstract_eval(
        lambda *arrays, **_: jax.core.ShapedArray(arrays[-1].shape, arrays[-1].dtype)
    )
    new.def_impl(lambda *arrays, **attributes: _compiled(new, **attributes)(*arrays))
    batching.primitive_batchers[new] = functools.partial(_batched, new, trailing)
    mlir.register_lowering(new, _refused(operation))
    for platform, name, handler in _core.jax_targets():
        if name == operation:
            jax.ffi.register_ffi_target(new.name, handler, platform=platform)
            mlir.register_lowering(new, _call(new.name), platform=LOWERING_PLATFORM[platform])
    return new


@functools.cache
def _compiled(operation: Primitive, **attributes: int) -> Callable[..., Any]:
    """The operation outside of any transformation."""
    return jax.jit(lambda *arrays: operation.bind(*arrays, **attributes))


def _call(target: str) -> Callable[..., Any]:
    """Lowering to a call of the registered target."""
    lowering = jax.ffi.ffi_lowering(target)

    def lower(context: Any, *operands: Any, **attributes: int) -> Any:
        return lowering(context, *operands, **{k: np.int64(v) for k, v in attributes.items()})

    return lower


def _refused(operation: str) -> Callable[..., Any]:
    """Lowering for a platform for which the core was not built."""

    def lower(context: Any, *operands: Any, **attributes: int) -> Any:
        platforms = ", ".join(context.module_context.platforms)
        raise NotImplementedError(
            f"dmftcore.jax.{operation} is not available on {platforms}: this dmftcore was built "
            f"{'with' if _core.cuda_compiler() else 'without'} CUDA. Put the arrays on the CPU, "
            "or build dmftcore where nvcc is"
        )

    return lower


def _batched(
    operation: Primitive,
    trailing: bool,
    arrays: tuple[Any, ...],
    axes: tuple[int | None, ...],
    **attributes: int,
) -> tuple[Any, int]:
    """A mapped axis becomes the first batch axis.

    A kernel that is not mapped is used as it is, once for all, where the other array may have
    trailing axes: there the mapped axis becomes the last one.
    """
    if trailing and axes[0] is None:
        kernel, functions = arrays
        last = functions.ndim - 1
        return operation.bind(kernel, jnp.moveaxis(functions, axes[1], last), **attributes), last
    size = next(a.shape[axis] for a, axis in zip(arrays, axes, strict=True) if axis is not None)
    leading = [
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(arrays, axes, strict=True)
    ]
    return operation.bind(*leading, **attributes), 0
