"""The probe against autograd by hand, closed forms, and its promise to leave the model alone."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab import build_net, init_, inspect
from initlab.inspection.inspect import LAYER
from initlab.inspection.prediction import PREDICTED
from initlab.signal.probe import COLUMNS, measure


def batch(*shape: int, classes: int = 10, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(shape, generator=generator, dtype=dtype), torch.arange(shape[0]) % classes


def two_layers() -> nn.Sequential:
    return init_(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)).double(), "he")


def test_every_column_equals_its_definition_written_out_by_hand() -> None:
    net = two_layers()
    images, labels = batch(6, 2, 6, 6, classes=5, dtype=torch.float64)
    decay = 5e-4
    y1 = net[0](images)
    y2 = net[3](net[2](F.relu(y1)))
    loss = F.cross_entropy(y2, labels, reduction="sum")
    d1, d2, w1, w2 = torch.autograd.grad(loss, [y1, y2, net[0].weight, net[3].weight])
    rows = measure(net, images, labels, weight_decay=decay)
    assert [row["name"] for row in rows] == ["0", "3"]
    assert [row["op"] for row in rows] == ["conv", "linear"]
    for row, y, dy, dw, weight in zip(rows, (y1, y2), (d1, d2), (w1, w2), (net[0].weight, net[3].weight), strict=True):
        expected = {
            "forward_mean": y.mean(),
            "forward_var": y.var(correction=0),
            "backward_mean": dy.mean(),
            "backward_var": dy.var(correction=0),
            "weight_var": weight.var(correction=0),
            "weight_grad_rms": (dw / 6).square().mean().sqrt(),
            "decay_ratio": decay * weight.norm() / (dw / 6).norm(),
        }
        for column, value in expected.items():
            assert row[column] == pytest.approx(value.item(), rel=1e-12, abs=1e-18), column
        assert row["calls"] == 1
    assert rows[0]["zero_fraction"] == pytest.approx((y1 <= 0).double().mean().item())
    assert math.isnan(rows[1]["zero_fraction"])


def test_backward_does_not_depend_on_the_batch_size() -> None:
    net = two_layers()
    images, labels = batch(4, 2, 6, 6, classes=5, dtype=torch.float64)
    once = measure(net, images, labels)
    twice = measure(net, images.repeat(2, 1, 1, 1), labels.repeat(2))
    for a, b in zip(once, twice, strict=True):
        assert b["backward_var"] == pytest.approx(a["backward_var"], rel=1e-12)
        assert b["weight_grad_rms"] == pytest.approx(a["weight_grad_rms"], rel=1e-12)


def test_he_keeps_the_variance_of_a_wide_net_and_xavier_halves_it_per_layer() -> None:
    net = nn.Sequential(*(m for _ in range(10) for m in (nn.Linear(512, 512), nn.ReLU()))).double()
    images = torch.randn(64, 512, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    he = [row["forward_var"] for row in measure(init_(copy.deepcopy(net), "he"), images)]
    xavier = [row["forward_var"] for row in measure(init_(net, "xavier"), images)]
    # the same normals at two scales: exact, no statistics (0 biases, relu is homogeneous)
    assert [x / h for x, h in zip(xavier, he, strict=True)] == pytest.approx(
        [0.5**layer for layer in range(1, 11)], rel=1e-9
    )
    # ln of the second moment has variance about 5 L/n: 4 sigma at 10 layers of 512
    assert abs(math.log(he[-1] / 2)) < 4 * math.sqrt(5 * 10 / 512)


def test_fixed_std_at_30_layers_is_measured_where_float32_variance_is_zero() -> None:
    net = init_(
        nn.Sequential(*(m for _ in range(30) for m in (nn.Linear(256, 256, bias=False), nn.ReLU()))), "gaussian"
    )
    images = torch.randn(32, 256, generator=torch.Generator().manual_seed(0))
    last = measure(net, images)[-1]["forward_var"]
    # 30 log10(256 e-4 / 2), and the factor 2 of the first layer, which has no relu before it: known_answers num.*
    assert math.log10(last) == pytest.approx(-56.78 + math.log10(2), abs=0.02 * 56.78)


def test_without_labels_backward_columns_are_nan() -> None:
    (first, _) = measure(two_layers(), batch(4, 2, 6, 6, dtype=torch.float64)[0])
    assert first["forward_var"] > 0
    assert all(math.isnan(first[c]) for c in ("backward_mean", "backward_var", "weight_grad_rms", "decay_ratio"))


class Shared(nn.Module):
    """One layer used twice, one that never runs, relu as a function, tuple output."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Linear(4, 4)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> tuple[str, Tensor]:
        x = F.relu(self.twice(x))
        return "logits", self.head(torch.tanh(self.twice(x)))


