"""A user's own net and data, as a study names them: `tests.engine.mine:net`."""

import os
import signal
import time
from pathlib import Path

import torch
from torch import nn

from initlab.data.examples import Examples


def net(
    num_classes: int, input_shape: tuple[int, int, int], hidden: int = 8, kill: str = "", fail: bool = False
) -> nn.Module:
    """A small perceptron; `kill` names a file: while it exists, building the net removes it and kills the process."""
    if fail:
        raise RuntimeError("this net cannot be built")
    if kill == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    if kill and Path(kill).exists():
        Path(kill).unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    channels, height, width = input_shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * width, hidden), nn.ReLU(), nn.Linear(hidden, num_classes)
    )


class Held(nn.Module):
    """Passes on what it gets; in its 25th training step it waits while there is a file that HELD names.

    A file beside it, `reached`, says that it does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += self.training
        if self.steps == 25:
            while (hold := Path(os.environ.get("HELD", ""))).is_file():
                (hold.parent / "reached").touch()
                time.sleep(0.3)  # longer than from one look for a stop to the next
        return x


def greedy(num_classes: int, input_shape: tuple[int, int, int], full: str = "") -> nn.Module:
    """`net`, on a device that is full as often as the file `full` has bytes."""
    if full and Path(full).stat().st_size:
        Path(full).write_bytes(Path(full).read_bytes()[1:])
        raise torch.OutOfMemoryError("CUDA out of memory")
    return net(num_classes, input_shape)


def held(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """`net`, to be stopped in the middle however fast the machine is."""
    return nn.Sequential(Held(), net(num_classes, input_shape))


def squares(size: int = 6) -> Examples:
    """Two classes: a bright left half or a bright right half, with noise."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(160) % 2
    images = torch.randint(0, 60, (160, 1, size, size), generator=generator)
    images[labels == 0, :, :, : size // 2] += 120
    images[labels == 1, :, :, size // 2 :] += 120
    images = images.to(torch.uint8)
    return Examples(images[:128], labels[:128], images[128:], labels[128:], num_classes=2)


def noisy(num_classes: int, input_shape: tuple[int, int, int]) -> nn.Module:
    """A net with a parameter that no scheme draws, and torch's own dropout."""

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.factor = nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.factor

    channels, height, width = input_shape
    size = channels * height * width
    return nn.Sequential(
        nn.Flatten(), nn.Linear(size, 8), Scale(), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, num_classes)
    )
