"""The cause: planted faults are named by their parameters, and the remedy does what it says when pasted."""

import copy
import itertools
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import initlab
from initlab import inspect, lint

WIDTH, VOCAB = 64, 50
IDS = torch.randint(VOCAB, (8, 12), generator=torch.Generator().manual_seed(0))


class OwnNorm(nn.Module):
    """A LayerNorm written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return self.g * centred / (centred.square().mean(-1, keepdim=True) + 1e-12).sqrt() + self.b


class OffsetNorm(nn.Module):
    """An RMSNorm that multiplies by 1 + w, of which 0 is usual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.w) * x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt()


class Encoder(nn.Module):
    """A post-norm net on tokens, without attention: eight blocks of two layers."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm, depth: int = 10) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.up = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.down = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth))
        self.norms = nn.ModuleList(norm(WIDTH) for _ in range(depth))
        self.head = nn.Linear(WIDTH, VOCAB)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.08)
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for up, down, norm in zip(self.up, self.down, self.norms, strict=True):
            x = norm(x + down(torch.relu(up(x))))
        return self.head(x)


def loss_after(model: nn.Module, inputs: Tensor, labels: Tensor, steps: int = 40) -> float:
    """The mean loss after some steps of AdamW, in plain torch."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(steps):
        loss = F.cross_entropy(model(inputs).flatten(0, -2), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def encoder(norm: Callable[[int], nn.Module] = nn.LayerNorm) -> Encoder:
    torch.manual_seed(0)
    return Encoder(norm)


@pytest.mark.parametrize(("norm", "parameter"), [(nn.LayerNorm, "weight"), (OwnNorm, "g"), (nn.RMSNorm, "weight")])
def test_norm_gains_drawn_like_weights_are_the_cause_and_set_to_1(
    norm: Callable[[int], nn.Module], parameter: str
) -> None:
    sound, wrong = encoder(norm), encoder(norm)
    assert inspect(sound, IDS, IDS).healthy
    for module in wrong.norms:
        nn.init.normal_(module.get_parameter(parameter), 0, 0.02)
    inspection = inspect(wrong, IDS, IDS)
    assert not inspection.healthy
    assert inspection.cure.parameters == tuple(f"norms.{i}.{parameter}" for i in range(10))
    assert re.match(r"gamma of 10 norms .* has an rms of 0.0[12]\d*, where 1 is usual", inspection.cause)
    exec(inspection.remedy, {"model": wrong})
    assert all((module.get_parameter(parameter) == 1).all() for module in wrong.norms)
    assert loss_after(wrong, IDS, IDS) < 1.1 * loss_after(sound, IDS, IDS) + 0.05


def test_a_gain_of_1_plus_w_is_usual_at_0_and_a_plain_module_is_no_norm() -> None:
    from initlab.inspection.suspects.norms import usual_of_norm

    x = torch.randn(8, WIDTH)
    norm = OwnNorm(WIDTH)
    nn.init.normal_(norm.g, 0, 0.02)
    assert usual_of_norm(norm, x) == {"g": (1.0, True), "b": (0.0, False)}
    assert usual_of_norm(OffsetNorm(WIDTH), x) == {"w": (0.0, True)}
    assert usual_of_norm(nn.PReLU(WIDTH), x) == {}
    assert usual_of_norm(nn.Linear(WIDTH, WIDTH), x) == {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_one_broken_number_is_named_with_its_parameter(value: float) -> None:
    model = encoder()
    with torch.no_grad():
        model.down[3].weight[5, 7] = value
    inspection = inspect(model, IDS, IDS)
    assert inspection.verdict in ("nonfinite", "exploding", "saturated") or not inspection.healthy
    assert [finding.layers for finding in lint(model, IDS) if finding.severity == "fault"] == [("down.3",)]
    if not inspection.healthy:
        assert inspection.cure.parameters == ("down.3.weight",)
        exec(inspection.remedy, {"model": model})
        # The draw's own size, measured from the numbers that are sound.
        assert model.down[3].weight.std().item() == pytest.approx(0.08, rel=0.1)
        assert inspect(model, IDS, IDS).healthy


def test_a_bare_parameter_that_is_not_finite_is_named() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
            self.scale = nn.Parameter(torch.full((16,), float("nan")))

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.relu(layer(x))
            return x * self.scale

    x = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    model = initlab.init_(Scaled(), "he")
    assert [(f.rule, f.layers) for f in lint(model, x) if f.severity == "fault"] == [("nonfinite", ("scale",))]
    inspection = inspect(model, x, torch.arange(8))
    if not inspection.healthy:
        assert inspection.cure.parameters == ("scale",)


def test_relations_between_weights_are_found_and_drawn_anew() -> None:
    def copies(model: Encoder) -> None:
        for layer in model.up[1:]:
            layer.load_state_dict(model.up[0].state_dict())

    def half_rows(model: Encoder) -> None:
        model.up[2].weight.data[32:] = model.up[2].weight.data[:32]

    def unwritten(model: Encoder) -> None:
        model.up[2].weight.data[32:] = 1e-41

    expected = {
        copies: ("copies", tuple(f"up.{i}" for i in range(1, 10)), "10 layers are copies of one"),
        half_rows: ("repeated_rows", ("up.2",), "50% of the rows of `up.2.weight` repeat other rows"),
        unwritten: ("denormal", ("up.2",), "50% of `up.2.weight` are denormal"),
    }
    for plant, (rule, layers, words) in expected.items():
        model = encoder()
        assert [finding.rule for finding in lint(model, IDS) if finding.severity == "fault"] == []
        plant(model)
        (finding,) = (finding for finding in lint(model, IDS) if finding.rule == rule)
        assert (finding.rule, finding.layers) == (rule, layers)
        assert words in finding.text
        exec(finding.fix, {"model": model})
        assert lint(model, IDS) == lint(encoder(), IDS)
        assert model.up[2].weight.std().item() == pytest.approx(0.08, rel=0.1)


def test_torchs_transformer_encoder_is_six_copies_of_one_layer() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 6)
    (finding,) = (f for f in lint(model, torch.randn(2, 5, 32)) if f.rule == "copies")
    assert "(6 layers are copies of one)" in finding.text
    assert finding.layers[0] == "layers.1.self_attn"
    exec(finding.fix, {"model": model})
    assert not any(f.rule == "copies" for f in lint(model, torch.randn(2, 5, 32)))


def test_rows_repeated_for_a_pixel_shuffle_and_tied_weights_are_left_in_peace() -> None:
    torch.manual_seed(0)
    shuffle = nn.Sequential(nn.Conv2d(3, 16, 3), nn.PixelShuffle(2))
    shuffle[0].weight.data = torch.randn(4, 3, 3, 3).repeat_interleave(4, 0)
    tied = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    tied[2].weight = tied[0].weight
    for model in (shuffle, tied):
        assert not {"copies", "repeated_rows"} & {finding.rule for finding in lint(model)}


def test_one_layer_ten_times_too_large_among_its_kind_is_the_cause() -> None:
    torch.manual_seed(0)
    layers = [module for _ in range(12) for module in (nn.Linear(WIDTH, WIDTH), nn.ReLU())]
    model = initlab.init_(nn.Sequential(*layers, nn.Linear(WIDTH, 10)), "he")
    with torch.no_grad():
        model[8].weight.mul_(100)
    x = torch.randn(32, WIDTH, generator=torch.Generator().manual_seed(0))
    inspection = inspect(model, x, torch.arange(32) % 10)
    assert not inspection.healthy
    assert inspection.cure.parameters == ("8.weight",)
    assert "`8` are ×10" in inspection.cause
    exec(inspection.remedy, {"model": model})
    assert model[8].weight.std().item() == pytest.approx((2 / WIDTH) ** 0.5, rel=0.1)


def test_the_remedy_is_what_was_tried_and_the_model_is_left_as_it_was() -> None:
    model = nn.Sequential(*(m for _ in range(30) for m in (nn.Linear(WIDTH, WIDTH), nn.ReLU())), nn.Linear(WIDTH, 10))
    x, labels = torch.randn(32, WIDTH), torch.arange(32) % 10
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    inspection = inspect(model, x, labels)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert inspection.remedy == 'initlab.init_(model, "he")'
    loss = float(re.search(r"AdamW at rate 0.001 on the batch ([\d.e-]+) instead", inspection.advice[0])[1])
    exec(inspection.remedy, {"initlab": initlab, "model": model})
    assert loss_after(model, x, labels, steps=41) == pytest.approx(loss, rel=0.06)


class Sine(nn.Module):
    def __init__(self, frequency: float) -> None:
        super().__init__()
        self.frequency = frequency

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.frequency * x)


