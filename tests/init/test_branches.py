"""Residual branches are found in a run, and scaled as the papers say: against lists and numbers made by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from initlab import init_

TOKENS = torch.randint(50, (4, 7), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.c_proj = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, -1)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(d), Attention(d), nn.LayerNorm(d)
        self.c_fc, self.c_out = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.c_out(nn.functional.gelu(self.c_fc(self.ln_2(x))))


class Gpt(nn.Module):
    def __init__(self, d: int = 32, blocks: int = 3) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(50, d), nn.Parameter(torch.zeros(7, d))
        self.blocks, self.ln = nn.Sequential(*(Block(d) for _ in range(blocks))), nn.LayerNorm(d)
        self.head = nn.Linear(d, 50, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.ln(self.blocks(self.wte(ids) + self.wpe)))


class Convs(nn.Module):
    """Residual blocks without norms, the second with a projection, a gate on the third's branch, relu in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a1, self.a2 = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.b1, self.b2 = nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, padding=1)
        self.skip = nn.Conv2d(8, 16, 1, 2)
        self.c1, self.squeeze, self.excite = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4), nn.Linear(4, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu_(x + self.a2(torch.relu(self.a1(x))))
        x = torch.relu_(self.skip(x) + self.b2(torch.relu(self.b1(x))))
        y = self.c1(x)
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(y.mean((2, 3))))))
        x = x + y * gate[:, :, None, None]
        return self.head(x.mean((2, 3)))


