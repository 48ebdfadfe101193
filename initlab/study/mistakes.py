"""Mistakes in a study: one line each, at the dotted path where the user wrote it, with what is allowed there."""

import difflib
import math
import re
import reprlib
from collections.abc import Iterable
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from initlab.errors import UserError

Mistake = tuple[str, str]  # dotted path, what is wrong and what is allowed
Parts = tuple[str | int, ...]  # the keys, and positions in lists, of a dotted path


class StudyError(UserError):
    """Mistakes in a study, one line each in `lines`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(dict.fromkeys(lines))
        super().__init__("\n".join(self.lines))


def dotted(parts: Iterable[str | int]) -> str:
    """`dotted(["cases", 0, "net.depth"])` is `cases[0].net.depth`; what would break or fill the line is quoted."""
    names = [part if isinstance(part, int) or is_plain(part) else short(part) for part in parts]
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).removeprefix(".")


def is_plain(key: str) -> bool:
    """Whether a key can stand in a line as it is."""
    return key.isprintable() and bool(key.strip()) and len(key) <= 200


def explain(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    """(dotted path, explanation) of each mistake that pydantic reports of a model."""
    return [(dotted(item["loc"]), explanation(item, model)) for item in error.errors(include_url=False)]


# The kind of pydantic's error -> what is wrong, and what is allowed, with values of the error's context.
EXPLANATIONS = {
    "greater_than": ("out of range", "above {gt}"),
    "greater_than_equal": ("out of range", "at least {ge}"),
    "less_than": ("out of range", "below {lt}"),
    "less_than_equal": ("out of range", "at most {le}"),
    "finite_number": ("out of range", "a finite number"),
    "too_short": ("empty", "at least one value"),
    "too_long": ("too many values", "{max_length} of them"),
    "string_too_long": ("too long", "at most {max_length} characters"),
    "string_pattern_mismatch": (
        "not a usable name",
        "letters, digits, '.', '_' and '-', starting with a letter or digit",
    ),
    **dict.fromkeys(["int_type", "int_from_float"], ("wrong type", "a whole number")),
    "float_type": ("wrong type", "a number"),
    "bool_type": ("wrong type", "true or false"),
    **dict.fromkeys(["string_type", "string_unicode", "invalid_key"], ("wrong type", "text")),
    **dict.fromkeys(["list_type", "tuple_type"], ("wrong type", "a list")),
    **dict.fromkeys(["dict_type", "model_type"], ("wrong type", "a mapping (`key: value` lines)")),
}


def explanation(item: ErrorDetails, model: type[BaseModel]) -> str:
    """What is wrong, and what is allowed, of one mistake that pydantic reports."""
    value, kind, context = item["input"], item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(item["loc"], model)
    if kind == "missing":
        return "missing (got nothing); give it a value"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", context["expected"])
        return f"unknown value (got {short(value)}); allowed: {', '.join(allowed)}{suggestion(value, allowed)}"
    # Such as 10**400, a number that no float holds.
    if kind == "float_type" and type(value) is int:
        kind = "finite_number"
    # A validator in field_types.py words its own mistakes.
    if kind not in EXPLANATIONS:
        return item["msg"]
    problem, allowed_values = EXPLANATIONS[kind]
    whole = {key: int(x) if isinstance(x, float) and x.is_integer() else x for key, x in context.items()}
    return f"{problem} (got {short(value)}); allowed: {allowed_values.format(**whole)}"


def unknown_key(path: Parts, model: type[BaseModel]) -> str:
    """What to say of a key that does not exist, with those that do, and the section that it may belong to."""
    section: Any = model
    for part in path[:-1]:
        # A position in a list stands for the kind of its items.
        section = get_args(section)[0] if isinstance(part, int) else section.model_fields[part].annotation
    key, prefix = str(path[-1]), f"{dotted(path[:-1])}." if path[1:] else ""
    fields = model.model_fields.items()
    elsewhere = [f"{name}.{key}" for name, field in fields if key in getattr(field.annotation, "model_fields", {})]
    near = [prefix + name for name in difflib.get_close_matches(key, section.model_fields, n=1)]
    near = elsewhere if len(elsewhere) == 1 else near
    hint = f"; did you mean {near[0]}?" if near else ""
    if "." in key and key.partition(".")[0] in section.model_fields:
        hint = "; dotted paths are for grid, cases and --set, write `{}: {{{}: ...}}`".format(*key.split(".", 1))
    return f"unknown key (got {short(key)}); allowed: {', '.join(section.model_fields)}{hint}"


def suggestion(got: Any, allowed: Iterable[str]) -> str:
    """`; did you mean 'he'?` for a close misspelling, else nothing."""
    near = difflib.get_close_matches(got.lower(), list(allowed), n=1) if isinstance(got, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


class _Short(reprlib.Repr):
    """Values in YAML's words, cut to a line however large or nested they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong = 3, 60, 40

    def repr_bool(self, value: bool, level: int) -> str:
        """As YAML writes it."""
        return "true" if value else "false"

    def repr_NoneType(self, value: None, level: int) -> str:
        """A word for an empty value."""
        return "nothing"

    def repr_date(self, value: date, level: int) -> str:
        """A date, or a date with its time, as YAML writes it."""
        return value.isoformat()

    repr_datetime = repr_date

    def repr_int(self, value: int, level: int) -> str:
        """A very long number by its count of digits."""
        if abs(value) < 10**self.maxlong:
            return repr(value)
        # Estimated, since str() refuses very long numbers.
        digits = math.floor(value.bit_length() * math.log10(2)) + 1
        return f"a whole number of about {digits} digits"


def short(value: Any) -> str:
    """A value as a user would recognise it, in a line."""
    text = _Short().repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
