"""Signals: what goes through a net, forward and backward, and how it is judged."""
