"""What a model does with a batch: its operations, as `recorder` finds them, with what is needed to follow each.

Each call of a torch function on something that depends on the input is an `Operation`. Activations of the model are not
kept.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.signal.theory.chains import Chain
from initlab.signal.theory.field import Field

# Stands in a recorded call for a tensor that depends on the model's input.
LIVE = object()
WEIGHTED = (F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
RECURRENT = (torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu)


@dataclass
class Operation:
    """One call: `args` and `kwargs` with `LIVE` for each tensor that depends on the input."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[int]  # the operations that gave those tensors; -1 is the model's input
    in_shapes: list[tuple[int, ...]]
    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32  # of what it gives
    layer: str | None = None  # name of the weight layer whose output this is
    place: int = 0  # among the tensors that the call gave
    kernel: Tensor | None = None  # of what goes into a recurrent call: see `kernels.of_sequences`
    # Of an operation that is not known: its first input and its output as measured, and the mean square of the
    # gradient at each input over that at the output.
    before: Field | None = None
    after: Field | None = None
    pulls: list[float] = field(default_factory=list)
    # Of a pointwise call: the function that it is of the operation `root`.
    chain: Chain | None = None
    root: int = -1
    of_rule: bool = True  # whether a rule may stand behind the root; what was measured is no normal

    def argument(self, place: int, name: str, default: Any = None) -> Any:
        """An argument of the call, given by its place or its name."""
        return self.args[place] if len(self.args) > place else self.kwargs.get(name, default)

    @property
    def phi(self) -> Chain | None:
        """The function that has to be integrated, where the call is more than a factor or constant; see `sources`."""
        if self.chain is None or not (self.chain.bends or len(self.chain.parts) > 1):
            return None
        return self.chain if self.rooted else self.chain.alone

    @property
    def rooted(self) -> bool:
        """Whether a pointwise call is followed from its root: its own inputs are no normals, or not independent."""
        return self.chain is not None and (
            len(self.chain.parts) > 1 or (self.chain.bends and self.chain.parts[0].curved)
        )

    @property
    def sources(self) -> list[int]:
        """The operations whose signals its rule takes and that its gradient goes to."""
        return [self.root] if self.rooted and self.of_rule else self.inputs


@dataclass(frozen=True)
class Trace:
    """A model's run on one batch."""

    operations: list[Operation]
    output: int  # the operation that gave the model's (first) output tensor; -1 where none did
    input: Field
    logits: Tensor
    outputs: Any  # all that the model gave, the logits among it
    axis: int  # the input's dimension of channels, counted from the end


def given(*_: Any) -> Tensor:
    """Stands for what a constant, or a further input, is made by."""
    raise AssertionError


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors in nested tuples, lists and dicts."""
    tensors: list[Tensor] = []
    swap(value, tensors.append)
    return tensors


def swap(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A nested value with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (tuple, list)):
        return tuple(swap(v, change) for v in value)
    if isinstance(value, Mapping):
        return {key: swap(v, change) for key, v in value.items()}
    return value