@pytest.mark.parametrize("frequency", [30.0, 10.0])
def test_a_sine_net_under_torchs_default_is_given_sirens_rule_for_its_frequency(frequency: float) -> None:
    torch.manual_seed(0)
    widths = [2, *[64] * 5]
    layers = [m for n, out in itertools.pairwise(widths) for m in (nn.Linear(n, out), Sine(frequency))]
    model = nn.Sequential(*layers, nn.Linear(64, 1))
    points = torch.rand(64, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    target = torch.sin(3 * points.sum(1, keepdim=True))
    inspection = inspect(model, points, target, loss=lambda out, t: (out - t).square().mean(1))
    assert inspection.verdict == "exploding"
    assert f"sin needs {2 / frequency**2:.3g}" in inspection.cause
    exec(inspection.remedy, {"initlab": initlab, "model": model})
    # Sitzmann et al. 2020: U(+-1/n) in the first layer, U(+-sqrt(6/n)/w0) in all others.
    assert model[0].weight.std().item() == pytest.approx(1 / (3**0.5 * 2), rel=0.25)
    assert model[2].weight.std().item() == pytest.approx((2 / 64) ** 0.5 / frequency, rel=0.05)
    assert [finding for finding in lint(model, points) if finding.severity == "fault"] == []


def test_zero_gates_in_front_of_a_relu_are_the_cause_and_move_after_the_remedy() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(20, 32), nn.Linear(32, 5)
            self.blocks = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
            self.gates = nn.ModuleList(nn.Linear(32, 32, bias=False) for _ in range(3))
            for gate in self.gates:
                nn.init.zeros_(gate.weight)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            for block, gate in zip(self.blocks, self.gates, strict=True):
                x = x + torch.relu(gate(x)) * block(x)
            return self.head(x)

    torch.manual_seed(0)
    model, x = Gated(), torch.randn(32, 20)
    inspection = inspect(model, x, torch.arange(32) % 5)
    assert inspection.verdict == "dead"
    assert inspection.cure.parameters == tuple(f"gates.{i}.weight" for i in range(3))
    exec(inspection.remedy, {"model": model})
    before = copy.deepcopy(model.state_dict())
    F.cross_entropy(model(x), torch.arange(32) % 5).backward()
    assert all((gate.weight.grad != 0).any() for gate in model.gates)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_a_pre_norm_net_whose_gains_are_small_is_handicapped() -> None:
    """Its signals are level, since the trunk has no norm, and it learns a tenth as fast."""
    from initlab.bench.sound_nets import SOUND_NETS

    net = SOUND_NETS["gpt"](0)
    names = [name for name, module in net.model.named_modules() if isinstance(module, nn.LayerNorm)]
    sound = loss_after(net.model, net.batch, net.labels)
    for name in names:
        nn.init.normal_(net.model.get_submodule(name).weight, 0, 0.02)
    assert loss_after(net.model, net.batch, net.labels) > 2 * sound
    inspection = inspect(net.model, net.batch, net.labels)
    assert (inspection.verdict, inspection.healthy) == ("handicapped", False)
    assert inspection.cure.parameters == tuple(f"{name}.weight" for name in names)
    exec(inspection.remedy, {"model": net.model})
    assert loss_after(net.model, net.batch, net.labels) == pytest.approx(sound, rel=0.05)


@pytest.mark.slow
def test_no_cause_is_named_of_sound_nets() -> None:
    from initlab.bench.sound_nets import SOUND_NETS

    for name, build in SOUND_NETS.items():
        net = build(3)
        inspection = inspect(net.model, net.batch, net.labels, loss=net.loss)
        assert (inspection.cause, inspection.healthy) == ("", True), name


class Recall(nn.Module):
    """Names at the end what it took at the first of many steps."""

    def __init__(self, hidden: int = 16) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, hidden, batch_first=True), nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def test_an_lstm_that_forgets_over_100_steps_is_given_a_forget_bias_of_their_logarithm() -> None:
    torch.manual_seed(0)
    model, labels = Recall(), torch.arange(12) % 3
    x = 0.1 * torch.randn(12, 100, 4)
    x[torch.arange(12), 0, labels] += 2.0
    inspection = inspect(model, x, labels)
    assert inspection.verdict == "vanishing"
    assert inspection.cure.parameters == ("lstm.bias_hh_l0", "lstm.bias_ih_l0")
    assert "sum to" in inspection.cause and "over 100 steps; 4.6 is usual" in inspection.cause

    def first_over_last(model: nn.Module) -> float:
        """rms gradient at the first step over that at the last, in plain torch and float64."""
        model, inputs = copy.deepcopy(model).double(), x.double().requires_grad_()
        F.cross_entropy(model(inputs), labels).backward()
        rms = inputs.grad.square().mean((0, 2)).sqrt()
        return (rms[0] / rms[-1]).item()

    assert first_over_last(model) < 1e-12
    exec(inspection.remedy, {"model": model})
    total = model.lstm.bias_hh_l0 + model.lstm.bias_ih_l0
    # torch's gates are i, f, g, o; ln 99 = 4.6.
    assert torch.allclose(total[16:32], torch.tensor(4.6))
    assert first_over_last(model) > 1e-2


