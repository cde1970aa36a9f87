"""Competitors of the deep linear solver in pure JAX: the published iteration, and expert code.

Every module solves the same problem: L hidden layers, P points, one output, init_scale 1, times
t = 0..T-1, and returns the errors Delta(t) as a (T, P) array. All of them compute in float64.
"""

import jax

jax.config.update("jax_enable_x64", True)
