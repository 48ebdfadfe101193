"""MODEL on the command line: a net of the catalog, of torchvision, or of the user's code, with a batch that fits it."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from initlab.data.dataset import Preprocessing
from initlab.data.facts import FACTS
from initlab.data.in_memory import prepare
from initlab.data.sources import load_raw
from initlab.errors import UserError
from initlab.init.apply import init_
from initlab.init.schemes import SCHEMES
from initlab.inspection.builders import Builder, builder_of
from initlab.inspection.inputs import Input, Inputs, alternatives, batch_text, made, users_batch, users_code, words_of
from initlab.nets.any_module import weight_layers
from initlab.nets.architecture import InputShape
from initlab.nets.undisturbed import Batch, first_tensor, map_tensors, num_examples, run_model, to_model, untouched
from initlab.plan.dimensions import shape_text
from initlab.random_streams import stream_seed
from initlab.study.mistakes import suggestion
from initlab.study.yaml_text import parse_yaml
from initlab.user_code import is_code


@dataclass(frozen=True)
class Subject:
    """A model to look at, and a batch for it."""

    name: str
    module: nn.Module
    images: Batch  # (N, channels, height, width), or whatever else the model takes
    labels: Any  # class indices, (N,) or as the output has positions; None where the output has no classes


def resolve_model(
    name: str,
    *,
    input_shape: InputShape | None = None,
    inputs: Inputs | None = None,
    vocab: int | None = None,
    batch: str | None = None,
    batch_size: int = 8,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    data: str | None = None,
    data_dir: Path | None = None,
    allow_code: bool = False,
    double: bool = False,
    also: Sequence[str] = (),
) -> Subject:
    """Build the model of a name, and a batch of unit-normal images and random labels, or of a data set's own.

    Args:
        name: a net of the catalog (`plain`), a classification model of torchvision (`resnet18`, without weights),
            `timm:NAME`, `hf:CONFIG`, or `pkg.module:callable`, which gives an `nn.Module` or is one.
        input_shape: of one image; None is 1x16x16 for `plain` and `mlp`, 3x299x299 for inception_v3, else 3x224x224.
        inputs: instead, what the model takes, as `parse_inputs` gives it.
        vocab: tokens are drawn below it; None is what the configuration or the largest embedding says.
        batch: instead, `pkg.module:callable` that gives the batch, or (batch, labels).
        seed: of the model's own random numbers and of the batch.
        options: arguments for what builds the net, such as depth.
        data: a built-in data set for the batch, at unit standard deviation; None is random numbers.
        double: the model and batch in float64.
        also: other names that are allowed in its place, for the message.

    Raises:
        UserError: unknown name, code without `allow_code`, what gives no module, or an input that does not fit.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size: out of range (got {batch_size}); allowed: from 1 on")
    dtype = torch.float64 if double else torch.float32
    inputs, classes = Input("numbers", input_shape) if input_shape else inputs, {}
    examples = None if data is None else labelled_batch(data, data_dir, batch_size, dtype)
    if examples is not None:
        shape = tuple(examples[0].shape[1:])
        if inputs not in (None, Input("numbers", shape)):
            got = "x".join(map(str, inputs.shape)) if isinstance(inputs, Input) else "several"
            raise UserError(f"--input: not the shape of {data} (got {got}); leave it out beside --data")
        inputs, classes = Input("numbers", shape), {"num_classes": examples[2]}
    module, builder = built(name, inputs, classes, seed, options, allow_code, also)
    module = module.double() if double else module
    if examples is not None:
        fitting_output(name, module, examples[0])
        return Subject(name, module, *examples[:2])
    if batch is not None:
        users, labels = users_batch(batch, allow_code, dtype)
        output = fitting_output(name, module, users)
        generator = torch.Generator().manual_seed(stream_seed(seed, "inspect"))
        size = num_examples(module, users)
        return Subject(name, module, users, random_labels(output, size, generator) if labels is None else labels)
    words = vocab or builder.vocab or words_of(module)
    return fitting(name, module, alternatives(builder.takes), batch_size, seed, dtype, words)


