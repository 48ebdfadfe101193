"""Packs: which trials of a sweep one process can train as one (see `initlab.train.packed`)."""

import json
from collections.abc import Sequence
from typing import Any

from initlab.data.facts import is_pictures
from initlab.plan.plan import PlannedTrial
from initlab.study.spec import TrialSpec

FREE: dict[str, Any] = {  # what the trials of a pack may differ in
    "init": True,
    "probe": True,
    "seed": True,
    "data": {"scale", "flip", "shift"},
    "train": {
        *("lr", "momentum", "weight_decay", "slope_lr_factor", "schedule", "milestones", "factor", "patience"),
        *("most_cuts", "validate_every", "log_every", "shallow_depth", "shallow_epochs"),
    },
}


def why_alone(spec: TrialSpec) -> str | None:
    """Why a trial is in no pack; None where it can be. Nets of the user's code show it only once they are there."""
    if spec.net.norm == "batch":
        return "BatchNorm"
    if spec.train.auxiliary:
        return "auxiliary classifiers"
    if spec.probe.running_every:  # hooks see the pack's step as one
        return "running moments"
    return "pictures read from files" if is_pictures(spec.data.name) else None


def key(spec: TrialSpec) -> str:
    """Equal for trials of one net, input, batch size, precision, dropout and number of steps."""
    return json.dumps(spec.model_dump(mode="json", exclude=FREE), sort_keys=True)


def packs(trials: Sequence[PlannedTrial], size: int) -> tuple[list[list[PlannedTrial]], list[str]]:
    """The trials in packs of at most `size`, in the order of their first ones, and what the user should know.

    Each group of trials that fit together is cut as evenly as it goes: 24 at `size` 16 are two packs of 12. Two trials
    that differ only in `FREE` fields are packed, so with 4 seeds, 3 schemes and 2 depths there are 2 groups of 12.
    """
    if size == 1:
        return [[trial] for trial in trials], []
    groups: dict[str, list[PlannedTrial]] = {}
    reasons: dict[str, int] = {}
    for trial in trials:
        reason = why_alone(trial.spec)
        if reason:
            reasons[reason] = reasons.get(reason, 0) + 1
        groups.setdefault(trial.id if reason else key(trial.spec), []).append(trial)
    single = sum(len(group) == 1 and not why_alone(group[0].spec) for group in groups.values())
    if single:
        reasons["no other of their net, batch size, precision and steps"] = single
    found: list[list[PlannedTrial]] = []
    for group in groups.values():
        count = -(-len(group) // size)
        found += [group[i * len(group) // count : (i + 1) * len(group) // count] for i in range(count)]
    counted = ", ".join(f"{count} ({reason})" for reason, count in reasons.items())
    return found, [f"--pack {size}: {sum(reasons.values())} of {len(trials)} trials run alone: {counted}"] * bool(
        reasons
    )
