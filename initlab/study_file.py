"""Reading a study file: YAML that refuses repeated keys, and every mistake as one line with its dotted path."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError


class StudyError(ValueError):
    """Mistakes in a study, one line each in `lines`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(dict.fromkeys(lines))
        super().__init__("\n".join(self.lines))


class StudyLoader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number and a key given twice is an error."""


def mapping(loader: StudyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if isinstance(key, (str, int)) and key in seen:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} given twice (lines {seen[key]} and {line}); keep one", key_node.start_mark
            )
        seen[str(key)] = line
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


StudyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
# YAML 1.1 wants a dot and a sign in floats; people write 1e-3
StudyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?([eE][-+]?\d+)$"), list("-+0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a study file.

    Raises:
        StudyError: the file is absent, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError([f"{path}: no such study file; give the path of a YAML file, e.g. sweeps/demo.yaml"]) from None
    except IsADirectoryError:
        raise StudyError([f"{path}: a folder, not a study file; give the path of a YAML file in it"]) from None
    except UnicodeDecodeError:
        raise StudyError([f"{path}: not text in UTF-8; a study is a YAML file"]) from None
    content = parse_yaml(text, str(path))
    if content is None:
        raise StudyError([f"{path}: empty; a study needs at least `name`, see sweeps/demo.yaml"])
    if not isinstance(content, dict):
        raise StudyError([f"{path}: not a mapping (got {type(content).__name__}); a study is `key: value` lines"])
    return content


def parse_yaml(text: str, where: str) -> Any:
    """YAML to plain data, errors in one line."""
    try:
        return yaml.load(text, StudyLoader)  # noqa: S506 - StudyLoader is a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise StudyError([f"{where}:{line} {error.problem}"]) from None
    except yaml.YAMLError as error:
        raise StudyError([f"{where}: not YAML ({' '.join(str(error).split())})"]) from None


def explain(error: ValidationError, model: type[BaseModel]) -> list[tuple[str, str]]:
    """(dotted path, explanation) of each mistake that pydantic found."""
    found = []
    for item in error.errors(include_url=False):
        loc = [str(part) for part in item["loc"] if not is_noise(part)]
        found.append((".".join(loc), explain_one(item, loc, model)))
    return found


def is_noise(part: Any) -> bool:
    """Parts of pydantic's locations that no user wrote."""
    return isinstance(part, str) and ("[" in part or part in {"constrained-int", "constrained-float"})


def explain_one(item: Any, loc: list[str], model: type[BaseModel]) -> str:
    kind, got, ctx = item["type"], f"(got {short(item['input'])})", item.get("ctx", {})
    if kind == "extra_forbidden":
        return unknown_key(loc, model)
    if kind == "missing":
        return "missing; give it a value"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", ctx["expected"])
        return f"unknown value {got}; allowed: {', '.join(allowed)}{suggestion(item['input'], allowed)}"
    bounds = {
        "greater_than": ("gt", "above"), "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "below"), "less_than_equal": ("le", "at most"),
    }  # fmt: skip
    if kind in bounds:
        key, words = bounds[kind]
        return f"out of range {got}; allowed: {words} {ctx[key]:g}"
    if kind in ("too_short", "string_too_short"):
        return f"empty {got}; give at least one value"
    if kind == "string_pattern_mismatch":
        return f"not a usable name {got}; allowed: letters, digits, '.', '_' and '-', starting with a letter or digit"
    if kind == "finite_number":
        return f"not finite {got}; allowed: a finite number"
    types = {
        "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
        "bool_type": "true or false", "string_type": "text", "dict_type": "a mapping (`key: value` lines)",
        "model_type": "a mapping (`key: value` lines)", "list_type": "a list", "tuple_type": "a list",
    }  # fmt: skip
    if kind in types:
        return f"wrong type {got}; allowed: {types[kind]}"
    return f"{item['msg']} {got}"


def unknown_key(loc: list[str], model: type[BaseModel]) -> str:
    """What to say of a key that does not exist, with what does."""
    section: Any = model
    for part in loc[:-1]:
        section = section.model_fields[part].annotation
    allowed = list(section.model_fields)
    prefix = "".join(f"{part}." for part in loc[:-1])
    near = difflib.get_close_matches(loc[-1], allowed, n=1)
    hint = f"; did you mean {prefix}{near[0]}?" if near else ""
    return f"unknown key (got {loc[-1]!r}); allowed: {', '.join(allowed)}{hint}"


def suggestion(got: Any, allowed: Iterable[str]) -> str:
    """`; did you mean 'he'?` for a close misspelling, else nothing."""
    near = difflib.get_close_matches(got.lower(), list(allowed), n=1) if isinstance(got, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def short(value: Any) -> str:
    """A value as a user would recognise it, cut to a line."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
