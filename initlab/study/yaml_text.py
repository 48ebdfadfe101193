"""Reading a study file: YAML in which `1e-3` is a number, its keys that are given twice, and what no study can mean."""

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from initlab.study.mistakes import Mistake, Parts, StudyError, dotted, short

MERGE_TAG = "tag:yaml.org,2002:merge"  # of the key `<<`
TEXT_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:value")  # the latter is that of the key `=`
SURROGATE = re.compile("[\ud800-\udfff]")
# Aliases spelled out count each time: a few lines of YAML can stand for billions of values.
MOST_VALUES = 1_000_000
MOST_BYTES = 2_000_000


class StudyLoader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value that a node stands for; where it stands for none, a mistake at its place in the file."""
        try:
            return super().construct_object(node, deep)
        # PyYAML lets these through, for 2024-13-45, !!bool 3 and 5,000 digits.
        except (ValueError, LookupError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            text = f"not a valid {kind} (got {short(node.value)}); put it in quotes if it is text"
            raise yaml.constructor.ConstructorError(None, None, text, node.start_mark) from None


# YAML 1.1 wants a dot and a sign in floats; people write 1e-3.
StudyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)[eE][-+]?\d+$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> tuple[dict[str, Any], list[Mistake]]:
    """The mapping in a study file, and its keys that are given twice; a `StudyError` where it is no such file."""
    try:
        refusal = unfit(path.stat())
        text = "" if refusal else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError([f"{path}: no such study file; give the path of a YAML file, e.g. sweeps/demo.yaml"]) from None
    except IsADirectoryError:
        raise StudyError([f"{path}: a folder, not a study file; give the path of a YAML file in it"]) from None
    except UnicodeDecodeError:
        raise StudyError([f"{path}: not text in UTF-8; a study is a YAML file"]) from None
    # No permission, a name too long, a null byte in it.
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise StudyError([f"{path}: cannot be read ({reason}); give the path of a YAML file"]) from None
    if refusal:
        raise StudyError([f"{path}: {refusal}"])
    content, mistakes = parse_yaml(text, str(path))
    if content is None:
        raise StudyError([f"{path}: empty; a study needs at least `name`, see sweeps/demo.yaml"])
    if not isinstance(content, dict):
        raise StudyError([f"{path}: not a mapping (got {short(content)}); a study is `key: value` lines"])
    return content, mistakes


def unfit(file: os.stat_result) -> str:
    """Why a file is not even read, "" where it may be: a device or a pipe may have no end, and YAML takes its time."""
    if not stat.S_ISREG(file.st_mode) and not stat.S_ISDIR(file.st_mode):
        return "a device, a pipe or a socket, not a study file; give the path of a YAML file"
    if file.st_size > MOST_BYTES:
        return f"too large for a study (got {file.st_size:,} bytes); allowed: {MOST_BYTES:,}; vary fields with `grid`"
    return ""


def parse_yaml(text: str, where: str) -> tuple[Any, list[Mistake]]:
    """YAML as plain data, and its keys that are given twice (the last one counts).

    What is not YAML is a `StudyError`, whose line begins with `where` and says the line and column.
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
    stack: list[tuple[yaml.Node, Parts, tuple[yaml.Node, ...]]] = [(root, (), ())]
    visited = 0
    while stack:
        node, path, parents = stack.pop()
        visited += 1
        if visited > MOST_VALUES:
            raise misplaced(f"too large (got more than {MOST_VALUES:,} values, aliases spelled out); use `grid`", root)
        if node in parents:
            raise misplaced("an alias of what it stands in; write out what it means", node)
        children: list[tuple[yaml.Node, Parts]] = []
        if isinstance(node, yaml.SequenceNode):
            children = [(item, (*path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                if key.tag == MERGE_TAG:
                    children.append((value, path))
                    continue
                name, line = text_key(key), key.start_mark.line + 1
                if name in lines:
                    yield dotted((*path, name)), f"given twice (got it on lines {lines[name]} and {line}); keep one"
                lines.setdefault(name, line)
                children += [(key, path), (value, (*path, name))]
        elif SURROGATE.search(node.value):
            raise misplaced("half of a surrogate pair; write the character itself", node)
        stack += [(child, child_path, (*parents, node)) for child, child_path in reversed(children)]


def text_key(key: yaml.Node) -> str:
    """The text of a key, which nothing but text can be."""
    if isinstance(key, yaml.ScalarNode) and key.tag in TEXT_TAGS:
        return str(key.value)
    got = short(key.value) if isinstance(key, yaml.ScalarNode) else "a list or a mapping"
    raise misplaced(f"a key that is not text (got {got}); put it in quotes if it is", key)


def misplaced(text: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    """An error at a place in the file."""
    return yaml.constructor.ConstructorError(None, None, text, node.start_mark)
