"""What rounding takes from gradients, against the same net in float32 and numbers counted by hand."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from initlab import inspect
from initlab.signal.precision import Rounded
from initlab.signal.survey import survey


def test_float16_rounds_up_to_2_to_the_minus_25_to_zero() -> None:
    counts = Rounded()
    # The smallest number of float16 is 2^-24; half of it is rounded to the even one, 0.
    counts.add(torch.tensor([0.0, 2.0**-24, 2.0**-25, 1.01 * 2.0**-25, 1e-30, 1.0, -(2.0**-26), 1e-41]), scale=1.0)
    zeros, lost, half, brain = (float(share) for share in counts.shares())
    assert (zeros, half) == (1 / 8, 4 / 7)
    # bfloat16 goes down to 2^-133 = 9.2e-41.
    assert brain == 1 / 7 and math.isnan(lost)
    scaled = Rounded()
    scaled.add(torch.tensor([0.0, 2.0, 2.0]) * 2.0**-25, scale=2.0)
    assert float(scaled.shares()[2]) == 1.0


def net() -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for _ in range(4):
        layers += [nn.Conv2d(3, 3, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(3, 1, 3, padding=1))


class Cast(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net(), dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=self.dtype):
            return self.net(x)


def term(output: Tensor, target: Tensor) -> Tensor:
    return 0.01 * (output.float() - target).square().flatten(1).mean(1)


def gradient_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the batch-mean loss, at the output of the first convolution."""
    outputs: list[Any] = []
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    hook = first.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    loss = term(model(x), y).mean()
    hook.remove()
    return torch.autograd.grad(loss, outputs[0])[0].float()


@pytest.mark.parametrize("how", ["half", "autocast inside", "autocast", "bfloat16"])
def test_underflow_is_what_the_same_net_in_float32_does_not_lose(how: str) -> None:
    torch.manual_seed(1)
    x, y = torch.randn(4, 3, 32, 32), torch.randn(4, 1, 32, 32)
    dtype = torch.bfloat16 if how == "bfloat16" else torch.float16
    model = net().half() if how == "half" else net() if how == "autocast" else Cast(dtype)
    true = gradient_of(net(), x, y)
    images = x.half() if how == "half" else x
    run = gradient_of(Cast(dtype) if how == "autocast" else model, images, y)
    lost = ((run == 0) & (true != 0)).float().sum().item() / (true != 0).float().sum().item()
    before = copy.deepcopy(model.state_dict())
    table = inspect(model, images, y, loss=term, autocast=dtype if how == "autocast" else None).table
    # A ReLU's sign may be another one for a number near 0.
    assert table.underflow[0] == pytest.approx(lost, abs=0.01)
    assert (table.underflow[0] > 0.2) == (how != "bfloat16")
    assert table.grad_zero_fraction[0] == pytest.approx((run == 0).float().mean().item(), abs=1e-6)
    rounded = (true != 0) & (true.half() == 0)
    share = (rounded.float().sum() / (true != 0).float().sum()).item()
    assert table.underflow_fp16[0] == pytest.approx(share, abs=0.02)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_run_in_float32_has_no_underflow_and_its_moments_are_measured_once() -> None:
    torch.manual_seed(1)
    x, y = torch.randn(4, 3, 8, 8), torch.randn(4, 1, 8, 8)
    rows = survey(net(), x, y, loss=term).layers
    assert all(math.isnan(row["underflow"]) for row in rows)
    (gradient,) = torch.autograd.grad(term(half := net()(x), y).sum(), half)
    assert rows[-1]["backward_var"] == pytest.approx(gradient.double().var(correction=0).item(), rel=1e-5)
    # The passes that count zeros add nothing to the moments.
    bf16 = survey(Cast(torch.bfloat16), x, y, loss=term).layers
    assert bf16[-1]["backward_var"] == pytest.approx(rows[-1]["backward_var"], rel=0.05)
    assert bf16[0]["grad_zero_fraction"] == pytest.approx(rows[0]["grad_zero_fraction"], abs=0.02)


def test_a_model_that_gives_its_own_loss_needs_no_labels() -> None:
    class OwnLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.layer(x)
            return {"box": y[:, 0].square().mean(), "class": y[:, 1:].square().mean()}

    model, x = OwnLoss(), torch.randn(6, 8)
    (row,) = survey(model, x).layers
    (gradient,) = torch.autograd.grad(sum(model(x).values()), model.layer.weight)
    assert row["weight_grad_rms"] == pytest.approx(gradient.square().mean().sqrt().item(), rel=1e-5)
