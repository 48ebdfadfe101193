"""Sound nets whose forward is their own: UNet, generator, fields, detector, agent, experts, state space, diffusion."""

import math
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.bench.sound_blocks import CLASSES, WIDTH, Apply, basic_block, classifier, convolution, mlp, zero
from initlab.init.apply import init_


def unet() -> Apply:
    """Two levels down and up with concatenated skips, plain He convolutions."""

    def forward(m: Any, x: Tensor) -> Any:
        high = m.down1(x)
        low = m.down2(F.max_pool2d(high, 2))
        deep = F.interpolate(m.middle(F.max_pool2d(low, 2)), scale_factor=2)
        up = F.interpolate(m.up2(torch.cat([low, deep], 1)), scale_factor=2)
        return m.out(m.up1(torch.cat([high, up], 1)))

    def double(c_in: int, c_out: int) -> nn.Sequential:
        first, second = convolution(c_in, c_out, norm=False), convolution(c_out, c_out, norm=False)
        return nn.Sequential(*first, nn.ReLU(), *second, nn.ReLU())

    levels = {"down1": (3, 16), "down2": (16, 32), "middle": (32, 32), "up2": (64, 16), "up1": (32, 16)}
    return Apply(forward, **{name: double(*sizes) for name, sizes in levels.items()}, out=nn.Conv2d(16, 3, 1))


def dcgan() -> nn.Sequential:
    """DCGAN's generator: weights from N(0, 0.02^2), gammas from N(1, 0.02^2)."""
    net = nn.Sequential(
        *(nn.Unflatten(1, (WIDTH, 1, 1)), nn.ConvTranspose2d(WIDTH, 64, 4, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False), nn.Tanh()),
    )
    for parameter in net.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.02)
    for norm in (net[2], net[5]):
        zero_bias(norm)
    return net


def zero_bias(module: nn.Module) -> None:
    """The module's bias at 0."""
    nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def siren() -> nn.Sequential:
    """Sines of frequency 30 (Sitzmann et al. 2020): U(-1/n, 1/n) in the first layer, then U(-sqrt(6/n)/30, …)."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((2, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, 3)):
        layer = nn.Linear(fan_in, fan_out)
        bound = 1 / fan_in if fan_in == 2 else math.sqrt(6 / fan_in) / 30
        nn.init.uniform_(layer.weight, -bound, bound)
        layers += [layer, Apply(lambda m, x: torch.sin(30 * x))]
    return nn.Sequential(*layers[:-1])


def nerf() -> Apply:
    """Eight layers of torch's default on a Fourier encoding of the place, which comes in again at the middle."""
    layers = [nn.Linear(36 if i == 0 else WIDTH + 36 * (i == 4), WIDTH) for i in range(8)]

    def forward(m: Any, x: Tensor) -> Any:
        angles = (x[..., None] * 2.0 ** torch.arange(6)).flatten(-2)
        places = h = torch.cat([angles.sin(), angles.cos()], -1)
        for i, layer in enumerate(m.layers):
            h = F.relu(layer(torch.cat([h, places], -1) if i == 4 else h))
        return m.colour(h)

    return Apply(forward, layers=nn.ModuleList(layers), colour=nn.Linear(WIDTH, 4))


def detector() -> Apply:
    """RetinaNet's heads: std 0.01 at 256 channels, so 0.028 at 32; the classes' bias at -ln 99; one map for both."""

    def head(outputs: int, bias: float) -> nn.Sequential:
        layers = [nn.Conv2d(32, outputs if last else 32, 3, padding=1) for last in (False,) * 4 + (True,)]
        for layer, start in zip(layers, (0.0,) * 4 + (bias,), strict=True):
            nn.init.normal_(layer.weight, 0, 0.028)
            nn.init.constant_(layer.bias, start)  # type: ignore[arg-type]
        return nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))[:-1]

    body = classifier(basic_block(), basic_block())[:-3]
    return Apply(
        lambda m, x: torch.cat([m.classes(m.body(x)), m.boxes(m.body(x))], 1),
        body=body,
        classes=head(CLASSES, -math.log(99)),
        boxes=head(4, 0.0),
    )


def detection_loss(output: Tensor, labels: Tensor) -> Tensor:
    """Focal loss at every place, whose class is the label at every other place, and an L1 loss of boxes there."""
    positive = torch.arange(output[0, 0].numel()).view(output.shape[2:]) % 2 == 0
    target = F.one_hot(labels, CLASSES)[:, :, None, None] * positive
    entropy = F.binary_cross_entropy_with_logits(output[:, :CLASSES], target.float(), reduction="none")
    focal = (target - output[:, :CLASSES].sigmoid()).abs() ** 2 * entropy
    boxes = (output[:, CLASSES:] - 0.1).abs() * positive
    return (focal.flatten(1).sum(1) + boxes.flatten(1).sum(1)) / positive.sum()