def built(
    name: str,
    inputs: Inputs | None,
    classes: dict[str, int],
    seed: int,
    options: Mapping[str, Any] | None,
    allow_code: bool,
    also: Sequence[str],
) -> tuple[nn.Module, Builder]:
    """The model of a name, with random numbers of its own, and what built it."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # torchvision warns of slow and of changing initialisations.
        warnings.simplefilter("ignore")
        torch.manual_seed(stream_seed(seed, "net"))
        builder = builder_of(name, inputs, classes, allow_code, also)
        try:
            module = builder.build(**{**builder.arguments, **(options or {})})
        # The user's code, or a library's, may raise anything.
        except Exception as error:
            reason = str(error).partition("\n")[0] or "no reason given"
            raise UserError(f"{name}: cannot be built (got {type(error).__name__}: {reason}); see --set") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{name}: gives no nn.Module (got {type(module).__name__}); return the model itself")
    return module, builder


def fitting(
    name: str,
    module: nn.Module,
    candidates: Sequence[Inputs],
    examples: int,
    seed: int,
    dtype: torch.dtype,
    words: int | None,
) -> Subject:
    """The subject with the first of these inputs that its model takes, and random labels."""
    first: UserError | None = None
    for inputs in candidates:
        generator = torch.Generator().manual_seed(stream_seed(seed, "inspect"))
        batch = made(inputs, examples, generator, dtype, words)
        try:
            output = fitting_output(name, module, batch)
        except UserError as error:
            first = first or error
            continue
        return Subject(name, module, batch, random_labels(output, examples, generator))
    assert first is not None
    raise first


def fitting_output(name: str, module: nn.Module, batch: Batch) -> Tensor:
    """The model's output for two examples of the batch; where they don't fit, the layer and the shapes that don't."""
    calls: list[tuple[nn.Module, Any]] = []

    def note(inner: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note the call of a module without children, the latest last."""
        if next(inner.children(), None) is None:
            calls.append((inner, inputs[0] if inputs else None))

    size = num_examples(module, batch)
    try:
        with register_module_forward_pre_hook(note), untouched(module, backward=False):
            two = map_tensors(batch, lambda tensor: tensor[:2] if tensor.dim() and len(tensor) == size else tensor)
            return first_tensor(run_model(module, to_model(module, two, None)[0]))
    # The user's forward may raise anything.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if calls and isinstance(calls[-1][1], Tensor):
            inner, x = calls[-1]
            path = next((path for path, each in module.named_modules() if each is inner), "")
            reason = f"`{path}`, {' '.join(str(inner).split())}, takes no {shape_text(x.shape[1:])}: {reason}"
        raise UserError(
            f"{name}: an input of {batch_text(batch)} does not fit (got {reason}); give --input CxHxW"
        ) from error


def random_labels(output: Tensor, examples: int, generator: torch.Generator) -> Tensor | None:
    """Random classes for an output (n, K), a label per token for (n, T, K), per pixel for (n, K, H, W); else None."""
    if not 2 <= output.dim() <= 4:
        return None
    positions = list(output.shape[1:])
    classes = positions.pop(1 if output.dim() == 3 else 0)
    return torch.randint(classes, (examples, *positions), generator=generator)


def labelled_batch(data: str, folder: Path | None, size: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
    """The first images of a built-in data set's probe order, their labels, and the number of classes."""
    if data not in FACTS:
        raise UserError(f"--data: no such data set (got {data!r}); allowed: {', '.join(FACTS)}")
    try:
        examples = load_raw(data, folder=folder)
    except FileNotFoundError:
        raise UserError(
            f"--data: the files of {data} are not there (got folder {folder or 'none'}); give --data-dir DIR that "
            "holds them, or --data digits, which needs none"
        ) from None
    return *prepare(examples, Preprocessing(dtype=dtype)).probe_batch(size), examples.outputs


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """`depth=22` texts as arguments of what builds the net; values as in YAML, a prefix `net.` is dropped."""
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().removeprefix("net.")
        if not equals or not key.isidentifier():
            raise UserError(f"--set: not an assignment (got {text!r}); allowed: ARGUMENT=VALUE, e.g. depth=22")
        options[key], mistakes = parse_yaml(value, f"--set {key}")
        if mistakes:
            raise UserError(f"--set {key}: {mistakes[0][1]}")
    return options


def initialised(subject: Subject, scheme: str, seed: int, allow_code: bool) -> Subject:
    """The subject, its model drawn in place under a scheme: a name, or `pkg.module:callable`.

    Raises:
        UserError: no such scheme, code without `allow_code`, or a model that it cannot set.
    """
    if not weight_layers(subject.module):
        raise UserError(f"{subject.name}: has no convolution or linear layer to initialise; give another model")
    rule = users_code("--init", scheme, allow_code) if is_code(scheme) else scheme
    if not is_code(scheme) and scheme not in SCHEMES:
        hint = suggestion(scheme, SCHEMES)
        allowed = f"{', '.join(SCHEMES)}, or pkg.module:callable with --allow-code"
        raise UserError(f"--init: no such scheme (got {scheme!r}{hint}); allowed: {allowed}")
    try:
        init_(subject.module, rule, seed=seed, batch=subject.images)
    except ValueError as error:
        raise UserError(f"{subject.name}: {error}") from error
    return subject
