"""Attention's and recurrent modules' packed weights, matrix by matrix; other libraries' linear layers."""

import math

import pytest
import torch
from torch import Tensor, nn

from initlab import init_


def rows_of(model: nn.Module, scheme: str = "he", **options: object) -> dict[str, dict]:
    rows: list[dict] = []
    init_(model, scheme, on_parameter=rows.append, **options)
    return {row["name"]: row for row in rows}


def test_query_key_and_value_are_three_draws_of_gain_1() -> None:
    """No activation lies before them, so each has variance 1 / fan_in under he, packed or not."""
    packed, apart = (nn.MultiheadAttention(128, 4, kdim=kdim) for kdim in (128, 64))
    for module in (packed, apart):
        rows = rows_of(module)
        assert {row["rule"] for row in rows.values()} == {"he", "0"}
    q, k, v = packed.in_proj_weight.chunk(3)
    for weight, fan_in in ((q, 128), (k, 128), (v, 128), (apart.k_proj_weight, 64), (apart.v_proj_weight, 128)):
        assert weight.std().item() == pytest.approx(1 / math.sqrt(fan_in), rel=5 / math.sqrt(2 * weight.numel()))
    assert abs(torch.corrcoef(torch.stack([q.flatten(), k.flatten()]))[0, 1].item()) < 0.05
    assert packed.out_proj.weight.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.03)
    assert not packed.in_proj_bias.any()


def test_an_orthogonal_packed_weight_is_orthogonal_part_by_part() -> None:
    attention = init_(nn.MultiheadAttention(16, 2), "orthogonal")
    for part in attention.in_proj_weight.chunk(3):
        assert torch.allclose(part @ part.T, torch.eye(16), atol=1e-5)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_weights_are_orthogonal_gate_by_gate(kind: type[nn.RNNBase], gates: int) -> None:
    module = init_(kind(200, 64, num_layers=2, bidirectional=True), "he")
    for name, parameter in module.named_parameters():
        if name.startswith("weight_hh"):
            for gate in parameter.chunk(gates):
                assert torch.allclose(gate @ gate.T, torch.eye(64), atol=1e-5)
        elif name.startswith("weight_ih_l0"):
            assert parameter.std().item() == pytest.approx(1 / math.sqrt(200), rel=0.05)


def test_forget_gates_start_at_one_and_all_other_biases_at_zero() -> None:
    for module in (nn.LSTM(4, 8, num_layers=2), nn.LSTMCell(4, 8)):
        init_(module)
        biases = {name: parameter.detach() for name, parameter in module.named_parameters() if "bias" in name}
        for name, bias in biases.items():
            expected = torch.zeros(32)
            if "_ih" in name:
                expected[8:16] = 1
            assert torch.equal(bias, expected)
    assert rows_of(nn.LSTM(4, 8))["bias_ih_l0"]["rule"] == "0, forget gate 1"


def test_a_forget_bias_that_was_set_stays_and_gets_no_second_one() -> None:
    lstm = nn.LSTM(4, 8)
    with torch.no_grad():
        lstm.bias_hh_l0[8:16] = 5
    rows = rows_of(lstm)
    assert (lstm.bias_hh_l0[8:16] == 5).all()
    assert not lstm.bias_ih_l0.any()
    assert not lstm.bias_hh_l0[16:].any()
    assert rows["bias_hh_l0"]["reason"] == "kept in part: a bias that its author set"


def test_the_forget_bias_carries_gradients_over_time() -> None:
    """field 10: under torch's default the gradient at the first of 150 steps is 1e-41 of that at the last."""

    def ratio(lstm: nn.LSTM) -> float:
        x = (0.1 * torch.randn(8, 60, 4, generator=torch.Generator().manual_seed(0))).double().requires_grad_()
        lstm.double()(x)[0][:, -1].square().sum().backward()
        sizes = x.grad.square().mean((0, 2)).sqrt()
        return (sizes[0] / sizes[-1]).item()

    torch.manual_seed(0)
    default = ratio(nn.LSTM(4, 32, batch_first=True))
    assert ratio(init_(nn.LSTM(4, 32, batch_first=True))) > 1e3 * default


def test_an_lstm_with_a_projection_and_every_cell_is_drawn() -> None:
    modules = (nn.LSTM(5, 12, proj_size=4), nn.GRUCell(5, 12), nn.RNNCell(5, 12))
    for module in modules:
        assert {row["rule"] for row in rows_of(module).values()} <= {"he", "orthogonal", "0", "0, forget gate 1"}
    projection = rows_of(modules[0])["weight_hr_l0"]
    assert (projection["fan_in"], projection["fan_out"]) == (12, 4)


@pytest.mark.parametrize(
    ("module", "bounds"),
    [
        (nn.LSTM(30, 50), {"weight_ih_l0": 50**-0.5, "weight_hh_l0": 50**-0.5, "bias_ih_l0": 50**-0.5}),
        (nn.MultiheadAttention(64, 4), {"in_proj_weight": math.sqrt(6 / 256), "out_proj.weight": 1 / 8}),
        (nn.Bilinear(20, 30, 10), {"weight": 20**-0.5, "bias": 20**-0.5}),
    ],
)
def test_torch_default_has_torchs_bounds(module: nn.Module, bounds: dict[str, float]) -> None:
    init_(module, "torch_default")
    for name, bound in bounds.items():
        peak = module.get_parameter(name).abs().max().item()
        assert 0.95 * bound < peak <= bound * (1 + 1e-6)


def test_a_bilinear_layer_keeps_the_product_of_its_inputs_variances() -> None:
    layer = init_(nn.Bilinear(40, 30, 200), "lecun")
    y = layer(torch.randn(500, 40), torch.randn(500, 30))
    assert y.var().item() == pytest.approx(1, rel=0.1)


class Conv1D(nn.Module):
    """Hugging Face's linear layer of GPT-2: its weight is (in, out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight, self.bias = nn.Parameter(torch.empty(nx, nf)), nn.Parameter(torch.zeros(nf))
        nn.init.normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class Features(nn.Module):
    """A linear layer of another library, either way round."""

    def __init__(self, in_features: int, out_features: int, flipped: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        shape = (in_features, out_features) if flipped else (out_features, in_features)
        self.weight = nn.Parameter(torch.randn(shape))


@pytest.mark.parametrize("build", [Conv1D, lambda out, size: Features(size, out, True)])
def test_a_weight_stored_as_in_by_out_is_drawn_as_what_it_means(build) -> None:
    module = build(96, 32)
    row = rows_of(nn.Sequential(module))["0.weight"]
    assert (row["fan_in"], row["fan_out"], row["scheme_std"]) == (32, 96, math.sqrt(2 / 32))
    assert torch.equal(module.weight.T, init_(nn.Sequential(nn.Linear(32, 96)))[0].weight)


def test_a_linear_layer_of_another_library_is_drawn_as_torchs() -> None:
    module = Features(32, 96, False)
    assert torch.equal(init_(nn.Sequential(module))[0].weight, init_(nn.Sequential(nn.Linear(32, 96)))[0].weight)


def test_a_recurrent_weight_behind_weight_norm_is_orthogonal_gate_by_gate_too() -> None:
    lstm = nn.utils.parametrizations.weight_norm(nn.LSTM(4, 8), "weight_hh_l0")
    rows = rows_of(lstm)
    for gate in lstm.weight_hh_l0.chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(8), atol=1e-5)
    assert "kept" not in {row["rule"] for row in rows.values()}
    assert (lstm.bias_ih_l0[8:16] == 1).all()
