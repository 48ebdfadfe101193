"""Which fields of a trial its own choices make meaningless: they are dropped, from its id too, and `plan` says so."""

from initlab.data.facts import is_pictures
from initlab.init.shapes import ON_A_BATCH
from initlab.nets.architecture import PLAIN_ALONE
from initlab.nets.catalog import PAPER_NETS
from initlab.study.paths import getattr_path, with_fields
from initlab.study.spec import SCHEMES, TrialSpec
from initlab.user_code import is_code

DEFAULT = TrialSpec()
PLAIN_PATHS = {f"net.{key}" for key in PLAIN_ALONE}
CATALOG_PATHS = {"net.activation", "net.negative_slope", "net.norm", "net.skip", "train.dropout", "train.shallow_depth"}


def unused_paths(trial: TrialSpec) -> set[str]:
    """Dotted paths that this trial's choices make meaningless."""
    data, net, init, train = trial.data, trial.net, trial.init, trial.train
    code, pictures, falling = is_code(net.name), is_pictures(data.name), train.schedule in ("step", "plateau")
    # A layer whose std is set is drawn as gaussian.
    used_init = SCHEMES.get(init.scheme, set()) | ({"distribution"} if init.linear_std or init.last_std else set())
    rules = [
        (data.name not in ("synthetic", "imagefolder"), {"data.classes"}),
        (data.name != "synthetic", {"data.channels"}),
        (is_code(data.name), {"data.image_size"}),
        (not is_code(data.name), {"data.options"}),
        (pictures, {"data.shift"}),
        (not pictures, {"data.crop", "data.jitter", "data.val_side", "data.color_std"}),
        (code, PLAIN_PATHS | CATALOG_PATHS),
        (not code, {"net.options"}),
        (net.name in PAPER_NETS, PLAIN_PATHS),
        (net.widths, {"net.width", "net.stages"}),
        (net.activation == "relu", {"net.negative_slope"}),
        (not code and "prelu" not in net.activation, {"train.slope_lr_factor"}),
        (not falling, {"train.factor"}),
        (train.schedule != "step", {"train.milestones"}),
        (train.schedule != "plateau", {"train.patience", "train.most_cuts"}),
        (code or not train.shallow_depth, {"train.shallow_epochs"}),
        (not train.auxiliary, {"train.auxiliary_weight"}),
        (not probes(trial), {"probe.examples"}),
        # Code may use all.
        (not is_code(init.scheme), {f"init.{key}" for key in {"mode", "distribution", "std"} - used_init}),
    ]
    return {path for holds, paths in rules if holds for path in paths}


def probes(trial: TrialSpec) -> bool:
    """Whether a trial uses the probe's batch: to measure signals, or to scale layers before the first step."""
    return trial.probe.every > 0 or trial.init.scheme in ON_A_BATCH


def drop_unused(trial: TrialSpec) -> tuple[TrialSpec, set[str]]:
    """The trial with its unused fields at their default, and which of them had been set to something else.

    The depth of a net of the paper becomes that of the net.
    """
    resting = defaults = {path: getattr_path(DEFAULT, path) for path in unused_paths(trial)}
    if trial.net.name in PAPER_NETS:
        resting = defaults | {"net.depth": PAPER_NETS[trial.net.name].depth}
    changed = {path: value for path, value in resting.items() if getattr_path(trial, path) != value}
    dropped = {path for path in changed if getattr_path(trial, path) != defaults[path]}
    return with_fields(trial, changed), dropped