def test_an_lstm_whose_forget_bias_is_minus_5_is_named_by_lint_once() -> None:
    model = Recall()
    for name in ("bias_ih_l0", "bias_hh_l0"):
        model.lstm.get_parameter(name).data[16:32] = -2.5
    (finding,) = (finding for finding in lint(model, torch.randn(4, 10, 4)) if finding.severity == "fault")
    assert (finding.rule, finding.layers) == ("forget_bias", ("lstm",))
    assert "sum to -5, so that a step keeps 0.0067 of it" in finding.text


def test_a_recurrent_matrix_drawn_orthogonal_across_gates_is_told_and_mended_gate_by_gate() -> None:
    from initlab.inspection.suspects.gates import across_gates

    model = Recall()
    assert not list(across_gates(model))
    nn.init.orthogonal_(model.lstm.weight_hh_l0)
    (suspect,) = across_gates(model)
    assert suspect.parameters == ("lstm.weight_hh_l0",)
    exec(suspect.code, {"model": model})
    for block in model.lstm.weight_hh_l0.detach().chunk(4):
        assert torch.allclose(block @ block.T, torch.eye(16), atol=1e-5)
    assert not list(across_gates(model))


def test_an_activation_written_out_is_not_taken_for_its_part() -> None:
    """x sigmoid(1.702 x) is no sigmoid, whose gain of 10 would blow 12 layers up."""

    class QuickGelu(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.sigmoid(1.702 * x)

    torch.manual_seed(0)
    layers = [m for _ in range(12) for m in (nn.Linear(WIDTH, WIDTH), QuickGelu())]
    model, x, labels = nn.Sequential(*layers, nn.Linear(WIDTH, 10)), torch.randn(32, WIDTH), torch.arange(32) % 10
    default = loss_after(model, x, labels)
    inspection = inspect(model, x, labels)
    assert inspection.verdict == "vanishing"
    assert inspection.cause.endswith("2 is usual where no activation is known")
    exec(inspection.remedy, {"initlab": initlab, "model": model, "batch": x})
    assert loss_after(model, x, labels) < default / 10


def selu_net() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Twelve layers of LeCun's weights, 32 inputs, and ten classes of them drawn by lot."""
    torch.manual_seed(0)
    layers = [layer for _ in range(12) for layer in (nn.Linear(WIDTH, WIDTH), nn.SELU())]
    model = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    for layer in model[::2]:
        nn.init.normal_(layer.weight, 0, WIDTH**-0.5)
        nn.init.zeros_(layer.bias)
    return model, torch.randn(32, WIDTH), torch.randint(10, (32,))


def sgd_loss(model: nn.Module, x: Tensor, labels: Tensor) -> float:
    """The loss of a copy after 60 steps of SGD at 0.03 with momentum 0.9; inf where it is not finite."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.03, momentum=0.9)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    loss = F.cross_entropy(model(x), labels).item()
    return loss if loss == loss else float("inf")


@pytest.mark.parametrize(("layer", "factor", "word"), [("20", 10, "×"), ("24", 30, "logits")])
def test_what_only_a_rate_of_practice_shows_is_named(layer: str, factor: float, word: str) -> None:
    """A layer ten times too large, or logits thirty times, under which signals are level but SGD does not learn."""
    model, x, labels = selu_net()
    sound = sgd_loss(model, x, labels)
    assert sound < 0.1
    assert inspect(model, x, labels).healthy
    model.get_submodule(layer).weight.data.mul_(factor)
    assert sgd_loss(model, x, labels) > 1
    inspection = inspect(model, x, labels)
    assert inspection.verdict in ("handicapped", "saturated")
    assert inspection.cure.parameters == (f"{layer}.weight",)
    assert word in inspection.cause
    exec(inspection.remedy, {"model": model})
    assert sgd_loss(model, x, labels) < 0.1


@pytest.mark.parametrize("tokens", [True, False])
def test_weights_kept_in_float16_are_named(tokens: bool) -> None:
    """AdamW's epsilon is 0 there, so that its first step is no number."""
    torch.manual_seed(0)
    first = nn.Embedding(VOCAB, WIDTH) if tokens else nn.Linear(12, WIDTH)
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 10))
    x = IDS if tokens else torch.randn(8, 12)
    labels = torch.randint(10, x.shape if tokens else (8,))
    assert inspect(model, x, labels).healthy
    model.half()
    x = x if tokens else x.half()
    inspection = inspect(model, x, labels)
    assert not inspection.healthy
    assert [suspect.rule for suspect in inspection.cure.suspects] == ["precision"]
    assert "model.float()" in inspection.remedy
    assert ("batch.float()" in inspection.remedy) is not tokens
    assert next(model.parameters()).dtype == torch.float16


def test_biases_far_below_zero_are_no_prior() -> None:
    """-30 in front of a ReLU shuts it; a detector's -4.6 (one class in a hundred) is left."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    initlab.init_(model, "he")
    model[2].bias.data.fill_(-30)
    model[4].bias.data.fill_(-4.6)
    inspection = inspect(model, torch.randn(32, 20), torch.randint(10, (32,)))
    assert inspection.verdict == "dead"
    assert inspection.cure.parameters == ("2.bias",)
