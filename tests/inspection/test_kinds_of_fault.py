"""Kinds of fault from users' reports: each is found by its parameters, and what is like it on purpose is left alone."""

import math
import threading
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

import initlab
from initlab.inspection.lint.finding import Finding
from initlab.inspection.suspects.inputs import odd_inputs
from initlab.inspection.suspects.outputs import odd_outputs
from initlab.inspection.suspects.scales import odd_embeddings
from initlab.inspection.suspects.suspect import Entry
from initlab.inspection.suspects.values import copies, odd_scalars, outliers, repeated_rows


def mlp(*sizes: int, seed: int = 0) -> nn.Sequential:
    """He layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return initlab.init_(nn.Sequential(*layers[:-1]), "he", seed=seed)  # type: ignore[return-value]


def batch(*shape: int, classes: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit-normal inputs and random classes."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator), torch.randint(classes, shape[:1], generator=generator)


def of_rule(findings: list[Finding], rule: str) -> list[Finding]:
    """The findings of one rule."""
    return [entry for entry in findings if entry.rule == rule]


def test_a_few_numbers_that_outweigh_a_normal_draw_are_named() -> None:
    weight = 0.02 * torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    assert not [*outliers([Entry("a.weight", weight)])]
    # 0.4 % at the bound, of which one row has two, as trunc_normal_ of bfloat16 drew.
    weight.view(-1)[::256] = -2.0
    weight[0, 1] = -2.0
    (suspect,) = outliers([Entry("a.weight", weight)])
    assert suspect.words.startswith("33 of 8192 numbers in `a.weight`, up to 2,")
    assert "normal_(0, 0.0" in suspect.code


def test_an_identity_with_noise_has_no_outliers() -> None:
    noise = 0.001 * torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    assert not [*outliers([Entry("weight", torch.eye(64) + noise)])]


class Projected(nn.Module):
    """A bare matrix between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = mlp(32, 64), mlp(64, 5)
        self.proj = nn.Parameter(torch.zeros(64, 64))

    def forward(self, x: Tensor) -> Any:
        return self.head(torch.relu(self.body(x) @ self.proj))


def test_a_bare_matrix_of_zeros_that_lets_nothing_through_is_the_cause() -> None:
    seen = initlab.inspect(Projected(), *batch(64, 32), redraws=0)
    assert seen.verdict == "dead"
    assert seen.cure is not None
    assert seen.cure.parameters == ("proj",)


def test_biases_of_minus_eight_before_relu_are_the_cause() -> None:
    net = mlp(32, 64, 64, 5)
    for layer in net[::2]:
        nn.init.constant_(layer.bias, -20.0)  # type: ignore[arg-type, union-attr]
    seen = initlab.inspect(net, *batch(64, 32), redraws=0)
    assert seen.verdict == "dead"
    assert "bias" in seen.cause


