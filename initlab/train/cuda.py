"""What makes a step fast on CUDA: cuDNN's settings, torch.compile with a fallback, a step captured as a CUDA graph.

On a CPU none of it does anything. What it gave on one H200 is in docs/performance.md.
"""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from initlab.nets.layers import drawn_masks, dropout_shapes, with_masks
from initlab.signal.running import RunningMoments
from initlab.signal.running_compiled import CompiledMoments
from initlab.to_device import copy_into

Step = Callable[[], None]
Capture = Callable[[Step], Step]  # from a step on fixed tensors to what does the same to them again
# Modules of the exceptions that say that torch cannot compile.
COMPILERS = ("torch._dynamo", "torch._inductor")
# Steps as they are before one is captured: kernels are loaded and chosen, workspaces allocated.
WARM_UP = 3
# Share of its change by which a replayed step may differ, as sums are taken in any order; a stale input makes it 1.
TOLERANCE = 0.05


@contextmanager
def kernels(device: torch.device) -> Iterator[None]:
    """How CUDA computes inside: convolutions and products of float32 in float32, cuDNN's algorithms timed per shape.

    torch's default lets convolutions round float32 inputs to TF32's 10 bits. A lab that measures signals through 30
    layers means what it says; for tensor cores there is `precision: bfloat16`. On another device nothing changes.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with cudnn.flags(enabled=True, benchmark=True, deterministic=cudnn.deterministic, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


class Compiled:
    """A net's forward and backward by torch.compile, in CUDA graphs; plain where torch cannot, and `reason` says why.

    Dropout masks are handed in: drawn inside, on the CPU, they would cut what is compiled into pieces.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        # Made at the first batch: a graph reads the masks of every step at the same addresses.
        self.masks: list[Tensor] | None = None
        # Made at the first call, which a trial in a pack never makes.
        self.run: Callable[[Tensor], Tensor] | None = None
        self.sampled: CompiledMoments | None = None  # the same with running moments
        self.reason: str | None = None

    def __call__(self, images: Tensor, sample: RunningMoments | None = None) -> Tensor:
        """Logits; steps whose running moments go to `sample` are compiled apart from the others."""
        if self.masks is None:
            shapes = dropout_shapes(self.net, images)
            self.masks = [torch.ones(shape, dtype=torch.bool, device=images.device) for shape in shapes]
        for place, mask in zip(self.masks, drawn_masks(self.net, [mask.shape for mask in self.masks]), strict=True):
            copy_into(mask, place)
        with with_masks(self.net, self.masks):
            if self.reason is None:
                try:
                    if self.run is None or self.sampled is None:
                        # Of the nets of one process torch compiles 8 and lets the others run as they are. One that is
                        # still in use is compiled again.
                        torch.compiler.reset()
                        self.run = torch.compile(self.net, mode="reduce-overhead")
                        self.sampled = CompiledMoments(self.net, partial(torch.compile, mode="reduce-overhead"))
                    return self.sampled(images, sample) if sample else self.run(images)
                except RuntimeError as error:
                    if not type(error).__module__.startswith(COMPILERS):
                        raise
                    self.reason = f"torch.compile: {in_a_line(error)}"
            with sample.listen() if sample else nullcontext():
                logits: Tensor = self.net(images)
            return logits


def cuda_graph(
    step: Step, pool: "torch.cuda._POOL_HANDLE | None" = None, stream: torch.cuda.Stream | None = None
) -> Step:
    """Capture a step that has run before; nothing of it happens until what is returned is called.

    Graphs of one `pool` and stream compute in the same memory: they may not be replayed at the same time.

    Raises:
        RuntimeError: the step does what a CUDA graph cannot hold, as waiting for the device.
    """
    graph = torch.cuda.CUDAGraph()
    # What is left of an earlier backward pass, in a cycle, would tie the weights to the stream that it ran on.
    gc.collect()
    # A stream of its own: cuBLAS has one workspace per stream, and graphs may be replayed at the same time.
    captures = torch.cuda.graph(graph, pool=pool, stream=stream or torch.cuda.Stream())
    # The outer block is for a capture that fails, which leaves its stream the current one.
    with torch.cuda.stream(torch.cuda.current_stream()), captures:
        step()
    return graph.replay


def in_one_pool(capture: Capture) -> Capture:
    """The same for steps that are taken in turn; as CUDA graphs they share the memory that they compute in."""
    if capture is not cuda_graph:
        return capture
    # Of one stream, as torch gives freed memory only to the stream that it was used on.
    return partial(cuda_graph, pool=torch.cuda.graph_pool_handle(), stream=torch.cuda.Stream())


class Captured:
    """A step on fixed tensors that is captured once and then replayed, so that its operations start as one.

    The first steps run as they are. The first one after the capture is taken twice from the same state, as it is and
    replayed: a graph holds addresses and numbers, so that where the step depends on anything that has changed since,
    the two differ. Then it runs as it is from there on, and `reason` says so.
    """

    def __init__(self, step: Step, state: Sequence[Tensor], capture: Capture) -> None:
        """`state`: the tensors that a step changes."""
        self.step, self.state, self.capture = step, state, capture
        self.calls = 0
        self.replay: Step | None = None
        self.reason: str | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.replay is None:
            self.step()
            if self.calls == WARM_UP + 1:
                # What the step needs is in place by now; the capture itself takes none.
                try:
                    self.replay = self.capture(self.step)
                except RuntimeError as error:
                    self.reason = f"CUDA graph: {in_a_line(error)}"
        elif self.calls == WARM_UP + 2:
            self.compare(self.replay)
        else:
            self.replay()

    def compare(self, replay: Step) -> None:
        """Take one step as it is and replayed; where they agree, replays are trusted."""
        before = [tensor.clone() for tensor in self.state]
        try:
            replay()
            replayed = [tensor.clone() for tensor in self.state]
        # Where memory runs out too, the step has not been taken.
        finally:
            for tensor, old in zip(self.state, before, strict=True):
                tensor.copy_(old)
        self.step()
        if not all(map(alike, replayed, self.state, before)):
            self.replay, self.reason = None, "CUDA graph: a replayed step differed from the step itself"


def alike(replayed: Tensor, stepped: Tensor, before: Tensor) -> bool:
    """Whether a replay and the step itself lead from `before` to the same; numbers that are not finite say nothing."""
    finite = stepped.isfinite() & before.isfinite()
    difference = torch.where(finite, replayed - stepped, 0.0).norm()
    return bool(difference <= TOLERANCE * torch.where(finite, stepped - before, 0.0).norm())


def in_a_line(error: Exception) -> str:
    """An exception in one line: its first two, as torch's compilers say in the second one what it was."""
    text = " ".join(str(error).strip().splitlines()[:2])
    return f"{type(error).__name__}: {text[:300]}"
