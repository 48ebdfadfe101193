"""The user's own code in a study: `pkg.module:callable`, imported only when allowed, with a hash of its source."""

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from initlab.errors import UserError

FORM = "allowed: pkg.module:callable"
ABSENT = "run where it can be imported, or install it"
# Module -> hash of the source that it was imported from.
_imported: dict[str, str] = {}


class CodeError(UserError):
    """A `pkg.module:callable` that cannot be used, in one line."""


def is_code(name: str) -> bool:
    """Whether a name is meant as `pkg.module:callable` rather than a built-in one."""
    return ":" in name


def well_formed(name: str) -> bool:
    """Whether a name reads as `pkg.module:callable`, which `a:b:c`, `:x` and `x:` don't."""
    module, _, attribute = name.partition(":")
    return all(part.isidentifier() for part in [*module.split("."), attribute])


def code_refusal(where: str, name: str) -> str:
    """The line for code that the user has not allowed to be imported.

    Args:
        where: a study's field, an option such as `--init`, or "" for MODEL of the command line.
    """
    if where and not where.startswith("--"):
        return f"{where}: names code (got {name!r}), which is imported only with --allow-code; add it if you trust it"
    head = f"{where}: {name}" if where else f"{name}:"
    return f"{head} is your code, which would be run; add --allow-code to import it"


def import_callable(path: str, name: str) -> Callable[..., Any]:
    """The callable that `name` (`pkg.module:callable`) means; the working folder is searched too.

    Args:
        path: dotted path of the study field, for the message.

    Raises:
        CodeError: no such module or callable, or not of that form.
    """
    module_name, attribute = split(path, name)
    try:
        module = importlib.import_module(module_name)
        source = source_hash(path, name)
        # The file may have been edited since, as in the long life of a notebook.
        if _imported.setdefault(module_name, source) != source:
            module = importlib.reload(module)
            _imported[module_name] = source
    except ModuleNotFoundError as error:
        raise CodeError(f"{path}: no module named {error.name!r} (got {name!r}); {ABSENT}") from None
    function: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(function):
        raise CodeError(f"{path}: {module_name} has no callable {attribute!r} (got {name!r}); {FORM}")
    return function


def source_hash(path: str, name: str) -> str:
    """SHA-256 of the module file behind `pkg.module:callable`; only the packages around the module are run.

    Raises:
        CodeError: the module cannot be found, has no source, or the name is not of that form.
    """
    module_name, _ = split(path, name)
    try:
        spec = importlib.util.find_spec(module_name)
    # What stands before the dot is no package, or the module is `__main__`, which has no spec.
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise CodeError(f"{path}: no file of a module {module_name!r} (got {name!r}); {ABSENT}")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def split(path: str, name: str) -> tuple[str, str]:
    """Module and callable of `pkg.module:callable`; the working folder is searched from here on, as in `python -m`."""
    if not well_formed(name):
        raise CodeError(f"{path}: not a usable code name (got {name!r}); {FORM}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module, _, attribute = name.partition(":")
    return module, attribute
