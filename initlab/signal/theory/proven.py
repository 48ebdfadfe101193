"""Which rules may call themselves theory: those whose bands hold 92 to 98 % of points in `initlab bench coverage`.

What the bench has not shown to hold is a line of `DOUBTS`. Layers whose signal or gradient goes through such an
operation say `approximate`, and `initlab.inspect` takes redrawn bands there. A rule that is mended loses its line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F

from initlab.signal.theory.chains import DIFFERENCES, SUMS, variants
from initlab.signal.theory.meanfield import Signal
from initlab.signal.theory.norms import PLACES
from initlab.signal.theory.shapes import PICKED
from initlab.signal.theory.trace import Operation

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
# Neighbouring pixels of photographs have a correlation of 0.9, those of noise none.
SMOOTH = 0.5
# From so many channels on, gradients through activations that are no rectifiers have the band that theory gives them.
WIDE = 512


@dataclass(frozen=True)
class Doubt:
    """A kind of operation whose rule the bench has not shown to hold."""

    reason: str
    about: Callable[[Operation, Sequence[Signal]], bool]  # given the operation and its inputs
    forward: bool = True  # whether the signal is in doubt too, and not only the gradient


def is_curved(op: Operation, inputs: Sequence[Signal]) -> bool:
    """A GELU, SiLU or Mish of few channels."""
    return op.function in variants("gelu silu mish") and inputs[0].field.channels < WIDE


def norms_photographs(op: Operation, inputs: Sequence[Signal]) -> bool:
    """A norm of maps whose neighbours are alike."""
    return op.function in PLACES and inputs[0].field.positions > 1 and inputs[0].field.c.near > SMOOTH


def is_residual(op: Operation, inputs: Sequence[Signal]) -> bool:
    """The sum of two signals, neither of them a constant."""
    live = [x for x in inputs if x.field.c.same_place < 1]
    return op.function in SUMS | DIFFERENCES and len(live) == 2


def is_grouped(op: Operation, inputs: Sequence[Signal]) -> bool:
    """A convolution in groups."""
    return op.function in CONVOLUTIONS and op.argument(6, "groups", 1) > 1


def picks_a_token(op: Operation, inputs: Sequence[Signal]) -> bool:
    """One position of several, as a class token."""
    return op.function in PICKED and len(op.in_shapes[0]) == 3 and len(op.shape) == 2


DOUBTS = (
    # The gradient at the last layer too, which follows the logits' own scatter.
    Doubt("GELU and SiLU below a width of 512", is_curved),
    Doubt("norms of maps whose neighbours are alike", norms_photographs),
    Doubt("gradients of residual sums", is_residual, forward=False),
    Doubt("gradients of convolutions in groups", is_grouped, forward=False),
    Doubt("one token of several", picks_a_token),
)


def doubt_about(op: Operation, inputs: Sequence[Signal]) -> Doubt | None:
    """The first doubt about an operation's rule; None where the bench has shown it to hold."""
    return next((doubt for doubt in DOUBTS if doubt.about(op, inputs)), None)
