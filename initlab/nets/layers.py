"""Layers of our own: dropout whose masks come from (seed, stream, step), pyramid pooling, identity skips."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from initlab.nets.undisturbed import in_eval_mode
from initlab.random_streams import stream_seed
from initlab.to_device import to_device

# Draws the masks of the next steps where these are wanted ahead; it starts no thread before that.
DRAWING = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dropout masks")
Mask = tuple[torch.Generator, Tensor]


class StreamDropout(nn.Module):
    """Dropout that draws its mask from a named stream, so that schemes, resumed and packed trials share masks.

    `set_dropout_step` must be called before each training step; in eval mode it is the identity. Where `mask` is
    set, nothing is drawn: a pack of trials hands in what each of them would have drawn.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self.p, self.name = p, name
        self.generator: torch.Generator | None = None
        # Of x's shape: whether each number goes through.
        self.mask: Tensor | None = None
        # The place of this process among those that share a batch.
        self.rank, self.size = 0, 1
        self.seed, self.step, self.ahead = 0, 0, False
        # What another thread draws for the next step: for which seed, step and shape, and the mask to come.
        self.next: tuple[tuple[Any, ...], Future[Mask]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x with some numbers 0 and the others over 1 - p."""
        if not self.training or self.p == 0:
            return x
        mask = self.drawn(x.shape, x.device) if self.mask is None else self.mask
        return x * mask / (1 - self.p)

    def drawn(self, shape: Sequence[int], device: torch.device) -> Tensor:
        """The mask of the step that `set_dropout_step` named."""
        if self.generator is None:
            raise RuntimeError(
                f"{self.name}: no dropout stream in training mode; call set_dropout_step(net, seed, step) first"
            )
        whole = (self.size * shape[0], *shape[1:])
        if self.next and self.next[0] == (self.seed, self.step, whole):
            self.generator, mask = self.next[1].result()
        else:
            _, mask = self.draw(self.generator, whole)
        following = (self.seed, self.step + 1, whole)
        if self.ahead and not (self.next and self.next[0] == following):
            self.next = following, DRAWING.submit(self.draw, self.stream(self.seed, self.step + 1), whole)
        return to_device(mask[self.rank * shape[0] : (self.rank + 1) * shape[0]], device)

    def draw(self, generator: torch.Generator, shape: tuple[int, ...]) -> Mask:
        """A mask on the CPU, the same on every device, and the generator after it."""
        return generator, torch.rand(*shape, generator=generator) >= self.p

    def stream(self, seed: int, step: int) -> torch.Generator:
        """What a step's mask is drawn from."""
        return torch.Generator().manual_seed(stream_seed(seed, "dropout", self.name, step))

    def __getstate__(self) -> dict[str, Any]:
        """All but what another thread is drawing, which a copy draws itself."""
        return {**self.__dict__, "next": None}

    def extra_repr(self) -> str:
        """The arguments, as torch prints a module."""
        return f"p={self.p}"


def set_dropout_step(net: nn.Module, seed: int, step: int, rank: int = 0, size: int = 1, ahead: bool = False) -> None:
    """Seed every dropout layer of `net` for the training step `step`.

    Masks are drawn for a whole batch; of `size` processes that share it in equal slices, `rank` takes its own. With
    `ahead` another thread draws the next step's during this one: a large mask takes the host longer than a small step.
    """
    for module in dropouts_of(net):
        module.generator = module.stream(seed, step)
        module.seed, module.step, module.ahead = seed, step, ahead
        module.rank, module.size = rank, size


def dropouts_of(net: nn.Module) -> list[StreamDropout]:
    """The dropout layers in order."""
    return [module for module in net.modules() if isinstance(module, StreamDropout)]


@torch.no_grad()
def dropout_shapes(net: nn.Module, images: Tensor) -> list[tuple[int, ...]]:
    """The shape of each dropout layer's input in a training step on `images`."""
    shapes: list[tuple[int, ...]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Note the shape that a layer takes in for the whole batch."""
        shapes.append((len(images), *inputs[0].shape[1:]))

    hooks = [module.register_forward_pre_hook(note) for module in dropouts_of(net)]
    if hooks:
        with in_eval_mode(net):
            net(images[:1])
    for hook in hooks:
        hook.remove()
    return shapes


def drawn_masks(net: nn.Module, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """The masks, on the CPU, of the step that `set_dropout_step` named: one per layer."""
    return [m.drawn(shape, torch.device("cpu")) for m, shape in zip(dropouts_of(net), shapes, strict=True)]


@contextmanager
def with_masks(net: nn.Module, masks: Sequence[Tensor]) -> Iterator[None]:
    """Inside, each dropout layer takes its mask from `masks`; outside it draws its own."""
    dropouts = dropouts_of(net)
    for module, mask in zip(dropouts, masks, strict=True):
        module.mask = mask
    try:
        yield
    finally:
        for module in dropouts:
            module.mask = None


class SpatialPyramidPool(nn.Module):
    """Maxima of the n x n bins of a map, for each n of `bins`, as one vector per example (SPP-net, arXiv 1406.4729).

    A level is (channels, n, n) flattened, the levels stand in the order of `bins`: {6, 3, 2, 1} of 256 channels are
    256 * (36 + 9 + 4 + 1) = 12,800 values, whatever the map's size. Bin i of n over a side of m reaches from
    floor(i m/n) to ceil((i + 1) m/n). Where n divides m this is SPP-net's sliding window of ceil(m/n) and stride
    floor(m/n); elsewhere those windows leave the map's end out (m = 14, n = 3) or are more than n.
    """

    def __init__(self, bins: tuple[int, ...]) -> None:
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, height, width) to (N, channels * sum of n^2).

        Raises:
            ValueError: a map with fewer rows or columns than bins a side.
        """
        if min(x.shape[2:]) < max(self.bins):
            raise ValueError(
                f"spp: a map of {x.shape[2]}x{x.shape[3]} is too small (got it from these images); "
                f"allowed: at least {max(self.bins)} a side; give larger images"
            )
        return torch.cat([F.adaptive_max_pool2d(x, n).flatten(1) for n in self.bins], dim=1)

    def extra_repr(self) -> str:
        """The arguments, as torch prints a module."""
        return f"bins={self.bins}"


class Add(nn.Module):
    """The sum at the end of an identity skip from the layer `source`, which `SkipSequential` hands over."""

    def __init__(self, source: str, factor: float = 1.0) -> None:
        super().__init__()
        self.source, self.factor = source, factor

    def forward(self, x: Tensor, skipped: Tensor) -> Tensor:
        """What was skipped and `factor` times x."""
        return (x if self.factor == 1 else self.factor * x) + skipped

    def extra_repr(self) -> str:
        """The arguments, as torch prints a module."""
        return f"source={self.source}" + (f", factor={self.factor:g}" if self.factor != 1 else "")


class SkipSequential(nn.Sequential):
    """Layers in a row, with identity skips: the output that an `Add` names as its source is saved until then.

    All layers stay side by side under the names that they have without skips. A slice that holds whole skips works as
    any Sequential's; to go through the layers one by one by hand, hand each `Add` its source.
    """

    def forward(self, input: Tensor) -> Tensor:
        """The output of the last layer."""
        sources = {module.source for module in self if isinstance(module, Add)}
        outputs: dict[str, Tensor] = {}
        x = input
        for name, module in self.named_children():
            if isinstance(module, Add) and module.source not in outputs:
                raise ValueError(f"{name}: its skip starts outside (got no {module.source}); slice around whole skips")
            x = module(x, outputs[module.source]) if isinstance(module, Add) else module(x)
            if name in sources:
                outputs[name] = x
        return x
