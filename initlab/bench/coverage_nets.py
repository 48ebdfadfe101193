"""The nets on which bands are judged: the sound ones, and kinds that theory is asked about one property at a time."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.bench import sound_blocks as blocks
from initlab.bench.sound_blocks import CLASSES, WIDTH, Apply, Attention, Residual, mlp
from initlab.bench.sound_nets import SOUND_NETS, SoundNet, pictures, sentences, times, vectors
from initlab.init.apply import init_
from initlab.nets.build import build_net

# What the plain nets are drawn by: the gain of He et al. (2015) of each activation, or Xavier's for tanh.
ACTIVATIONS: dict[str, tuple[type[nn.Module], str]] = {
    "relu": (nn.ReLU, "he"),
    "leaky": (nn.LeakyReLU, "he"),
    "tanh": (nn.Tanh, "xavier"),
    "gelu": (nn.GELU, "he"),
    "silu": (nn.SiLU, "he"),
}


class Standardised(nn.Conv2d):
    """A convolution whose filters each have mean 0 and variance 1 over fan_in (Qiao et al. 2019)."""

    def forward(self, input: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.square().sum((1, 2, 3), keepdim=True) + 1e-10).sqrt()
        return F.conv2d(input, w * math.sqrt(2), self.bias, self.stride, self.padding)


def layers(
    depth: int, width: int, activation: type[nn.Module], norm: Callable[[int], nn.Module] | None = None
) -> list[nn.Module]:
    """Linear layers in a row, a norm behind each where there is one."""
    return [
        module
        for _ in range(depth)
        for module in (nn.Linear(width, width), *([norm(width)] if norm else []), activation())
    ]


def perceptron(depth: int, width: int, kind: str, norm: Any = None) -> nn.Module:
    """Linear layers in a row and a head, under the scheme of the activation."""
    activation, scheme = ACTIVATIONS[kind]
    return init_(nn.Sequential(*layers(depth, width, activation, norm), nn.Linear(width, CLASSES)), scheme)


def convolutions(
    depth: int, kind: str, *, width: int = 32, norm: Any = None, conv: Any = nn.Conv2d, **options: Any
) -> nn.Module:
    """3x3 convolutions that keep the map, a global average and a head, under the scheme of the activation."""
    activation, scheme = ACTIVATIONS[kind]
    modules: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1), activation()]
    for _ in range(depth):
        modules += [conv(width, width, 3, padding=1, **options), *([norm(width)] if norm else []), activation()]
    return init_(nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)), scheme)


def photographs(net: nn.Module) -> SoundNet:
    """Smooth pictures of 16x16 that are brighter than 0, with a class each."""
    coarse = torch.randn(16, 3, 4, 4)
    return SoundNet(net, 0.5 + F.interpolate(coarse, 16, mode="bicubic"), torch.arange(16) % CLASSES)


def loud_head() -> nn.Module:
    """A perceptron whose logits have a variance of about 4."""
    net = perceptron(6, 128, "relu")
    with torch.no_grad():
        net[-1].weight *= math.sqrt(2)  # type: ignore[index]
    return net


def depthwise() -> nn.Module:
    """A MobileNet of the first kind without norms."""
    body = [m for _ in range(5) for m in (nn.Conv2d(32, 32, 3, padding=1, groups=32), nn.Conv2d(32, 32, 1), nn.ReLU())]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)]
    return init_(nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *body, *head), "he")


def transposed() -> nn.Module:
    """Vectors to pictures of 16x16 and from these a class, through transposed convolutions of stride 2."""
    sizes = (WIDTH, 64, 48, 32)
    ups = [m for pair in pairwise(sizes) for m in (nn.ConvTranspose2d(*pair, 4, 2, 1), nn.ReLU())]
    start, head = nn.Unflatten(1, (WIDTH, 1, 1)), nn.Linear(32 * 8 * 8, CLASSES)
    return init_(nn.Sequential(start, *ups, nn.Flatten(), head), "he")


def open_residual(norm: Any = None, number: int = 6) -> nn.Module:
    """A residual perceptron under He's weights, a norm at the start of each branch where there is one."""
    branches = [Residual(*([norm(WIDTH)] if norm else []), *mlp(activation=nn.ReLU)) for _ in range(number)]
    end = [norm(WIDTH)] if norm else []
    return init_(nn.Sequential(nn.Linear(WIDTH, WIDTH), *branches, *end, nn.Linear(WIDTH, CLASSES)), "he")


def residual_convolutions() -> nn.Module:
    """A ResNet without norms, its branches open."""
    body = times(5, lambda: Residual(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1)))
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES)]
    return init_(nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), *body, *head), "he")


def gated() -> Apply:
    """The two matrices and the gate of a SwiGLU."""
    return Apply(
        lambda m, x: m.down(F.silu(m.gate(x)) * m.up(x)),
        **{name: nn.Linear(WIDTH, 2 * WIDTH, bias=False) for name in ("gate", "up")},
        down=nn.Linear(2 * WIDTH, WIDTH, bias=False),
    )


def llama() -> nn.Module:
    """A decoder of four blocks with RMSNorm and SwiGLU."""
    attention = partial(Attention, causal=True, bias=False)
    pairs = [(Residual(nn.RMSNorm(WIDTH), attention()), Residual(nn.RMSNorm(WIDTH), gated())) for _ in range(4)]
    return blocks.normal(blocks.language([nn.Sequential(*pair) for pair in pairs]), 0.06)


