"""On a GPU: what is drawn, measured and judged there is what the CPU draws and float64 measures."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import initlab
from initlab.init.apply import init_
from initlab.nets.build import build_net
from initlab.nets.layers import StreamDropout, set_dropout_step
from initlab.signal.probe import COLUMNS, measure
from tests.gpu.conftest import images

pytestmark = pytest.mark.gpu
SHAPE = (3, 16, 16)


def net_and_batch(depth: int, width: int, scheme: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A plain net on the CPU, unit-normal images and their labels; so many that one rectifier's sign is no matter."""
    generator = torch.Generator().manual_seed(1)
    net = init_(build_net("plain", depth=depth, width=width, linear_width=32, input_shape=SHAPE), scheme)
    return net, torch.randn(64, *SHAPE, generator=generator), torch.randint(0, 10, (64,), generator=generator)


@pytest.mark.parametrize("scheme", ["he", "xavier"])
@pytest.mark.parametrize("depth", [22, 30])
def test_the_probe_measures_what_float64_does_on_the_cpu(device: torch.device, depth: int, scheme: str) -> None:
    net, batch, labels = net_and_batch(depth, 16, scheme)
    exact = measure(copy.deepcopy(net).double(), batch, labels, weight_decay=5e-4)
    same = measure(copy.deepcopy(net).double().to(device), batch, labels, weight_decay=5e-4)
    rows = measure(net.to(device), batch, labels, weight_decay=5e-4)
    assert len(rows) == len(exact) == depth
    for row, double, wanted in zip(rows, same, exact, strict=True):
        assert {key: row[key] for key in row.keys() - set(COLUMNS)} == {k: wanted[k] for k in row.keys() - set(COLUMNS)}
        for column in COLUMNS:
            # A mean may be far smaller than the numbers that it is of.
            size = math.sqrt(wanted[column.replace("mean", "var")]) if column.endswith("mean") else 0.0
            assert double[column] == pytest.approx(wanted[column], rel=1e-9, abs=1e-9 * size, nan_ok=True), column
            # In float32 a rectifier whose input is near 0 may be on or off, which moves gradients by up to 4e-3: noise
            # of 3e-7 in float64 does that too (16 draws, 64 and 256 images). Signals hardly move by it.
            rel = 1e-4 if column.startswith("forward") else 1e-2
            assert row[column] == pytest.approx(wanted[column], rel=rel, abs=rel * size, nan_ok=True), (row, column)


def test_signals_that_vanish_do_not_underflow(device: torch.device) -> None:
    net, batch, labels = net_and_batch(30, 24, "gaussian")
    exact = measure(copy.deepcopy(net).double(), batch, labels)
    rows = measure(net.to(device), batch, labels)
    for column in ("forward_var", "backward_var", "weight_grad_rms"):
        assert [math.log10(row[column]) for row in rows] == pytest.approx(
            [math.log10(row[column]) for row in exact], abs=1e-3
        )
    assert 0 < min(row["forward_var"] for row in rows) < 1e-55


@pytest.mark.parametrize("scheme", ["he", "orthogonal", "torch_default", "truncated_normal"])
def test_a_model_on_the_device_is_given_the_cpus_numbers(device: torch.device, scheme: str) -> None:
    here, there = (build_net("plain", depth=7, width=8, input_shape=SHAPE) for _ in range(2))
    init_(here, scheme, seed=3)
    init_(there.to(device), scheme, seed=3)
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(one, other.cpu())


def test_lsuv_on_the_device_gives_every_layer_unit_variance(device: torch.device) -> None:
    net, batch, _ = net_and_batch(7, 8, "he")
    init_(net.to(device), "lsuv", batch=batch)
    assert [row["forward_var"] for row in measure(net, batch)] == pytest.approx([1.0] * 7, rel=0.011)


@pytest.mark.parametrize("scheme", ["he", "xavier", "gaussian"])
def test_inspect_judges_a_model_on_the_device_as_on_the_cpu(device: torch.device, scheme: str) -> None:
    net, batch, labels = net_and_batch(30, 32, scheme)
    wanted = initlab.inspect(copy.deepcopy(net), batch, labels)
    there = initlab.inspect(net.to(device), batch.to(device), labels.to(device))
    assert (there.verdict, list(there.table.status)) == (wanted.verdict, list(wanted.table.status))
    assert there.table.forward_predicted.tolist() == pytest.approx(wanted.table.forward_predicted.tolist(), rel=1e-3)
    assert there.advice == wanted.advice


def test_order_augmentation_and_masks_are_the_same_on_every_device(device: torch.device) -> None:
    here, there = images(torch.device("cpu")), images(device)
    # From the middle of an epoch into the next one.
    for (one, labels), (other, others) in zip(
        here.train_batches(7, 32, 3, 8), there.train_batches(7, 32, 3, 8), strict=True
    ):
        assert other.device.type == device.type
        assert torch.equal(one, other.cpu()) and torch.equal(labels, others.cpu())
    assert torch.equal(here.probe_batch(16)[0], there.probe_batch(16)[0].cpu())
    masks = []
    for place in (torch.device("cpu"), device):
        layer = StreamDropout(0.5, "dropout1")
        set_dropout_step(layer, seed=7, step=3)
        masks.append(layer(torch.ones(32, 16, device=place)).cpu())
    assert torch.equal(*masks) and set(masks[0].unique().tolist()) == {0.0, 2.0}
