"""Which rules may call themselves theory: those whose bands hold 92 to 98 % of points in `initlab bench coverage`.

What the bench has not shown to hold is a line of `DOUBTS`. Layers whose signal or gradient goes through such an
operation say `approximate`, and `initlab.inspect` takes redrawn bands there. A rule that is mended loses its line.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch.nn.functional as F

from initlab.signal.theory.chains import DIFFERENCES, SUMS, variants
from initlab.signal.theory.meanfield import Signal
from initlab.signal.theory.rules import JOINS, LEAKY, PRELU, RECTIFIERS
from initlab.signal.theory.shapes import PICKED
from initlab.signal.theory.trace import WEIGHTED, Operation

# Neighbouring pixels of photographs have a correlation of 0.9, those of noise none.
ALIKE = 0.5
# From so many channels on, gradients through activations that are no rectifiers have the band that theory gives them.
WIDE = 512
# Of a sum that is 0 but for float32's rounding, as a share of its terms.
ROUNDING = 1e-5


@dataclass(frozen=True)
class Doubt:
    """A kind of operation whose rule the bench has not shown to hold."""

    reason: str
    about: Callable[[Operation, Sequence[Signal]], bool]  # given the operation and its inputs
    forward: bool = True  # whether the signal is in doubt too, and not only the gradient


def shows_pictures(op: Operation, inputs: Sequence[Signal]) -> bool:
    """The model's own input, where it is maps whose neighbours are alike."""
    return -1 in op.inputs and inputs[0].field.positions > 1 and inputs[0].field.c.near > ALIKE


def is_narrow(op: Operation, inputs: Sequence[Signal]) -> bool:
    """A GELU, SiLU or Mish of few channels."""
    return op.function in variants("gelu silu mish") and inputs[0].field.channels < WIDE


def bends_maps(op: Operation, inputs: Sequence[Signal]) -> bool:
    """An activation of maps that is no rectifier."""
    rectifiers = RECTIFIERS | LEAKY | PRELU
    return op.phi is not None and op.function not in rectifiers and inputs[0].field.positions > 1


def is_standardised(op: Operation, inputs: Sequence[Signal]) -> bool:
    """A layer whose weights sum to 0 in each row."""
    if op.function not in WEIGHTED:
        return False
    rows = op.argument(1, "weight").detach().flatten(1)
    return rows.shape[1] > 1 and bool((rows.sum(1).abs() < ROUNDING * rows.abs().sum(1)).all())


def norms_maps(op: Operation, inputs: Sequence[Signal]) -> bool:
    """A BatchNorm of maps."""
    return op.function is F.batch_norm and len(op.shape) > 3


def varies(x: Signal) -> bool:
    """Whether a signal is another for each example, and no constant."""
    return x.field.c.same_place < 1


def is_residual(op: Operation, inputs: Sequence[Signal]) -> bool:
    """The sum of two signals, neither of them a constant."""
    return op.function in SUMS | DIFFERENCES and len([x for x in inputs if varies(x)]) == 2


def is_grouped(op: Operation, inputs: Sequence[Signal]) -> bool:
    """A convolution in groups."""
    return op.function in (F.conv1d, F.conv2d, F.conv3d) and op.argument(6, "groups", 1) > 1


def is_joined(op: Operation, inputs: Sequence[Signal]) -> bool:
    """Outputs of layers beside one another, or tokens before others, as a class token."""
    if op.function not in JOINS:
        return False
    rank = len(op.shape)
    along_positions = op.argument(1, "dim", 0) % rank not in (0, inputs[0].axis % rank)
    return along_positions or (len(inputs) > 1 and all(x.fresh is not None for x in inputs))


def picks_a_token(op: Operation, inputs: Sequence[Signal]) -> bool:
    """One position of several, as a class token, but of a recurrent layer's steps."""
    token = op.function in PICKED and len(op.in_shapes[0]) == 3 and len(op.shape) == 2
    return token and inputs[0].steps is None


DOUBTS = (
    Doubt("pictures whose neighbouring pixels are alike", shows_pictures),
    # The gradient at the last layer too, which follows the logits' own scatter.
    Doubt("GELU and SiLU below a width of 512", is_narrow),
    Doubt("activations of maps that are no rectifiers", bends_maps),
    Doubt("weights that sum to 0 in each row", is_standardised),
    Doubt("convolutions in groups", is_grouped),
    Doubt("gradients of BatchNorm on maps", norms_maps, forward=False),
    Doubt("gradients of residual sums", is_residual, forward=False),
    Doubt("outputs or tokens that are joined", is_joined),
    Doubt("one token of several", picks_a_token),
)


def doubt_about(op: Operation, inputs: Sequence[Signal]) -> Doubt | None:
    """The first doubt about an operation's rule; None where the bench has shown it to hold."""
    return next((doubt for doubt in DOUBTS if doubt.about(op, inputs)), None)
