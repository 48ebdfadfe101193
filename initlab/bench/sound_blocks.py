"""Parts that the sound nets are built of: residual branches, attention, blocks of transformers and of ResNets."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, WORDS, TOKENS, CLASSES = 64, 100, 12, 10


class Apply(nn.Module):
    """Modules by name, and a function of them and the input as the forward."""

    def __init__(self, function: Callable[[Any, Tensor], Any], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Residual(nn.Sequential):
    """x + gain * f(x), behind a function where there is one: a norm of the sum, or its rectifier."""

    def __init__(self, *modules: nn.Module, gain: nn.Parameter | float = 1.0, after: nn.Module | None = None) -> None:
        super().__init__(*modules)
        self.gain = gain
        self.after = after or nn.Identity()

    def forward(self, input: Tensor) -> Any:
        x: Any = input
        for name, module in self.named_children():
            x = module(x) if name != "after" else x
        return self.after(input + self.gain * x)


class Attention(nn.Module):
    """Softmax attention of four heads with separate projections; `scale` is that of its logits."""

    def __init__(
        self, width: int = WIDTH, *, causal: bool = False, bias: bool = True, scale: float | None = None
    ) -> None:
        super().__init__()
        self.q, self.k, self.v, self.proj = (nn.Linear(width, width, bias=bias) for _ in range(4))
        self.causal, self.scale = causal, scale

    def forward(self, x: Tensor) -> Any:
        q, k, v = (layer(x).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).flatten(2))


def mlp(width: int = WIDTH, factor: int = 4, activation: type[nn.Module] = nn.GELU) -> list[nn.Module]:
    """The two layers of a transformer's block."""
    return [nn.Linear(width, factor * width), activation(), nn.Linear(factor * width, width)]


def normal(model: nn.Module, std: float = 0.02, ends: float = 1.0, end: str = "proj") -> nn.Module:
    """Weights of linear layers and embeddings from N(0, std^2), biases 0; `ends` scales the ends of branches."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            branch_end = name.endswith((end, ".1.3"))
            nn.init.normal_(module.weight, 0, std * (ends if branch_end else 1.0))
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


def zero(*modules: nn.Module) -> None:
    """Weights and biases 0, as of branches that start closed."""
    for module in modules:
        for parameter in module.parameters(recurse=False):
            nn.init.zeros_(parameter)


def pre_norm(mixer: Callable[[], nn.Module], gain: float | None = None) -> nn.Sequential:
    """A block of two branches, each behind its LayerNorm; `gain` starts a LayerScale."""
    gains = [1.0 if gain is None else nn.Parameter(torch.full((WIDTH,), gain)) for _ in range(2)]
    return nn.Sequential(
        Residual(nn.LayerNorm(WIDTH), mixer(), gain=gains[0]), Residual(nn.LayerNorm(WIDTH), *mlp(), gain=gains[1])
    )


def post_norm() -> nn.Sequential:
    """A block of two branches, each with a LayerNorm behind its sum, as in BERT."""
    return nn.Sequential(Residual(Attention(), after=nn.LayerNorm(WIDTH)), Residual(*mlp(), after=nn.LayerNorm(WIDTH)))


def language(blocks: list[nn.Module], *, tied: bool = False, first: nn.Module | None = None) -> Apply:
    """Tokens, blocks, norm, head: (N, T) to (N, T, words)."""
    embed, head = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WORDS, bias=False)
    if tied:
        head.weight = embed.weight
    return Apply(
        lambda m, ids: m.head(m.norm(m.blocks(m.first(m.embed(ids) + m.places[: ids.shape[1]])))),
        embed=embed,
        head=head,
        places=nn.Parameter(0.02 * torch.randn(TOKENS, WIDTH)),
        first=first or nn.Identity(),
        blocks=nn.Sequential(*blocks),
        norm=nn.LayerNorm(WIDTH),
    )


def patches(blocks: list[nn.Module]) -> Apply:
    """Patches of an image, blocks, norm, mean, head."""
    return Apply(
        lambda m, x: m.head(m.norm(m.blocks(m.embed(x).flatten(2).transpose(1, 2))).mean(1)),
        embed=nn.Conv2d(3, WIDTH, 4, 4),
        blocks=nn.Sequential(*blocks),
        norm=nn.LayerNorm(WIDTH),
        head=nn.Linear(WIDTH, CLASSES),
    )


def convolution(c_in: int, c_out: int, size: int = 3, *, norm: bool = True, **options: Any) -> list[nn.Module]:
    """A convolution that keeps the map, drawn as He, with BatchNorm or without."""
    conv = nn.Conv2d(c_in, c_out, size, padding=size // 2, bias=not norm, **options)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return [conv, nn.BatchNorm2d(c_out)] if norm else [conv]


def classifier(*modules: nn.Module, channels: int = 32) -> nn.Sequential:
    """A stem, modules, a global average and a linear layer."""
    stem, head = convolution(3, channels), [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)]
    return nn.Sequential(*stem, nn.ReLU(), *modules, *head)


def basic_block(*, zero_gamma: bool = False, norm: bool = True, gain: Any = 1.0) -> Residual:
    """Two 3x3 convolutions of a ResNet around which the signal skips; without norms the second starts at 0 (Fixup)."""
    first, second = convolution(32, 32, norm=norm), convolution(32, 32, norm=norm)
    if zero_gamma or not norm:
        nn.init.zeros_(second[-1].weight)  # type: ignore[arg-type]
    return Residual(*first, nn.ReLU(), *second, gain=gain, after=nn.ReLU())


def squeezed_block() -> Residual:
    """An inverted bottleneck of MobileNetV3: expand, depthwise, squeeze and excite, project."""
    squeeze = Apply(
        lambda m, x: x * m.up(F.relu(m.down(x.mean((2, 3), keepdim=True)))).sigmoid(),
        **{"down": nn.Conv2d(96, 24, 1), "up": nn.Conv2d(24, 96, 1)},
    )
    expand, depthwise = convolution(32, 96, 1), convolution(96, 96, groups=96)
    return Residual(*expand, nn.SiLU(), *depthwise, nn.SiLU(), squeeze, *convolution(96, 32, 1))
