"""What `initlab nets` prints: the catalog with its counts, or the layer table of one net. No torch."""

from collections.abc import Iterator, Sequence
from typing import Any

from initlab.nets.architecture import SPP, Activation, Add, Attention, Conv, Dropout, InputShape, Layer, MaxPool
from initlab.nets.catalog import (
    CATALOG,
    DESCRIPTIONS,
    INPUT_SIZE,
    NUM_CLASSES,
    PAPER_NETS,
    SEQUENCE_NETS,
    default_input,
)
from initlab.nets.counts import count, layer_counts, output_shapes
from initlab.plan.conflicts import layout_conflicts
from initlab.plan.dimensions import describe, parse_image_shape, shape_text
from initlab.report.text_table import text_table
from initlab.study.mistakes import StudyError
from initlab.study.spec import TrialSpec
from initlab.study.study import apply_override, validated
from initlab.study.unused_fields import drop_unused
from initlab.user_code import is_code

SIDE = str(INPUT_SIZE)


def catalog_lines(
    input_text: str | None = None, num_classes: int | None = None, overrides: Sequence[str] = ()
) -> Iterator[str]:
    """Name, depth, parameters and multiply-adds of each net of the paper, and our count beside the printed one.

    Raises:
        StudyError: as `net_lines`.
    """
    shape, classes = parse_image_shape(input_text or SIDE), class_count(num_classes)
    as_printed = (shape, classes) == (parse_image_shape(SIDE), NUM_CLASSES)
    rows = [["net", "depth", "parameters", "multiply-adds", "paper", "difference"]]
    for name, net in PAPER_NETS.items():
        counts = count(layers_of(resolved(name, overrides)[0], classes, shape), shape)
        printed, difference = "–", "–"
        if as_printed and net.printed_multiply_adds:
            printed = f"{net.printed_multiply_adds / 1e10:.2f}e10"
            difference = f"{counts.multiply_adds / net.printed_multiply_adds - 1:+.1%}"
        numbers = [str(counts.weight_layers), f"{counts.parameters:,}", f"{counts.multiply_adds:,}"]
        rows.append([name, *numbers, printed, difference])
    yield from text_table(rows, right=range(2, 6))
    yield f"of one {shape_text(shape)} image and {classes} classes"
    yield f"of any depth, see initlab nets NAME: {', '.join(DESCRIPTIONS)}"


def net_lines(
    name: str, input_text: str | None = None, num_classes: int | None = None, overrides: Sequence[str] = ()
) -> Iterator[str]:
    """The layer table of one net: name, kind, kernel, stride, padding, output, parameters, multiply-adds.

    Args:
        name: a name of the catalog.
        input_text: `224` or `3x224x224`, of nets for sequences the tokens in a row; None is 224, for `plain` and `mlp`
            1x16x16, for sequences 64.
        num_classes: None is 1000, for `plain` and `mlp` 10, and for sequences the 97 tokens of topics.
        overrides: `net.activation=prelu` and the like, as in a study.

    Raises:
        StudyError: unknown name, malformed input, a wrong override, or images that do not go through the net.
    """
    spec, dropped = resolved(name, overrides)
    default_classes, shape = default_input(spec.net.name)
    if input_text:
        shape = parse_image_shape(input_text)
        # A bare number is a side, or a sequence's length.
        shape = shape[1:2] if spec.net.name in SEQUENCE_NETS and input_text.isdecimal() else shape
    classes = class_count(num_classes, default=default_classes)
    layers = layers_of(spec, classes, shape)
    header = ["layer", "kind", "kernel", "stride", "padding", "output", "parameters", "multiply-adds"]
    rows = [layer_row(layer, output) for layer, output in zip(layers, output_shapes(layers, shape), strict=True)]
    total = count(layers, shape)
    numbers = [f"{total.parameters:,}", f"{total.multiply_adds:,}"]
    last_row = ["total", f"{total.weight_layers} weight layers", "", "", "", "", *numbers]
    what = "tokens" if len(shape) == 1 else "images"
    yield f"{spec.net.label} on {shape_text(shape)} {what}, {classes} classes"
    yield from text_table([header, *rows, last_row], right=range(2, 8))
    for path in sorted(dropped):
        yield f"{path} has no use in {spec.net.label}; dropped"


def layer_row(layer: Layer, output: tuple[int, ...]) -> list[str]:
    """The cells of one layer; empty where it has nothing of the kind."""
    kind, window = type(layer).__name__, ["", "", ""]
    match layer:
        case Conv():
            window = [f"{layer.kernel}x{layer.kernel}", str(layer.stride), str(layer.padding)]
        case MaxPool():
            window = [f"{layer.kernel}x{layer.kernel}", str(layer.stride), "0"]
        case Activation():
            kind = layer.kind
        case SPP():
            kind = f"SPP {','.join(map(str, layer.bins))}"
        case Add():
            kind = f"Add {layer.source}"
        case Attention():
            kind = f"Attention {layer.heads} heads"
        case Dropout():
            kind = f"Dropout {layer.p:g}"
    counts = layer_counts(layer, output)
    numbers = [f"{number:,}" if number else "" for number in (counts.parameters, counts.multiply_adds)]
    return [layer.name, kind, *window, shape_text(output), *numbers]


def resolved(name: str, overrides: Sequence[str]) -> tuple[TrialSpec, set[str]]:
    """The trial of a study with this net and these overrides, and the paths that were set but have no use in it."""
    if is_code(name):
        raise StudyError([f"nets: code has no description (got {name!r}); allowed: {', '.join(CATALOG)}"])
    content: dict[str, Any] = {"name": "nets", "net": {"name": name}}
    lines = [f"--set {at}: {text}" for override in overrides for at, text in apply_override(content, override)]
    study, mistakes = validated(content)
    if lines or mistakes or study is None:
        raise StudyError([*lines, *(f"nets: {at}: {text}" for at, text in mistakes)])
    return drop_unused(study.trial({}))


def class_count(number: int | None, default: int = NUM_CLASSES) -> int:
    """The number of classes, at least 1."""
    if number is not None and number < 1:
        raise StudyError([f"--classes: out of range (got {number}); allowed: at least 1"])
    return default if number is None else number


def layers_of(spec: TrialSpec, num_classes: int, shape: InputShape) -> list[Layer]:
    """The layers of a trial's net; refuses images that do not go through it."""
    if mistakes := [f"--input: {text}" for _, text in layout_conflicts(spec.net, shape, "image_size")]:
        raise StudyError(mistakes)
    return describe(spec, num_classes, shape)
