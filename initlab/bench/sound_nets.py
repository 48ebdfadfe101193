"""Nets that are sound: small ones of every family at the initialisation that their authors use, with a batch and loss.

Each halves its loss within 30 steps of AdamW at one of the rates 1e-2, 3e-3 and 1e-3 (`tests/bench/test_sound_nets.py`
trains them with plain torch), so an alarm on one of them is false.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from initlab.bench import sound_blocks as blocks, sound_families as families
from initlab.bench.sound_blocks import CLASSES, TOKENS, WIDTH, WORDS, Apply, Residual, classifier, mlp
from initlab.init.apply import init_
from initlab.nets.build import build_net
from initlab.signal.probe import Loss


@dataclass(frozen=True)
class SoundNet:
    """A model, a batch that it takes, its labels, and the loss; None is cross-entropy."""

    model: nn.Module
    batch: Tensor
    labels: Tensor
    loss: Loss | None = None


def plain(depth: int, activation: Callable[[], nn.Module], scheme: str, **norms: Any) -> nn.Module:
    """Layers in a row under one of our schemes, a norm behind each where there is one."""
    norm = [norms["norm"](WIDTH)] if norms else []
    layers = [m for _ in range(depth) for m in (nn.Linear(WIDTH, WIDTH), *norm, activation())]
    return init_(nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES)), scheme)


def squared(output: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error of each example."""
    return (output - labels).square().flatten(1).mean(1)


def vectors(net: nn.Module, width: int = WIDTH, loss: Loss | None = None) -> SoundNet:
    """Normal vectors with a class each."""
    return SoundNet(net, torch.randn(32, width), torch.arange(32) % CLASSES, loss)


def pictures(net: nn.Module, loss: Loss | None = None) -> SoundNet:
    """Normal pictures of 16x16 with a class each."""
    return SoundNet(net, torch.randn(16, 3, 16, 16), torch.arange(16) % CLASSES, loss)


def sentences(net: nn.Module) -> SoundNet:
    """Random tokens, of which each is to be named again."""
    tokens = torch.randint(WORDS, (8, TOKENS))
    return SoundNet(net, tokens, tokens)


def regression(net: nn.Module, batch: Tensor, labels: Tensor) -> SoundNet:
    """A batch with the numbers to be given, under the squared error."""
    return SoundNet(net, batch, labels, squared)


def places(width: int, outputs: int) -> tuple[Tensor, Tensor]:
    """Points of the unit cube, and waves there."""
    x = torch.rand(128, width) * 2 - 1
    return x, torch.sin(3 * x.sum(1, keepdim=True) + torch.arange(outputs))


def times(number: int, block: Callable[[], nn.Module]) -> list[nn.Module]:
    """So many blocks of a kind."""
    return [block() for _ in range(number)]


def residual(number: int, **options: Any) -> SoundNet:
    """A net of so many basic blocks of a ResNet."""
    return pictures(classifier(*times(number, partial(blocks.basic_block, **options))))


def transformer(block: Callable[[], nn.Module], std: float, ends: float = 1.0, **options: Any) -> SoundNet:
    """A language model of eight blocks, from N(0, std^2) with the ends of branches `ends` times smaller."""
    return sentences(blocks.normal(blocks.language(times(8, block), **options), std, ends))


def skipinit() -> SoundNet:
    """A ResNet whose branches are multiplied by numbers that start at 0 (De and Smith 2020)."""
    return pictures(classifier(*times(8, lambda: blocks.basic_block(gain=nn.Parameter(torch.zeros(()))))))


def mixer() -> nn.Module:
    """MLP-Mixer: the tokens are mixed by two layers too."""

    def block() -> nn.Module:
        tokens = Apply(lambda m, x: m.mix(x.transpose(1, 2)).transpose(1, 2), mix=nn.Sequential(*mlp(16)))
        return nn.Sequential(Residual(nn.LayerNorm(WIDTH), tokens), Residual(nn.LayerNorm(WIDTH), *mlp()))

    return blocks.patches(times(6, block))


def state_spaces() -> SoundNet:
    """A language model of Mamba-like blocks."""
    return sentences(blocks.language(times(4, lambda: Residual(nn.LayerNorm(WIDTH), families.state_space()))))


def torch_encoder() -> SoundNet:
    """torch's own encoder, post-norm with packed attention weights."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True)
    return sentences(blocks.language([nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)]))


def weight_normed() -> nn.Module:
    """Layers under weight norm, whose lengths follow He."""
    layers = times(6, lambda: parametrizations.weight_norm(init_(nn.Linear(WIDTH, WIDTH), "he")))
    return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())), nn.Linear(WIDTH, CLASSES))


def vgg() -> nn.Module:
    """The plain net of 10 layers under He's weights."""
    net = build_net("plain", depth=10, width=32, num_classes=CLASSES, input_shape=(3, 16, 16))
    return init_(net, "he")