class InAList(nn.Module):
    """Layers in a list of Python's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.hidden, self.last = nn.Linear(32, 32), [nn.Linear(32, 32) for _ in range(3)], nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Any:
        for layer in (self.first, *self.hidden):
            x = torch.relu(layer(x))
        return self.last(x)


def test_layers_in_a_python_list_are_no_all_clear() -> None:
    seen = initlab.inspect(InAList(), *batch(32, 32), redraws=0)
    assert seen.verdict == "not_judged"
    # 3 * (32 * 32 + 32).
    assert "6 tensors of 3,168 weights" in seen.reason
    assert "`hidden`" in seen.reason


@pytest.mark.parametrize("ask", [initlab.inspect, initlab.lint])
def test_a_model_on_the_meta_device_is_one_line(ask: Any) -> None:
    with torch.device("meta"):
        net = nn.Linear(4, 3)
    with pytest.raises(ValueError, match=r"^inspect: weight has no numbers .*to_empty"):
        ask(net, torch.zeros(2, 4))


def test_labels_in_a_list_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"labels are no tensor \(got list\)"):
        initlab.inspect(nn.Linear(4, 3), torch.zeros(2, 4), [0, 1])


def test_a_padding_row_that_is_drawn_is_a_note() -> None:
    net = nn.Sequential(nn.Embedding(20, 8, padding_idx=3), nn.Flatten(), nn.Linear(32, 4))
    assert not of_rule(initlab.lint(net), "padding")
    nn.init.normal_(net[0].weight)  # type: ignore[arg-type]
    (entry,) = of_rule(initlab.lint(net), "padding")
    assert (entry.severity, entry.layers) == ("note", ("0",))
    assert entry.fix == 'model.get_submodule("0").weight.data[3].zero_()'


def test_a_head_of_unit_weights_is_saturated_from_three_times_chance_on() -> None:
    net = mlp(32, 64, 200)
    nn.init.normal_(net[-1].weight)  # type: ignore[arg-type]
    seen = initlab.inspect(net, *batch(64, 32, classes=200), redraws=0)
    # Logits of std about sqrt(64) on 200 classes: about 8 * 3 above the mean.
    assert seen.verdict == "saturated"
    assert "`2`" in seen.cause
    assert "the loss starts at" in seen.advice[0]


def test_old_spectral_norm_is_seen_as_its_first_step_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*[m for _ in range(4) for m in (spectral_norm(nn.Linear(64, 64)), nn.ReLU())], nn.Linear(64, 5))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    seen = initlab.inspect(net, *batch(64, 64), redraws=0)
    assert seen.healthy
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


class Experts(nn.Module):
    """Three experts weighed alike."""

    def __init__(self, *, same: bool) -> None:
        super().__init__()
        self.experts = nn.ModuleList([mlp(16, 32, 16, seed=0 if same else seed) for seed in range(3)])
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        return self.head(sum(expert(x) for expert in self.experts) / 3)


def test_experts_that_are_copies_and_stay_alike_are_told_from_those_that_are_none() -> None:
    inputs, labels = batch(64, 16)
    seen = initlab.inspect(Experts(same=True), inputs, labels, redraws=0)
    assert seen.verdict == "handicapped"
    assert set(seen.cure.parameters if seen.cure else ()) == {
        f"experts.{number}.{layer}.weight" for number in (1, 2) for layer in (0, 2)
    }
    assert "still do so after some steps" in seen.reason
    assert initlab.inspect(Experts(same=False), inputs, labels, redraws=0).verdict == "healthy"


def test_layers_of_one_seed_are_copies_whatever_they_are_called() -> None:
    weight = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    (suspect,) = copies([Entry("query.weight", weight), Entry("key.weight", weight.clone())])
    assert suspect.words.startswith("`key.weight` hold the same draw as `query.weight`")


def test_equal_matrices_in_one_tensor_repeat_rows_and_tables_do_not() -> None:
    stacked = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(3, 1, 1)
    (suspect,) = repeated_rows([Entry("w", stacked)])
    assert suspect.words.startswith("67% of the rows of `w`")
    # Mamba's A starts at 1 to 16 in every channel.
    table = torch.arange(1.0, 17.0).log().repeat(32, 1)
    assert not [*repeated_rows([Entry("A_log", table)]), *copies([Entry("a.A", table), Entry("b.A", table.clone())])]


def test_probabilities_for_a_loss_of_logits_have_a_floor() -> None:
    net = nn.Sequential(*mlp(32, 64, 10), nn.Softmax(-1))
    inputs, labels = batch(64, 32, classes=10)
    (suspect,) = odd_outputs(net, inputs, labels, None)
    # ln(e + 9) - 1.
    assert "a loss of 1.46" in suspect.words
    seen = initlab.inspect(net, inputs, labels, redraws=0)
    assert seen.verdict == "handicapped"
    assert "softmax" in seen.reason


def test_probabilities_for_a_loss_of_probabilities_are_fine() -> None:
    inputs, labels = batch(64, 32, classes=10)

    def nll(output: Tensor, target: Tensor) -> Tensor:
        """Of probabilities."""
        return F.nll_loss(output.log(), target, reduction="none")

    def bce(output: Tensor, target: Tensor) -> Tensor:
        """With logits or of probabilities would both take such an output."""
        return F.binary_cross_entropy(output, target, reduction="none").mean(1)

    # A perfect probability has a loss of 0, and logarithms of probabilities are logits.
    assert not [*odd_outputs(nn.Sequential(*mlp(32, 64, 10), nn.Softmax(-1)), inputs, labels, nll)]
    assert not [*odd_outputs(nn.Sequential(*mlp(32, 64, 10), nn.LogSoftmax(-1)), inputs, labels, None)]
    targets = (labels[:, None] < 5).float()
    assert not [*odd_outputs(nn.Sequential(*mlp(32, 64, 1), nn.Sigmoid()), inputs, targets, bce)]


def test_columns_of_unlike_size_are_scaled_one_by_one() -> None:
    inputs, _ = batch(64, 10)
    assert not [*odd_inputs(inputs)]
    inputs[:, 3] = 300 + 40 * inputs[:, 3]
    (suspect,) = odd_inputs(inputs)
    scaled = {"batch": inputs}
    exec(suspect.code, scaled)
    assert torch.allclose(scaled["batch"].std(0), torch.ones(10), rtol=1e-4)


def test_an_embedding_that_drowns_another_is_a_suspect() -> None:
    net = nn.ModuleDict({"tok": nn.Embedding(50, 16), "pos": nn.Embedding(8, 16)})
    assert "outweighed" not in {suspect.rule for suspect in odd_embeddings(net)}
    net["tok"].weight.data.mul_(0.02)  # type: ignore[union-attr, operator]
    (suspect,) = [suspect for suspect in odd_embeddings(net) if suspect.rule == "outweighed"]
    assert suspect.parameters == ("pos.weight",)


def test_a_temperature_is_a_suspect_and_clips_own_is_none() -> None:
    assert not [*odd_scalars([Entry("logit_scale", torch.tensor(math.log(1 / 0.07)))])]
    assert [*odd_scalars([Entry("logit_scale", torch.tensor(math.log(1000.0)))])]


def test_an_orthogonal_matrix_across_gates_is_a_note() -> None:
    net = nn.GRU(8, 16)
    nn.init.orthogonal_(net.weight_hh_l0)
    (entry,) = of_rule(initlab.lint(net, torch.randn(5, 2, 8)), "across_gates")
    assert entry.severity == "note"
    for gate in net.weight_hh_l0.data.chunk(3):
        nn.init.orthogonal_(gate)
    assert not of_rule(initlab.lint(net, torch.randn(5, 2, 8)), "across_gates")


def test_where_nothing_can_be_copied_the_advice_says_so() -> None:
    net = Projected()
    net.lock = threading.Lock()  # type: ignore[assignment]
    seen = initlab.inspect(net, *batch(64, 32), redraws=0)
    assert seen.verdict == "dead"
    assert seen.advice[0].startswith("no remedy was tried, since the model cannot be copied: cannot pickle")
