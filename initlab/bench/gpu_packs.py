"""Packs on one device: steps of all trials together per second, by the number of trials and how a step is started."""

from dataclasses import dataclass

import torch

from initlab.bench.gpu_net import WARM_UP, Large, large_trial, pictures
from initlab.bench.timing import seconds
from initlab.train.cuda import cuda_graph
from initlab.train.packed import Pack


@dataclass(frozen=True)
class PackRate:
    """Steps a second, those of every trial counted; the most memory that torch held; why a step was not replayed."""

    steps_per_s: float
    peak_gib: float
    eager: str


def alone(large: Large, device: torch.device) -> float:
    """Steps a second of one trial as it runs without a pack."""
    trial = large_trial(large, device)
    for _ in range(WARM_UP):
        trial.update()
    return large.steps / seconds(trial.update, device, large.steps)


def pack_rate(large: Large, size: int, device: torch.device, captured: bool, compiled: bool = False) -> PackRate:
    """Of a pack of so many trials on the same images; `compiled`: its forward pass is made by torch.compile."""
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    images = pictures(large, device)
    trials = [large_trial(large, device, images, seed) for seed in range(size)]
    pack = Pack(trials, cuda_graph if captured and cuda else None)
    if compiled and cuda:
        pack.forward = torch.compile(pack.forward)  # type: ignore[method-assign]  # A bench tries what a trial has not.
    for _ in range(WARM_UP):
        pack.update()
    rate = size * large.steps / seconds(pack.update, device, large.steps)
    return PackRate(rate, torch.cuda.max_memory_allocated(device) / 2**30 if cuda else 0.0, pack.eager or "")
