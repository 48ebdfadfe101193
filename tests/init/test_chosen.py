"""What a model's author chose stays unless `redraw` names it; the report says what was left and why."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from initlab import init_


def rows_of(model: nn.Module, scheme: str = "he", **options: object) -> dict[str, dict]:
    rows: list[dict] = []
    init_(model, scheme, on_parameter=rows.append, **options)
    return {row["name"]: row for row in rows}


class Lora(nn.Module):
    """A frozen layer beside a low-rank one that starts at 0."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(16, 16)
        self.lora_a, self.lora_b = nn.Linear(16, 2, bias=False), nn.Linear(2, 16, bias=False)
        nn.init.zeros_(self.lora_b.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.lora_b(self.lora_a(x))


def adaln_zero() -> nn.Module:
    """DiT's modulation: a block's shift, scale and gate, all 0 at the start."""
    model = nn.ModuleDict(
        {"mlp": nn.Linear(8, 8), "modulation": nn.Sequential(nn.SiLU(), nn.Linear(8, 24)), "out": nn.Linear(8, 4)}
    )
    for layer in (model["modulation"][1], model["out"]):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return model


def gmlp_gate() -> nn.Module:
    """gMLP's spatial gate: weights of 1e-6, biases of 1."""
    model = nn.ModuleDict({"first": nn.Linear(8, 16), "gate": nn.Conv1d(49, 49, 1)})
    nn.init.normal_(model["gate"].weight, std=1e-6)
    nn.init.ones_(model["gate"].bias)
    return model


def zero_init_residual() -> nn.Module:
    model = nn.ModuleDict({"conv1": nn.Conv2d(4, 4, 3), "bn1": nn.BatchNorm2d(4), "bn2": nn.BatchNorm2d(4)})
    nn.init.zeros_(model["bn2"].weight)
    return model


def focal_head() -> nn.Module:
    model = nn.ModuleDict({"tower": nn.Conv2d(8, 8, 3), "cls": nn.Conv2d(8, 18, 3)})
    nn.init.constant_(model["cls"].bias, -math.log(99))
    return model


def mamba_steps() -> nn.Module:
    """Biases are the inverse softplus of time steps between 0.001 and 0.1: all different, all beyond torch's bound."""
    model = nn.ModuleDict({"in": nn.Linear(8, 64), "dt": nn.Linear(4, 64)})
    steps = torch.exp(torch.linspace(math.log(1e-3), math.log(1e-1), 64))
    with torch.no_grad():
        model["dt"].bias.copy_(steps + torch.log(-torch.expm1(-steps)))
    return model


def yolo_head() -> nn.Module:
    """torch's biases, of which all but the four of the box are shifted far down, as in YOLO."""
    model = nn.ModuleDict({"conv": nn.Conv2d(64, 64, 1), "head": nn.Conv2d(64, 3 * 12, 1)})
    with torch.no_grad():
        model["head"].bias.view(3, -1)[:, 4:] -= 5
    return model


def retina_head() -> nn.Module:
    """RetinaNet's heads: all convolutions N(0, 0.01), so that the prior is what the loss starts from."""
    layers = {"backbone": nn.Conv2d(8, 64, 3), "tower": nn.Conv2d(64, 64, 3)}
    model = nn.ModuleDict(layers | {"cls": nn.Conv2d(64, 18, 3), "box": nn.Conv2d(64, 36, 3)})
    for name in ("tower", "cls", "box"):
        nn.init.normal_(model[name].weight, std=0.01)
        nn.init.zeros_(model[name].bias)
    nn.init.constant_(model["cls"].bias, -math.log(99))
    return model


def policy() -> nn.Module:
    """PPO's policy: orthogonal layers, the last of which is a hundredth of their size."""
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    for layer, gain in ((model[0], 2**0.5), (model[2], 2**0.5), (model[4], 0.01)):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return model


class Sine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * x)


def siren() -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 64), Sine(), nn.Linear(64, 64), Sine(), nn.Linear(64, 3))
    for layer, bound in ((model[0], 1 / 2), (model[2], (6 / 64) ** 0.5 / 30), (model[4], (6 / 64) ** 0.5 / 30)):
        nn.init.uniform_(layer.weight, -bound, bound)
    return model


CHOSEN = {
    "siren": (siren, {"0.weight", "2.weight", "4.weight"}),
    "retina": (retina_head, {"cls.bias", "cls.weight", "tower.weight", "box.weight"}),
    "policy": (policy, {"4.weight"}),
    "lora": (Lora, {"lora_b.weight"}),
    "adaln-zero": (adaln_zero, {"modulation.1.weight", "out.weight"}),
    "gmlp": (gmlp_gate, {"gate.weight", "gate.bias"}),
    "zero-init residual": (zero_init_residual, {"bn2.weight"}),
    "focal prior": (focal_head, {"cls.bias"}),
    "mamba": (mamba_steps, {"dt.bias"}),
    "yolo": (yolo_head, {"head.bias"}),
}


