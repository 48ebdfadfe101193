"""The trunk against blocks whose effect on angles and gradients is known, and pairs of tokens counted one by one."""

import copy
import html
import math
from itertools import combinations

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from initlab import build_net, inspect
from initlab.inspection.text import trunk_lines
from initlab.report.inspection_report import inspection_fields
from initlab.signal.exponents import exponents_of
from initlab.signal.survey import survey
from initlab.signal.trunk import trunk_of

WIDTH = 8


class Residual(nn.Module):
    """x + factor * branch(x)."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x + self.factor * self.branch(x)


class Times(nn.Module):
    """a * x."""

    def __init__(self, a: float) -> None:
        super().__init__()
        self.inner, self.a = nn.Identity(), a

    def forward(self, x: Tensor) -> Tensor:
        return self.a * self.inner(x)


class AddMean(Times):
    """x and a times the mean over all tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.a * x.mean(1, keepdim=True)


def sequences(tokens: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, tokens, WIDTH, generator=generator), torch.randint(WIDTH, (3, tokens), generator=generator)


def net(*blocks: nn.Module) -> nn.Sequential:
    """The blocks behind a layer, without which nothing before the first has a gradient."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Sequential(*blocks))


def test_closed_branches_leave_angles_and_gradients_as_they_are_exactly() -> None:
    exponents = exponents_of(trunk_of(net(*(Residual(0.0) for _ in range(4))), *sequences()))
    assert exponents == (0.0, 0.0, 4, 0.0, 0.0)


@pytest.mark.parametrize("a", [0.5, 2.0, 3.0])
def test_a_block_that_multiplies_by_a_has_a_gradient_exponent_of_2_ln_a_towards_the_input(a: float) -> None:
    exponents = exponents_of(trunk_of(net(*(Times(a) for _ in range(4))), *sequences()))
    assert exponents.gradient == pytest.approx(2 * math.log(a), abs=1e-6)
    assert exponents.angle == pytest.approx(0, abs=1e-6)
    assert exponents.blocks == 4


def test_orthogonal_maps_leave_angles_and_gradients() -> None:
    blocks = [nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False)) for _ in range(5)]
    for block in blocks:
        nn.init.orthogonal_(block[0].weight)
    exponents = exponents_of(trunk_of(net(*blocks), *sequences()))
    assert exponents == pytest.approx((0, 0, 5, 0, 0), abs=1e-5)


def test_uniform_attention_without_skips_makes_all_tokens_equal_in_one_block() -> None:
    layers = [nn.MultiheadAttention(WIDTH, 2, batch_first=True) for _ in range(3)]
    for layer in layers:
        nn.init.zeros_(layer.in_proj_weight[: 2 * WIDTH])

    class Attends(nn.Module):
        def __init__(self, layer: nn.MultiheadAttention) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            attended: Tensor = self.layer(x, x, x)[0]
            return attended

    table = trunk_of(net(*map(Attends, layers)), *sequences())
    assert list(table.distance > 0) == [True, False, False, False]
    assert exponents_of(table).angle == -math.inf
    assert trunk_lines(table)[0].startswith(
        "in the trunk of 3 blocks all tokens of an example are equal behind block 1; "
    )


def test_a_mean_that_is_added_draws_two_orthogonal_tokens_together_as_by_hand() -> None:
    # Of (1, 0) and (0, 1) the mean grows by 1 + a = 2 a block and the difference stays: 1 - cos = 2 / (4^k + 1).
    x = torch.eye(2).repeat(4, 1, 1)
    table = trunk_of(nn.Sequential(*(AddMean(1.0) for _ in range(3))), x)
    assert list(table.distance) == pytest.approx([2 / (4**k + 1) for k in range(4)])
    assert list(table.cosine) == pytest.approx([1 - 2 / (4**k + 1) for k in range(4)])
    assert exponents_of(table).angle == pytest.approx(math.log(5 / 17))
    assert exponents_of(table).angle_spread == pytest.approx((math.log(2 / 5) - math.log(17 / 65)) / 4)
    assert table.gradient_square.isna().all()


def test_gradients_are_those_of_the_summed_loss_at_each_place() -> None:
    model, (x, y) = net(*(Residual() for _ in range(3))), sequences()
    places = [model[0](x)]
    for block in model[1]:
        places.append(block(places[-1]))
    total = F.cross_entropy(places[-1].flatten(0, 1), y.flatten(), reduction="sum")
    squares = [float(g.square().mean()) for g in torch.autograd.grad(total, places)]
    table = trunk_of(model, x, y)
    assert list(table.gradient_square) == pytest.approx(squares, rel=1e-5)
    assert list(table.name) == ["", "1.0", "1.1", "1.2"]
    low, median, high = sorted(math.log(squares[k] / squares[k + 1]) for k in range(3))
    exponents = exponents_of(table)
    assert exponents.gradient == pytest.approx(median, rel=1e-4)
    assert exponents.gradient_spread == pytest.approx((high - low) / 4, rel=1e-4)


def counted(x: Tensor) -> float:
    """Mean of 1 - cos over the pairs of tokens of each of (examples, tokens, features), one by one."""
    pairs = [(i, a, b) for i in range(len(x)) for a, b in combinations(range(x.shape[1]), 2)]
    return sum(1 - float(F.cosine_similarity(x[i, a], x[i, b], dim=0)) for i, a, b in pairs) / len(pairs)


def test_tokens_positions_and_examples_are_found_in_every_layout() -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 5, WIDTH)
    blocks = [nn.TransformerEncoderLayer(WIDTH, 2, 16) for _ in range(3)]
    second = trunk_of(nn.Sequential(*blocks), x.transpose(0, 1))  # (tokens, examples, features)
    maps = nn.Sequential(*(nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1)) for _ in range(3)))
    positions = trunk_of(maps, x.transpose(1, 2).unflatten(2, (5, 1)))
    tokens = trunk_of(nn.Sequential(*(Residual() for _ in range(3))), x)
    for table, word in ((second, "tokens"), (positions, "positions"), (tokens, "tokens")):
        assert table.distance[0] == pytest.approx(counted(x), rel=1e-5)
        assert table.attrs["tokens"] == word
    flat = trunk_of(nn.Sequential(*(Residual() for _ in range(3))), x.flatten(0, 1))
    assert flat.distance[0] == pytest.approx(counted(x.flatten(0, 1)[None]), rel=1e-5)
    assert flat.attrs["tokens"] == "examples"


def test_nearly_equal_tokens_keep_their_distance() -> None:
    # 1 - cos of tokens an angle of 1e-5 apart is 5e-11, of which a difference of cosines in float32 would leave 0.
    x = torch.tensor([[[1.0, 0.0], [1.0, 1e-5]]])
    assert trunk_of(nn.Sequential(*(Times(1.0) for _ in range(3))), x).distance[0] == pytest.approx(5e-11, rel=1e-3)


@pytest.mark.parametrize("norm", ["none", "pre", "post"])
def test_a_decoder_of_the_catalog_has_a_place_behind_each_block(norm: str) -> None:
    model = build_net("transformer", depth=4, width=WIDTH, heads=2, input_shape=(6,), norm=norm, num_classes=11)
    x = torch.randint(11, (2, 6))
    outputs: dict[str, Tensor] = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda module, args, y, name=name: outputs.update({name: y.detach()}))
    table = trunk_of(model, x, x)
    ends = ["positions", *(f"{'norm' if norm == 'post' else 'add'}_mlp{number}" for number in range(1, 5))]
    assert list(table.name) == ["", *ends[1:]]
    assert list(table.distance) == pytest.approx([counted(outputs[end]) for end in ends], rel=1e-5)
    assert table.gradient_square.gt(0).all()


class Looped(nn.Module):
    """The same block again and again, as of ALBERT."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Residual()])

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(5):
            x = self.layers[0](x)
        return x