def generated() -> SoundNet:
    """A generator whose pictures are given."""
    x = torch.randn(16, WIDTH)
    return regression(families.dcgan(), x, x[:, :48].view(16, 3, 4, 4).repeat(1, 1, 4, 4).tanh())


def itself(net: nn.Module, *shape: int) -> SoundNet:
    """Normal numbers of this shape, to be given as they are."""
    x = torch.randn(*shape)
    return regression(net, x, x)


def sequences(net: nn.Module) -> SoundNet:
    """Short sequences of vectors with a class each."""
    return SoundNet(net, torch.randn(32, 8, 16), torch.arange(32) % CLASSES)


def autoencoder() -> nn.Module:
    """Four layers of torch's default, narrow in the middle."""
    return nn.Sequential(
        nn.Linear(WIDTH, 128),
        nn.ReLU(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Linear(32, 128),
        nn.ReLU(),
        nn.Linear(128, WIDTH),
    )


# The end of a branch in GPT-2, 1 over the root of how many branches eight blocks have.
STEADY = 1 / math.sqrt(2 * 8)
attention, pre_norm = blocks.Attention, partial(blocks.pre_norm, blocks.Attention)
_BUILDERS: dict[str, Callable[[], SoundNet]] = {
    "plain-he": lambda: vectors(plain(20, nn.ReLU, "he")),
    "plain-batch-norm": lambda: vectors(plain(6, nn.ReLU, "he", norm=nn.BatchNorm1d)),
    "plain-selu": lambda: vectors(plain(16, nn.SELU, "lecun")),
    "plain-tanh": lambda: vectors(plain(12, nn.Tanh, "xavier")),
    "vgg": lambda: pictures(vgg()),
    "resnet": lambda: residual(8),
    "resnet-zero-gamma": lambda: residual(8, zero_gamma=True),
    "resnet-fixup": lambda: residual(4, norm=False),
    "resnet-skipinit": skipinit,
    "mobilenet": lambda: pictures(classifier(*times(5, blocks.squeezed_block))),
    "gpt": lambda: transformer(partial(blocks.pre_norm, partial(attention, causal=True)), 0.02, STEADY),
    "gpt-unscaled": lambda: transformer(pre_norm, 0.02),
    "gpt-tied": lambda: transformer(pre_norm, 0.02, STEADY, tied=True),
    "bert": lambda: transformer(blocks.post_norm, 0.02, first=nn.LayerNorm(WIDTH)),
    "t5": lambda: transformer(partial(blocks.pre_norm, partial(attention, bias=False, scale=1.0)), 0.05),
    "torch-encoder": torch_encoder,
    "vit": lambda: pictures(blocks.normal(blocks.patches(times(8, pre_norm)))),
    "cait": lambda: pictures(blocks.normal(blocks.patches(times(12, partial(pre_norm, 1e-5))))),
    "mixer": lambda: pictures(mixer()),
    "lstm": lambda: sequences(families.recurrent(nn.LSTM)),
    "gru": lambda: sequences(families.recurrent(nn.GRU)),
    "state-space": lambda: sentences(
        blocks.language(times(4, lambda: Residual(nn.LayerNorm(WIDTH), families.state_space())))
    ),
    "mixture": lambda: vectors(families.mixture()),
    "lora": lambda: vectors(families.adapted()),
    "diffusion": lambda: itself(families.diffusion(), 32, WIDTH),
    "unet": lambda: itself(families.unet(), 4, 3, 16, 16),
    "dcgan": generated,
    "autoencoder": lambda: itself(autoencoder(), 32, WIDTH),
    "siren": lambda: regression(families.siren(), *places(2, 3)),
    "nerf": lambda: regression(families.nerf(), *places(3, 4)),
    "detector": lambda: pictures(families.detector(), families.detection_loss),
    "actor-critic": lambda: vectors(families.actor_critic(), 16, families.actor_critic_loss),
    "weight-norm": lambda: vectors(weight_normed()),
}


def build(name: str, seed: int = 0) -> SoundNet:
    """One of `SOUND_NETS`, drawn under this seed; torch's own random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _BUILDERS[name]()


SOUND_NETS: dict[str, Callable[[int], SoundNet]] = {name: partial(build, name) for name in _BUILDERS}
