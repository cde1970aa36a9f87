"""Nonlinear networks of infinite width, on particles: neurons drawn from their limit law."""
