"""Training: one trial."""
