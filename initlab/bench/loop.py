"""The hand-written plain loop that initlab is measured against: torch and scikit-learn, nothing of initlab.

Run as a script with one JSON line per trial on stdin (the fields that the loop needs); it trains each with the same
steps and validations as initlab and prints the trial's seconds and last validation error as a JSON line.
"""

import json
import math
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn


def digits(size: int, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels to train on, then those to validate on."""
    bunch = load_digits()
    images = torch.from_numpy(bunch.images).float()[:, None]
    images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False, antialias=True)
    labels = torch.from_numpy(bunch.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    mean = images[:1437].mean(0)
    images = (images - mean) * (scale / (images[:1437] - mean).std())
    return images[:1437], labels[:1437], images[1437:], labels[1437:]


def plain(depth: int, width: int) -> nn.Sequential:
    """The plain net of this depth and width, with torch's own init."""
    layers: list[nn.Module] = []
    channels, convs = 1, depth - 3
    for stage in range(3):
        for index in range(convs // 3 + (stage < convs % 3)):
            out = width * 2**stage
            layers += [nn.Conv2d(channels, out, 3, stride=2 if stage and not index else 1, padding=1), nn.ReLU()]
            channels = out
    layers += [nn.Flatten(), nn.Linear(channels * 16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)]
    return nn.Sequential(*layers)


def initialise(net: nn.Module, scheme: str, mode: str, last_factor: float) -> None:
    """Gaussian weights of the scheme's standard deviation, `last_factor` times that in the last layer; no biases."""
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    for module in layers:
        fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(module.weight)
        fan = fan_in if mode == "fan_in" else fan_out
        std = {"gaussian": 0.01, "xavier": math.sqrt(1 / fan), "he": math.sqrt(2 / fan)}[scheme]
        nn.init.normal_(module.weight, std=std * (last_factor if module is layers[-1] else 1))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def train(trial: dict[str, Any]) -> float:
    """Train one trial to its end; returns its last validation error."""
    images, labels, val_images, val_labels = digits(trial["image_size"], trial["scale"])
    torch.manual_seed(trial["seed"])
    net = plain(trial["depth"], trial["width"])
    initialise(net, trial["scheme"], trial["mode"], trial["last_factor"])
    options = {name: trial[name] for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(net.parameters(), **options)
    size, error = trial["batch_size"], math.nan
    for _ in range(trial["epochs"]):
        order = torch.randperm(len(labels))
        for start in range(0, len(labels) - size + 1, size):
            batch = order[start : start + size]
            loss = F.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        net.eval()
        with torch.no_grad():
            error = (net(val_images).argmax(1) != val_labels).float().mean().item()
        net.train()
    return error


def main() -> None:
    """Train the trial of every line on stdin."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        trial = json.loads(line)
        started = time.perf_counter()
        error = train(trial)
        print(json.dumps({"seconds": time.perf_counter() - started, "val_error": error}), flush=True)


if __name__ == "__main__":
    main()
