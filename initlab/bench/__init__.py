"""Benchmarks of initlab's own cost: ratios measured in one run."""
