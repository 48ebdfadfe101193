"""Inspection: what the signals of one model say on one batch."""
