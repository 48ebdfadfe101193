"""The passes of a trial's net through batches, forwards and backwards, as its spec and its device would have them."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from initlab.data.dataset import Dataset
from initlab.nets.layers import set_dropout_step
from initlab.signal.running import RunningMoments
from initlab.study.spec import TrialSpec
from initlab.train.auxiliary import Auxiliary
from initlab.train.cuda import Compiled
from initlab.train.group import Group
from initlab.train.objective import Objective

# Steps from which torch.compile pays: on an H200 it took 10 to 17 s a net, and saved 4 to 6 ms of each step of the
# paper's nets (docs/performance.md).
COMPILE_STEPS = 3_000


class Passes:
    """Of one trial; nothing here waits for the device."""

    def __init__(
        self,
        spec: TrialSpec,
        net: nn.Module,
        data: Dataset,
        objective: Objective,
        group: Group,
        steps: int,
        compiled: bool | None,
        channels_last: bool | None,
    ) -> None:
        """Two settings count on CUDA alone. `compiled`: whether torch.compile makes forward and backward, None is where
        it pays over so many `steps`; `channels_last`: whether maps lie in memory with their channels last, None is yes.
        """
        self.spec, self.net, self.objective, self.group = spec, net, objective, group
        self.dtype, self.device, self.on_gpu = data.dtype, data.device, data.device.type == "cuda"
        self.layout = torch.contiguous_format if channels_last is False else torch.channels_last
        if self.on_gpu:
            net.to(memory_format=self.layout)
        compile_pays = compiled or (compiled is None and steps >= COMPILE_STEPS)
        # A group's gradients are averaged by its wrapper, which is not compiled. Gradients that are summed over several
        # passes would lie where the graph of the next pass writes.
        compiles = compile_pays and self.on_gpu and group.size == 1 and spec.train.accumulate == 1
        self.forward: Callable[[Tensor], Tensor] = Compiled(net) if compiles else group.wrap(net)
        heads, weight = spec.train.auxiliary, spec.train.auxiliary_weight
        self.auxiliary = Auxiliary(net, heads, weight, data.num_classes, spec.seed) if heads else None

    @property
    def eager(self) -> str | None:
        """Why passes ran uncompiled although they were to be compiled."""
        return self.forward.reason if isinstance(self.forward, Compiled) else None

    def parts(self, images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The `train.accumulate` parts of a batch, in the layout of the net."""
        if self.on_gpu and images.dim() == 4:
            images = images.contiguous(memory_format=self.layout)
        count = self.spec.train.accumulate
        return zip(images.chunk(count), labels.chunk(count), strict=True)

    def add_gradients(
        self, images: Tensor, labels: Tensor, step: int, part: int, sample: RunningMoments | None, draws_ahead: bool
    ) -> tuple[Tensor, Tensor]:
        """Add what one part of a step's batch gives to the gradients of the batch's mean loss; what goes through the
        net is summed in `sample`.

        Returns:
            The part's share of the batch's mean loss over the group, and its misclassified examples.
        """
        train, group = self.spec.train, self.group
        rank, size = group.rank * train.accumulate + part, group.size * train.accumulate
        if train.dropout:
            set_dropout_step(self.net, self.spec.seed, step, rank, size, ahead=draws_ahead)
        with self.autocast():
            logits = self.logits(images, sample).to(self.dtype)
        loss = self.objective.loss(logits, labels)
        whole = loss + self.auxiliary.loss(labels, self.objective.loss) if self.auxiliary else loss
        (whole / train.accumulate).backward()
        return loss.detach() / size, self.objective.misses(logits.detach(), labels)

    def logits(self, images: Tensor, sample: RunningMoments | None) -> Tensor:
        """Of the net as it is trained."""
        if isinstance(self.forward, Compiled):
            return self.forward(images, sample)
        with sample.listen() if sample else nullcontext():
            return self.forward(images)

    def autocast(self) -> torch.autocast:
        """Convolutions and products in bfloat16 where the spec says so; weights, updates and probes keep their type.

        On a CPU in float32 all the same: without units for bfloat16 it takes a hundred times as long.
        """
        enabled = self.spec.train.precision == "bfloat16" and self.on_gpu
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)
