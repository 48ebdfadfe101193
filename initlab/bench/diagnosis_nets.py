"""The nets of the benchmark of diagnosis: 33 small ones of every family, three of the catalog, four of torchvision.

Each trains as its authors start and train it. Half of them, by a checksum of their names, are held out: rules may be
made while looking at the others.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.bench.sound_blocks import CLASSES
from initlab.bench.sound_nets import SOUND_NETS, SoundNet, pictures
from initlab.init.apply import init_
from initlab.nets.architecture import ActivationName
from initlab.nets.build import build_net

Half = Literal["development", "held out"]
# Nets that their authors train by SGD with momentum; the others are trained by AdamW.
BY_SGD = ("plain", "vgg", "resnet", "mobilenet", "squeezenet", "shufflenet", "weight-norm")
# The learning rates that the sound net is tried at; the best one is then that of the faulty net too.
SGD_RATES, ADAMW_RATES = (0.1, 0.03, 0.01), (1e-2, 3e-3, 1e-3)


def half_of(name: str) -> Half:
    """Whether rules may be made while looking at this net, by the checksum of its name."""
    return "development" if zlib.crc32(name.encode()) % 2 else "held out"


def of_catalog(depth: int, activation: ActivationName, seed: int) -> SoundNet:
    """A plain net of the catalog under He's weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = build_net(
            "plain", depth=depth, width=32, num_classes=CLASSES, input_shape=(3, 16, 16), activation=activation
        )
        return pictures(init_(net, "he", seed=seed))


def of_torchvision(name: str, seed: int) -> SoundNet:
    """A net of torchvision as it draws its weights, on eight pictures of 64 pixels a side."""
    import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        options: dict[str, Any] = {"width_mult": 0.35} if name == "mobilenet_v2" else {}
        net: nn.Module = getattr(torchvision.models, name)(num_classes=CLASSES, **options)
        return SoundNet(net, torch.randn(8, 3, 64, 64), torch.arange(8))


NETS: dict[str, Callable[[int], SoundNet]] = {
    **SOUND_NETS,
    "plain-22": partial(of_catalog, 22, "relu"),
    "plain-30": partial(of_catalog, 30, "relu"),
    "plain-22-prelu": partial(of_catalog, 22, "prelu"),
    **{
        name: partial(of_torchvision, name)
        for name in ("shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v2", "resnet18")
    },
}


@dataclass(frozen=True)
class Recipe:
    """How a net is trained."""

    by_sgd: bool
    rate: float
    steps: int

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """SGD with momentum 0.9, or AdamW."""
        parameters = [p for p in model.parameters() if p.requires_grad]
        if self.by_sgd:
            return torch.optim.SGD(parameters, self.rate, momentum=0.9)
        return torch.optim.AdamW(parameters, self.rate)


def recipes(name: str, steps: int) -> list[Recipe]:
    """The recipes that a net is tried with."""
    by_sgd = name.startswith(BY_SGD)
    return [Recipe(by_sgd, rate, steps) for rate in (SGD_RATES if by_sgd else ADAMW_RATES)]


def mean_loss(net: SoundNet) -> tuple[Tensor, Tensor]:
    """The output, and its mean loss."""
    output = net.model(net.batch)
    if net.loss is None:
        return output, F.cross_entropy(output.flatten(0, -2), net.labels.flatten())
    return output, net.loss(output, net.labels).mean()
