"""The schemes beyond Gaussian ones: closed forms, orthogonality, the same normals under all of them."""

import math

import pytest
import torch
from torch import Tensor, nn

from initlab import build_net, init_
from initlab.init.orthogonal import haar
from initlab.init.schemes import SCHEMES
from initlab.init.shapes import ON_A_BATCH, LayerShape, fans
from initlab.study.sections import SCHEMES as NAMES
from tests.init.drawn_std import drawn_std

RELU_GAIN = math.sqrt(2)


def linear(scheme: str, rows: int, columns: int, **options: object) -> Tensor:
    return init_(nn.Sequential(nn.Linear(columns, rows)), scheme, **options)[0].weight.detach()


def conv(scheme: str, out: int, channels: int, kernel: int = 3, **options: object) -> Tensor:
    layer = nn.Conv2d(channels, out, kernel, **options)
    return init_(nn.Sequential(layer), scheme)[0].weight.detach()


def test_the_spec_names_the_schemes_there_are() -> None:
    assert list(NAMES) == list(SCHEMES)


def test_lecun_is_one_over_fan_in_whatever_the_mode() -> None:
    assert drawn_std("lecun", (128, 64, 3, 3), mode="fan_out") == pytest.approx(1 / 24)


@pytest.mark.parametrize(("rows", "columns"), [(20, 50), (50, 20), (30, 30)])
def test_the_shorter_side_of_an_orthogonal_weight_is_orthonormal_times_the_gain(rows: int, columns: int) -> None:
    weight = linear("orthogonal", rows, columns).double()
    product = weight @ weight.T if rows <= columns else weight.T @ weight
    assert torch.allclose(product, 2 * torch.eye(min(rows, columns), dtype=torch.float64), atol=1e-6)


def test_the_gain_of_an_orthogonal_weight_takes_the_slope_into_account() -> None:
    weight = linear("orthogonal", 30, 30, negative_slope=0.25).double()
    assert torch.allclose(weight @ weight.T, 2 / 1.0625 * torch.eye(30, dtype=torch.float64), atol=1e-6)


def test_an_orthogonal_convolution_is_the_matrix_out_by_in_k_squared() -> None:
    matrix = conv("orthogonal", 16, 4).flatten(1).double()
    assert torch.allclose(matrix @ matrix.T, 2 * torch.eye(16, dtype=torch.float64), atol=1e-6)


def test_each_group_of_an_orthogonal_convolution_is_orthogonal_by_itself() -> None:
    depthwise = conv("orthogonal", 64, 64, groups=64).flatten(1)
    assert torch.allclose(depthwise.norm(dim=1), torch.full((64,), RELU_GAIN))


def test_it_is_the_rotation_that_torch_makes_of_the_same_normals() -> None:
    normals = torch.randn(40, 25, generator=torch.Generator().manual_seed(7))
    theirs = nn.init.orthogonal_(torch.empty(40, 25), generator=torch.Generator().manual_seed(7))
    assert torch.allclose(haar(normals).float(), theirs, atol=1e-6)


def test_delta_orthogonal_is_orthogonal_at_the_centre_and_zero_elsewhere() -> None:
    weight = conv("delta_orthogonal", 24, 16).double()
    centre = weight[:, :, 1, 1]
    assert torch.allclose(centre.T @ centre, 2 * torch.eye(16, dtype=torch.float64), atol=1e-6)
    assert torch.count_nonzero(weight) == torch.count_nonzero(centre)


