"""Faults of an initialisation that the weights and the order of the layers give away: what `initlab.lint` finds."""
