"""LSTM, GRU and RNN through time against draws of them in plain torch, and what can be worked out by hand."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.signal.survey import survey
from initlab.signal.theory.field import Pairs
from initlab.signal.theory.gates import CELLS, Moments, Units
from initlab.signal.theory.kernels import Steps, of_sequences, sampled

WIDTH, STEPS, FEATURES = 64, 6, 8


class Classifier(nn.Module):
    """A recurrent layer, of which the head takes the last output, the last state or the mean of all outputs."""

    def __init__(self, rnn: nn.RNNBase, takes: str = "last") -> None:
        super().__init__()
        self.rnn, self.takes = rnn, takes
        self.head = nn.Linear(rnn.hidden_size * (1 + rnn.bidirectional), 10)

    def forward(self, x: Tensor) -> Tensor:
        out, state = self.rnn(x if self.rnn.batch_first else x.transpose(0, 1))
        out = out if self.rnn.batch_first else out.transpose(0, 1)
        if self.takes == "state":
            h = state[0] if isinstance(state, tuple) else state
            return self.head(torch.cat([h[-2], h[-1]], 1) if self.rnn.bidirectional else h[-1])
        return self.head(out[:, -1] if self.takes == "last" else out.mean(1))


@torch.no_grad()
def draw(model: nn.Module, seed: int, gain: float = 1.0) -> None:
    """Normal weights with gain^2 over the inputs, and biases of 0."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.dim() > 1:
            p.copy_(torch.randn(p.shape, generator=generator) * gain / math.sqrt(p.shape[1]))
        else:
            p.zero_()


@torch.no_grad()
def exact(model: nn.Module, gates: int, gain: float = 1.0) -> None:
    """Weights of which every gate has exactly that second moment."""
    draw(model, 0)
    for name, p in model.named_parameters():
        for part in p.chunk(gates if name.startswith("rnn") else 1) if p.dim() > 1 else ():
            part.mul_(gain / math.sqrt(p.shape[1] * part.double().square().mean()))


