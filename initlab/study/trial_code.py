"""The user's code that a trial names: which fields name it, with what source, and whether it is still the same."""

from initlab.study.mistakes import StudyError
from initlab.study.paths import getattr_path
from initlab.study.spec import TrialSpec
from initlab.user_code import code_refusal, is_code, source_hash


def code_names(trial: TrialSpec) -> dict[str, str]:
    """The user's code that a trial names: dotted path -> `pkg.module:callable`."""
    paths = ("data.name", "net.name", "init.scheme", "train.optimizer", "train.loss")
    return {path: name for path in paths if is_code(name := getattr_path(trial, path) or "")}


def source_hashes(trial: TrialSpec, allow_code: bool) -> dict[str, str]:
    """The hash of the source behind each name of code: dotted path -> SHA-256; a `StudyError` where none is allowed."""
    names = code_names(trial)
    if names and not allow_code:
        path, name = next(iter(names.items()))
        raise StudyError([code_refusal(path, name)])
    return {path: source_hash(path, name) for path, name in names.items()}


def check_sources(trial: TrialSpec, planned: dict[str, str]) -> None:
    """Refuse with a `RuntimeError` to run code whose source changed since the launch planned this trial."""
    sources = source_hashes(trial, allow_code=True)
    for path in sources | planned:
        if sources.get(path) != planned.get(path):
            name = getattr_path(trial, path)
            raise RuntimeError(f"{path}: the source of {name!r} changed since this sweep was launched; launch it again")
