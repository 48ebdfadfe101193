"""What a trial's spec says of its images and its net before anything is loaded: sizes, counts of examples, layers."""

import re
from collections.abc import Iterable

from initlab.data.facts import FACTS, TRAIN_CHARACTERS, VAL_CHARACTERS
from initlab.errors import UserError
from initlab.nets.architecture import InputShape, Layer, NetChoices
from initlab.nets.catalog import describe_net
from initlab.study.sections import Data
from initlab.study.spec import TrialSpec


def input_side(data: Data) -> int:
    """The side in pixels of the net's input, or the tokens of a sequence, for a built-in data set."""
    facts = FACTS[data.name]
    return (data.crop if facts.pictures else data.sequence if facts.tokens else data.image_size) or facts.size


def planned_examples(data: Data) -> int | None:
    """Training examples of a built-in data set; None where only the folder can tell."""
    size, _ = available_examples(data)
    return min(data.train_examples or size, size) if size else data.train_examples


def available_examples(data: Data) -> tuple[int, int]:
    """Training and validation examples that a built-in data set has; 0 where only the folder can tell."""
    if FACTS[data.name].tokens:
        return TRAIN_CHARACTERS // input_side(data), VAL_CHARACTERS // input_side(data)
    return FACTS[data.name].train, FACTS[data.name].val


def image_facts(spec: TrialSpec) -> tuple[int, InputShape]:
    """(classes, (channels, height, width)) of the net's inputs, or (words, (positions,)), for a built-in data set."""
    facts, synthetic, size = FACTS[spec.data.name], spec.data.name == "synthetic", input_side(spec.data)
    if facts.tokens:
        return facts.num_classes, (size,)
    channels = spec.data.channels if synthetic else facts.channels
    classes = spec.data.classes if synthetic else facts.num_classes or spec.data.classes
    return classes, (channels, size, size)


def describe(spec: TrialSpec, num_classes: int, input_shape: InputShape) -> list[Layer]:
    """The layers of a catalog net as the trial asks for it, for inputs of this shape."""
    choices = {key: value for key, value in spec.net if key not in ("name", "options")}
    return describe_net(spec.net.name, num_classes, input_shape, NetChoices(**choices, dropout=spec.train.dropout))


def parse_image_shape(text: str, channels: int = 3) -> tuple[int, int, int]:
    """The shape that `--input` gives, as in `1x28x20`; of a side, as in `224`, a square of this many channels."""
    if not re.fullmatch(r"([1-9]\d{0,4}x[1-9]\d{0,4}x)?[1-9]\d{0,4}", text, re.ASCII):
        raise UserError(f"--input: not an image's shape (got {text!r}); allowed: CHANNELSxHEIGHTxWIDTH or SIDE")
    numbers = [int(number) for number in text.split("x")]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else (channels, numbers[0], numbers[0])


def shape_text(shape: Iterable[int]) -> str:
    """A shape as users write it: `3x224x224`."""
    return "x".join(map(str, shape))
