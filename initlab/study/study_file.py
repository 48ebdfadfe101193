"""Reading a study file: YAML in which `1e-3` is a number, and every mistake as one line with its dotted path.

A mistake is a pair (dotted path, what is wrong and what is allowed); `StudyError` carries them as lines.
"""

import difflib
import math
import re
import reprlib
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from initlab.errors import UserError

Mistake = tuple[str, str]  # dotted path, what is wrong and what is allowed
Parts = tuple[str | int, ...]  # of a path: keys, and places in lists
MERGE = "tag:yaml.org,2002:merge"  # the key `<<`
TEXT_KEYS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:value")  # the latter is the key `=`
SURROGATE = re.compile("[\ud800-\udfff]")
MOST_VALUES = 1_000_000  # with aliases spelled out; a few lines of YAML can stand for billions


class StudyError(UserError):
    """Mistakes in a study, one line each in `lines`."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(dict.fromkeys(lines))
        super().__init__("\n".join(self.lines))


class StudyLoader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):  # PyYAML's own, for 2024-13-45, !!bool 3, 5,000 digits
            kind = node.tag.rpartition(":")[2]
            text = f"not a valid {kind} (got {short(node.value)}); put it in quotes if it is text"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from None


# YAML 1.1 wants a dot and a sign in floats; people write 1e-3
StudyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> tuple[dict[str, Any], list[Mistake]]:
    """The mapping in a study file, and its keys that are given twice.

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
    except (OSError, ValueError) as error:  # no permission, a name too long, a null byte in it
        reason = getattr(error, "strerror", None) or error
        raise StudyError([f"{path}: cannot be read ({reason}); give the path of a YAML file"]) from None
    content, mistakes = parse_yaml(text, str(path))
    if content is None:
        raise StudyError([f"{path}: empty; a study needs at least `name`, see sweeps/demo.yaml"])
    if not isinstance(content, dict):
        raise StudyError([f"{path}: not a mapping (got {short(content)}); a study is `key: value` lines"])
    return content, mistakes


