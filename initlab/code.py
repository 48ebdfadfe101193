"""The user's own code in a study: `pkg.module:callable`, imported only when allowed, with a hash of its source."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


class CodeError(ValueError):
    """A `pkg.module:callable` that cannot be used, in one line."""


def import_callable(path: str, name: str) -> Callable[..., Any]:
    """The callable that `name` (`pkg.module:callable`) says; the working folder is searched too.

    Args:
        path: dotted path of the study field, for the message.

    Raises:
        CodeError: no such module or callable.
    """
    module_name, _, attribute = name.partition(":")
    search_here()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise CodeError(f"{path}: no module named {error.name!r} (got {name!r}); run where it can be imported, or install it") from None
    found = getattr(module, attribute, None)
    if not callable(found):
        raise CodeError(f"{path}: {module_name} has no callable {attribute!r} (got {name!r}); allowed: pkg.module:callable")
    return found


def source_hash(path: str, name: str) -> str:
    """SHA-256 of the module file behind `pkg.module:callable`, which is not run.

    Raises:
        CodeError: the module cannot be found.
    """
    module_name = name.partition(":")[0]
    search_here()
    try:
        spec = importlib.util.find_spec(module_name)
    except ModuleNotFoundError:
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise CodeError(f"{path}: no module named {module_name!r} (got {name!r}); run where it can be imported, or install it")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def search_here() -> None:
    """Make modules in the working folder importable, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
