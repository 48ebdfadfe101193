"""Recurrent layers written out give what torch's fused ones do, outputs and gradients."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from initlab.init.uses import Uses
from initlab.signal.recurrent import Run, written_out

LAYERS = {
    "lstm": lambda: nn.LSTM(3, 4),
    "deep both ways": lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True),
    "projected": lambda: nn.LSTM(3, 5, num_layers=2, proj_size=2, bias=False),
    "gru": lambda: nn.GRU(3, 4, num_layers=2, bidirectional=True),
    "rnn": lambda: nn.RNN(3, 4, bias=False, batch_first=True),
    "relu rnn": lambda: nn.RNN(3, 4, nonlinearity="relu", num_layers=2),
}


def outputs(layer: nn.Module, x: Any) -> list[Tensor]:
    out, states = layer(x)
    return [getattr(out, "data", out), *(states if isinstance(states, tuple) else [states])]


def run_written_out(layer: nn.Module, x: Any) -> tuple[list[Tensor], list[Run]]:
    runs: list[Run] = []
    uses = Uses(layer, x, lambda call: None)
    uses.written_out = written_out(runs.append)
    with uses:
        return outputs(layer, x), runs


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_gives_torchs_values_and_gradients(kind: str, packed: bool) -> None:
    torch.manual_seed(0)
    layer = LAYERS[kind]().double()
    x: Any = torch.randn(6, 5, 3, dtype=torch.float64)
    if packed:
        lengths = [6, 4, 4, 2, 1] if not layer.batch_first else [5, 5, 3, 2, 2, 1]
        x = pack_padded_sequence(x, torch.tensor(lengths), batch_first=layer.batch_first)
    fused, (plain, runs) = outputs(layer, x), run_written_out(layer, x)
    for a, b in zip(fused, plain, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-14)
    both = [torch.autograd.grad(sum(o.sin().sum() for o in out), list(layer.parameters())) for out in (fused, plain)]
    for a, b in zip(*both, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-10, atol=1e-13)
    assert len(runs) == layer.num_layers * (1 + layer.bidirectional)


@pytest.mark.parametrize("build", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
def test_cells_give_torchs_values(build: Any) -> None:
    torch.manual_seed(0)
    cell, x = build(3, 4).double(), torch.randn(5, 3, dtype=torch.float64)
    runs: list[Run] = []
    uses = Uses(cell, x, lambda call: None)
    uses.written_out = written_out(runs.append)
    with uses:
        plain = cell(x)
    for a, b in zip([cell(x)], [plain], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-12, atol=1e-14)
    assert [len(run.gates) for run in runs] == [1]