def actor_critic() -> Apply:
    """PPO's two nets: orthogonal sqrt(2), the policy's last layer 0.01, the critic's 1; logits and value joined."""

    def tower(outputs: int, gain: float) -> nn.Sequential:
        sizes, gains = [16, WIDTH, WIDTH, outputs], [math.sqrt(2), math.sqrt(2), gain]
        layers = [nn.Linear(*pair) for pair in pairwise(sizes)]
        for layer, factor in zip(layers, gains, strict=True):
            nn.init.orthogonal_(layer.weight, factor)
            zero_bias(layer)
        return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])

    return Apply(lambda m, x: torch.cat([m.policy(x), m.value(x)], 1), policy=tower(4, 0.01), value=tower(1, 1.0))


def actor_critic_loss(output: Tensor, labels: Tensor) -> Tensor:
    """The policy on given actions, and half the square of the value's error."""
    return F.cross_entropy(output[:, :4], labels % 4, reduction="none") + (output[:, 4] - labels).square() / 2


def mixture() -> Apply:
    """Four experts behind a softmax gate, each token sent to the two best."""

    def forward(m: Any, x: Tensor) -> Any:
        h = F.gelu(m.stem(x))
        weights, chosen = m.gate(h).softmax(-1).topk(2)
        share = torch.zeros(len(x), 4).scatter(1, chosen, weights)
        return m.head(h + sum(share[:, i : i + 1] * expert(h) for i, expert in enumerate(m.experts)))

    experts = nn.ModuleList([nn.Sequential(*mlp()) for _ in range(4)])
    return Apply(
        forward, stem=nn.Linear(WIDTH, WIDTH), gate=nn.Linear(WIDTH, 4), experts=experts, head=nn.Linear(WIDTH, CLASSES)
    )


def state_space() -> Apply:
    """Mamba's block without its scan: a gated short convolution and a decay per channel, steps from softplus."""

    def forward(m: Any, x: Tensor) -> Any:
        h, gate = m.inner(x).chunk(2, -1)
        h = F.silu(m.conv(h.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        decay, state, states = torch.exp(-F.softplus(m.step(h))), torch.zeros_like(h[:, 0]), []
        for t in range(x.shape[1]):
            state = decay[:, t] * state + (1 - decay[:, t]) * h[:, t]
            states.append(state)
        return m.proj(torch.stack(states, 1) * F.silu(gate))

    conv = nn.Conv1d(WIDTH, WIDTH, 4, padding=3, groups=WIDTH)
    return Apply(
        forward,
        inner=nn.Linear(WIDTH, 2 * WIDTH),
        conv=conv,
        step=nn.Linear(WIDTH, WIDTH),
        proj=nn.Linear(WIDTH, WIDTH),
    )


def diffusion() -> Apply:
    """DiT's blocks on vectors: modulations and the last layer start at 0."""

    def forward(m: Any, x: Tensor) -> Any:
        time, h = F.silu(m.time(x[:, -8:])), m.enter(x)
        for modulation, branch in zip(m.modulations, m.branches, strict=True):
            shift, scale, gate = modulation(time).chunk(3, 1)
            h = h + gate * branch(F.layer_norm(h, (WIDTH,)) * (1 + scale) + shift)
        return m.out(h)

    modulations, out = [nn.Linear(WIDTH, 3 * WIDTH) for _ in range(6)], nn.Linear(WIDTH, WIDTH)
    zero(out, *modulations)
    return Apply(
        forward,
        time=nn.Linear(8, WIDTH),
        enter=nn.Linear(WIDTH, WIDTH),
        out=out,
        modulations=nn.ModuleList(modulations),
        branches=nn.ModuleList([nn.Sequential(*mlp()) for _ in range(6)]),
    )


def adapted() -> nn.Sequential:
    """LoRA beside frozen He layers: B starts at 0."""
    layers = [m for _ in range(4) for m in (init_(nn.Linear(WIDTH, WIDTH), "he"), nn.ReLU())]
    for i, layer in enumerate(layers[::2]):
        a, b = nn.Linear(WIDTH, 8, bias=False), nn.Linear(8, WIDTH, bias=False)
        zero(b)
        layers[2 * i] = Apply(lambda m, x: m.base(x) + m.b(m.a(x)), base=layer, a=a, b=b)
    return nn.Sequential(*layers, nn.Linear(WIDTH, CLASSES))


def recurrent(kind: type[nn.LSTM] | type[nn.GRU]) -> Apply:
    """One recurrent layer over short sequences and a layer on its last state, torch's default."""
    return Apply(
        lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=kind(16, WIDTH, batch_first=True), head=nn.Linear(WIDTH, CLASSES)
    )
