"""`inspect` and its `Inspection`: words for known nets, advice that works when run, text, HTML and figure."""

import copy
import dataclasses
import re

import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import initlab
from initlab import init_, inspect


def batch(examples: int = 64, width: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(examples, width, generator=generator), torch.arange(examples) % 10


def mlp(activation: type[nn.Module] = nn.ReLU, depth: int = 30, width: int = 64) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [m for _ in range(depth - 1) for m in (nn.Linear(width, width), activation())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@pytest.mark.parametrize(
    ("scheme", "verdict"),
    [
        ("he", "healthy"),
        ("xavier", "vanishing"),
        ("gaussian", "vanishing"),
        ("torch_default", "vanishing"),
        ("orthogonal", "healthy"),
    ],
)
def test_words_for_schemes_on_a_30_layer_relu_net(scheme: str, verdict: str) -> None:
    inspection = inspect(init_(mlp(), scheme), *batch())
    assert (inspection.verdict, inspection.healthy) == (verdict, verdict == "healthy")
    assert bool(inspection.advice) != inspection.healthy
    assert (inspection.table.status == ("ok" if inspection.healthy else verdict))[:-1].all()


def test_torchs_default_is_caught_through_the_gradient_while_biases_hold_the_signal() -> None:
    inspection = inspect(init_(mlp(width=256), "torch_default"), *batch(width=256))
    assert "the signals themselves don't show it" in inspection.reason
    factor = float(re.search(r"gradients shrink ×([\d.]+) per layer", inspection.reason)[1])
    assert factor == pytest.approx(1 / 6, rel=0.05)
    second = inspection.table.forward_var + inspection.table.forward_mean**2
    # default.bias_floor: the post-activations' fixed point gives E[y^2] = 2/(5n).
    assert 256 * second.iloc[10:29].mean() == pytest.approx(0.4, rel=0.1)
    assert re.search(r"fan_in·Var\[w\] is 0\.33\d, as torch's default", inspection.advice[0])


@pytest.mark.parametrize("activation", [nn.ReLU, nn.PReLU, nn.Tanh, nn.SELU])
def test_the_advised_call_makes_the_net_healthy(activation: type[nn.Module]) -> None:
    model = mlp(activation)
    inspection = inspect(model, *batch())
    assert inspection.verdict == "vanishing"
    (code,) = re.findall(r"`(initlab\.init_\(.*?\))`", inspection.advice[0])
    eval(code, {"initlab": initlab, "model": model, "batch": batch()[0]})
    assert inspect(model, *batch()).healthy, code


def test_advice_names_the_slope_the_gain_and_what_is_unstable() -> None:
    assert 'initlab.init_(model, "he", negative_slope=0.25)' in inspect(mlp(nn.PReLU), *batch()).advice[0]
    of_gelu = inspect(mlp(nn.GELU), *batch()).advice
    assert 'initlab.init_(model, "lsuv", batch=batch)' in of_gelu[0] and "slope 1.144" in of_gelu[1]
    deep = inspect(mlp(nn.Tanh, depth=50), *batch())
    # Its own gain 1.5925 would grow gradients 1.178^50-fold.
    assert 'initlab.init_(model, "lecun")' in deep.advice[0]


def test_weights_of_the_right_scale_are_not_blamed() -> None:
    net = init_(nn.Sequential(*(m for _ in range(60) for m in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()))), "he")
    images = torch.randn(2, 32, 3, 3, generator=torch.Generator().manual_seed(0))
    # pad.rate at 3x3: ((1 + sqrt 2)/3)^2 = 0.648 per layer.
    inspection = inspect(net, images)
    assert inspection.verdict == "vanishing"
    assert "have the scale that relu needs" in inspection.advice[0]


def test_inputs_on_the_scale_of_pixels_saturate_the_logits() -> None:
    images, labels = batch(width=256)
    net = init_(mlp(width=256, depth=6), "he")
    inspection = inspect(net, 64 * images, labels)
    assert inspection.verdict == "saturated"
    assert "the batch has mean -0.485 and standard deviation 64.3" in inspection.cause
    names = {"batch": 64 * images}
    exec(inspection.remedy, names)
    assert inspect(net, names["batch"], labels).verdict == "healthy"
    assert inspect(init_(net, "he"), 64 * images, labels, loss=nn.functional.cross_entropy).verdict == "saturated"


def test_dead_and_nonfinite_nets() -> None:
    net = init_(mlp(depth=6), "he")
    with torch.no_grad():
        net[4].bias.fill_(-1000)
    dead = inspect(net, *batch())
    assert dead.verdict == "dead"
    assert "the activation after `4` gives only zeros" in dead.reason
    with torch.no_grad():
        net[4].weight[0, 0] = float("nan")
    assert inspect(net, *batch()).verdict == "nonfinite"
    for inspection in (dead, inspect(net, *batch())):
        assert inspection.advice and str(inspection) and inspection._repr_html_()


def test_the_table_says_what_each_layer_is() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 4, stride=2),
        nn.GELU(),
        nn.Flatten(),
        nn.Linear(600, 5),
    )
    table = inspect(net, torch.randn(2, 4, 6, 6), torch.arange(2)).table
    assert table["shape"].tolist() == [(8, 2, 3, 3), (8, 6, 4, 4), (5, 600)]
    assert table.fan_in.tolist() == [18, 32, 600]
    assert table.fan_out.tolist() == [36, 96, 5]
    assert table.width.tolist() == [8, 6, 5]
    assert table.outputs.tolist() == [8 * 4 * 4, 6 * 10 * 10, 5]
    assert table.activation.tolist() == ["relu", "gelu", ""]


