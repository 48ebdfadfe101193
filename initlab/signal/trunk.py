"""The trunk of a model: how far its tokens lie apart before and behind each block, and how large the gradient is there.

Blocks are equal modules that follow each other in a pass (layers of a transformer, bottlenecks of a stage), or in the
flat nets of the catalog the layers around skips. What goes from one to the next is the trunk, a place behind each.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from initlab.nets.any_module import WeightLayer, layer_name, unwrapped
from initlab.nets.layers import Add, SkipSequential
from initlab.nets.undisturbed import Batch, run_model, tensors_in, to_model, untouched
from initlab.signal.moments import NAN, in_float64, on_host
from initlab.signal.paths import role
from initlab.signal.probe import Loss, loss_gradients

COLUMNS = ("block", "name", "cosine", "distance", "gradient_square")
# A rate per block wants blocks to be seen from.
FEWEST_BLOCKS = 3
# Times a type's epsilon squared, or float64's epsilon: below it a distance is what rounding leaves of equal tokens.
ROUNDING = 10.0


@dataclass(eq=False)
class Place:
    """The signal before the first block of a trunk, or behind one."""

    name: str  # of the block that it comes out of, "" before the first
    shape: torch.Size
    tokens: str  # what is compared: tokens, positions of a map, or examples
    distance: Tensor
    gradient: Tensor = NAN

    def receive(self, gradient: Tensor) -> None:
        """Take the gradient in: the first that comes, since half precision has further backward passes."""
        if self.gradient is NAN:
            self.gradient = in_float64(gradient).abs().square().mean()


@dataclass(frozen=True)
class Block:
    """A part of a trunk, from its first module to its last, which are one where it is a module itself."""

    name: str
    modules: tuple[nn.Module, ...]

    def tokens_of(self, x: Tensor) -> tuple[str, Tensor]:
        """What the tokens in a signal are, and x as (examples, tokens, features)."""
        inner = [module for outer in self.modules for module in outer.modules()]
        maps = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
        convolutions = [m for m in inner if isinstance(m, maps) and m.weight.dim() == x.dim()]
        if x.dim() == 2:
            return "examples", x[None]
        if any(m.out_channels == x.shape[1] for m in convolutions):
            return "positions", x.movedim(1, -1).flatten(1, -2)
        # Attention that is told so has its examples second.
        second = any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in inner)
        return "tokens", x.movedim(int(second), 0).flatten(1, -2)


class Stack:
    """Equal blocks side by side in a model, which may follow each other in a pass."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = blocks
        self.calls: list[tuple[Place, Place]] = []  # before and behind a block
        # The last signals before and behind a block, to know them again.
        self.before: Tensor | None = None
        self.behind: Tensor | None = None
        self.entered: Place | None = None
        self.parallel = False  # two blocks took the same signal

    def enter(self, block: Block, module: nn.Module, args: Any, kwargs: Any) -> None:
        """A block's call begins."""
        x = signal_in((args, kwargs))
        if x is None:
            return
        # A block may hand on what it got.
        self.parallel |= x is self.before and x is not self.behind
        before = self.calls[-1][1] if self.calls else None
        self.entered = before if before and x is self.behind else place(before.name if before else "", block, x)
        self.before = x

    def leave(self, block: Block, module: nn.Module, inputs: Any, output: Any) -> None:
        """A block's call ends."""
        y = signal_in(output)
        if y is not None and self.entered is not None:
            self.calls.append((self.entered, place(block.name, block, y)))
            self.behind, self.entered = y, None

    def trunk(self) -> list[Place]:
        """The longest run of places of one shape: before the first block and behind each, where one feeds the next.

        What comes out of a block that feeds no other is a branch, x + block(x): then only what goes in is the trunk.
        """
        joined = any(behind is before for (_, behind), (before, _) in pairwise(self.calls))
        runs: list[list[Place]] = [[]]
        for before, behind in () if self.parallel else self.calls:
            if joined and runs[-1] and runs[-1][-1] is not before:
                runs.append([])
            for point in (before, behind) if joined else (before,):
                if runs[-1] and runs[-1][-1].shape != point.shape:
                    runs.append([])
                if point not in runs[-1][-1:]:
                    runs[-1].append(point)
        return max(runs, key=len)


class Trunk:
    """What the stacks of a model show in a pass; `table` is that of the longest."""

    def __init__(self, model: nn.Module) -> None:
        self.stacks = [Stack(blocks) for blocks in stacks_of(model)]

    def table(self) -> pd.DataFrame:
        """One row per place, block 0 before the first: block, name (of the block), cosine (mean over two tokens of a
        sequence), distance (1 - cosine, 0 where no more than rounding is left) and gradient_square, the mean square of
        the gradient of the summed loss, NaN without one. Empty for a model of fewer than three blocks in a row.
        `attrs["tokens"]` is what the tokens are: `tokens`, `positions` of a map, or `examples`.
        """
        places = max((stack.trunk() for stack in self.stacks), key=len, default=[])
        if len(places) <= FEWEST_BLOCKS:
            return pd.DataFrame(columns=[*COLUMNS])
        names = [layer_name(point.name) for point in places]
        numbers = on_host([[1 - point.distance, point.distance, point.gradient] for point in places])
        rows = [(block, name, *values) for block, (name, values) in enumerate(zip(names, numbers, strict=True))]
        table = pd.DataFrame(rows, columns=[*COLUMNS])
        table.attrs["tokens"] = places[0].tokens
        return table