def test_a_module_used_twice_is_one_row_with_pooled_moments_and_one_that_never_ran_comes_last() -> None:
    net = Shared().double()
    images, labels = batch(6, 8, classes=5, dtype=torch.float64)
    rows = measure(net, images, labels)
    assert [(row["layer"], row["name"], row["calls"]) for row in rows] == [
        (0, "twice", 2),
        (1, "head", 1),
        (2, "never", 0),
    ]
    first = net.twice(images)
    second = net.twice(F.relu(first))
    assert rows[0]["forward_var"] == pytest.approx(torch.cat([first, second]).var(correction=0).item(), rel=1e-12)
    zeros = torch.cat([F.relu(first), torch.tanh(second)]) == 0
    assert rows[0]["zero_fraction"] == pytest.approx(zeros.double().mean().item())
    assert all(math.isnan(rows[2][column]) for column in COLUMNS)


def test_an_inplace_relu_changes_nothing_that_is_measured() -> None:
    def net(inplace: bool) -> nn.Module:
        return init_(nn.Sequential(nn.Linear(8, 16), nn.ReLU(inplace), nn.Linear(16, 5), nn.ReLU(inplace)), "he")

    images, labels = batch(6, 8, classes=5)
    assert str(measure(net(True), images, labels)) == str(measure(net(False), images, labels))


def test_prelu_outputs_are_never_exactly_zero() -> None:
    net = build_net("plain", depth=6, width=4, input_shape=(1, 8, 8), activation="prelu")
    images, labels = batch(8, 1, 8, 8)
    assert [row["zero_fraction"] for row in measure(net, images, labels)[:-1]] == [0.0] * 5


def test_a_custom_loss_per_example_or_as_mean_gives_the_same_figures() -> None:
    net, (images, labels) = two_layers(), batch(6, 2, 6, 6, classes=5, dtype=torch.float64)
    default = measure(net, images, labels)
    for reduction in ("none", "mean"):
        custom = measure(net, images, labels, loss=lambda y, t, r=reduction: F.cross_entropy(y, t, reduction=r))
        assert [row["backward_var"] for row in custom] == pytest.approx(
            [row["backward_var"] for row in default], rel=1e-12
        )


def test_a_loss_of_the_wrong_shape_is_refused() -> None:
    images, labels = batch(6, 2, 6, 6, classes=5, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"wrong shape \(got \(5, 6\) for 6 examples\)"):
        measure(two_layers(), images, labels, loss=lambda y, t: y.T)


def test_a_model_without_a_tensor_output_is_refused() -> None:
    class Silent(nn.Module):
        def forward(self, x: Tensor) -> str:
            return "nothing"

    with pytest.raises(ValueError, match=r"holds no tensor \(got str\)"):
        measure(Silent(), torch.zeros(2, 3))


def normed() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
    )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    net, (images, labels) = normed().train(training), batch(8, 1, 8, 8)
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.ones_like(net[5].weight)
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(net.state_dict())
    random_state = torch.get_rng_state()
    measure(net, images, labels, weight_decay=1e-4)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(module.training == training for module in net.modules())
    assert not net[0].weight.requires_grad
    assert net[1].track_running_stats
    assert torch.equal(net[5].weight.grad, torch.ones_like(net[5].weight))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [len(module._forward_hooks) for module in net] == [1, 0, 0, 0, 0, 0]
    assert calls == [1]


def test_the_model_is_left_as_it_was_when_it_raises() -> None:
    net = normed()
    with pytest.raises(RuntimeError):
        measure(net, torch.zeros(2, 7, 8, 8))
    assert net.training
    assert net[1].track_running_stats
    assert not net[0]._forward_hooks


def test_batchnorm_uses_the_batch_and_dropout_is_off_whatever_the_mode() -> None:
    net, (images, labels) = normed(), batch(8, 1, 8, 8)
    train, evaluation = measure(net.train(), images, labels), measure(net.eval(), images, labels)
    assert str(train) == str(evaluation)
    y = net[0](images)
    normalised = (y - y.mean((0, 2, 3), keepdim=True)) / (y.var((0, 2, 3), keepdim=True, correction=0) + 1e-5).sqrt()
    head = net[5](F.relu(normalised).flatten(1)).double()
    assert train[1]["forward_var"] == pytest.approx(head.var(correction=0).item(), rel=1e-4)


def test_half_precision_and_frozen_models_are_measured() -> None:
    net = two_layers().to(torch.bfloat16).requires_grad_(False)
    images, labels = batch(6, 2, 6, 6, classes=5)
    rows = measure(net, images, labels)
    exact = measure(two_layers(), images.double(), labels)
    for row, reference in zip(rows, exact, strict=True):
        assert row["forward_var"] == pytest.approx(reference["forward_var"], rel=0.05)
        assert row["backward_var"] == pytest.approx(reference["backward_var"], rel=0.1)


