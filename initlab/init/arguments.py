"""The numbers and names that `init_` takes, checked before anything of a model is changed. No torch in here."""

import math
import operator
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from typing import Any


def check_numbers(**numbers: Any) -> None:
    """Refuse what is no finite number from 0 on; a `negative_slope` may have any sign. None is allowed.

    Raises:
        ValueError: there is such a one.
    """
    for name, value in numbers.items():
        least = -math.inf if name == "negative_slope" else 0.0
        if value is not None and not (is_finite(value) and value >= least):
            allowed = "a finite number" if least else "a finite number from 0 on"
            raise ValueError(f"init: {name} is out of range (got {value!r}); allowed: {allowed}")


def is_finite(value: Any) -> bool:
    """Whether a value is a finite number, of Python, numpy or torch; a text is none."""
    try:
        return not isinstance(value, str) and math.isfinite(value)
    except (TypeError, ValueError):
        return False


def checked_seed(seed: Any) -> int:
    """The seed as Python's integer.

    Raises:
        ValueError: it is none.
    """
    try:
        return operator.index(seed)
    except TypeError:
        raise ValueError(f"init: seed is no integer (got {seed!r}); allowed: integers") from None


def checked_patterns(option: str, patterns: str | Sequence[str], names: Collection[str]) -> list[str]:
    """The patterns of `keep` or `redraw`, one text or several, each of which some parameter's name has to match.

    Raises:
        ValueError: one that no name matches.
    """
    listed = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in listed:
        if not any(matches(name, [pattern]) for name in names):
            some = ", ".join(list(names)[:3])
            raise ValueError(
                f"init: {option} names no parameter (got {pattern!r}); allowed: names such as {some}, with * and ? as "
                "in file names"
            )
    return listed


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns, with `*` and `?` as in file names, fits the name."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
