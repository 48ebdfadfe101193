"""Data: sources and in-memory image sets."""