def test_inspect_gives_the_columns_of_the_signals_frame() -> None:
    net, (images, labels) = two_layers(), batch(6, 2, 6, 6, classes=5)
    table = inspect(net, images, labels, weight_decay=1e-4).table
    assert list(table.columns) == [*LAYER, *COLUMNS, *PREDICTED, "status"]
    assert len(table) == 2


@pytest.mark.parametrize("name", ["resnet18", "DenseNet", "mobilenet_v3_small", "VisionTransformer"])
def test_inspect_measures_torchvision_models(name: str) -> None:
    from torchvision import models

    # Small ones of a kind whose smallest by name has 8 or 86 million parameters.
    small = {
        "DenseNet": {"growth_rate": 8, "block_config": (3, 3), "num_init_features": 16},
        "VisionTransformer": {
            "image_size": 64,
            "patch_size": 16,
            "num_layers": 3,
            "num_heads": 2,
            "hidden_dim": 32,
            "mlp_dim": 64,
        },
    }
    net = getattr(models, name)(num_classes=7, **small.get(name, {}))
    before = copy.deepcopy(net.state_dict())
    images, labels = batch(4, 3, 64, 64, classes=7)
    table = inspect(net, images, labels, weight_decay=1e-4).table
    ran = table[table.calls > 0]
    assert ran.name.iloc[0] in ("conv1", "features.0", "features.conv0", "features.0.0", "conv_proj")
    assert ran.backward_var.iloc[-1] > 0
    assert (ran.forward_var >= 0).all()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_parametrized_layers_are_measured_as_the_plain_layer_of_the_same_weight() -> None:
    torch.manual_seed(0)
    plain = two_layers().float()
    normed = copy.deepcopy(plain)
    nn.utils.parametrizations.weight_norm(normed[0])
    images, labels = batch(6, 2, 6, 6, classes=5)
    for a, b in zip(measure(plain, images, labels), measure(normed, images, labels), strict=True):
        assert [b[c] for c in COLUMNS[:6]] == pytest.approx([a[c] for c in COLUMNS[:6]], rel=1e-4, abs=1e-12)
    assert measure(normed, images)[0]["forward_var"] > 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_checkpointed_layer_is_called_once(reentrant: bool) -> None:
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(checkpoint(self.first, x.requires_grad_(), use_reentrant=reentrant))

    images, labels = batch(6, 8, classes=5)
    rows = measure(Checkpointed(), images, labels)
    assert [row["calls"] for row in rows] == [1, 1]
    if not reentrant:
        assert rows[0]["backward_var"] > 0


def test_a_buffer_that_the_model_replaces_is_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 5)
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen + 1
            return self.layer(x)

    net = Counting()
    before = net.seen
    measure(net, *batch(6, 8, classes=5))
    assert net.seen is before
    assert net.seen.item() == 0


def test_both_layers_before_a_residual_sums_relu_have_its_zero_fraction() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branch, self.skip = nn.Linear(8, 5), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.branch(x) + self.skip(x))

    net, (images, labels) = Block(), batch(6, 8, classes=5)
    share = (net(images) == 0).double().mean().item()
    assert [row["zero_fraction"] for row in measure(net, images, labels)] == pytest.approx([share, share])


def test_token_models_and_dataclass_outputs_are_measured() -> None:
    from dataclasses import dataclass

    @dataclass
    class Output:
        logits: Tensor

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)

        def forward(self, tokens: Tensor) -> Output:
            return Output(self.head(self.embedding(tokens)))

    net, tokens = Tokens(), torch.arange(20).reshape(4, 5) % 11
    (row,) = measure(net, tokens, tokens)
    logits = net(tokens).logits
    (dy,) = torch.autograd.grad(F.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum"), logits)
    assert row["backward_var"] == pytest.approx(dy.double().var(correction=0).item(), rel=1e-5)


def test_under_inference_mode_and_without_weight_layers() -> None:
    images, labels = batch(6, 2, 6, 6, classes=5)
    net = two_layers().float()
    with torch.inference_mode():
        inside = measure(net, images, labels)
    assert str(inside) == str(measure(net, images, labels))
    assert list(inspect(nn.ReLU(), images).table.columns) == [*LAYER, *COLUMNS, *PREDICTED, "status"]


@pytest.mark.parametrize(
    ("net", "words"),
    [
        (nn.Sequential(nn.LazyLinear(5)), r"0\.weight is not there yet \(lazy\)"),
        (
            type("NoGrad", (nn.Linear,), {"forward": torch.no_grad()(nn.Linear.forward)})(8, 5),
            "the loss has no gradient",
        ),
    ],
)
def test_models_that_cannot_be_measured_are_refused_in_words(net: nn.Module, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        measure(net, *batch(6, 8, classes=5))
