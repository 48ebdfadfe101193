"""Mistakes that show only between the fields of a trial: each value is allowed, but not beside the others."""

from collections.abc import Iterable

from initlab.data.facts import FACTS
from initlab.nets.architecture import LINEAR_LAYERS, InputShape, plain_problem
from initlab.nets.catalog import FIELDS, SEQUENCE_NETS, size_problem
from initlab.nets.equal_layers import decoder_problem, sequence_problem
from initlab.nets.variants import skip_problem
from initlab.plan.dimensions import available_examples, describe, image_facts, input_side, planned_examples
from initlab.study.mistakes import Mistake
from initlab.study.sections import Data, Net
from initlab.study.spec import TrialSpec
from initlab.study.unused_fields import probes
from initlab.user_code import is_code

# Of a trial; the steps at which it writes rows and probes are listed in memory.
MOST_STEPS = 100_000_000
# Nets of the catalog that have no convolution.
CONVOLUTIONLESS = [name for name, fields in FIELDS.items() if "skip" not in fields]


def conflicts(spec: TrialSpec) -> Iterable[Mistake]:
    """Fields that are each allowed but do not fit together."""
    data, train, net = spec.data, spec.train, spec.net
    if train.schedule == "step" and not train.milestones:
        yield "train.milestones", "empty (got nothing); allowed: the epochs at which lr falls under the step schedule"
    if train.loss in ("mse", "bce") and not is_code(data.name):
        yield "train.loss", f"takes no classes, which {data.name} has (got {train.loss}); allowed: cross_entropy"
    if train.warmup_epochs > train.epochs:
        text = f"longer than the training (got {train.warmup_epochs:g}); allowed: at most its {train.epochs:g} epochs"
        yield "train.warmup_epochs", text
    if train.batch_size % train.accumulate:
        text = f"does not part the batch into equal slices (got {train.accumulate} for {train.batch_size})"
        yield "train.accumulate", f"{text}; allowed: a divisor of train.batch_size"
    elif train.accumulate > 1 and net.norm == "batch":
        text = f"BatchNorm's statistics are the whole batch's (got {train.accumulate})"
        yield "train.accumulate", f"{text}; allowed: 1, or net.norm none"
    # How many images the user's code gives, and of what size, is not known yet.
    if is_code(data.name):
        return
    facts = FACTS[data.name]
    for key, most in zip(("train_examples", "val_examples"), available_examples(data), strict=True):
        if most and (getattr(data, key) or 0) > most:
            yield f"data.{key}", f"more than {data.name} has (got {getattr(data, key)}); allowed: at most {most}"
    if (examples := planned_examples(data)) is not None:
        yield from count_conflicts(spec, examples)
    size = input_side(data)
    if facts.pictures:
        yield from view_conflicts(data, size)
    elif data.shift >= size:
        yield "data.shift", f"moves images out of sight (got {data.shift}); allowed: below their {size} pixels"
    if train.auxiliary and net.name in CONVOLUTIONLESS:
        yield "train.auxiliary", f"needs convolutions (got {net.name}); allowed: a net that has some"
    elif net.name == "plain" and max(train.auxiliary, default=0) > net.depth - LINEAR_LAYERS:
        got, most = max(train.auxiliary), net.depth - LINEAR_LAYERS
        yield "train.auxiliary", f"no such convolution (got {got}); allowed: 1 to {most} of this net"
    yield from shallow_conflicts(spec, size)
    if facts.tokens and net.name == "mlp":
        yield "net.name", f"takes numbers (got mlp for tokens); allowed: {', '.join(SEQUENCE_NETS)}, your own"
    if spec.init.branches and net.name != "transformer" and net.name in FIELDS and net.skip == "none":
        needs = f"needs residual branches (got {spec.init.branches} for {net.name})"
        yield "init.branches", f"{needs}; allowed: null, or net.skip: identity"
    yield from layout_conflicts(net, image_facts(spec)[1], "crop" if facts.pictures else "image_size")


