"""The version of initlab, in a separate module, so that every room can name it."""

__version__ = "0.1.0"
