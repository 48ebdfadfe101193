"""`--input`: what a model on the command line takes, from a text; and a batch of it, of the user's code if need be.

3x224x224 or 224     images, of these channels, height and width, or square
100, 3x224           vectors, sequences: any shape of one example, of unit-normal numbers
tokens:24            24 token ids, below --vocab
["3x32x32", "10"]    several inputs in order, as JSON; {"ids": "tokens:24", "mask": "ones:24"} by their names
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from initlab.errors import UserError
from initlab.nets.undisturbed import Batch, map_tensors
from initlab.user_code import code_refusal, import_callable

GRAMMAR = "a shape as 3x224x224, 3x224 or 100, tokens:LENGTH, ones:LENGTH, or several of them as JSON"


@dataclass(frozen=True)
class Input:
    """One input of a model: unit-normal `numbers`, `tokens` or `ones`, and the shape of one example."""

    kind: str
    shape: tuple[int, ...]


Inputs = Input | Sequence[Input] | Mapping[str, Input]


def parse_inputs(text: str) -> Inputs:
    """The inputs that a text describes.

    Raises:
        UserError: what is none of the forms above.
    """
    if text.lstrip()[:1] not in ("[", "{"):
        return parse_input(text)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"--input: not JSON (got {error.msg} at character {error.pos}); allowed: {GRAMMAR}") from None
    if not content:
        raise UserError(f"--input: no input (got {text}); allowed: {GRAMMAR}")
    if isinstance(content, Mapping):
        return {name: parse_input(value) for name, value in content.items()}
    return [parse_input(value) for value in content]


def parse_input(text: Any) -> Input:
    """One input from its text."""
    form = re.fullmatch(r"((?P<kind>tokens|ones):)?(?P<shape>[1-9]\d{0,6}(x[1-9]\d{0,6}){0,4})", str(text), re.ASCII)
    if form is None:
        raise UserError(f"--input: not an input (got {text!r}); allowed: {GRAMMAR}")
    return Input(form["kind"] or "numbers", tuple(map(int, form["shape"].split("x"))))


def alternatives(inputs: Inputs) -> list[Inputs]:
    """What a text may mean, the likeliest first: `32` is 32 numbers, or an image of that side."""
    if isinstance(inputs, Input) and inputs.kind == "numbers" and len(inputs.shape) == 1:
        return [inputs, Input("numbers", (3, *inputs.shape * 2))]
    return [inputs]


def made(inputs: Inputs, examples: int, generator: torch.Generator, dtype: torch.dtype, vocab: int | None) -> Batch:
    """A batch of so many examples.

    Raises:
        UserError: tokens without a number of words.
    """
    if isinstance(inputs, Mapping):
        return {name: made_one(each, examples, generator, dtype, vocab) for name, each in inputs.items()}
    if isinstance(inputs, Input):
        return made_one(inputs, examples, generator, dtype, vocab)
    return tuple(made_one(each, examples, generator, dtype, vocab) for each in inputs)


def made_one(one: Input, examples: int, generator: torch.Generator, dtype: torch.dtype, vocab: int | None) -> Tensor:
    """One input of the batch."""
    shape = (examples, *one.shape)
    if one.kind == "ones":
        return torch.ones(shape, dtype=dtype)
    if one.kind == "numbers":
        return torch.randn(shape, generator=generator).to(dtype)
    if vocab is None:
        raise UserError("--input tokens: of how many words? (got no embedding in the model); give --vocab NUMBER")
    return torch.randint(vocab, shape, generator=generator)


def words_of(model: nn.Module) -> int | None:
    """Words of the largest embedding of a model; None where it has none."""
    return max((m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)), default=None)


def users_batch(name: str, allow_code: bool, dtype: torch.dtype) -> tuple[Batch, Any]:
    """The batch and labels that the user's code of this name gives; no labels where it gives the batch alone.

    Raises:
        UserError: code without `allow_code`, or what gives no batch.
    """
    content = users_code("--batch", name, allow_code)()
    batch, labels = content if isinstance(content, tuple) and len(content) == 2 else (content, None)
    if not isinstance(batch, (Tensor, Mapping, list, tuple)):
        raise UserError(
            f"--batch {name}: gives no batch (got {type(batch).__name__}); return the batch, or (batch, labels)"
        )
    return map_tensors(batch, lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor), labels


def users_code(option: str, name: str, allow_code: bool) -> Callable[..., Any]:
    """A callable of the user's code that an option names."""
    if not allow_code:
        raise UserError(code_refusal(option, name))
    return import_callable(option, name)


def batch_text(batch: Any) -> str:
    """The shapes of a batch's examples, as users write them."""
    if isinstance(batch, Tensor):
        return "x".join(map(str, batch.shape[1:])) or "one number each"
    if isinstance(batch, Mapping):
        return ", ".join(f"{name} {batch_text(value)}" for name, value in batch.items())
    return ", ".join(map(batch_text, batch)) if isinstance(batch, (tuple, list)) else type(batch).__name__
