"""Infinite linear networks as exact small ones that grow neurons while they learn."""
