"""What the sections of a spec are made of: `Spec` itself, and the kinds of values that its fields take."""

import math
import sys
from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator
from pydantic_core import PydanticCustomError

from initlab.study.mistakes import short, suggestion
from initlab.user_code import is_code, well_formed

# Keys of what goes to the user's code.
OPTIONS = ("options", "optimizer_options")
OR_CODE = ", or pkg.module:callable (needs --allow-code)"


class Spec(BaseModel):
    """A frozen section that refuses unknown keys and values of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def __hash__(self) -> int:
        """Also with options in it, which are a mapping: a cache takes a section as its key."""
        return hash(tuple((self.__dict__ | dict.fromkeys(OPTIONS)).values()))


def known(what: str, names: Collection[str]) -> AfterValidator:
    """Check that a name is a known one or well-formed code; whether the code exists shows when it is imported."""

    def check(name: str) -> str:
        """The name, or an error that lists what is allowed."""
        if name in names or (is_code(name) and well_formed(name)):
            return name
        problem = "not a usable code name" if is_code(name) else f"unknown {what}"
        allowed = f"{', '.join(names)}, pkg.module:callable"
        text = f"{problem} (got {short(name)}); allowed: {allowed}{suggestion(name, names)}"
        raise PydanticCustomError("unknown", "{text}", {"text": text})

    return AfterValidator(check)


def plain_data(value: Any) -> Any:
    """Check that a value survives JSON unchanged, as the id and trial.json need.

    Dates, sets and bytes, which YAML has, don't; nor do nan and keys that are not text.
    """
    match value:
        case dict() if all(isinstance(key, str) for key in value):
            return {key: plain_data(item) for key, item in value.items()}
        case list() | tuple():
            return [plain_data(item) for item in value]
        case None | bool() | str() | int():
            return value
        case float() if math.isfinite(value):
            return value
    text = f"not plain data (got {short(value)}); allowed: text, finite numbers, true, false, null, lists and mappings"
    raise PydanticCustomError("not_plain_data", "{text}", {"text": text})


def number_or_auto(value: Any) -> float | str:
    """Check that a value is a finite number above 0, or the word `auto`."""
    if type(value) in (int, float) and 0 < value <= sys.float_info.max:
        return float(value)
    if value == "auto":
        return "auto"
    problem = "out of range" if type(value) in (int, float) else "unknown value"
    text = f"{problem} (got {short(value)}); allowed: a number above 0, or auto"
    raise PydanticCustomError("number_or_auto", "{text}", {"text": text})


# The upper bounds are far beyond use; they keep counts of steps and parameters within reach of floats and loops.
Count = Annotated[int, Field(ge=1, le=10**9)]
Depth = Annotated[int, Field(ge=1, le=1000)]
Epochs = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Interval = Annotated[int, Field(ge=0, le=10**9)]
Options = Annotated[dict[str, Any], AfterValidator(plain_data)]
NumberOrAuto = Annotated[
    float | Literal["auto"],
    PlainValidator(number_or_auto, json_schema_input_type=Annotated[float, Field(gt=0)] | Literal["auto"]),
]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=4, le=4096)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
