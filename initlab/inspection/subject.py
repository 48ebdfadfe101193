"""MODEL on the command line: a net of the catalog, of torchvision, or of the user's code, with a batch that fits it."""

import difflib
import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from initlab.data.dataset import Preprocessing, prepare
from initlab.data.facts import FACTS
from initlab.data.sources import load_raw
from initlab.errors import UserError
from initlab.init.apply import init_
from initlab.init.schemes import SCHEMES
from initlab.nets.any_module import weight_layers
from initlab.nets.architecture import ImageShape
from initlab.nets.build import build_net
from initlab.nets.catalog import CATALOG
from initlab.nets.undisturbed import first_tensor, to_model, untouched
from initlab.plan.dimensions import shape_text
from initlab.random_streams import stream_seed
from initlab.study.yaml_text import parse_yaml
from initlab.user_code import code_refusal, import_callable, is_code, well_formed


@dataclass(frozen=True)
class Subject:
    """A model to look at, and a batch for it."""

    name: str
    module: nn.Module
    images: Tensor  # (N, channels, height, width)
    labels: Tensor | None  # class indices, (N,) or as the output has positions; None where the output has no classes


def resolve_model(
    name: str,
    *,
    input_shape: ImageShape | None = None,
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
        name: a net of the catalog (`plain`), a classification model of torchvision (`resnet18`, without weights), or
            `pkg.module:callable`, which gives an `nn.Module` or is one.
        input_shape: of one image; None is 1x16x16 for `plain`, 3x299x299 for inception_v3, else 3x224x224.
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
    examples = None if data is None else labelled_batch(data, data_dir, batch_size, dtype)
    shape, classes = input_shape or default_shape(name), {}
    if examples is not None:
        channels, height, width = examples[0].shape[1:]
        if input_shape not in (None, (channels, height, width)):
            raise UserError(f"--input: not the shape of {data} (got {shape_text(shape)}); leave it out beside --data")
        shape, classes = (channels, height, width), {"num_classes": examples[2]}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # torchvision warns of slow and of changing initialisations.
        warnings.simplefilter("ignore")
        torch.manual_seed(stream_seed(seed, "net"))
        build, arguments = builder_of(name, shape, classes, allow_code, also)
        try:
            module = build(**{**arguments, **(options or {})})
        # The user's code, or torchvision's, may raise anything.
        except Exception as error:
            reason = str(error).partition("\n")[0] or "no reason given"
            raise UserError(f"{name}: cannot be built (got {type(error).__name__}: {reason}); see --set") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{name}: gives no nn.Module (got {type(module).__name__}); return the model itself")
    module = module.double() if double else module
    generator = torch.Generator().manual_seed(stream_seed(seed, "inspect"))
    images = torch.randn(batch_size, *shape, generator=generator).to(dtype) if examples is None else examples[0]
    output = fitting_output(name, module, images)
    labels = random_labels(output, batch_size, generator) if examples is None else examples[1]
    return Subject(name, module, images, labels)


def default_shape(name: str) -> ImageShape:
    """The shape of one image that a model takes."""
    return {"plain": (1, 16, 16), "inception_v3": (3, 299, 299)}.get(name, (3, 224, 224))


def builder_of(
    name: str, shape: ImageShape, classes: dict[str, int], allow_code: bool, also: Sequence[str]
) -> tuple[Callable[..., object], dict[str, Any]]:
    """What builds the model of a name, and its arguments; `classes` holds `num_classes` where a data set gives them."""
    if name in CATALOG:
        return build_net, {"name": name, "input_shape": shape, **classes}
    if is_code(name) or "/" in name or name.endswith(".py"):
        if not well_formed(name):
            raise UserError(f"{name}: not a usable code name; allowed: pkg.module:callable, as in mypkg.mymodel:build")
        if not allow_code:
            raise UserError(code_refusal("", name))
        build = import_callable("MODEL", name)
        if isinstance(build, nn.Module):
            return lambda **_: build, {}
        # Builtins have no signature.
        with suppress(ValueError):
            parameters = inspect.signature(build).parameters
            return build, {key: value for key, value in {"input_shape": shape, **classes}.items() if key in parameters}
        return build, {}
    # Here, since it takes half a second.
    from torchvision import models as vision

    names = vision.list_models(module=vision)
    if name not in names:
        near = difflib.get_close_matches(name.lower(), [*also, *CATALOG, *names], n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise UserError(
            f"{name}: no such model{hint}; allowed: {', '.join([*also, *CATALOG])}, a classification model of "
            "torchvision, or pkg.module:callable with --allow-code"
        )
    return vision.get_model, {"name": name, "weights": None, **classes}


def fitting_output(name: str, module: nn.Module, images: Tensor) -> Tensor:
    """The model's output for two images of the batch; where they don't fit, the layer and the shapes that don't."""
    calls: list[tuple[nn.Module, Any]] = []

    def note(inner: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note the call of a module without children, the latest last."""
        if next(inner.children(), None) is None:
            calls.append((inner, inputs[0] if inputs else None))

    try:
        with register_module_forward_pre_hook(note), untouched(module, backward=False):
            return first_tensor(module(to_model(module, images[:2], None)[0]))
    # The user's forward may raise anything.
    except Exception as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        if calls and isinstance(calls[-1][1], Tensor):
            inner, x = calls[-1]
            path = next((path for path, each in module.named_modules() if each is inner), "")
            reason = f"`{path}`, {' '.join(str(inner).split())}, takes no {shape_text(x.shape[1:])}: {reason}"
        raise UserError(
            f"{name}: an input of {shape_text(images.shape[1:])} does not fit (got {reason}); give --input CxHxW"
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
        raw = load_raw(data, folder=folder)
    except FileNotFoundError:
        raise UserError(
            f"--data: the files of {data} are not there (got folder {folder or 'none'}); give --data-dir DIR that "
            "holds them, or --data digits, which needs none"
        ) from None
    return *prepare(raw, Preprocessing(dtype=dtype)).probe_batch(size), raw.num_classes


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
    if is_code(scheme) and not allow_code:
        raise UserError(code_refusal("--init", scheme))
    if not is_code(scheme) and scheme not in SCHEMES:
        near = difflib.get_close_matches(scheme.lower(), SCHEMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        allowed = f"{', '.join(SCHEMES)}, or pkg.module:callable with --allow-code"
        raise UserError(f"--init: no such scheme (got {scheme!r}{hint}); allowed: {allowed}")
    try:
        rule = import_callable("--init", scheme) if is_code(scheme) else scheme
        init_(subject.module, rule, seed=seed, batch=subject.images)
    except ValueError as error:
        raise UserError(f"{subject.name}: {error}") from error
    return subject
