"""JSON for other programs: numbers that are not finite become null, for JSON has no others."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON, as `plain_data` gives it."""
    return json.dumps(plain_data(value), indent=indent, allow_nan=False)


def plain_data(value: Any) -> Any:
    """The value in JSON's types, dataclasses and numpy's numbers too; NaN, infinities and missing values are None."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: plain_data(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(inner) for inner in value]
    # Numbers of numpy.
    if hasattr(value, "item"):
        return plain_data(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int)) else None
