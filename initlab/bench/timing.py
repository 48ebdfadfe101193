"""Wall time of work on a device, by arms that take turns: what else the machine does falls on all of them alike."""

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

Measured = TypeVar("Measured")


def wait(device: torch.device) -> None:
    """Return when the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(
    work: Callable[[], object], device: torch.device, times: int = 1, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of doing the work so many times, all of the device's share included."""
    wait(device)
    started = clock()
    for _ in range(times):
        work()
    wait(device)
    return clock() - started


def in_turn(arms: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """What each arm measures in every round; in a round each arm measures once, one after another."""
    measured: dict[str, list[Measured]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, measure in arms.items():
            measured[name].append(measure())
    return measured
