"""Data sets, nets and losses of a user's, one for each task, as a study names them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NOISE = 0.5
SLOPES = (1.0, -2.0, 0.5, 0.0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbers(examples: int = 512) -> tuple[Any, ...]:
    """A linear function with noise, as arrays of NumPy."""
    random = np.random.default_rng(0)
    inputs = random.normal(size=(examples + 256, len(SLOPES)))
    labels = inputs @ np.array(SLOPES) + 3 + NOISE * random.normal(size=len(inputs))
    return inputs[:examples], labels[:examples], inputs[examples:], labels[examples:]


def tokens(examples: int = 256, length: int = 12, words: int = 8, kept: float = 0.8) -> tuple[Tensor, ...]:
    """Next-token prediction of a chain: with probability `kept` the next word is 5 times the last one plus 1."""
    draw = generator()
    text = torch.randint(words, (examples + 64, length + 1), generator=draw)
    follows = torch.rand(text.shape, generator=draw) < kept
    for place in range(length):
        text[:, place + 1] = torch.where(follows[:, place], (5 * text[:, place] + 1) % words, text[:, place + 1])
    inputs, labels = text[:, :-1].to(torch.uint8), text[:, 1:]
    return inputs[:examples], labels[:examples], inputs[examples:], labels[examples:]


def signs(examples: int = 512, whole: bool = False) -> tuple[Tensor, ...]:
    """Which of three sums of the inputs are positive, as bool or as 0.0 and 1.0."""
    inputs = torch.randn(examples + 128, 6, generator=generator())
    labels = inputs @ torch.randn(6, 3, generator=generator(1)) > 0.5
    labels = labels.float() if whole else labels
    return inputs[:examples], labels[:examples], inputs[examples:], labels[examples:]


def classes() -> tuple[Tensor, ...]:
    """Of which of three centres a point is near."""
    labels = torch.arange(384) % 3
    inputs = 3 * nn.functional.one_hot(labels, 5).float() + torch.randn(384, 5, generator=generator())
    return inputs[:256], labels[:256], inputs[256:], labels[256:]


def net(num_classes: int, input_shape: tuple[int, ...], hidden: int = 0) -> nn.Module:
    """A linear map, or with a hidden layer."""
    if not hidden:
        return nn.Sequential(nn.Linear(input_shape[0], num_classes))
    return nn.Sequential(nn.Linear(input_shape[0], hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def bigram(num_classes: int, input_shape: tuple[int, ...], classes_second: bool = False) -> nn.Module:
    """Of each token its successor's scores."""
    turn = [Turned()] if classes_second else []
    return nn.Sequential(nn.Embedding(num_classes, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, num_classes), *turn)


class Turned(nn.Module):
    """(N, T, K) to (N, K, T)."""

    def forward(self, scores: Tensor) -> Tensor:
        return scores.movedim(-1, 1)


def huber(output: Tensor, labels: Tensor) -> Tensor:
    """A value per example."""
    return nn.functional.huber_loss(output[:, 0], labels, reduction="none")


def detached(output: Tensor, labels: Tensor) -> Tensor:
    return huber(output, labels).detach()


def halved(output: Tensor, labels: Tensor) -> Tensor:
    return huber(output, labels)[:1]


def a_number(output: Tensor, labels: Tensor) -> float:
    return float(huber(output.detach(), labels).mean())