def signal_in(values: Any) -> Tensor | None:
    """The first tensor of floating numbers for several examples or tokens."""
    signals = (tensor for tensor in tensors_in(values) if tensor.is_floating_point() and tensor.dim() > 1)
    return next((signal for signal in signals if signal.numel() and unwrapped(signal) is signal), None)


def place(name: str, block: Block, x: Tensor) -> Place:
    """The signal x on the trunk, measured, and its gradient once that arrives."""
    tokens, signal = block.tokens_of(x.detach())
    distance = distance_between(signal)
    least = ROUNDING * max(torch.finfo(x.dtype).eps ** 2, torch.finfo(torch.float64).eps)
    point = Place(name, x.shape, tokens, distance.where(~(distance < least), 0.0))
    if x.requires_grad:
        x.register_hook(point.receive)
    return point


def distance_between(x: Tensor) -> Tensor:
    """Mean of 1 - cos over the pairs of tokens of an example, and over the examples.

    Two orthogonal tokens are at 1, equal ones at 0, opposite ones at 2. NaN of a single token.

    Args:
        x: (examples, tokens, features).
    """
    x = in_float64(x)
    sizes = x.norm(dim=-1)
    inverse = (1 / sizes).where(sizes > 0, 0.0)
    mean = torch.einsum("ntc,nt->nc", x, inverse) / x.shape[1]
    # Of n unit vectors the sum of |u - mean|^2, over n - 1; a token of zeros counts as the origin.
    deviations = (sizes > 0).sum(1) - x.shape[1] * mean.square().sum(1)
    distance: Tensor = deviations.mean() / (x.shape[1] - 1)
    return distance


def stacks_of(model: nn.Module) -> Iterator[list[Block]]:
    """Modules of one class side by side that hold others; in the flat nets of the catalog, layers around skips."""
    for path, parent in model.named_modules():
        if isinstance(parent, SkipSequential):
            yield flat_blocks(parent)
        by_class: dict[type[nn.Module], list[Block]] = {}
        for name, child in parent.named_children():
            if next(child.children(), None) is None or isinstance(child, WeightLayer | torch.jit.ScriptModule):
                continue
            by_class.setdefault(type(child), []).append(Block(f"{path}.{name}".lstrip("."), (child,)))
        yield from by_class.values()


def flat_blocks(net: SkipSequential) -> list[Block]:
    """The layers of a flat net in blocks, which begin where the skips of one role do: `add_attention1`, 2, 3 ..."""
    children = dict(net.named_children())
    names = list(children)
    by_role: dict[str, list[int]] = {}
    for name, module in children.items():
        # A slice may have begun behind the source.
        if isinstance(module, Add) and module.source in children:
            by_role.setdefault(role(name), []).append(names.index(module.source) + 1)
    starts = next(iter(by_role.values()), [])
    length = starts[1] - starts[0] if len(starts) > 1 else 0
    spans = [names[start : start + length] for start in starts]
    return [Block(span[-1], tuple(children[name] for name in span)) for span in spans if len(span) == length > 0]


def trunk_of(model: nn.Module, batch: Batch, labels: Any = None, loss: Loss | None = None) -> pd.DataFrame:
    """`Trunk.table` of a model from one pass; it is left as it was. Arguments and errors are those of the probe."""
    with torch.inference_mode(False), untouched(model, backward=True):
        batch, labels = to_model(model, batch, labels)
        with on_trunk(model) as trunk:
            output = run_model(model, batch)
        if labels is not None:
            loss_gradients(output, labels, loss, [p for p in model.parameters() if p.requires_grad])
        return trunk.table()


@contextmanager
def on_trunk(model: nn.Module) -> Iterator[Trunk]:
    """Measure the blocks of a model in the pass that runs within; its hooks are gone afterwards."""
    trunk = Trunk(model)
    with ExitStack() as hooks:
        for stack in trunk.stacks:
            for block in stack.blocks:
                first, last = block.modules[0], block.modules[-1]
                enter, leave = partial(unrecorded, stack.enter, block), partial(unrecorded, stack.leave, block)
                hooks.callback(first.register_forward_pre_hook(enter, with_kwargs=True).remove)
                hooks.callback(last.register_forward_hook(leave).remove)
        yield trunk
        # They have the whole graph behind them.
        for stack in trunk.stacks:
            stack.before = stack.behind = None


def unrecorded(hook: Callable[..., None], *arguments: Any) -> None:
    """Call a hook; whoever records the pass sees the model's own operations alone."""
    with torch._C.DisableTorchFunction():
        hook(*arguments)
