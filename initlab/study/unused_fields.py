"""Which fields of a trial its own choices make meaningless: they are dropped, from its id too, and `plan` says so."""

from dataclasses import fields
from functools import lru_cache

from initlab.data.facts import FACTS, is_pictures
from initlab.init.shapes import ON_A_BATCH
from initlab.nets.architecture import NetChoices
from initlab.nets.catalog import FIELDS, PAPER_NETS, SEQUENCE_NETS
from initlab.study.paths import TRIAL_PATHS, getattr_path, with_fields
from initlab.study.sections import SCHEMES
from initlab.study.spec import TrialSpec
from initlab.study.training import OPTIMIZERS
from initlab.user_code import is_code

DEFAULT = TrialSpec()
DEFAULTS = {path: getattr_path(DEFAULT, path) for path in TRIAL_PATHS}
# Of each field of `NetChoices`, where a study has it.
NET_PATHS = {field.name: f"net.{field.name}" for field in fields(NetChoices)} | {"dropout": "train.dropout"}


def unused_paths(trial: TrialSpec) -> frozenset[str]:
    """Dotted paths that this trial's choices make meaningless."""
    net, init, train = trial.net, trial.init, trial.train
    # A layer whose std is set is drawn as gaussian.
    layer_stds = bool(init.linear_std or init.last_std)
    flags = (bool(net.widths), layer_stds, bool(train.shallow_depth), bool(train.auxiliary), probes(trial))
    names = (trial.data.name, net.name, net.activation, init.scheme, train.schedule, train.optimizer)
    return unused_under(*names, *flags)


@lru_cache(maxsize=4096)
def unused_under(
    data: str,
    net: str,
    activation: str,
    scheme: str,
    schedule: str,
    optimizer: str,
    widths: bool,
    layer_stds: bool,
    shallow: bool,
    auxiliary: bool,
    probed: bool,
) -> frozenset[str]:
    """Dotted paths without meaning under these choices, which many trials of a sweep share."""
    code, pictures, falling = is_code(net), is_pictures(data), schedule in ("step", "plateau")
    tokens = data in FACTS and FACTS[data].tokens
    # Code takes the learning rate and its options.
    used_by_optimizer = OPTIMIZERS.get(optimizer, {"optimizer_options"})
    used_init = SCHEMES.get(scheme, set()) | ({"distribution"} if layer_stds else set())
    rules = [
        (data not in ("synthetic", "imagefolder"), {"data.classes"}),
        (data != "synthetic", {"data.channels"}),
        (is_code(data) or tokens, {"data.image_size"}),
        (not tokens, {"data.sequence"}),
        (tokens, {"data.scale", "data.flip", "data.shift"}),
        (not is_code(data), {"data.options"}),
        (pictures, {"data.shift"}),
        (not pictures, {"data.crop", "data.jitter", "data.val_side", "data.color_std"}),
        (True, {path for key, path in NET_PATHS.items() if key not in FIELDS.get(net, ())}),
        (code, {"train.shallow_depth"}),
        (not code, {"net.options"}),
        (not code and net not in SEQUENCE_NETS, {"init.embedding_std"}),
        (widths and "widths" in FIELDS.get(net, ()), {"net.width", "net.stages"}),
        (activation in ("relu", "gelu", "tanh"), {"net.negative_slope"}),
        (not code and "prelu" not in activation, {"train.slope_lr_factor"}),
        (not falling, {"train.factor"}),
        (schedule != "step", {"train.milestones"}),
        (schedule != "plateau", {"train.patience", "train.most_cuts"}),
        (code or not shallow, {"train.shallow_epochs"}),
        (not auxiliary, {"train.auxiliary_weight"}),
        (is_code(optimizer), {"train.weight_decay", "train.decay_exempt", "train.slope_lr_factor"}),
        (True, {f"train.{key}" for key in {"momentum", "betas", "eps", "optimizer_options"} - used_by_optimizer}),
        (not probed, {"probe.examples"}),
        # Code may use all.
        (not is_code(scheme), {f"init.{key}" for key in {"mode", "distribution", "std"} - used_init}),
    ]
    return frozenset(path for holds, paths in rules if holds for path in paths)


def probes(trial: TrialSpec) -> bool:
    """Whether a trial uses the probe's batch: to measure signals, or to set layers before the first step."""
    return trial.probe.every > 0 or needs_batch(trial)


def needs_batch(trial: TrialSpec) -> bool:
    """Whether a trial's weights are set on a batch."""
    return trial.init.scheme in ON_A_BATCH or trial.init.branches is not None


def drop_unused(trial: TrialSpec) -> tuple[TrialSpec, set[str]]:
    """The trial with its unused fields at their default, and which of them had been set to something else.

    The depth of a net of the paper becomes that of the net.
    """
    resting, dropped = {}, set()
    depth = {"net.depth": PAPER_NETS[trial.net.name].depth} if trial.net.name in PAPER_NETS else {}
    for path in {*unused_paths(trial), *depth}:
        value, rest = getattr_path(trial, path), depth.get(path, DEFAULTS[path])
        if value != rest:
            resting[path] = rest
            if value != DEFAULTS[path]:
                dropped.add(path)
    return (with_fields(trial, resting) if resting else trial), dropped