def class_token() -> Apply:
    """A ViT of four blocks that reads its class off a token of its own."""

    def forward(m: Any, x: Tensor) -> Any:
        tokens = m.embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([m.token.expand(len(x), -1, -1), tokens], 1) + m.places
        return m.head(m.norm(m.blocks(tokens))[:, 0])

    net = Apply(
        forward,
        embed=nn.Conv2d(3, WIDTH, 4, 4),
        head=nn.Linear(WIDTH, CLASSES),
        norm=nn.LayerNorm(WIDTH),
        token=nn.Parameter(0.02 * torch.randn(1, 1, WIDTH)),
        places=nn.Parameter(0.02 * torch.randn(17, WIDTH)),
        blocks=nn.Sequential(*times(4, lambda: blocks.pre_norm(Attention))),
    )
    return blocks.normal(net, 0.06)  # type: ignore[return-value]


def reused(number: int = 6) -> SoundNet:
    """A language model that goes through one block several times, as ALBERT."""
    block = blocks.pre_norm(Attention)
    return sentences(blocks.normal(blocks.language([block] * number), 0.06))


def torch_pre_norm() -> SoundNet:
    """torch's own encoder with its norms first, and its packed attention weights."""
    layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
    return sentences(blocks.language([nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)]))


def of_catalog(name: str, scheme: str | None, **options: Any) -> SoundNet:
    """A language model of the catalog on random tokens, each of which is to be named again."""
    net = build_net(name, width=WIDTH, num_classes=blocks.WORDS, input_shape=(blocks.TOKENS,), **options)
    return sentences(init_(net, scheme) if scheme else net)


def recurrent(kind: Any, **options: Any) -> SoundNet:
    """Two recurrent layers and a layer on the last state, on longer sequences."""
    rnn = kind(16, WIDTH, num_layers=2, batch_first=True, **options)
    net = Apply(lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=rnn, head=nn.Linear(WIDTH, CLASSES))
    return SoundNet(net, torch.randn(32, 20, 16), torch.arange(32) % CLASSES)


_BUILDERS: dict[str, Callable[[], SoundNet]] = {
    **{f"mlp-{kind}": partial(lambda kind: vectors(perceptron(10, WIDTH, kind)), kind) for kind in ACTIVATIONS},
    "mlp-wide": lambda: vectors(perceptron(10, 256, "relu"), 256),
    "mlp-narrow": lambda: vectors(perceptron(20, 32, "relu"), 32),
    "mlp-deep-gelu": lambda: vectors(perceptron(20, WIDTH, "gelu")),
    "mlp-loud-head": lambda: vectors(loud_head(), 128),
    "mlp-batch-norm": lambda: vectors(perceptron(6, WIDTH, "relu", nn.BatchNorm1d)),
    "mlp-layer-norm": lambda: vectors(perceptron(8, WIDTH, "relu", nn.LayerNorm)),
    "mlp-rms-norm": lambda: vectors(perceptron(8, WIDTH, "gelu", nn.RMSNorm)),
    **{f"conv-{kind}": partial(lambda kind: pictures(convolutions(6, kind)), kind) for kind in ACTIVATIONS},
    "conv-30": lambda: pictures(convolutions(29, "relu")),
    "conv-photographs": lambda: photographs(convolutions(6, "relu")),
    "conv-batch-norm": lambda: pictures(convolutions(6, "relu", norm=nn.BatchNorm2d)),
    "conv-batch-norm-photographs": lambda: photographs(convolutions(6, "relu", norm=nn.BatchNorm2d)),
    "conv-group-norm": lambda: pictures(convolutions(6, "relu", norm=partial(nn.GroupNorm, 4))),
    "conv-standardised": lambda: pictures(convolutions(6, "relu", conv=Standardised)),
    "conv-grouped": lambda: pictures(convolutions(6, "relu", groups=4)),
    "conv-depthwise": lambda: pictures(depthwise()),
    "conv-transposed": lambda: vectors(transposed()),
    "residual-open": lambda: vectors(open_residual()),
    "residual-layer-norm": lambda: vectors(open_residual(nn.LayerNorm)),
    "residual-conv": lambda: pictures(residual_convolutions()),
    "decoder-pre": lambda: of_catalog("transformer", "xavier", depth=4, norm="pre"),
    "decoder-post": lambda: of_catalog("transformer", "xavier", depth=4, norm="post"),
    "llama": lambda: sentences(llama()),
    "torch-pre-norm": torch_pre_norm,
    "vit-class-token": lambda: pictures(class_token()),
    "reused": reused,
    "rnn-2": lambda: recurrent(nn.RNN),
    "lstm-2": lambda: recurrent(nn.LSTM),
    "gru-2": lambda: recurrent(nn.GRU),
    "lstm-language": lambda: of_catalog("lstm", None, depth=2),
}


def build(name: str, seed: int = 0) -> SoundNet:
    """One of `COVERAGE_NETS` that is not among the sound ones; torch's own random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _BUILDERS[name]()


COVERAGE_NETS: dict[str, Callable[[int], SoundNet]] = {
    **{name: partial(build, name) for name in _BUILDERS},
    **SOUND_NETS,
}
