"""MODEL by its name: nets of the catalog, of torchvision, timm and Hugging Face, and the user's code."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from initlab.errors import UserError
from initlab.inspection.inputs import Input, Inputs, parse_inputs
from initlab.nets.architecture import InputShape
from initlab.nets.build import build_net
from initlab.nets.catalog import CATALOG, SEQUENCE_NETS, default_input
from initlab.plan.dimensions import parse_image_shape
from initlab.user_code import code_refusal, import_callable, is_code, well_formed

# Other libraries' models, by the prefix of their names.
LIBRARIES = {"hf": "transformers", "timm": "timm"}


@dataclass(frozen=True)
class Builder:
    """What builds a model, its arguments, and what the model takes."""

    build: Callable[..., object]
    takes: Inputs
    arguments: dict[str, Any] = field(default_factory=dict)
    vocab: int | None = None


def default_takes(name: str) -> Input:
    """What a model takes: images, of a net of the catalog for sequences tokens."""
    shape = (3, 299, 299) if name == "inception_v3" else default_input(name)[1]
    return Input("tokens" if name in SEQUENCE_NETS else "numbers", shape)


def library_of(name: str) -> str:
    """`hf` or `timm` for the name of such a model, else ""."""
    prefix, colon, rest = name.partition(":")
    return prefix if colon and rest and prefix in LIBRARIES else ""


def takes_any_input(name: str) -> bool:
    """Whether a name may be that of a model that takes no images."""
    return is_code(name) or "/" in name or name.endswith(".py")


def inputs_of(name: str, text: str | None) -> Inputs | None:
    """What `--input` says that a model takes; nets of torchvision take images alone, most of the catalog too."""
    if text is None:
        return None
    if takes_any_input(name) or name in SEQUENCE_NETS:
        return parse_inputs(text)
    return Input("numbers", parse_image_shape(text, channels=default_takes(name).shape[0]))


def builder_of(
    name: str, inputs: Inputs | None, classes: dict[str, int], allow_code: bool, also: Sequence[str]
) -> Builder:
    """What builds the model of a name; `classes` holds `num_classes` where a data set gives them.

    Raises:
        UserError: an unknown name, code without `allow_code`, or a library that is not installed.
    """
    if library := library_of(name):
        return library_builder(library, name.partition(":")[2], inputs, classes)
    takes = inputs or default_takes(name)
    shape = image_shape(takes)
    if name in CATALOG:
        shape = takes.shape if name in SEQUENCE_NETS and isinstance(takes, Input) else shape
        return Builder(build_net, takes, {"name": name, "input_shape": shape, **classes})
    if takes_any_input(name):
        return users_builder(name, takes, shape, classes, allow_code)
    # Here, since it takes half a second.
    from torchvision import models as vision

    names = vision.list_models(module=vision)
    if name not in names:
        hint = near_names(name, [*also, *CATALOG, *names])
        raise UserError(
            f"{name}: no such model{hint}; allowed: {', '.join([*also, *CATALOG])}, a classification model of "
            "torchvision, timm:NAME, hf:CONFIG, or pkg.module:callable with --allow-code"
        )
    return Builder(vision.get_model, takes, {"name": name, "weights": None, **classes})


def near_names(name: str, names: Sequence[str]) -> str:
    """`; did you mean resnet18 or resnet101?`, or nothing."""
    near = difflib.get_close_matches(name.lower(), names, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def image_shape(inputs: Inputs) -> InputShape | None:
    """The shape of one image, where it is images that are taken; a bare number is its side."""
    if not isinstance(inputs, Input) or inputs.kind != "numbers" or len(inputs.shape) not in (1, 3):
        return None
    channels, height, width = inputs.shape if len(inputs.shape) == 3 else (3, *inputs.shape * 2)
    return channels, height, width


def users_builder(
    name: str, takes: Inputs, shape: InputShape | None, classes: dict[str, int], allow_code: bool
) -> Builder:
    """What builds the model of the user's code, which may take `input_shape` and `num_classes`."""
    if not well_formed(name):
        raise UserError(f"{name}: not a usable code name; allowed: pkg.module:callable, as in mypkg.mymodel:build")
    if not allow_code:
        raise UserError(code_refusal("", name))
    build = import_callable("MODEL", name)
    if isinstance(build, nn.Module):
        return Builder(lambda **_: build, takes)
    given = {**({"input_shape": shape} if shape else {}), **classes}
    arguments: dict[str, Any] = {}
    # Builtins have no signature.
    with suppress(ValueError):
        parameters = inspect.signature(build).parameters
        arguments = {key: value for key, value in given.items() if key in parameters}
    return Builder(build, Input("numbers", shape) if "input_shape" in arguments and shape else takes, arguments)


def library_builder(library: str, name: str, inputs: Inputs | None, classes: dict[str, int]) -> Builder:
    """A model of timm by its name, or of Hugging Face by its configuration on disk; nothing is downloaded."""
    try:
        module = import_module(LIBRARIES[library])
    except ImportError as error:
        package = LIBRARIES[library]
        reason = "none" if error.name in (None, package) else f"one that cannot be imported: {error}"
        raise UserError(f"{library}:{name}: needs {package} (got {reason}); pip install {package}") from None
    if library == "timm":
        if name not in module.list_models():
            hint = near_names(name, module.list_models())
            raise UserError(f"timm:{name}: no such model{hint}; allowed: a name of timm.list_models()")
        size = module.models.get_pretrained_cfg(name)
        takes = inputs or Input("numbers", tuple(size.input_size) if size else (3, 224, 224))
        return Builder(module.create_model, takes, {"model_name": name, "pretrained": False, **classes})
    return hugging_face(module, name, inputs)


def hugging_face(transformers: Any, name: str, inputs: Inputs | None) -> Builder:
    """The model of the class that a configuration names first; a file or folder, or what the cache has of a name."""
    path = Path(name)
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(path.parent if path.name == "config.json" else path), local_files_only=True
        )
    # A library's own reading may raise anything.
    except Exception as error:
        reason = str(error).partition("\n")[0][:200]
        raise UserError(
            f"hf:{name}: no configuration on disk (got {type(error).__name__}: {reason}); "
            "give the path of a config.json or of its folder"
        ) from None
    kind = getattr(transformers, (config.architectures or [""])[0], None)
    build = kind or transformers.AutoModel.from_config
    words, side = getattr(config, "vocab_size", None), getattr(config, "image_size", None)
    pictures = Input("numbers", (getattr(config, "num_channels", 3), side, side)) if isinstance(side, int) else None
    takes = inputs or (pictures if words is None else None) or Input("tokens", (24,))
    return Builder(lambda **options: build(config, **options), takes, vocab=words)
