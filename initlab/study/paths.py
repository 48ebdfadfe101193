"""Dotted paths of a trial's fields, as in `net.depth`: which there are, their values, in which trials differ, and the
names that tell trials apart where they are listed.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

from initlab.study.spec import Data, Init, Net, Probe, Spec, Train, TrialSpec

# The fields that every list of trials tells.
ALWAYS_TOLD = ("seed", "net.name", "net.depth", "init.scheme")
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


def with_fields(spec: TrialSpec, fields: Mapping[str, Any]) -> TrialSpec:
    """The spec with other values at these dotted paths, each in a section."""
    update = {name: getattr(spec, name).model_copy(update=values) for name, values in nested(fields).items()}
    return spec.model_copy(update=update)


def differing_paths(specs: Sequence[TrialSpec]) -> list[str]:
    """Dotted paths of the fields in which trials differ, in the order of `TRIAL_PATHS`."""
    return [path for path in TRIAL_PATHS if len({repr(getattr_path(spec, path)) for spec in specs}) > 1]


def other_differences(specs: Sequence[TrialSpec]) -> list[str]:
    """Dotted paths in which trials differ, beside those that are always told."""
    return [path for path in differing_paths(specs) if path not in ALWAYS_TOLD]


def field_text(spec: TrialSpec, path: str) -> str:
    """The value of a field in a few characters, as in `0.003` or `{'hidden': 4}`."""
    value = getattr_path(spec, path)
    return f"{value:g}" if isinstance(value, float) else str(value)


def trial_names(specs: Sequence[TrialSpec]) -> list[str]:
    """A name per trial: `plain-30 he seed 0`, or where learning rates differ too `plain-30 he seed 0 train.lr=0.003`.

    Fields that go with depth, scheme and seed are left out: they tell no two trials apart that are not told already.
    """
    heads = [f"{spec.net.label} {spec.init.scheme} seed {spec.seed}" for spec in specs]
    groups: dict[str, list[TrialSpec]] = {}
    for head, spec in zip(heads, specs, strict=True):
        groups.setdefault(head, []).append(spec)
    paths = {path for group in groups.values() if len(group) > 1 for path in differing_paths(group)}
    fields = [[f"{p}={field_text(spec, p)}" for p in TRIAL_PATHS if p in paths] for spec in specs]
    return [" ".join([head, *texts]) for head, texts in zip(heads, fields, strict=True)]
