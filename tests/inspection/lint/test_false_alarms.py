"""Lint on sound nets finds no fault, and says of token models and plain draws what is there."""

import math

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

import initlab
from initlab import lint
from initlab.bench.sound_nets import SOUND_NETS


def faults(model: nn.Module, batch: Tensor | None = None) -> list[str]:
    """The rules whose findings are faults."""
    return [finding.rule for finding in lint(model, batch) if finding.severity == "fault"]


@pytest.mark.parametrize("name", SOUND_NETS)
def test_a_sound_net_has_no_fault(name: str) -> None:
    net = SOUND_NETS[name](0)
    assert faults(net.model, net.batch) == []


@pytest.mark.slow
def test_of_500_draws_of_sound_nets_one_percent_or_less_is_called_faulty() -> None:
    alarms = [
        (name, seed, rules)
        for name, build in SOUND_NETS.items()
        for seed in range(1, 17)
        if (rules := faults((net := build(seed)).model, net.batch))
    ]
    assert len(alarms) <= 5, alarms


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["convnext_tiny", "efficientnet_b0", "regnet_y_400mf", "resnet50", "shufflenet_v2_x1_0", "swin_t"]
)
def test_torchvisions_nets_at_their_authors_initialisation_have_no_fault(name: str) -> None:
    torch.manual_seed(0)
    assert faults(torchvision.models.get_model(name, weights=None), torch.randn(2, 3, 224, 224)) == []


class Tied(nn.Module):
    """An embedding that is the output layer too."""

    def __init__(self, words: int = 256, width: int = 64) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(words, width), nn.Linear(width, words, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_a_token_model_whose_logits_are_loud_is_told_with_the_measured_loss() -> None:
    torch.manual_seed(0)
    model, ids = Tied(), torch.randint(256, (4, 12))
    (finding,) = (finding for finding in lint(model, ids) if finding.rule == "loss_at_start")
    with torch.no_grad():
        logits = model(ids).double()
    # Over every label alike.
    by_hand = torch.stack([F.cross_entropy(logits.flatten(0, 1), torch.full((48,), k)) for k in range(256)]).mean()
    assert finding.severity == "fault"
    assert f"starts near {by_hand:.3g}, where ln 256 = 5.55" in finding.text
    exec(finding.fix, {"model": model})
    with torch.no_grad():
        assert F.cross_entropy(model(ids).flatten(0, 1), ids.flatten()) < 2 * math.log(256)
    assert "loss_at_start" not in {finding.rule for finding in lint(model, ids)}


def test_glorots_normal_weights_are_not_taken_for_a_cut_in_any_of_50_draws() -> None:
    for seed in range(50):
        torch.manual_seed(seed)
        layers = [module for _ in range(3) for module in (nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU())]
        for layer in layers[::2]:
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
        assert "truncation" not in {finding.rule for finding in lint(nn.Sequential(*layers))}


def test_a_signal_that_dies_out_is_said_in_words() -> None:
    layers = [module for _ in range(20) for module in (nn.Linear(64, 64), nn.Tanh())]
    net = initlab.init_(nn.Sequential(*layers), "gaussian", std=0.05)
    (finding,) = (finding for finding in lint(net) if finding.rule == "gain")
    assert finding.text.endswith("as the signal itself dies out")


def test_under_weight_norm_the_fix_scales_what_runs() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    initlab.init_(net, "he", last_factor=10.0)
    nn.utils.parametrizations.weight_norm(net[2])
    (finding,) = (finding for finding in lint(net, torch.randn(32, 64)) if finding.rule == "loss_at_start")
    assert "parametrizations.weight.original0.data.mul_(" in finding.fix
    exec(finding.fix, {"model": net})
    assert "loss_at_start" not in {finding.rule for finding in lint(net, torch.randn(32, 64))}
