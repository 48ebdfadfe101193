"""Nets: layer descriptions, counts, modules."""
