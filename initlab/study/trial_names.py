"""What a trial is called where trials are listed: its net, scheme and seed, and each other field that sets it apart."""

from collections.abc import Sequence

from initlab.study.paths import differing_paths, getattr_path
from initlab.study.spec import TrialSpec

NAMED = ("net.name", "net.depth", "init.scheme", "seed")  # the fields that every name tells


def other_differences(specs: Sequence[TrialSpec]) -> list[str]:
    """Dotted paths in which trials differ, beside those that every name tells."""
    return [path for path in differing_paths(specs) if path not in NAMED]


def field_text(spec: TrialSpec, path: str) -> str:
    """The value of a field in a few characters, as in `0.003` or `{'hidden': 4}`."""
    value = getattr_path(spec, path)
    return f"{value:g}" if isinstance(value, float) else str(value)


def trial_names(specs: Sequence[TrialSpec]) -> list[str]:
    """A name per trial: `plain-30 he seed 0`, and where learning rates differ `plain-30 he seed 0 train.lr=0.003`."""
    paths = other_differences(specs)
    return [
        " ".join(
            [f"{spec.net.label} {spec.init.scheme} seed {spec.seed}", *(f"{p}={field_text(spec, p)}" for p in paths)]
        )
        for spec in specs
    ]
