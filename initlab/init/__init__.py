"""Initialisation: schemes and their application to a model."""
