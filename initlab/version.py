"""The version of initlab, in a module of its own so that every room can say it."""

__version__ = "0.1.0"