def test_delta_orthogonal_with_fewer_outputs_has_orthonormal_rows() -> None:
    centre = conv("delta_orthogonal", 8, 16)[:, :, 1, 1].double()
    assert torch.allclose(centre @ centre.T, 2 * torch.eye(8, dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("scheme", ["truncated_normal", "torch_default"])
def test_transformed_weights_are_ordered_as_the_normal_ones_are(scheme: str) -> None:
    order = linear("he", 60, 50).flatten().argsort()
    assert (linear(scheme, 60, 50).flatten()[order].diff() >= 0).all()


def test_orthogonal_weights_come_from_the_same_normals() -> None:
    normals = linear("gaussian", 30, 20, std=1.0).double()
    q = linear("orthogonal", 30, 20).double() / RELU_GAIN
    r = q.T @ normals  # of normals = Q R
    assert torch.allclose(r, r.triu(), atol=1e-5)
    assert (r.diagonal() > 0).all()


def test_truncated_weights_have_the_variance_of_he_and_end_at_their_cut() -> None:
    weight = linear("truncated_normal", 512, 1024)
    std = math.sqrt(2 / 1024)
    # the fourth moment of the cut normal is below the normal's, so its sample variance spreads less than sqrt(2/n)
    assert weight.var().item() == pytest.approx(std**2, rel=5 * math.sqrt(2 / weight.numel()))
    assert weight.abs().max().item() == pytest.approx(2 / 0.8796257 * std, rel=1e-4)


def test_truncated_weights_take_the_fan_of_the_mode() -> None:
    forward, backward = (linear("truncated_normal", 512, 128, mode=mode) for mode in ("fan_in", "fan_out"))
    assert torch.allclose(forward, 2 * backward)


def test_torch_default_has_torchs_bounds_on_weights_and_biases() -> None:
    layer = init_(nn.Sequential(nn.Conv2d(16, 300, 3)), "torch_default")[0]
    bound = 1 / 12  # fan_in 144
    for parameter in (layer.weight, layer.bias):
        assert parameter.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert parameter.abs().max().item() <= bound * (1 + 1e-6)
    assert not torch.equal(layer.bias[:9], layer.weight.flatten()[:9])  # its own stream


@pytest.mark.parametrize("scheme", ["he", "truncated_normal", "orthogonal", "delta_orthogonal", "torch_default"])
def test_a_seed_gives_the_same_weights_again_and_another_seed_others(scheme: str) -> None:
    first, again, other = (
        init_(build_net("plain", depth=7, width=4, input_shape=(1, 8, 8)), scheme, seed=seed).state_dict()
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if name.endswith("weight"))


@pytest.mark.parametrize("scheme", ["orthogonal", "truncated_normal", "torch_default", "delta_orthogonal"])
def test_stds_and_the_factor_of_the_linear_layers_go_with_every_scheme(scheme: str) -> None:
    def net(**options: float) -> dict[str, Tensor]:
        model = build_net("plain", depth=7, width=4, input_shape=(1, 8, 8))
        return init_(model, scheme, **options).state_dict()

    plain, factor = net(), net(last_factor=0.1)
    assert torch.allclose(factor["fc3.weight"], 0.1 * plain["fc3.weight"])
    assert torch.equal(factor["fc2.weight"], plain["fc2.weight"])
    drawn, gaussian = (
        net(linear_std=0.02, last_std=0.3),
        init_(
            build_net("plain", depth=7, width=4, input_shape=(1, 8, 8)), "gaussian", linear_std=0.02, last_std=0.3
        ).state_dict(),
    )
    for name in ("fc1.weight", "fc1.bias", "fc3.weight", "fc3.bias"):
        assert torch.equal(drawn[name], gaussian[name])


def test_fans_of_grouped_and_transposed_convolutions() -> None:
    assert fans((64, 1, 3, 3), groups=64) == (9, 9)
    assert fans((128, 16, 3, 3), groups=4) == (144, 288)
    assert fans((64, 32, 4, 4), stride=(2, 2), transposed=True) == (256, 512)
    assert fans((64, 8, 4, 4), groups=4, stride=(2, 2), transposed=True) == (64, 128)
    assert fans((8, 4, 3), stride=(2,), transposed=True) == (12, 12)


def test_the_layer_is_what_the_module_says() -> None:
    layers: list[LayerShape] = []

    def scheme(normals: Tensor, layer: LayerShape) -> Tensor:
        layers.append(layer)
        return normals

    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, stride=2),
        nn.PReLU(init=0.5),
        nn.ConvTranspose2d(8, 4, 4, stride=2),
        nn.Flatten(),
        nn.Linear(10, 5),
        nn.Linear(5, 2),
    )
    init_(model, scheme, mode="fan_out", std=0.3)
    assert [(layer.name, layer.index, layer.num_layers, layer.is_linear, layer.is_last) for layer in layers] == [
        ("0", 0, 4, False, False),
        ("2", 1, 4, False, False),
        ("4", 2, 4, True, False),
        ("5", 3, 4, True, True),
    ]
    assert [(layer.shape, layer.fan_in, layer.fan_out, layer.fan, layer.groups) for layer in layers[:2]] == [
        ((8, 2, 3, 3), 18, 36, 36, 2),
        ((8, 4, 4, 4), 32, 64, 64, 1),
    ]
    assert layers[0].gain == pytest.approx(math.sqrt(2 / 1.25))
    assert layers[0].std == 0.3


def test_only_one_std_has_a_std() -> None:
    stds = {scheme: drawn_std(scheme, (5, 5)) for scheme in SCHEMES if scheme not in ON_A_BATCH}
    assert {scheme for scheme, std in stds.items() if std is not None} == {"gaussian", "xavier", "he", "lecun"}
