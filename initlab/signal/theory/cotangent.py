"""Where the backward theory starts: the gradient of the loss at the model's output."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initlab.nets.undisturbed import map_tensors
from initlab.signal.probe import Loss, loss_gradients
from initlab.signal.theory.field import NONE, Array, Pairs, pair_means
from initlab.signal.theory.kernels import of_sequences, seen_spread
from initlab.signal.theory.meanfield import Context, Gradient, Radial, Signal
from initlab.signal.theory.scatter import Noise
from initlab.signal.theory.spread import angles

MOST_LOGITS = 4_000_000
# Numbers in all draws of a user's logits, the most draws, and the change of their logarithmic level that is tried.
MOST_NUMBERS, MOST_DRAWS, CHANGE = 400_000, 64, 0.25
# Draws of tokens' logits that show how the gradients of two tokens are correlated.
MOST_TOKEN_DRAWS = 4
# What the part along the signal adds to a gradient within a few layers, as a share of it.
ADDED = 0.1


class LossGradient:
    """The gradient of a loss of labels, at the logits that the model gave or over draws of logits as predicted."""

    def __init__(self, logits: Tensor, labels: Any, loss: Loss | None) -> None:
        like = torch.float64 if loss else None
        self.logits, self.loss = logits.detach().double(), loss
        self.labels = map_tensors(labels, lambda t: t.to(logits.device, like if t.is_floating_point() else None))
        self.measured = self.at(self.logits)

    def at(self, logits: Tensor) -> Tensor:
        """The gradient at (N, ...) logits of the loss summed over its examples; labels in float64 for a `loss`."""
        logits = logits.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = loss_gradients(logits, self.labels, self.loss, [logits])
        return torch.zeros_like(logits) if gradient is None else gradient

    def here(self) -> Gradient:
        """The gradient at the model's own logits."""
        each = self.measured.reshape(len(self.measured) if self.measured.dim() else 1, -1)
        c, spread = pair_statistics(each.cpu().numpy()[None])
        return Gradient(self.measured.square().mean().cpu(), c, spread, Noise(), mean=relative_mean(self.measured))

    def over_draws(self, context: Context, output: Signal) -> Gradient:
        """Over normal logits with the level and correlations of `output`: its mean, and how far it strays from that.

        It follows the scatter of the logits' level with a power, which two levels show; what one draw of the last
        layer adds shows in the spread over draws.
        """
        count = min(MOST_NUMBERS // max(self.logits.numel(), 1), MOST_DRAWS)
        if count < 2 or not self.logits.dim():
            return self.here()
        generator = torch.Generator().manual_seed(0)
        before = output.noise.without(output.fresh)
        log = context.scatter(before)
        # Levels at quantiles of what the layers before the last scatter, since softmax saturates.
        normals = torch.special.ndtri((torch.arange(count, dtype=torch.float64) + 0.5) / count)
        level = (log.mean + math.sqrt(log.variance) * normals).exp()
        draws = torch.stack([draw_like(context, self.logits, output, generator) * float(root) for root in level.sqrt()])
        logits = [draws * np.exp(sign * CHANGE / 2) for sign in (1, -1)]
        gradients = [torch.stack([self.at(draw) for draw in level]) for level in logits]
        high, low = (g.square().flatten(1).mean(1) for g in gradients)
        if not bool(((high > 0) & (low > 0) & (high + low).isfinite()).all()):
            return self.here()
        power = float((high / low).log().mean()) / (2 * CHANGE)
        each = (high + low) / 2 / level**power
        every = torch.cat(gradients).cpu()
        if self.logits.dim() == 3 and output.axis == -1 and output.field.positions > 1:
            c, spread = token_statistics(every[:: -(-2 * count // MOST_TOKEN_DRAWS)])
        else:
            c, spread = pair_statistics(every.reshape(2 * count, len(self.logits), -1).numpy())
        source = context.source(float(each.var() / each.mean() ** 2))
        radial = Radial()
        if output.field.positions == 1 and self.logits.dim() == 2:
            squares = [along_logits(*pair) for pair in zip(logits, gradients, strict=True)]
            along = power_of(*(square.mean() for square in squares))
            square = torch.stack(squares).mean(0) / level**along
            both = following(square, each)
            own = both * (both - 1) / 2 * context.variances[source]
            radial = Radial(float(square.mean()), before.scaled(along).having(source, both).shifted(-own))
        # A power of the level has another mean than the power of its mean.
        mean = power * log.mean + power**2 * log.variance / 2
        noise = before.scaled(power).shifted(-mean).having(source)
        return Gradient(
            (each.mean() * math.exp(mean)).cpu(), c, spread, noise, mean=relative_mean(gradients[0]), radial=radial
        )


def along_logits(logits: Tensor, gradients: Tensor) -> Tensor:
    """Mean of (logits . gradient)^2 over the examples of each draw, less what independent ones have."""
    squares = (logits * gradients).sum(-1).square().mean(1)
    levels, classes = logits.square().mean((1, 2)), logits.shape[-1]
    return squares - levels * gradients.square().mean((1, 2)) * classes


def power_of(high: Tensor, low: Tensor) -> float:
    """The power with which a number follows the level, from what it is at two levels."""
    return math.log(float(high / low)) / (2 * CHANGE) if min(float(high), float(low)) > 0 else 0.0


def following(square: Tensor, each: Tensor) -> float:
    """The power with which the square along the logits follows the number `each` of each draw.

    It has a long tail, and adds to the gradient: its power is that of what so much of it adds.
    """
    logs = torch.stack([torch.log1p(ADDED * (square / square.mean()).clamp(min=-1)) / ADDED, each.log()])
    both = torch.cov(logs)
    return float(both[0, 1] / both[1, 1]) if both[1, 1] > 0 else 0.0


def relative_mean(gradient: Tensor) -> float:
    """The mean over the root of the mean square; 0 for softmax, whose gradients cancel over the classes."""
    square = float(gradient.square().mean())
    return float(gradient.mean()) / math.sqrt(square) if square > 0 else 0.0


def draw_like(context: Context, logits: Tensor, output: Signal, generator: torch.Generator) -> Tensor:
    """Normals of a tensor's shape whose pairs of examples and positions are correlated as in `output`.

    Examples have levels of their own, lognormal about that of the batch.
    """
    f, shape = output.field, list(logits.shape if logits.dim() > 1 else (*logits.shape, 1))
    moving = max(1 - f.mean**2, 0.0)
    given = f if output.given is None else replace(f, spread=output.given)
    at = angles(context, given, f.positions)
    c = (f.c / at.roots - f.mean**2) / max(moving, 1e-12)
    apart = c.same_place if f.positions == 1 else c.elsewhere
    within = apart if f.positions == 1 else c.within
    axis = output.axis % len(shape) if logits.dim() > 1 else 1
    parts = {
        apart: [n if d == axis else 1 for d, n in enumerate(shape)],
        c.same_place - apart: [1, *shape[1:]],
        within - apart: [n if d in (0, axis) else 1 for d, n in enumerate(shape)],
        1 - c.same_place - within + apart: shape,
    }
    total = torch.zeros(shape, dtype=torch.float64)
    for variance, sides in parts.items():
        if variance > 0:
            total = total + np.sqrt(variance) * torch.randn(sides, generator=generator, dtype=torch.float64)
    each = torch.randn([shape[0]] + [1] * (len(shape) - 1), generator=generator, dtype=torch.float64)
    own = (math.sqrt(math.log1p(given.spread.itself)) * each).exp()
    total = total * (own / own.mean()).sqrt()
    numbers = total.mul(np.sqrt(f.level * moving)).add(np.sqrt(f.level) * f.mean)
    return numbers.reshape(logits.shape).to(logits.device)


def num_classes(shape: Sequence[int]) -> int:
    """The classes that an output of this shape (N, ..., classes) has; 1 where it is a number for each example."""
    return shape[-1] if len(shape) > 1 else 1


def drawn_gradient(context: Context, output: Signal, classes: int) -> Gradient:
    """The gradient of cross-entropy at logits as predicted and labels at random, of mean square 1.

    It is drawn, since softmax has no closed form: under a large init all examples favour the same classes, so that
    their gradients have a part in common. A single number for each example gets independent gradients.
    """
    if classes == 1:
        return Gradient(torch.ones((), dtype=torch.float64), Pairs.alike(0.0), NONE, Noise())
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
    one = torch.ones((), dtype=torch.float64)
    return Gradient(one, *pair_statistics(gradient), Noise())


def token_statistics(gradient: Tensor) -> tuple[Pairs, Pairs]:
    """Mean and variance of the correlations of (draws, batch, positions, channels), by kinds of pairs."""
    means = [pair_means(one.mT) for one in gradient]
    c = sum((pairs for _, pairs in means), start=NONE) / len(means)
    spreads = [seen_spread(of_sequences(one), level, c) for one, (level, _) in zip(gradient, means, strict=True)]
    return c, sum(spreads, start=NONE) / len(spreads)


def pair_statistics(gradient: Array) -> tuple[Pairs, Pairs]:
    """Mean and variance of the correlation of two examples' gradients, of (draws, batch, classes)."""
    batch = gradient.shape[1]
    squares = (gradient**2).sum(-1)
    level, pairs = np.maximum(squares.mean(1), 1e-300), max(batch * (batch - 1), 1)
    products = ((gradient.sum(1) ** 2).sum(-1) - squares.sum(1)) / pairs
    # Of a matrix and its transpose the products have the same sum of squares; the smaller one is no burden.
    turned = gradient.transpose(0, 2, 1)
    gram = gradient @ turned if batch < gradient.shape[2] else turned @ gradient
    squared_products = ((gram**2).sum((1, 2)) - (squares**2).sum(1)) / pairs
    mean = float((products / level).mean())
    spread = max(float((squared_products / level**2).mean()) - mean**2, 0.0)
    itself = float(((squares**2).mean(1) / level**2).mean()) - 1
    return Pairs.alike(mean), Pairs.alike(spread, itself=itself)
