"""Dynamical mean-field theory of learning: causal two-time kernels with a compiled core."""
