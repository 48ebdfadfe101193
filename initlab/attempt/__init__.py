"""Attempt: the worker's side, one attempt at a trial or a pack."""
