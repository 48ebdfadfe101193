"""Attention, gates, norms that are written out and picked tokens, against plain torch over draws of weights."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initlab
from initlab.signal.theory.attention_weights import Tokens, draw_heads, weights_of
from initlab.signal.theory.field import Pairs
from tests.signal.theory.field_runs import UNLIKE, run


class SelfAttention(nn.Module):
    """Queries, keys and values of their own layers, and a function that makes one of them."""

    def __init__(self, features: int, heads: int, mix: Callable[..., Tensor]) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(features, features, bias=False) for _ in range(3))
        self.heads, self.mix = heads, mix

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        return self.mix(q, k, v).transpose(1, 2).flatten(2)


def written_out(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return F.softmax(scores.masked_fill(hidden, float("-inf")), dim=-1) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", q * q.shape[-1] ** -0.5, k)
    mask = torch.full(scores.shape[-2:], torch.finfo(scores.dtype).min).triu(1)
    return torch.einsum("bhqk,bhkd->bhqd", (scores + mask).softmax(-1), v)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def test_overlaps_of_equal_scores_are_counts() -> None:
    """Row t of a causal mask shares out evenly over its t keys: sum a^2 = 1/t, and two rows share 1/max(t, t')."""
    mask = torch.full((4, 4), -math.inf).triu(1)[None]
    heads = draw_heads(4, 4, 8, 0.0, q=Tokens(UNLIKE, 64), k=Tokens(UNLIKE, 64), mask=mask)
    w = weights_of(heads, masked=True)
    expected = torch.tensor([[1 / max(t, u) for u in range(1, 5)] for t in range(1, 5)])
    torch.testing.assert_close(w.overlaps[0], expected.double())
    # Softmax's Jacobian of row t: (1/t) (1 - 1/t).
    by_row = torch.tensor([(1 - 1 / t) / t for t in range(1, 5)])
    torch.testing.assert_close(w.slopes.sum(1), by_row.double())


@pytest.mark.parametrize("size", [0.25, 1.0, 2.0])
def test_weights_of_normal_scores(size: float) -> None:
    """sum a^2 is exp(s)/n over many keys, and over keys of correlation c that of the variance (1 - c) s alone."""
    c = Pairs(1.0, 0.5, 0.5, 0.0, 0.0)
    for k, variance in ((UNLIKE, size), (c, size / 2)):
        heads = draw_heads(64, 2000, 256, size, q=Tokens(UNLIKE, 256), k=Tokens(k, 256), mask=None)
        w = weights_of(heads, masked=False)
        assert float(w.squares.sum(1).mean()) == pytest.approx(math.exp(variance) / 2000, rel=0.05)


@pytest.mark.parametrize("mix", [written_out, by_einsum], ids=["masked_fill", "einsum"])
def test_attention_that_is_written_out_is_the_one_call(mix: Callable[..., Tensor]) -> None:
    x = torch.randn(4, 6, 32, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(SelfAttention(32, 4, causal), nn.Linear(32, 8))
    one = initlab.predict(net, batch=x)
    net[0].mix = mix
    other = initlab.predict(net, batch=x)
    assert set(other.basis) == {"theory"}
    for column in ("forward_var", "backward_var"):
        assert other[column].to_numpy() == pytest.approx(one[column].to_numpy(), rel=1e-6)


@pytest.mark.parametrize(("is_causal", "scale"), [(False, 1.0), (True, 1.0), (True, 2.0)])
def test_attention_forward_and_backward_over_draws(is_causal: bool, scale: float) -> None:
    """Mean squares of 40 draws of plain torch: outputs, their pairs, and gradients of queries, keys and values."""
    n, rows, features = 4, 24, 128
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(rows, rows, dtype=torch.bool).tril() if is_causal else None

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, scale=scale / math.sqrt(q.shape[-1]))

    net, outs = SelfAttention(features, 4, mix), []
    for linear in (net.query, net.key, net.value):
        linear.register_forward_hook(lambda *arguments: outs.append(arguments[-1]))
    measured = torch.zeros(5)
    for _ in range(40):
        draw(net, generator)
        outs.clear()
        x = F.normalize(torch.randn(n, rows, features, generator=generator), dim=-1) * features**0.5
        y = net(x)
        gradients = torch.autograd.grad(y, outs, torch.randn(y.shape, generator=generator))
        level = y.square().mean()
        pairs = (y.sum(1).square().mean() / rows - level) / (rows - 1) / level
        measured += torch.stack([level, pairs, *(g.square().mean() for g in gradients)]).detach() / 40
    _, trace, signals, predicted = run(net, (rows, features), examples=n)
    last = signals[trace.output]
    assert last is not None
    assert last.field.level == pytest.approx(float(measured[0]), rel=0.03)
    assert last.field.c.within == pytest.approx(float(measured[1]), abs=0.02)
    levels = {op.layer: g.level for op, g in zip(trace.operations, predicted, strict=True) if op.layer and g}
    for name, level in zip(("query", "key", "value"), measured[2:].tolist(), strict=True):
        assert levels[f"1.{name}"] == pytest.approx(level, rel=0.08)


def test_one_query_takes_the_mean_of_all_values() -> None:
    """Queries of 0 give equal weights: the mean of 16 independent values, whose gradients are a 16th each."""

    def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(0 * q[:, :, :1], k, v)

    net = SelfAttention(32, 4, mix)
    draw(net, torch.Generator().manual_seed(0))
    _, trace, signals, gradients = run(net, (16, 32))
    last = signals[trace.output]
    levels = {op.layer: g.level for op, g in zip(trace.operations, gradients, strict=True) if op.layer and g}
    assert last is not None
    assert last.field.level == pytest.approx(1 / 16)
    assert levels["1.value"] == pytest.approx(1 / 16**2)


def draw(net: nn.Module, generator: torch.Generator) -> None:
    """Normal weights whose mean square is 1 / fan_in, each draw's own too."""
    for weight in net.parameters():
        nn.init.normal_(weight, generator=generator)
        weight.data /= weight.data.square().sum(1).mean().sqrt()


def test_multihead_attention_of_torch_is_followed_inside() -> None:
    torch.manual_seed(0)
    block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
    net = nn.Sequential(block, nn.Linear(32, 5)).eval()
    theory = initlab.predict(net, batch=torch.randn(4, 8, 32))
    assert set(theory.basis) <= {"theory", "approximate"}  # the attention's own last layer among them
    # Its second dimension is the examples'.
    swapped = initlab.predict(
        nn.Sequential(nn.Linear(32, 32), First(nn.MultiheadAttention(32, 4))), batch=torch.randn(8, 4, 32)
    )
    assert swapped.basis[0] == "measured"


class First(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention, self.last = attention, nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.attention(x, x, x)[0])


def rms(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


def layer(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)


@pytest.mark.parametrize(
    ("function", "norm"),
    [
        (rms, nn.RMSNorm(64, eps=1e-6, elementwise_affine=False)),
        (layer, nn.LayerNorm(64, elementwise_affine=False)),
        (
            lambda x: (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt(),
            nn.LayerNorm(64, elementwise_affine=False),
        ),
    ],
    ids=["rms", "layer", "variance"],
)
def test_a_norm_that_is_written_out_is_the_norm(function: Callable[[Tensor], Tensor], norm: nn.Module) -> None:
    class Written(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    first, last = nn.Linear(64, 64), nn.Linear(64, 8)
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    ours, torchs = (initlab.predict(nn.Sequential(first, between, last), batch=x) for between in (Written(), norm))
    assert set(ours.basis) == {"theory"}
    for column in ("forward_var", "backward_var"):
        assert ours[column].to_numpy() == pytest.approx(torchs[column].to_numpy(), rel=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y.abs().pow(torch.full((8,), 2.0)),
        lambda y: torch.where(torch.eye(8) > 0, torch.zeros(8, 8), y @ y.mT).softmax(-1) @ y,
        lambda y: torch.where(torch.eye(8) > 0, y @ y.mT, torch.zeros(8, 8)).softmax(-1) @ y,
        lambda y: F.scaled_dot_product_attention(torch.ones(4, 8, 8), torch.ones(4, 8, 8), torch.ones(4, 8, 8)) + y,
    ],
    ids=["power", "where the other way round", "where", "of constants"],
)
def test_calls_that_only_look_like_parts_are_followed_as_before(function: Callable[[Tensor], Tensor]) -> None:
    class Between(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    net = nn.Sequential(nn.Linear(8, 8), Between(), nn.Linear(8, 3))
    theory = initlab.predict(net, batch=torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert set(theory.basis) <= {"theory", "measured"}
    assert theory.forward_var.gt(0).all()


def test_a_gate_multiplies_second_moments() -> None:
    """silu(a) b of independent unit normals: E[silu^2] = 0.355770 by quadrature; the gradient of b is that of it."""

    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.up = nn.Linear(64, 4096, bias=False), nn.Linear(64, 4096, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return F.silu(self.gate(x)) * self.up(x)

    net = Gate()
    for weight in net.parameters():
        nn.init.normal_(weight, std=1 / 8)
    _, trace, signals, gradients = run(net, (64,), c=UNLIKE)
    z = torch.randn(4_000_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    second, slope = F.silu(z).square().mean(), torch.func.vmap(torch.func.grad(F.silu))(z).square().mean()
    last = signals[trace.output]
    assert last is not None
    assert last.field.level == pytest.approx(float(second), rel=0.05)
    levels = {op.layer: gradients[place].level for place, op in enumerate(trace.operations) if op.layer}  # type: ignore[union-attr]
    assert levels["1.up"] == pytest.approx(float(second), rel=0.05)
    assert levels["1.gate"] == pytest.approx(float(slope), rel=0.05)


@pytest.mark.parametrize(("index", "place"), [(0, 0), (-1, 5), (slice(2, 3), 2)])
def test_a_token_that_is_picked_gets_the_whole_gradient(index: int | slice, place: int) -> None:
    class Pick(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, index]

    gradient = run(nn.Sequential(nn.Linear(8, 8), Pick()), (6, 8))[3][0]
    assert gradient is not None
    assert gradient.q.count_nonzero() == 1
    assert float(gradient.q[place]) > 0
    assert gradient.spread.itself == pytest.approx(5)  # one of six: (6^2 / 6) - 1


def test_a_class_token_net_over_draws() -> None:
    """A net that reads one of 12 tokens: the gradient of the others is 0 behind the last attention."""
    torch.manual_seed(0)

    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.norm, self.head = (
                nn.ModuleList(PreNorm() for _ in range(3)),
                nn.LayerNorm(64),
                nn.Linear(64, 10),
            )

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x)[:, 0])

    net = Read().eval()
    x, labels = torch.randn(16, 12, 64), torch.randint(0, 10, (16,))
    theory = initlab.predict(net, batch=x, labels=labels).set_index("name")
    redrawn = initlab.predict(net, batch=x, labels=labels, draws=24).set_index("name")
    ratio = (redrawn.backward_median / theory.backward_median).dropna()
    assert ratio.between(1 / 1.4, 1.4).all()
    ratio = (redrawn.forward_median / theory.forward_median).dropna()
    assert ratio.between(1 / 1.2, 1.2).all()


class PreNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attention, self.out = (
            nn.LayerNorm(64),
            SelfAttention(64, 4, F.scaled_dot_product_attention),
            nn.Linear(64, 64),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(self.attention(self.norm(x)))
