"""`NoRule`: what a rule raises where mean field does not cover a call."""

from typing import Any


class NoRule(Exception):
    """A call that the theory can't follow; `initlab.predict` then falls back on the local law and says so.

    Args:
        function: the torch function that was called, or its name.
        reason: what of the call is not covered.
    """

    def __init__(self, function: Any, reason: str) -> None:
        name = function if isinstance(function, str) else getattr(function, "__name__", str(function))
        super().__init__(f"{name.strip('_')}: {reason}")
