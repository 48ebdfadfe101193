"""The sound nets train: plain torch halves their loss in 30 steps of AdamW, at one of three rates."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.bench.sound_nets import SOUND_NETS, SoundNet

QUICK = ("plain-selu", "actor-critic", "siren", "lora", "mixture", "diffusion")


def mean_loss(net: SoundNet) -> Tensor:
    output = net.model(net.batch)
    if net.loss is None:
        return F.cross_entropy(output.flatten(0, -2), net.labels.flatten())
    return net.loss(output, net.labels).mean()


def losses(net: SoundNet, lr: float, steps: int = 30) -> Iterator[float]:
    optimiser = torch.optim.AdamW(net.model.parameters(), lr)
    for _ in range(steps + 1):
        loss = mean_loss(net)
        yield loss.item()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SOUND_NETS]
)
def test_a_sound_net_halves_its_loss_in_30_steps(name: str) -> None:
    ratios = []
    for lr in (1e-3, 3e-3, 1e-2):
        curve = list(losses(SOUND_NETS[name](0), lr))
        ratios.append(curve[-1] / curve[0])
        if ratios[-1] < 0.5:
            return
    pytest.fail(f"{name}: the loss falls to {min(ratios):.2f} of its start")


def test_a_seed_gives_the_same_net_and_batch_and_leaves_the_global_state() -> None:
    state = torch.get_rng_state()
    first, again, other = (SOUND_NETS["siren"](seed) for seed in (3, 3, 4))
    assert torch.equal(first.batch, again.batch) and not torch.equal(first.batch, other.batch)
    assert torch.equal(first.model[0].weight, again.model[0].weight)  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), state)
