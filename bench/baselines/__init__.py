"""Competitors of the solvers in pure JAX: the published iteration, and expert code.

Those of the deep linear solver solve the same problem: L hidden layers, P points, one output,
init_scale 1, times t = 0..T-1, and return the errors Delta(t) as a (T, P) array. That on random
data, `proportional_jax`, returns three curves (T, 3), that of transformers, `transformer_jax`,
outputs (T, P). All of them compute in float64.
"""

import jax

jax.config.update("jax_enable_x64", True)
