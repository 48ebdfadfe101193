"""Lint: faults that weights and layers give away."""
