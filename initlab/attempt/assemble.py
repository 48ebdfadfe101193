"""From a spec to what its trial is made of: images, and a net that is initialised, on its device, in its precision."""

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from initlab.data.dataset import Images, prepare
from initlab.data.facts import FACTS, is_pictures
from initlab.data.sources import Raw, load_raw
from initlab.init.apply import init_
from initlab.nets.build import to_modules
from initlab.plan.dimensions import describe, input_side
from initlab.random_streams import stream_seed
from initlab.study.spec import Data, TrialSpec
from initlab.user_code import code_refusal, import_callable, is_code


def load_images(
    spec: TrialSpec, device: torch.device, task: dict[str, Any], source: dict[str, str], say: Callable[[str], None]
) -> Images:
    """The trial's images on its device; the last few raw sets stay in memory for the next trials."""
    data = spec.data
    if is_pictures(data.name):
        return load_pictures(spec, device, task, say)
    raw = cached_raw(
        data.model_dump_json(), task["data_dir"], task["download"], task["allow_code"], source.get("data.name")
    )
    return prepare(
        raw,
        scale=data.scale,
        train_examples=data.train_examples,
        val_examples=data.val_examples,
        flip=data.flip,
        shift=data.shift,
        device=device,
        dtype=DTYPES[spec.train.precision],
    )


def load_pictures(spec: TrialSpec, device: torch.device, task: dict[str, Any], say: Callable[[str], None]) -> Images:
    """The trial's pictures in class folders, listed and measured."""
    from initlab.data.folder_set import open_folder  # here: torchvision's transforms take seconds to import
    from initlab.data.views import Views

    data, crop = spec.data, input_side(spec.data)
    val_side = data.val_side or round(crop * 8 / 7)
    views = Views(
        crop=crop,
        val_side=val_side,
        jitter=data.jitter or (val_side, val_side),
        flip=FACTS[data.name].flip if data.flip is None else data.flip,
        color_std=data.color_std,
    )
    return open_folder(
        data.name,
        Path(task["data_dir"]) if task["data_dir"] else None,
        classes=data.classes,
        views=views,
        side=data.image_size,
        scale=data.scale,
        train_examples=data.train_examples,
        val_examples=data.val_examples,
        workers=task["workers"],
        cache=Path(task["cache"]),
        keep_decoded=task["keep_decoded"],
        device=device,
        dtype=DTYPES[spec.train.precision],
        say=say,
    )


@lru_cache(maxsize=2)
def cached_raw(data_json: str, data_dir: str | None, download: bool, allow_code: bool, source: str | None) -> Raw:
    """A raw set; `source` is the hash of the code that makes it, so that edited code is run again."""
    data = Data.model_validate(json.loads(data_json))
    if is_code(data.name):
        if not allow_code:
            raise PermissionError(code_refusal("data.name", data.name))
        return import_callable("data.name", data.name)(**data.options)
    folder = Path(data_dir) if data_dir else None
    return load_raw(
        data.name,
        folder=folder,
        download=download,
        image_size=data.image_size,
        classes=data.classes,
        channels=data.channels,
    )


# of weights and images; under bfloat16 the step casts on the way
DTYPES = {"auto": torch.float32, "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


def build(spec: TrialSpec, data: Images, device: torch.device) -> nn.Module:
    """The trial's net, initialised, on its device, in its precision."""
    net = bare_net(spec, data)
    init = spec.init
    scheme = import_callable("init.scheme", init.scheme) if is_code(init.scheme) else init.scheme
    batch = data.probe_batch(spec.probe.examples)[0] if init.scheme == "lsuv" else None
    init_(
        net,
        scheme,
        mode=init.mode,
        distribution=init.distribution,
        std=init.std,
        seed=spec.seed,
        linear_std=init.linear_std,
        last_std=init.last_std,
        last_factor=init.last_factor,
        batch=batch,
    )
    return net.to(device)


def bare_net(spec: TrialSpec, data: Images) -> nn.Module:
    """The trial's net in its precision, on the CPU, before its init."""
    if is_code(spec.net.name):
        make = import_callable("net.name", spec.net.name)
        torch.manual_seed(stream_seed(spec.seed, "net"))  # for parameters that no scheme draws
        net: nn.Module = make(num_classes=data.num_classes, input_shape=data.input_shape, **spec.net.options)
    else:
        net = to_modules(describe(spec, data.num_classes, data.input_shape))
    return net.to(DTYPES[spec.train.precision])
