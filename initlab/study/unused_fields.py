"""Which fields of a trial its own choices make meaningless: they are dropped, from its id too, and `plan` says so."""

from typing import Any

from initlab.data.facts import is_pictures
from initlab.nets.architecture import PLAIN_ALONE
from initlab.nets.catalog import PAPER_NETS
from initlab.study.spec import SCHEMES, Data, Init, TrialSpec, getattr_path
from initlab.user_code import is_code

DEFAULT = TrialSpec()
PLAIN_PATHS = {f"net.{key}" for key in PLAIN_ALONE}


def unused_paths(trial: TrialSpec) -> set[str]:
    """Dotted paths that this trial's choices make meaningless."""
    unused = set()
    if is_code(trial.net.name):
        unused |= PLAIN_PATHS | {"net.activation", "net.negative_slope", "net.norm", "net.skip"}
        unused |= {"train.dropout", "train.shallow_depth"}
    else:
        unused |= {"net.options"}
        unused |= PLAIN_PATHS if trial.net.name in PAPER_NETS else set()
        unused |= {"net.width", "net.stages"} if trial.net.widths else set()
        unused |= {"net.negative_slope"} if trial.net.activation == "relu" else set()
        unused |= {"train.slope_lr_factor"} if "prelu" not in trial.net.activation else set()
    unused |= unused_init(trial.init)
    unused |= {
        "constant": {"train.milestones", "train.factor", "train.patience", "train.most_cuts"},
        "cosine": {"train.milestones", "train.factor", "train.patience", "train.most_cuts"},
        "step": {"train.patience", "train.most_cuts"},
        "plateau": {"train.milestones"},
    }[trial.train.schedule]
    unused |= set() if trial.train.shallow_depth and not is_code(trial.net.name) else {"train.shallow_epochs"}
    unused |= set() if trial.train.auxiliary else {"train.auxiliary_weight"}
    unused |= set() if probes(trial) else {"probe.examples"}
    return unused | unused_data(trial.data)


def unused_data(data: Data) -> set[str]:
    """Paths that the data set has no use for."""
    unused = {"classes", "channels"} - {"synthetic": {"classes", "channels"}, "imagefolder": {"classes"}}.get(
        data.name, set()
    )
    unused |= {"image_size"} if is_code(data.name) else {"options"}
    unused |= {"shift"} if is_pictures(data.name) else {"crop", "jitter", "val_side", "color_std"}
    return {f"data.{key}" for key in unused}


def unused_init(init: Init) -> set[str]:
    """Paths that the scheme has no use for; code may use all, and a layer of a given std is drawn as gaussian."""
    if is_code(init.scheme):
        return set()
    used = SCHEMES[init.scheme] | ({"distribution"} if init.linear_std or init.last_std else set())
    return {f"init.{key}" for key in {"mode", "distribution", "std"} - used}


def probes(trial: TrialSpec) -> bool:
    """Whether a trial uses the probe's batch: to measure signals, or to scale layers before the first step (lsuv)."""
    return trial.probe.every > 0 or trial.init.scheme == "lsuv"


def drop_unused(trial: TrialSpec) -> tuple[TrialSpec, set[str]]:
    """The trial with its unused fields at their resting values, and which had been set to something else.

    That is their default, but for the depth of a net of the paper, which is the net's own.
    """
    resting = {path: getattr_path(DEFAULT, path) for path in unused_paths(trial)}
    dropped = {path for path, value in resting.items() if getattr_path(trial, path) != value}
    if trial.net.name in PAPER_NETS:
        resting["net.depth"] = PAPER_NETS[trial.net.name].depth
        dropped -= {"net.depth"} if trial.net.depth == resting["net.depth"] else set()
    sections: dict[str, dict[str, Any]] = {}
    for path, value in resting.items():
        if getattr_path(trial, path) != value:
            section, key = path.split(".")
            sections.setdefault(section, {})[key] = value
    changed = {name: getattr(trial, name).model_copy(update=update) for name, update in sections.items()}
    return trial.model_copy(update=changed), dropped
