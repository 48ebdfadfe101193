"""Dotted paths of a trial's fields, as in `net.depth`: which there are, their values, in which trials differ, and the
names that tell trials apart where they are listed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Any

from initlab.study.field_types import Spec
from initlab.study.sections import Data, Init, Net
from initlab.study.spec import TrialSpec
from initlab.study.training import Probe, Train

# The fields that every list of trials tells.
ALWAYS_TOLD = ("seed", "net.name", "net.depth", "init.scheme")
SECTIONS: dict[str, type[Spec]] = {"data": Data, "net": Net, "init": Init, "train": Train, "probe": Probe}
TRIAL_PATHS = [f"{name}.{key}" for name, section in SECTIONS.items() for key in section.model_fields] + ["seed"]


def getattr_path(spec: Spec, path: str) -> Any:
    """The value of a field, as in `getattr_path(trial, "init.scheme")`."""
    return getter(path)(spec)


getter = lru_cache(maxsize=1024)(attrgetter)


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
    # Trials of a sweep share most of their sections, which are looked at once.
    sharers = {name: list({id(getattr(spec, name)): spec for spec in specs}.values()) for name in SECTIONS}
    return [path for path in TRIAL_PATHS if differ(sharers.get(path.partition(".")[0], specs), path)]


def differ(specs: Sequence[TrialSpec], path: str) -> bool:
    """Whether a field has several values in these trials."""
    return len({repr(getattr_path(spec, path)) for spec in specs}) > 1


def other_differences(specs: Sequence[TrialSpec]) -> list[str]:
    """Dotted paths in which trials differ, beside those that are always told."""
    return [path for path in differing_paths(specs) if path not in ALWAYS_TOLD]


def field_text(spec: TrialSpec, path: str) -> str:
    """The value of a field in a few characters, as in `0.003` or `{'hidden': 4}`."""
    value = getattr_path(spec, path)
    return f"{value:g}" if isinstance(value, float) else str(value)


def trial_names(specs: Sequence[TrialSpec]) -> list[str]:
    """A name per trial: `plain-30 he seed 0`, or where learning rates differ too, `train.lr=0.003` behind it."""
    name = naming(specs)
    return [name(spec) for spec in specs]


def naming(specs: Sequence[TrialSpec]) -> Callable[[TrialSpec], str]:
    """The function that names each of these trials, by the fields of `telling_paths` too."""
    told = telling_paths(specs)

    def name(spec: TrialSpec) -> str:
        """A trial's name."""
        fields = [f"{path}={field_text(spec, path)}" for path in told]
        return " ".join([spec.net.label, spec.init.scheme, f"seed {spec.seed}", *fields])

    return name


def telling_paths(specs: Sequence[TrialSpec]) -> list[str]:
    """Dotted paths of the fields beside net, scheme and seed that it takes to tell these trials apart.

    Fields that go with depth, scheme and seed are left out: they tell no two trials apart that are not told already.
    """
    groups: dict[tuple[str, str, int], list[TrialSpec]] = {}
    for spec in specs:
        groups.setdefault((spec.net.label, spec.init.scheme, spec.seed), []).append(spec)
    several = [group for group in groups.values() if len(group) > 1]
    return [path for path in other_differences(specs) if any(differ(group, path) for group in several)]