@pytest.mark.parametrize("case", CHOSEN)
def test_a_choice_stays_and_is_named_with_its_reason(case: str) -> None:
    build, names = CHOSEN[case]
    torch.manual_seed(0)
    model = build()
    before = copy.deepcopy(dict(model.named_parameters()))
    rows = rows_of(model)
    assert {name for name, row in rows.items() if row["rule"] == "kept"} == names
    assert all(rows[name]["reason"] for name in names)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters() if name in names)


@pytest.mark.parametrize("case", CHOSEN)
def test_a_choice_is_set_where_redraw_says_so(case: str) -> None:
    build, names = CHOSEN[case]
    torch.manual_seed(0)
    model = build()
    rows = rows_of(model, redraw=sorted(names))
    assert not [name for name, row in rows.items() if row["rule"] == "kept"]
    everything = rows_of(build(), redraw="*")
    assert not [name for name, row in everything.items() if row["rule"] == "kept"]


def test_torchs_own_biases_and_scattered_gains_are_no_choice() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(300, 200), nn.LayerNorm(200), nn.Conv2d(16, 64, 3), nn.Linear(5, 1))
    nn.init.normal_(model[1].weight, std=0.02)
    assert {row["rule"] for row in rows_of(model).values()} == {"he", "0", "1"}
    assert (model[1].weight == 1).all()


def test_half_precision_repeats_biases_that_are_drawn_all_the_same() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(8, 4096).bfloat16()
    assert layer.bias.unique().numel() < 2048
    assert rows_of(nn.Sequential(layer))["0.bias"]["rule"] == "0"


def test_a_model_of_zeros_is_drawn_whole() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    assert {row["rule"] for row in rows_of(model).values()} == {"he", "0"}


def test_zeros_before_another_layer_of_a_chain_are_a_fault_and_drawn_zeros_at_its_end_are_not() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[4].weight)
    rows = rows_of(model)
    assert (rows["2.weight"]["rule"], rows["4.weight"]["rule"]) == ("he", "kept")


def test_keep_leaves_what_it_names() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
    nn.init.normal_(model[1].weight)
    before = copy.deepcopy(model.state_dict())
    rows = rows_of(model, keep=["0.*", "1.weight"])
    kept = [name for name, row in rows.items() if row["reason"] == "named in keep"]
    assert kept == ["0.weight", "0.bias", "1.weight"]
    assert all(torch.equal(before[name], model.state_dict()[name]) for name in kept)


def test_embeddings_are_drawn_where_their_std_is_given() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(1000, 50, padding_idx=3)
            self.head = nn.Linear(50, 1000)
            self.head.weight = self.embedding.weight

    model = Tied()
    assert rows_of(model)["embedding.weight"]["reason"] == "an embedding shares it"
    rows = rows_of(model, embedding_std=0.02)
    assert rows["embedding.weight"]["scheme_std"] == 0.02
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not model.embedding.weight[3].any()


def test_a_small_last_layer_is_no_choice_where_all_are_small_or_the_caller_says_its_size() -> None:
    small = init_(nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10)), "gaussian", std=0.01)
    assert {row["rule"] for row in rows_of(small).values()} == {"he", "0"}
    assert rows_of(policy(), last_factor=0.1)["4.weight"]["rule"] == "he"
    assert rows_of(policy(), last_std=0.1)["4.weight"]["scheme_std"] == 0.1


def test_the_siren_scheme_draws_its_own_nets_anew() -> None:
    first, second = (init_(init_(siren(), "siren", seed=0), "siren", seed=seed) for seed in (0, 1))
    assert not torch.equal(first[2].weight, second[2].weight)


def test_ends_of_branches_that_are_all_small_are_no_choice_of_one_layer() -> None:
    model = nn.ModuleList([nn.Linear(64, 64) for _ in range(6)])
    for place, layer in enumerate(model):
        nn.init.normal_(layer.weight, std=0.02 if place % 2 == 0 else 0.002)
    assert {row["rule"] for row in rows_of(model).values()} == {"he", "0"}


def test_a_small_layer_inside_a_chain_is_no_choice() -> None:
    model = nn.Sequential(*(module for _ in range(5) for module in (nn.Linear(64, 64), nn.ReLU())), nn.Linear(64, 10))
    with torch.no_grad():
        model[4].weight *= 0.05
    assert {row["rule"] for row in rows_of(model).values()} == {"he", "0"}


def test_a_zero_init_resnet_keeps_its_loss() -> None:
    """faults 24: `init_("he")` opened its branches, and the loss at the start rose."""
    models = pytest.importorskip("torchvision").models
    torch.manual_seed(0)
    model = models.resnet18(zero_init_residual=True, num_classes=10).train()
    images, labels = torch.randn(8, 3, 64, 64), torch.randint(10, (8,))
    before = nn.functional.cross_entropy(model(images), labels).item()
    init_(model, "he")
    gains = [parameter for name, parameter in model.named_parameters() if name.endswith("bn2.weight")]
    assert len(gains) == 8
    assert not any(gain.any() for gain in gains)
    assert nn.functional.cross_entropy(model(images), labels).item() < 1.5 * before
