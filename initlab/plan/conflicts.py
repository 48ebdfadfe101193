"""Mistakes that only show between the fields of a trial: each value allowed, the whole impossible."""

from collections.abc import Iterable

from initlab.data.facts import FACTS
from initlab.nets.architecture import LINEAR_LAYERS, plain_problem
from initlab.nets.catalog import size_problem
from initlab.nets.variants import skip_problem
from initlab.plan.dimensions import describe, input_side, planned_examples
from initlab.study.mistakes import Mistake
from initlab.study.spec import Data, Net, TrialSpec
from initlab.study.unused_fields import probes
from initlab.user_code import is_code

MOST_STEPS = 100_000_000  # of a trial; its rows and probes are laid out in memory


def conflicts(spec: TrialSpec) -> Iterable[Mistake]:
    """Fields that are each allowed but do not fit together."""
    data, train, net = spec.data, spec.train, spec.net
    if train.schedule == "step" and not train.milestones:
        yield "train.milestones", "empty (got nothing); allowed: the epochs at which lr falls under the step schedule"
    if is_code(data.name):  # how many images there are, and of what size, is not known yet
        return
    facts = FACTS[data.name]
    for key, most in (("train_examples", facts.train), ("val_examples", facts.val)):
        if most and (getattr(data, key) or 0) > most:
            yield f"data.{key}", f"more than {data.name} has (got {getattr(data, key)}); allowed: at most {most}"
    examples = planned_examples(data)
    if examples is not None and train.batch_size > examples:
        yield "train.batch_size", f"larger than the training set (got {train.batch_size}); allowed: at most {examples}"
    elif examples is not None:
        yield from step_conflicts(spec, examples)
    if examples is not None and probes(spec) and spec.probe.examples > examples:
        got = spec.probe.examples
        yield "probe.examples", f"more than the training set has (got {got}); allowed: at most {examples}"
    size = input_side(data)
    if facts.pictures:
        yield from view_conflicts(data, size)
    elif data.shift >= size:
        yield "data.shift", f"moves images out of sight (got {data.shift}); allowed: below their {size} pixels"
    if net.name == "plain" and max(train.auxiliary, default=0) > net.depth - LINEAR_LAYERS:
        got, most = max(train.auxiliary), net.depth - LINEAR_LAYERS
        yield "train.auxiliary", f"no such convolution (got {got}); allowed: 1 to {most} of this net"
    yield from shallow_conflicts(spec, size)
    yield from layout_conflicts(net, size, "crop" if facts.pictures else "image_size")


def layout_conflicts(net: Net, size: int, key: str) -> Iterable[Mistake]:
    """A net of the catalog that images of `size` pixels a side, by this key of data, do not go through."""
    if is_code(net.name):
        return
    problem = too_small = None
    if net.name == "plain":
        problem = plain_problem(net.depth, len(net.widths or ()) or net.stages, size)
    else:
        too_small = size_problem(net.name, size, size)
    if problem:
        path, text = problem
        yield "net.widths" if path == "stages" and net.widths else f"net.{path}", text
    elif too_small:
        yield f"data.{key}", too_small
    elif net.skip != "none":
        without = net.model_copy(update={"skip": "none"})
        nowhere = skip_problem(describe(TrialSpec(net=without), num_classes=1, input_shape=(1, size, size)))
        if nowhere:
            yield "net.skip", nowhere


def view_conflicts(data: Data, crop: int) -> Iterable[Mistake]:
    """Views of pictures that a square of `crop` pixels cannot be cut from."""
    if data.jitter and data.jitter[0] > data.jitter[1]:
        yield "data.jitter", f"the wrong way round (got {list(data.jitter)}); allowed: [shortest, longest]"
    for key, side in (("jitter", data.jitter and data.jitter[0]), ("val_side", data.val_side)):
        if side is not None and side < crop:
            yield f"data.{key}", f"smaller than the crop (got {side}); allowed: at least {crop} pixels"


def shallow_conflicts(spec: TrialSpec, size: int) -> Iterable[Mistake]:
    """A shallow net that is not one, or cannot be laid out."""
    net, shallow = spec.net, spec.train.shallow_depth
    if shallow is None or is_code(net.name):
        return
    if net.name != "plain":
        yield "train.shallow_depth", f"needs a net of any depth (got {net.name}); allowed: plain"
    elif shallow >= net.depth:
        yield "train.shallow_depth", f"not below the net's own (got {shallow}); allowed: less than {net.depth}"
    elif problem := plain_problem(shallow, len(net.widths or ()) or net.stages, size):
        yield "train.shallow_depth", problem[1]


def step_conflicts(spec: TrialSpec, examples: int) -> Iterable[Mistake]:
    """Training that has no step, or too many to count and record."""
    per_epoch, steps = spec.steps(examples)
    if steps < 1:
        yield "train.epochs", f"less than one step (got {spec.train.epochs:g}); allowed: at least {1 / per_epoch:.3g}"
    if steps > MOST_STEPS:
        most = MOST_STEPS // per_epoch
        yield "train.epochs", f"more than {MOST_STEPS:,} steps (got {spec.train.epochs:g}); allowed: at most {most}"
