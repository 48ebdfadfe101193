"""Where the backward theory starts: the gradient of the loss at the model's output."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from initlab.nets.undisturbed import map_tensors
from initlab.signal.probe import Loss, loss_gradients
from initlab.signal.theory.field import Array, Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Signal

MOST_LOGITS = 4_000_000


def loss_gradient(output: Tensor, labels: Any, loss: Loss | None) -> Gradient:
    """The gradient at an output (N, ...) of the loss summed over its examples; a `loss` gets labels in float64."""
    output = output.detach().double().requires_grad_()
    like = torch.float64 if loss else None
    labels = map_tensors(labels, lambda t: t.to(output.device, like if t.is_floating_point() else None))
    with torch.enable_grad():
        (gradient,) = loss_gradients(output, labels, loss, [output])
    gradient = torch.zeros_like(output) if gradient is None else gradient
    c, spread = pair_statistics(gradient.flatten(1).cpu().numpy()[None])
    return Gradient(gradient.square().mean().cpu(), c, spread, {})


def drawn_gradient(context: Context, output: Signal, classes: int) -> Gradient:
    """The gradient of cross-entropy at logits as predicted and labels at random, of mean square 1.

    It is drawn, since softmax has no closed form: under a large init all examples favour the same classes, so that
    their gradients have a part in common.
    """
    f, batch = output.field, min(context.examples, 64)
    draws = int(np.clip(MOST_LOGITS // (batch * classes), 1, 400))
    normal = np.random.default_rng(0).standard_normal
    log = context.scatter(output.noise)
    level = f.level * np.exp(log.mean + np.sqrt(log.variance) * normal((draws, 1, 1)))
    shared = float(np.clip(f.c.same_place, 0, 1))
    logits = np.sqrt(shared) * normal((draws, 1, classes)) + np.sqrt(1 - shared) * normal((draws, batch, classes))
    logits = np.sqrt(level) * logits
    gradient = np.exp(logits - logits.max(-1, keepdims=True))
    gradient /= gradient.sum(-1, keepdims=True)
    labels = np.random.default_rng(1).integers(0, classes, (draws, batch, 1))
    np.put_along_axis(gradient, labels, np.take_along_axis(gradient, labels, -1) - 1, -1)
    return Gradient(torch.ones((), dtype=torch.float64), *pair_statistics(gradient), {})


def pair_statistics(gradient: Array) -> tuple[Pairs, Pairs]:
    """Mean and variance of the correlation of two examples' gradients, of (draws, batch, classes)."""
    batch = gradient.shape[1]
    squares = (gradient**2).sum(-1)
    level, pairs = np.maximum(squares.mean(1), 1e-300), max(batch * (batch - 1), 1)
    products = ((gradient.sum(1) ** 2).sum(-1) - squares.sum(1)) / pairs
    gram = gradient @ gradient.transpose(0, 2, 1)
    squared_products = ((gram**2).sum((1, 2)) - (squares**2).sum(1)) / pairs
    mean = float((products / level).mean())
    spread = max(float((squared_products / level**2).mean()) - mean**2, 0.0)
    return Pairs.alike(mean), Pairs.alike(spread, itself=0.0)