def layout_conflicts(net: Net, shape: InputShape, key: str) -> Iterable[Mistake]:
    """A net of the catalog that takes no inputs of this shape, whose sides this key of data sets."""
    if is_code(net.name):
        return
    if net.name in CONVOLUTIONLESS:
        yield from equal_layer_conflicts(net, shape)
        return
    if net.norm in ("pre", "post"):
        yield "net.norm", f"not for {net.name} (got {net.norm!r}); allowed: none, batch"
        return
    if len(shape) != 3:
        nets, got = ", ".join((*CONVOLUTIONLESS, "your own")), "x".join(map(str, shape)) or "a number"
        yield "net.name", f"takes pictures (got {net.name} for inputs of {got}); allowed: {nets}"
        return
    size = min(shape[1:])
    if net.name == "plain" and (problem := plain_problem(net.depth, len(net.widths or ()) or net.stages, size)):
        path, text = problem
        yield "net.widths" if path == "stages" and net.widths else f"net.{path}", text
    elif net.name != "plain" and (too_small := size_problem(net.name, size, size)):
        yield f"data.{key}", too_small
    elif net.skip != "none":
        without_skips = TrialSpec(net=net.model_copy(update={"skip": "none"}))
        if no_place := skip_problem(describe(without_skips, num_classes=1, input_shape=(1, size, size))):
            yield "net.skip", no_place


def equal_layer_conflicts(net: Net, shape: InputShape) -> Iterable[Mistake]:
    """A net for sequences whose inputs are none, or a transformer's fields that do not fit each other."""
    if net.name in SEQUENCE_NETS and (problem := sequence_problem(shape)):
        yield "data.name", f"for {net.name}: {problem[1]}"
    elif net.name == "transformer" and (misfit := decoder_problem(net.width, net.heads, net.norm, net.activation)):
        yield f"net.{misfit[0]}", misfit[1]


def view_conflicts(data: Data, crop: int) -> Iterable[Mistake]:
    """Views of pictures that a square of `crop` pixels cannot be cut from."""
    if data.jitter and data.jitter[0] > data.jitter[1]:
        yield "data.jitter", f"the wrong way round (got {list(data.jitter)}); allowed: [shortest, longest]"
    for key, side in (("jitter", data.jitter and data.jitter[0]), ("val_side", data.val_side)):
        if side is not None and side < crop:
            yield f"data.{key}", f"smaller than the crop (got {side}); allowed: at least {crop} pixels"


def shallow_conflicts(spec: TrialSpec, size: int) -> Iterable[Mistake]:
    """A shallow net that is not shallower, or that cannot be laid out for these images."""
    net, shallow = spec.net, spec.train.shallow_depth
    if shallow is None or is_code(net.name):
        return
    if net.name != "plain":
        yield "train.shallow_depth", f"needs a net of any depth (got {net.name}); allowed: plain"
    elif shallow >= net.depth:
        yield "train.shallow_depth", f"not below the net's own (got {shallow}); allowed: less than {net.depth}"
    elif problem := plain_problem(shallow, len(net.widths or ()) or net.stages, size):
        yield "train.shallow_depth", problem[1]


def count_conflicts(spec: TrialSpec, examples: int) -> Iterable[Mistake]:
    """A batch or a probe larger than the training set, or training of no step, or of too many to record."""
    train, (per_epoch, steps) = spec.train, spec.steps(examples)
    if train.batch_size > examples:
        yield "train.batch_size", f"larger than the training set (got {train.batch_size}); allowed: at most {examples}"
    elif steps < 1:
        yield "train.epochs", f"less than one step (got {train.epochs:g}); allowed: at least {1 / per_epoch:.3g}"
    elif steps > MOST_STEPS:
        most = MOST_STEPS // per_epoch
        yield "train.epochs", f"more than {MOST_STEPS:,} steps (got {train.epochs:g}); allowed: at most {most}"
    if probes(spec) and spec.probe.examples > examples:
        got = spec.probe.examples
        yield "probe.examples", f"more than the training set has (got {got}); allowed: at most {examples}"
