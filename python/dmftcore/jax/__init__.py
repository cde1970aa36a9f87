"""The operations of dmftcore inside JAX: under ``jit``, ``vmap``, ``grad``, ``jvp``, ``lax.scan``.

    from dmftcore import jax as dj

    dj.resolvent(a)                        # as dmftcore.twotime.resolvent, and differentiable
    dj.deep_linear_loss(gram, targets, depth=3, lr=0.1, gamma=1.0, init_scale=1.0, steps=100)
    dj.two_point(z, z, spectrum, samples, features).test    # as dmftcore.spectral.two_point

The compiled core is called by XLA directly, on the CPU and, where it was built with CUDA, on the
GPU. It needs no jaxlib when it is built: any build of dmftcore serves any jax >= 0.6. The targets
are registered with jax when this module is imported, and not before.

The row operations of `dmftcore.twotime` append to a history that grows, which arrays of a compiled
JAX program do not do; inside ``lax.scan`` use `causal_apply` on the whole history, or plain
``jax.numpy``.
"""

from dmftcore.jax._deep_linear import deep_linear_loss
from dmftcore.jax._spectral import Modes, deterministic_equivalent, two_point
from dmftcore.jax._twotime import (
    causal_apply,
    causal_matmul,
    causal_solve,
    congruence,
    resolvent,
)

__all__ = [
    "Modes",
    "causal_apply",
    "causal_matmul",
    "causal_solve",
    "congruence",
    "deep_linear_loss",
    "deterministic_equivalent",
    "resolvent",
    "two_point",
]