def parse_yaml(text: str, where: str) -> tuple[Any, list[Mistake]]:
    """YAML as plain data, and its keys that are given twice (the last one counts).

    Raises:
        StudyError: not YAML, in one line that begins with `where` and says the line and column.
    """
    try:
        loader = StudyLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, []
        mistakes = list(repeated_keys(node))
        return loader.construct_document(node), mistakes
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        context = f"{error.context}, " if error.context else ""
        raise StudyError([f"{where}: {place}{context}{error.problem}"]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        got = repr(chr(int(error.character)))
        raise StudyError([f"{where}: line {line}: a control character (got {got}); a study is plain text"]) from None
    except RecursionError:
        raise StudyError([f"{where}: nested too deeply; a study has sections, fields and lists"]) from None


def repeated_keys(root: yaml.Node) -> Iterator[Mistake]:
    """Keys given twice anywhere in a document, in its order; refuses what has no plain form or no end."""
    todo: list[tuple[yaml.Node, Parts, tuple[yaml.Node, ...]]] = [(root, (), ())]
    visited = 0
    while todo:
        node, path, parents = todo.pop()
        visited += 1
        if visited > MOST_VALUES:
            raise refusal(f"too large (got more than {MOST_VALUES:,} values, aliases spelled out); use `grid`", root)
        if node in parents:
            raise refusal("an alias of what it stands in; write out what it means", node)
        inside: list[tuple[yaml.Node, Parts]] = []
        if isinstance(node, yaml.SequenceNode):
            inside = [(item, (*path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                if key.tag == MERGE:
                    inside.append((value, path))
                    continue
                name, line = text_key(key), key.start_mark.line + 1
                if name in lines:
                    yield dotted((*path, name)), f"given twice (got it on lines {lines[name]} and {line}); keep one"
                lines.setdefault(name, line)
                inside += [(key, path), (value, (*path, name))]
        elif SURROGATE.search(node.value):
            raise refusal("half of a surrogate pair; write the character itself", node)
        todo += [(item, place, (*parents, node)) for item, place in reversed(inside)]


def text_key(key: yaml.Node) -> str:
    """The text of a key, which nothing but text can be."""
    if isinstance(key, yaml.ScalarNode) and key.tag in TEXT_KEYS:
        return str(key.value)
    got = short(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
    raise refusal(f"a key that is not text (got {got}); put it in quotes if it is", key)


def refusal(text: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    """An error at a place in the file."""
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)


def dotted(parts: Iterable[str | int]) -> str:
    """`dotted(["cases", 0, "net.depth"])` is `cases[0].net.depth`; a key that would break the line is quoted."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if part.isprintable() and part.strip() else repr(part))
    return text


def explain(error: ValidationError, model: type[BaseModel]) -> list[Mistake]:
    """(dotted path, explanation) of each mistake that pydantic found."""
    found = []
    for item in error.errors(include_url=False):
        loc, kind = item["loc"], item["type"]
        if kind == "extra_forbidden":
            found.append((dotted(loc), unknown_key([str(part) for part in loc], model)))
        else:
            found.append((dotted(loc), explain_value(item["input"], kind, item.get("ctx", {}), item["msg"])))
    return found


def explain_value(value: Any, kind: str, ctx: dict[str, Any], message: str) -> str:
    """What is wrong with a value, from the kind of pydantic's error and its context."""
    got = f"(got {short(value)})"
    if kind == "missing":
        return "missing (got nothing); give it a value"
    if kind == "literal_error":
        allowed = re.findall(r"'([^']*)'", ctx["expected"])
        return f"unknown value {got}; allowed: {', '.join(allowed)}{suggestion(value, allowed)}"
    if kind in BOUNDS:
        key, words = BOUNDS[kind]
        bound = int(ctx[key]) if ctx[key] == int(ctx[key]) else ctx[key]
        return f"out of range {got}; allowed: {words} {bound}"
    if kind == "finite_number" or (kind == "float_type" and type(value) is int):  # 10**400 is no float
        return f"out of range {got}; allowed: a finite number"
    if kind in ("too_short", "string_too_short"):
        return f"empty {got}; allowed: at least one value"
    if kind == "string_too_long":
        return f"too long {got}; allowed: at most {ctx['max_length']} characters"
    if kind == "string_pattern_mismatch":
        return f"not a usable name {got}; allowed: letters, digits, '.', '_' and '-', starting with a letter or digit"
    if kind in TYPES:
        return f"wrong type {got}; allowed: {TYPES[kind]}"
    return message  # our own, from a validator in spec.py


BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
TYPES = {
    "int_type": "a whole number", "int_from_float": "a whole number", "float_type": "a number",
    "bool_type": "true or false", "string_type": "text", "string_unicode": "text", "invalid_key": "text",
    "dict_type": "a mapping (`key: value` lines)", "model_type": "a mapping (`key: value` lines)",
    "list_type": "a list", "tuple_type": "a list",
}  # fmt: skip


def unknown_key(loc: list[str], model: type[BaseModel]) -> str:
    """What to say of a key that does not exist, with what does, and where it may belong."""
    section: Any = model
    for part in loc[:-1]:
        section = section.model_fields[part].annotation
    key, prefix = loc[-1], "".join(f"{part}." for part in loc[:-1])
    elsewhere = [
        f"{name}.{key}"
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type)
        and issubclass(field.annotation, BaseModel)
        and key in field.annotation.model_fields
    ]
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


class Short(reprlib.Repr):
    """Values in YAML's words, cut to a line however large or nested they are."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxlong = 3, 60, 40

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"

    def repr_NoneType(self, value: None, level: int) -> str:
        return "nothing"

    def repr_date(self, value: date, level: int) -> str:
        return value.isoformat()

    repr_datetime = repr_date

    def repr_int(self, value: int, level: int) -> str:
        if abs(value) < 10**self.maxlong:
            return repr(value)
        return (
            f"a whole number of about {math.floor(value.bit_length() * math.log10(2)) + 1} digits"  # str() has a limit
        )


def short(value: Any) -> str:
    """A value as a user would recognise it, in a line."""
    text = Short().repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