def batch(examples: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(examples, STEPS, FEATURES, generator=generator), torch.arange(examples) % 10


CASES: dict[str, tuple[Any, str, float]] = {
    "lstm": (lambda: nn.LSTM(FEATURES, WIDTH, batch_first=True), "last", 1.5),
    "gru": (lambda: nn.GRU(FEATURES, WIDTH, batch_first=True, bidirectional=True), "mean", 1.0),
    "rnn": (lambda: nn.RNN(FEATURES, WIDTH), "last", 1.2),
    "rnn of two layers": (lambda: nn.RNN(FEATURES, WIDTH, 2, batch_first=True, bidirectional=True), "state", 1.0),
}


@pytest.mark.parametrize("name", list(CASES))
def test_draws_lie_in_the_band_of_every_gate_and_of_the_head(name: str) -> None:
    """Of 25 draws at least 87 % of the points in each direction, and the medians within a fifth of a logarithm."""
    build, takes, gain = CASES[name]
    model = Classifier(build(), takes)
    inputs, labels = batch()
    exact(model, {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[type(model.rnn)], gain)
    theory = initlab.predict(model, batch=inputs, labels=labels).set_index("name")
    # That of joined directions is in doubt.
    assert takes == "state" or set(theory.basis) == {"theory"}
    tables = []
    for seed in range(25):
        draw(model, seed, gain)
        tables.append(pd.DataFrame(survey(model, inputs, labels).layers).set_index("name"))
    assert set(theory.index) == set(tables[0].index)
    for direction in ("forward", "backward"):
        points = np.array([table.loc[theory.index, f"{direction}_var"] for table in tables])
        low, middle, high = (theory[f"{direction}_{end}"].to_numpy() for end in ("low", "median", "high"))
        assert ((points > low) & (points < high)).mean() > 0.87
        assert np.abs(np.log(np.median(points, 0) / middle)).max() < 0.2
        # A band that holds everything would be none.
        spread = np.log(points).std(0)
        assert (np.log(high / low) / 3.92 < 2.2 * spread).all()


def test_a_relu_net_through_time_has_the_recursion_of_second_moments() -> None:
    """Half of each square passes: q_t = g q_x + g q_(t-1) / 2, and a gradient falls by g/2 a step."""
    model = Classifier(nn.RNN(FEATURES, 256, nonlinearity="relu", batch_first=True))
    inputs, labels = batch()
    exact(model, 1, gain := 1.2)
    theory = initlab.predict(model, batch=inputs, labels=labels).set_index("name")
    q, levels = 0.0, []
    for square in inputs.square().mean((0, 2)).tolist():
        q = gain**2 * (square + q / 2)
        levels.append(q)
    assert theory.forward_var["rnn.weight_ih_l0"] == pytest.approx(np.mean(levels), rel=0.01)
    # A variance loses what the 10 outputs have in common over the batch.
    alike = (1 + 15 * theory.correlation["head"]) / 16
    assert theory.forward_var["head"] == pytest.approx(gain**2 * q / 2 * (1 - alike / 10), rel=0.03)
    # The head's 10 rows have a second moment of gain^2 / 256 each.
    last = 10 * gain**2 / 256 * theory.backward_var["head"] / 2
    expected = last * sum((gain**2 / 2) ** k for k in range(STEPS)) / STEPS
    assert theory.backward_var["rnn.weight_hh_l0"] == pytest.approx(expected, rel=0.03)


def test_without_a_state_each_step_is_the_activation_of_a_normal() -> None:
    """E[tanh(sqrt(q) z)^2] by the trapezoidal rule, for inputs that all have the same mean square."""
    model = Classifier(nn.RNN(FEATURES, 128, batch_first=True))
    inputs, labels = batch()
    inputs = inputs / inputs.square().mean(2, keepdim=True).sqrt()
    exact(model, 1, 1.5)
    with torch.no_grad():
        model.rnn.weight_hh_l0.zero_()
    z = np.linspace(-10, 10, 20001)
    square = np.trapezoid(np.tanh(1.5 * z) ** 2 * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi), z)
    theory = initlab.predict(model, batch=inputs, labels=labels).set_index("name")
    assert theory.forward_var["rnn.weight_ih_l0"] == pytest.approx(1.5**2, rel=0.01)
    assert theory.forward_var["head"] == pytest.approx(1.5**2 * square, rel=0.02)


def test_a_forget_gate_of_bias_20_adds_up_all_cells() -> None:
    """Without weights of the state c_T is the sum of T independent s(i) tanh(g), which a small input leaves linear."""
    units = Units(
        CELLS["lstm"], without_state(1e-4), torch.ones(1, 2048, dtype=torch.float64), np.random.default_rng(0)
    )
    units.forward(torch.eye(STEPS, dtype=torch.float64)[None, :, None])
    cells = torch.stack([state[1] for state in units.states[1:]])
    each = 1e-4 / 4
    assert cells.square().mean((1, 2)).numpy() == pytest.approx([each * (t + 1) for t in range(STEPS)], rel=0.05)


def without_state(variance: float) -> Moments:
    """An LSTM's that takes its input alone, its forget gate open."""
    inputs, nothing = torch.full((4,), variance, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
    return Moments(64, inputs, nothing, inputs, torch.tensor([0.0, 20.0, 0.0, 0.0]).double(), nothing)


def test_sampled_kernels_have_the_means_and_the_scatter_that_were_asked_for() -> None:
    steps = Steps.of_gradient(None, 2.0, Pairs(1.0, 0.2, 0.2, 0.1, 0.1), 5)
    spread = Pairs(0.0, 0.04, 0.04, 0.04, 0.04)
    kernel = sampled(steps, spread, 8)
    flat = kernel.flatten(2).flatten(0, 1)
    assert flat.diagonal().numpy() == pytest.approx(2.0)
    assert float(torch.linalg.eigvalsh(flat).min()) > -1e-9
    pairs = torch.stack([kernel[a, t, b, t] for a in range(8) for b in range(a) for t in range(5)]) / 2
    assert float(pairs.mean()) == pytest.approx(0.1, abs=0.05)
    assert float(pairs.std()) == pytest.approx(0.2, rel=0.15)


def test_the_kernel_of_a_few_examples_has_each_step_at_the_level_of_the_whole_batch() -> None:
    x = torch.randn(64, 5, 3, generator=torch.Generator().manual_seed(0)) * torch.arange(1.0, 6.0)[:, None]
    kernel = of_sequences(x)
    levels = torch.einsum("atat->t", kernel) / len(kernel)
    assert levels.numpy() == pytest.approx(x.double().square().mean((0, 2)).numpy())


class FromStates(nn.Module):
    """A recurrent layer that begins at a state, or whose last cells go on."""

    def __init__(self, cells: bool) -> None:
        super().__init__()
        self.rnn, self.head, self.cells = nn.LSTM(FEATURES, 16, batch_first=True), nn.Linear(16, 3), cells

    def forward(self, x: Tensor) -> Tensor:
        begin = torch.full((1, len(x), 16), 0.0 if self.cells else 1.0)
        out, (_, c) = self.rnn(x, (begin, begin))
        return self.head(c[-1] if self.cells else out[:, -1])


class Packed(Classifier):
    """Sequences that end at different steps."""

    def __init__(self) -> None:
        super().__init__(nn.GRU(FEATURES, 16, batch_first=True))

    def forward(self, x: Tensor) -> Tensor:
        sequences = nn.utils.rnn.pack_padded_sequence(x, [STEPS, 2], batch_first=True)
        return self.head(self.rnn(sequences)[1][-1])


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (FromStates(cells=False), (STEPS, FEATURES)),
        (FromStates(cells=True), (STEPS, FEATURES)),
        (Classifier(nn.RNN(FEATURES, 16, batch_first=True)), (129, FEATURES)),
        (Packed(), (STEPS, FEATURES)),
    ],
    ids=["first state", "last cells", "129 steps", "packed"],
)
def test_what_the_rule_does_not_cover_is_measured(model: nn.Module, shape: tuple[int, ...]) -> None:
    theory = initlab.predict(model, input_shape=shape).set_index("name")
    assert theory.basis["head"] == "measured"


def test_gradients_that_come_in_at_every_step_are_said_to_be_rough() -> None:
    class Tagger(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    model = Tagger(nn.GRU(FEATURES, 16, batch_first=True))
    inputs, _ = batch()
    labels = torch.arange(16 * STEPS).reshape(16, STEPS) % 10
    theory = initlab.predict(model, batch=inputs, labels=labels).set_index("name")
    assert theory.basis["rnn.weight_ih_l0.reset"] == "approximate"
    assert theory.basis["head"] == "theory"
    assert theory.attrs["approximate_because"].startswith("gru: gradients that come in at many steps")


def test_a_loop_over_a_cell_is_not_called_theory() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.GRUCell(FEATURES, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros(len(x), 16)
            for step in x.unbind(1):
                h = self.cell(step, h)
            return self.head(h)

    assert set(initlab.predict(Loop(), input_shape=(STEPS, FEATURES)).basis) == {"measured"}
