"""Report: what a user reads."""