class Outside(nn.Module):
    """Blocks that are branches: the skips are outside."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(Residual() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for branch in self.branches:
            x = x + branch(x)
        return x


class Experts(Outside):
    """Blocks that all take the same signal."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([branch(x) for branch in self.branches]).sum(0)


@pytest.mark.parametrize(
    ("model", "rows"),
    [
        (Looped(), 6),
        (Outside(), 4),
        (Experts(), 0),
        (nn.Sequential(Residual(), Residual()), 0),
        (nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(5))), 0),
        (build_net("plain", depth=22, widths=[8], stages=1, input_shape=(WIDTH, 4, 4), skip="identity"), 10),
        (build_net("plain", depth=22, widths=[8], stages=1, input_shape=(WIDTH, 4, 4)), 0),
    ],
    ids=["looped", "outside", "experts", "two", "layers", "skips", "plain"],
)
def test_which_models_have_a_trunk(model: nn.Module, rows: int) -> None:
    convolutional = isinstance(next(model.children()), nn.Conv2d)
    x = torch.randn(2, WIDTH, 4, 4) if convolutional else sequences()[0]
    y = torch.arange(2) if convolutional else sequences()[1]
    table = trunk_of(model, x, y)
    assert len(table) == rows
    assert exponents_of(table).blocks == max(rows - 1, 0)
    pd.testing.assert_frame_equal(survey(model, x, y).trunk, table, rtol=1e-5)


def test_the_model_is_left_as_it_was() -> None:
    model, (x, y) = net(*(Residual() for _ in range(3))), sequences()
    before = copy.deepcopy(model.state_dict())
    trunk_of(model, x, y)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_gradient_in_half_precision_is_that_of_the_plain_pass() -> None:
    model, (x, y) = net(*(Residual() for _ in range(3))), sequences()
    half = survey(model, x, y, autocast=torch.bfloat16).trunk.gradient_square
    assert list(half) == pytest.approx(list(trunk_of(model, x, y).gradient_square), rel=0.1)


def test_an_inspection_says_it_in_a_line() -> None:
    model, (x, y) = net(*(Times(2.0) for _ in range(3))), sequences()
    inspection = inspect(nn.Sequential(model, nn.Linear(WIDTH, WIDTH)), x, y)
    assert inspection.exponents.gradient == pytest.approx(2 * math.log(2), abs=1e-5)
    line = "towards the input the gradient's mean square grows ×4 per block"
    assert line in " ".join(str(inspection).split())
    assert line in html.unescape(inspection._repr_html_())
    fields = inspection_fields(inspection)
    assert fields["exponents"]["blocks"] == 3
    assert [row["block"] for row in fields["trunk"]] == [0, 1, 2, 3]
    plain = inspect(nn.Sequential(nn.Linear(WIDTH, WIDTH)), x, y)
    assert plain.trunk.empty
    assert "trunk" not in str(plain)
    assert math.isnan(plain.exponents.angle)
