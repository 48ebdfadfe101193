"""From a spec to what its trial is made of: its data, and an initialised net, on its device, in its precision."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn

from initlab.data.dataset import Dataset, Preprocessing
from initlab.data.examples import Examples, examples_of
from initlab.data.facts import FACTS, is_pictures
from initlab.data.folders import scan
from initlab.data.in_memory import prepare
from initlab.data.scales import SCALE
from initlab.data.sources import load_raw
from initlab.data.text import topics
from initlab.engine.task import DataAccess
from initlab.errors import UserError
from initlab.init.apply import init_
from initlab.nets.build import to_modules
from initlab.plan.conflicts import layout_conflicts
from initlab.plan.dimensions import describe, input_side
from initlab.random_streams import stream_seed
from initlab.study.sections import Data
from initlab.study.spec import TrialSpec
from initlab.study.unused_fields import needs_batch
from initlab.user_code import code_refusal, import_callable, is_code

# Of weights and images; under bfloat16 the step casts on the way.
DTYPES = {"auto": torch.float32, "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def load_data(
    spec: TrialSpec, device: torch.device, access: DataAccess, sources: dict[str, str], say: Callable[[str], None]
) -> Dataset:
    """The trial's data on its device; the last few sets stay in memory for the next trials.

    Args:
        sources: hash of the user's code behind each dotted path that names some.
        say: hears what takes long, in words.
    """
    data, dtype = spec.data, DTYPES[spec.train.precision]
    preprocessing = Preprocessing(data.scale, data.train_examples, data.val_examples, device, dtype)
    if is_pictures(data.name):
        return load_pictures(data, preprocessing, access, say)
    examples = cached_examples(data, access, sources.get("data.name"))
    return prepare(examples, preprocessing, flip=data.flip, shift=data.shift)


def load_pictures(data: Data, preprocessing: Preprocessing, access: DataAccess, say: Callable[[str], None]) -> Dataset:
    """The trial's pictures in class folders, listed and measured."""
    # Imported here: torchvision's transforms take seconds.
    from initlab.data.folder_set import open_folder
    from initlab.data.views import Views

    crop = input_side(data)
    val_side = data.val_side or round(crop * SCALE)
    flip = FACTS[data.name].flip if data.flip is None else data.flip
    return open_folder(
        scan(data.name, Path(access.data_dir) if access.data_dir else None, data.classes),
        preprocessing,
        Views(crop, val_side, data.jitter or (val_side, val_side), flip, data.color_std),
        side=data.image_size,
        workers=access.workers,
        cache=Path(access.cache),
        keep_decoded=access.keep_decoded,
        on_device=preprocessing.device.type == "cuda" if access.resident is None else access.resident,
        say=say,
    )


@lru_cache(maxsize=2)
def cached_examples(data: Data, access: DataAccess, source: str | None) -> Examples:
    """A set in memory; `source` is the hash of the code that makes it, so that edited code is run again."""
    if is_code(data.name):
        if not access.allow_code:
            raise PermissionError(code_refusal("data.name", data.name))
        return examples_of(import_callable("data.name", data.name)(**data.options))
    if FACTS[data.name].tokens:
        return topics(input_side(data))
    folder = Path(access.data_dir) if access.data_dir else None
    return load_raw(data.name, data.image_size, data.classes, data.channels, folder=folder, download=access.download)


def build_net(spec: TrialSpec, data: Dataset, device: torch.device) -> nn.Module:
    """The trial's net, initialised, on its device, in its precision."""
    net, scheme = bare_net(spec, data), spec.init.scheme
    draw = import_callable("init.scheme", scheme) if is_code(scheme) else scheme
    batch = data.probe_batch(spec.probe.examples)[0] if needs_batch(spec) else None
    # The other fields of the section are keywords of `init_`.
    init_(net, draw, seed=spec.seed, batch=batch, **spec.init.model_dump(exclude={"scheme"}))
    return net.to(device)


def bare_net(spec: TrialSpec, data: Dataset) -> nn.Module:
    """The trial's net in its precision, on the CPU, before its init."""
    # For parameters that no scheme draws.
    torch.manual_seed(stream_seed(spec.seed, "net"))
    if is_code(spec.net.name):
        make = import_callable("net.name", spec.net.name)
        net: nn.Module = make(num_classes=data.num_classes, input_shape=data.input_shape, **spec.net.options)
    else:
        # Of the user's own data only this shows.
        for path, text in layout_conflicts(spec.net, data.input_shape, "image_size"):
            raise UserError(f"{path}: {text}")
        net = to_modules(describe(spec, data.num_classes, data.input_shape))
    return net.to(DTYPES[spec.train.precision])
