"""Runs mean field over a model and gives what reaches its output, or its input going back."""

import torch
from torch import Tensor, nn

from initlab.signal.theory.field import NONE, Field, Pairs
from initlab.signal.theory.meanfield import Context, Gradient, Signal
from initlab.signal.theory.passes import backward, forward
from initlab.signal.theory.predict import independent
from initlab.signal.theory.recorder import record
from initlab.signal.theory.rules import known
from initlab.signal.theory.scatter import Noise
from initlab.signal.theory.trace import Trace

UNLIKE = Pairs.alike(0.0)


def run(
    model: nn.Module,
    shape: tuple[int, ...],
    *,
    examples: int = 1,
    mean: float = 0.0,
    dropout: bool = False,
    start: Field | None = None,
    c: Pairs = UNLIKE,
) -> tuple[Context, Trace, list[Signal | None], list[Gradient | None]]:
    """Signals and gradients at every operation, for independent unit inputs and a unit gradient at the output.

    `c` holds the correlations of that gradient. A first multiplication by 1 stands for the input, so that the gradient
    there is `gradients[0]`.
    """
    images = torch.randn(2, *shape)
    trace = record(nn.Sequential(Times1(), model), images, known)
    context = Context(examples, dropout, {})
    passed = forward(context, trace, start or independent(images, (mean, 1.0), trace.axis))
    last = passed[trace.output].signal.field
    unit = Gradient(torch.ones_like(last.q), c, NONE, Noise())
    return context, trace, [step.signal if step else None for step in passed], backward(context, trace, unit, passed)


class Times1(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 1.0


def output(model: nn.Module, shape: tuple[int, ...], **options: object) -> Field:
    """The field at the model's output."""
    _, trace, signals, _ = run(model, shape, **options)  # type: ignore[arg-type]
    return signals[trace.output].field


def gradient_at_input(model: nn.Module, shape: tuple[int, ...], **options: object) -> Tensor:
    """Mean square of the gradient at the model's input, for one of mean square 1 at its output."""
    gradient = run(model, shape, **options)[3][0]  # type: ignore[arg-type]
    assert gradient is not None
    return gradient.q