class Parallel(nn.Module):
    """Attention and MLP side by side, as in GPT-J; the skip is the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.fc, self.out = Attention(16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x) + self.out(torch.relu(self.fc(x)))


ENDS = {
    "gpt": (Gpt, TOKENS, {f"blocks.{i}.{name}" for i in range(3) for name in ("attn.c_proj", "c_out")}),
    "convs": (Convs, IMAGES, {"a2", "b2", "c1"}),
    "parallel": (Parallel, torch.randn(2, 5, 16), {"attn.c_proj", "out"}),
    "torch's encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2),
        torch.randn(2, 5, 16),
        {f"layers.{i}.{name}" for i in range(2) for name in ("self_attn.out_proj", "linear2")},
    ),
}


@pytest.mark.parametrize("case", ENDS)
def test_the_ends_of_branches_are_scaled_by_their_number(case: str) -> None:
    build, x, ends = ENDS[case]
    plain, scaled = (init_(build(), "lecun", **options) for options in ({}, {"branches": "scaled", "batch": x}))
    ratios = {
        name: (parameter.norm() / other.norm()).item()
        for (name, parameter), other in zip(scaled.named_parameters(), plain.parameters(), strict=True)
        if parameter.dim() > 1 and not name.startswith(("wte", "wpe"))
    }
    factor = 1 / math.sqrt(len(ends))
    small = {name.removesuffix(".weight") for name, ratio in ratios.items() if ratio == pytest.approx(factor)}
    assert small == ends
    assert {round(ratio, 5) for ratio in ratios.values()} == {1.0, round(factor, 5)}


@pytest.mark.parametrize("case", ["gpt", "parallel", "convs"])
def test_blocks_whose_ends_are_zero_are_their_skips(case: str) -> None:
    build, x, ends = ENDS[case]
    model = init_(build(), "he", branches="zero", batch=x)
    assert {name for name, p in model.named_parameters() if p.dim() > 1 and not p.any()} - {"wpe"} == {
        f"{end}.weight" for end in ends
    }
    if case == "gpt":
        assert torch.allclose(model(x), model.head(model.ln(model.wte(x))), atol=1e-6)
    if case == "parallel":
        assert torch.equal(model(x), x)


@pytest.mark.parametrize("kind", ["basic", "bottleneck"])
def test_a_norm_at_the_end_of_a_branch_has_its_gain_scaled_as_torchvision_zeroes_it(kind: str) -> None:
    models = pytest.importorskip("torchvision").models
    build: Callable[..., nn.Module] = models.resnet18 if kind == "basic" else models.resnet50
    model = build(num_classes=4)
    init_(model, "he", branches="zero", batch=torch.randn(2, 3, 32, 32))
    reference = build(num_classes=4, zero_init_residual=True)
    closed = [
        {name for name, p in net.named_parameters() if "bn" in name and name.endswith("weight") and not p.any()}
        for net in (model, reference)
    ]
    assert closed[0] == closed[1]
    assert all(p.any() for name, p in model.named_parameters() if p.dim() > 1)


def test_gpt_2s_rule_keeps_the_trunk_near_its_size_at_any_depth() -> None:
    """Each branch adds 1 / B of its variance, so B of them about double what they would add alone (Radford 2019)."""
    norms = {}
    for branches in (None, "scaled"):
        torch.manual_seed(0)
        model = Gpt(64, blocks=8)
        init_(model, "lecun", branches=branches, batch=TOKENS, embedding_std=1.0)
        trunk = model.blocks(model.wte(TOKENS))
        norms[branches] = trunk.var().item()
    assert norms["scaled"] < 2.5
    assert norms[None] > 5


def test_fixup_scales_what_is_inside_branches_and_closes_them_and_the_last_layer() -> None:
    """L = 2 branches of m = 2 layers: L^(-1 / (2m - 2)) = 2^(-1/2) (Zhang et al. 2019, sec. 4)."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
            self.a1, self.a2, self.b1, self.b2 = (nn.Linear(16, 16) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = x + self.a2(torch.relu(self.a1(x)))
            x = x + self.b2(torch.relu(self.b1(x)))
            return self.head(x)

    x = torch.randn(3, 6)
    plain, fixup = init_(Two(), "he"), init_(Two(), "he", branches="fixup", batch=x)
    assert torch.allclose(fixup.a1.weight, plain.a1.weight / math.sqrt(2))
    assert torch.allclose(fixup.b1.weight, plain.b1.weight / math.sqrt(2))
    assert torch.equal(fixup.stem.weight, plain.stem.weight)
    assert not any(layer.weight.any() for layer in (fixup.a2, fixup.b2, fixup.head))


def test_t_fixup_scales_values_outputs_and_mlps_but_no_queries_and_keys() -> None:
    """0.67 N^(-1/4) of N = 3 layers (Huang et al. 2020, sec. 3.2)."""
    plain, scaled = init_(Gpt(), "xavier"), init_(Gpt(), "xavier", branches="t-fixup", batch=TOKENS)
    factor = 0.67 * 3**-0.25
    for name, weight in scaled.named_parameters():
        if weight.dim() > 1 and name != "wpe" and "wte" not in name:
            inside = "blocks" in name and not name.endswith(("attn.q.weight", "attn.k.weight"))
            ratio = (weight.norm() / plain.get_parameter(name).norm()).item()
            assert ratio == pytest.approx(factor if inside else 1), name


def test_solved_ends_have_their_share_of_the_variance() -> None:
    model = Gpt()
    init_(model, "solved", branches="scaled", batch=TOKENS)
    variances: dict[str, float] = {}
    for name in ("blocks.1.c_fc", "blocks.1.c_out"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, __, y, name=name: variances.update({name: y.var(correction=0).item()}))
    model(TOKENS)
    assert variances == pytest.approx({"blocks.1.c_fc": 1, "blocks.1.c_out": 1 / 6}, rel=0.03)


def test_what_is_wrong_is_said_before_anything_changes() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    before = model[0].weight.clone()
    for options, words in (
        ({"branches": "scale", "batch": torch.randn(2, 4)}, r"unknown branches \(got 'scale'\); allowed: scaled, zero"),
        ({"branches": "scaled"}, r"branches are found by a run of the model \(got no batch\); give batch=images"),
        ({"branches": "scaled", "batch": torch.randn(2, 4)}, r"branches='scaled' needs residual branches \(got none"),
    ):
        with pytest.raises(ValueError, match=words):
            init_(model, **options)
    assert torch.equal(model[0].weight, before)
