"""A copy of a model that takes a few steps on the batch: does it learn, and which weights get a gradient at last?

Rules on signals say where to look; whether a net trains is for training to say. Measured at width 64: of ReLU nets
under torch's default 10 layers halve their loss in 30 steps of AdamW and 12 do not, under Xavier's weights 16 and 20.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from initlab.nets.any_module import layer_name
from initlab.nets.copies import copied
from initlab.nets.undisturbed import Batch, num_examples, run_model, to_model, untouched
from initlab.signal.probe import Loss, summed_loss
from initlab.signal.start import Start

STEPS = 30
# Times chance, from which on a loss is compared with chance.
FAR = 10.0
# Of the entropy of the labels, below which a copy tells its examples apart.
BELOW_ENTROPY = 0.7
# Zero weights that wait for zero weights open one after another.
OPENING_STEPS = 4
# Models with more parameters are judged by their signals alone: 60 steps of AlexNet take minutes on a CPU.
MOST_PARAMETERS = 30_000_000


@dataclass(frozen=True)
class Course:
    """An optimiser, `AdamW` or `SGD` with momentum 0.9, and its learning rate."""

    optimizer: Literal["AdamW", "SGD"]
    rate: float

    def __str__(self) -> str:
        return f"{self.optimizer} at rate {self.rate:g}"

    def over(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser of these parameters."""
        if self.optimizer == "SGD":
            return torch.optim.SGD(parameters, self.rate, momentum=0.9)
        return torch.optim.AdamW(parameters, self.rate)


COURSES = (Course("AdamW", 1e-3), Course("AdamW", 3e-3))


@dataclass(frozen=True)
class Pupil:
    """A model that is never touched, with the batch that copies of it train on."""

    model: nn.Module
    batch: Batch
    labels: Any
    loss: Loss | None
    autocast: torch.dtype | None = None  # of the model's own run; copies train in the precision of their weights

    @property
    def able(self) -> bool:
        """Whether a copy can train: there are labels, and the model is small enough."""
        return self.labels is not None and sum(p.numel() for p in self.model.parameters()) <= MOST_PARAMETERS

    def learns(self, start: Start, surely: bool) -> bool:
        """Whether a copy halves its loss in `STEPS` steps of one of `COURSES`.

        One that starts far above chance has to halve chance's; and `surely` asks for a loss that no net has which only
        knows how frequent the labels are. False of a model that cannot be copied.
        """
        target = (start.chance if start.ratio > FAR else start.loss) / 2
        if surely and start.classes:
            target = min(target, BELOW_ENTROPY * start.entropy)
        # The last loss, since on the way one may dip and rise again.
        return any([math.inf, *(loss for loss, _ in self.steps(course, STEPS))][-1] < target for course in COURSES)

    def opened(self) -> set[str]:
        """Names of the parameters that get a gradient other than 0 within a few steps."""
        reached: set[str] = set()
        for _, model in self.steps(COURSES[0], OPENING_STEPS):
            for name, parameter in model.named_parameters():
                if parameter.grad is not None and bool((parameter.grad != 0).any()):
                    reached.add(layer_name(name))
        return reached

    def steps(self, course: Course, number: int) -> Iterator[tuple[float, nn.Module]]:
        """The mean loss of a copy and the copy, before each of so many steps and after the last, gradients in place.

        Dropout is off, and BatchNorm takes the batch's statistics.
        """
        try:
            model = copied(self.model)
        # What the user's modules hold may refuse.
        except (RuntimeError, TypeError, NotImplementedError):
            return
        parameters = [p for p in model.parameters() if p.is_floating_point()]
        if not parameters:
            return
        examples = num_examples(self.model, self.batch)
        with torch.inference_mode(False), untouched(model, backward=True, changing=parameters):
            inputs, targets = to_model(model, self.batch, self.labels)
            count = targets.numel() if self.loss is None and isinstance(targets, Tensor) else examples
            optimizer = course.over(parameters)
            for step in range(number + 1):
                optimizer.zero_grad()
                # A copy of the batch, since a model may work in place.
                output = run_model(model, to_model(model, inputs, None)[0])
                value = summed_loss(output, targets, self.loss) / count
                try:
                    if value.requires_grad:
                        value.backward()
                # A model that keeps a state with its graph takes no second step.
                except RuntimeError:
                    return
                yield value.item(), model
                # What is not finite stays so.
                if not math.isfinite(value.item()):
                    return
                if step < number:
                    for p in parameters:
                        # Of an embedding with `sparse=True`, which most optimisers refuse.
                        if p.grad is not None and p.grad.is_sparse:
                            p.grad = p.grad.to_dense()
                    optimizer.step()