def test_without_labels_only_the_signal_is_judged() -> None:
    images, _ = batch()
    assert "without labels gradients are not judged" in inspect(init_(mlp(), "he"), images).reason
    assert inspect(init_(mlp(), "xavier"), images).verdict == "vanishing"


@pytest.mark.parametrize("depth", [3, 40, 41, 90])
def test_the_text_fits_a_terminal_and_a_long_table_is_cut_in_the_middle(depth: int) -> None:
    net = nn.Sequential()
    for i in range(depth):
        net.add_module(f"{'a_very_long_name_of_a_block_' * (1 + i % 4)}{i}", nn.Linear(8, 8))
    inspection = inspect(net, torch.randn(4, 8), torch.arange(4), weight_decay=1e-4)
    lines = str(inspection).splitlines()
    assert max(map(len, lines)) <= 100
    rows = [line for line in lines if line.endswith(tuple(inspection.table.status.unique()))]
    assert len(rows) == (depth if depth <= 40 else 36)
    assert (f"… {depth - 36} layers between …" in lines) == (depth > 40)
    assert lines[0].startswith(f"{inspection.verdict}: ")
    assert repr(inspection) == str(inspection)


def test_html_holds_it_all_and_escapes_names() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("<b>&x", nn.Linear(8, 8))

        def forward(self, x: Tensor) -> Tensor:
            return getattr(self, "<b>&x")(x)

    html = inspect(Odd(), torch.randn(4, 8))._repr_html_()
    assert "&lt;b&gt;&amp;x" in html
    assert "<b>&x" not in html
    html = inspect(init_(mlp(), "xavier"), *batch())._repr_html_()
    assert html.count('<div class="row">') == 31
    assert "<code>initlab.init_(model, &#34;he&#34;)</code>" in html
    # The page's own colours, light or dark, under what is see-through.
    assert set(re.findall(r"background:(\w+)", html)) == {"rgb"} and "color:#" not in html


def test_plot_draws_the_table() -> None:
    inspection = inspect(init_(mlp(), "xavier"), *batch())
    figure = inspection.plot()
    assert isinstance(figure, Figure)
    line = next(line for line in figure.axes[0].lines if line.get_label() == "vanishing")
    assert list(line.get_ydata()) == inspection.table.forward_var.tolist()[:-1]
    assert inspection.reason.split("×")[0] in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize(
    ("wrong", "message"), [(torch.zeros(0, 64), "got an empty one"), ([[1.0]], "got list"), (None, "got NoneType")]
)
def test_what_is_no_batch_is_refused_in_words(wrong: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inspect(mlp(depth=3), wrong)


def test_a_model_without_layers_and_a_net_of_zeros() -> None:
    empty = inspect(nn.ReLU(), torch.zeros(2, 3))
    assert (empty.verdict, empty.healthy, len(empty.table)) == ("not_judged", False, 0)
    assert str(empty) and empty._repr_html_() and empty.plot()
    zeros = mlp(depth=4)
    for parameter in zeros.parameters():
        nn.init.zeros_(parameter)
    assert inspect(zeros, *batch()).verdict == "dead"


def test_a_net_of_zeros_before_a_max_pool_is_dead() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(196, 10))
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    inspection = inspect(net, torch.ones(8, 3, 16, 16), torch.arange(8))
    assert inspection.verdict == "dead" and not inspection.healthy
    assert inspection.table.forward_var.tolist() == [0.0, 0.0]


def test_an_inspection_can_be_given_more_columns() -> None:
    inspection = inspect(init_(mlp(depth=4), "he"), *batch())
    more = dataclasses.replace(inspection, table=inspection.table.assign(mine=1.0))
    assert more.verdict == inspection.verdict


@pytest.mark.parametrize(
    ("name", "size", "verdict"),
    [
        ("resnet18", 64, "healthy"),
        ("mobilenet_v3_small", 64, "healthy"),
        pytest.param("densenet121", 64, "healthy", marks=pytest.mark.slow),
        pytest.param("vgg16", 64, "healthy", marks=pytest.mark.slow),
        pytest.param("vgg16_bn", 64, "healthy", marks=pytest.mark.slow),
        pytest.param("vit_b_16", 224, "healthy", marks=pytest.mark.slow),
        # 1.17 per layer, as batch norm does, around skips.
        pytest.param("resnet50", 64, "healthy", marks=pytest.mark.slow),
        pytest.param("resnet50", 224, "healthy", marks=pytest.mark.slow),
        *(
            pytest.param(name, 64, "healthy", marks=pytest.mark.slow)
            for name in (
                *("mobilenet_v2", "efficientnet_b0", "regnet_y_400mf", "mnasnet0_5", "shufflenet_v2_x0_5", "swin_t"),
                *("squeezenet1_1", "googlenet", "vgg11", "convnext_tiny"),
            )
        ),
    ],
)
def test_nets_that_are_known_to_train(name: str, size: int, verdict: str) -> None:
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.get_model(name)
    before = copy.deepcopy(net.state_dict())
    images = torch.randn(2 if size == 224 else 8, 3, size, size)
    inspection = inspect(net, images, torch.arange(len(images)), weight_decay=1e-4)
    assert inspection.verdict == verdict, inspection.reason
    assert inspection.healthy
    assert "stall" not in inspection.reason
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
