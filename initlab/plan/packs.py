"""Packs: which trials of a sweep one process can train as one (see `initlab.train.packed`)."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from initlab.data.facts import is_pictures
from initlab.plan.plan import PlannedTrial
from initlab.study.spec import TrialSpec
from initlab.user_code import is_code

# The fields in which the trials of a pack may differ.
MAY_DIFFER: dict[str, Any] = {
    "init": True,
    "probe": True,
    "seed": True,
    "data": {"scale", "flip", "shift"},
    "train": {
        *("lr", "momentum", "weight_decay", "clip_norm", "slope_lr_factor", "schedule", "warmup_epochs", "milestones"),
        *("factor", "patience", "most_cuts", "validate_every", "log_every", "shallow_depth", "shallow_epochs"),
    },
}
# Why a trial that could be in a pack runs alone.
NO_OTHER = "no other of their net, batch size, precision, optimiser and steps"


def unpackable_because(spec: TrialSpec) -> str | None:
    """Why a trial is in no pack; None where it can be. Nets of the user's code show it only once they are built."""
    if spec.net.norm == "batch":
        return "BatchNorm"
    if spec.train.auxiliary:
        return "auxiliary classifiers"
    if spec.train.optimizer == "muon" or is_code(spec.train.optimizer):
        return f"the optimiser {spec.train.optimizer}"
    if spec.train.accumulate > 1:
        return "accumulated gradients"
    return "pictures read from files" if is_pictures(spec.data.name) else None


def packs(trials: Sequence[PlannedTrial], size: int) -> tuple[list[list[PlannedTrial]], list[str]]:
    """The trials in packs of at most `size`, in the order of their first ones, and a line on those that run alone.

    Each group of trials that fit together is cut as evenly as it goes: 24 at `size` 16 are two packs of 12. Two trials
    fit that differ only in fields of `MAY_DIFFER`: 4 seeds, 3 schemes and 2 depths are 2 groups of 12.
    """
    if size == 1:
        return [[trial] for trial in trials], []
    groups: dict[str, list[PlannedTrial]] = {}
    for trial in trials:
        shared = trial.spec.model_dump(mode="json", exclude=MAY_DIFFER)
        key = trial.id if unpackable_because(trial.spec) else json.dumps(shared, sort_keys=True)
        groups.setdefault(key, []).append(trial)
    cut: list[list[PlannedTrial]] = []
    for group in groups.values():
        parts = -(-len(group) // size)
        cut += [group[i * len(group) // parts : (i + 1) * len(group) // parts] for i in range(parts)]
    alone = [unpackable_because(group[0].spec) or NO_OTHER for group in groups.values() if len(group) == 1]
    reasons = Counter(sorted(alone, key=lambda reason: reason == NO_OTHER))
    listed = ", ".join(f"{number} ({reason})" for reason, number in reasons.items())
    return cut, [f"--pack {size}: {len(alone)} of {len(trials)} trials run alone: {listed}"] if alone else []
