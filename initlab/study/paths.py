"""Dotted paths of a trial's fields, as in `net.depth`: which there are, their values, and in which trials differ."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from initlab.study.spec import Data, Init, Net, Probe, Spec, Train, TrialSpec

SECTIONS: dict[str, type[Spec]] = {"data": Data, "net": Net, "init": Init, "train": Train, "probe": Probe}
TRIAL_PATHS = [f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields] + ["seed"]


def getattr_path(spec: Spec, path: str) -> Any:
    """The value of a field, as in `getattr_path(trial, "init.scheme")`."""
    return attrgetter(path)(spec)


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`nested({"net.depth": 22, "seed": 1})` is `{"net": {"depth": 22}, "seed": 1}`."""
    content: dict[str, Any] = {}
    for path, value in fields.items():
        section, dot, key = path.partition(".")
        content.update({section: {**content.get(section, {}), key: value}} if dot else {path: value})
    return content


def differing_paths(specs: Sequence[TrialSpec]) -> list[str]:
    """Dotted paths of the fields in which trials differ, in the order of `TRIAL_PATHS`."""
    return [path for path in TRIAL_PATHS if len({repr(getattr_path(spec, path)) for spec in specs}) > 1]
