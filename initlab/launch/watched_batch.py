"""The batch on which a watched loop is measured: its signals, loss and error, and what guessing has on its labels."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from initlab.data.examples import check_classes, check_numbers
from initlab.errors import UserError
from initlab.nets.undisturbed import Batch, first_tensor, num_examples, tensors_in
from initlab.signal.probe import Loss, measure
from initlab.signal.start import chance_of
from initlab.train.objective import Guess, Objective, guess_of, task_of

NAN = math.nan
# Of labels that only the user's loss reads.
UNKNOWN = Objective("classes", Guess(NAN, None, NAN))


class WatchedBatch:
    """Inputs and labels, labels None where there are none, beside the model that they are for."""

    def __init__(
        self, model: nn.Module, inputs: Batch, labels: Any, loss: Loss | None, weight_decay: float | None
    ) -> None:
        self.model, self.inputs, self.labels, self.loss, self.weight_decay = model, inputs, labels, loss, weight_decay
        self.examples = num_examples(model, inputs)
        self.objective: Objective | None = None
        # Loss and error, as last measured.
        self.evaluation: tuple[Tensor | float, Tensor | float] = NAN, NAN

    def signals(self) -> list[dict[str, Any]]:
        """The signals of every layer; the same pass gives loss and error."""
        if self.labels is None:
            return measure(self.model, self.inputs, weight_decay=self.weight_decay)
        return measure(self.model, self.inputs, self.labels, loss=self.mean_loss, weight_decay=self.weight_decay)

    def mean_loss(self, output: Any, labels: Any) -> Tensor:
        """The batch's mean loss; its value is kept, and the error where the loss is not the user's."""
        self.objective = self.objective or objective_of(output, labels, self.loss)
        if self.loss:
            values = self.loss(output, labels)
            loss, misses = values.mean() if values.dim() else values, torch.tensor(NAN)
        else:
            self.objective.check_output(output, labels, 1)
            loss, misses = self.objective.loss(output, labels), self.objective.misses(output.detach(), labels)
        self.evaluation = loss.detach(), misses / len(labels)
        return loss

    def figures(self) -> dict[str, Any]:
        """What a reader of the loop's figures needs beside them."""
        return {"batch_size": self.examples, "num_classes": 1, **(self.objective or UNKNOWN).figures()}


def watched_batch(
    model: nn.Module, batch: Sequence[Any], loss: Loss | None, weight_decay: float | None
) -> WatchedBatch:
    """The batch (inputs, labels) that `watch` was given.

    Raises:
        UserError: no pair, no examples, or inputs that are no finite numbers.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{type(batch).__name__}" + (f" of {len(batch)}" if isinstance(batch, (tuple, list)) else "")
        raise UserError(f"watch: batch: no pair (got {got}); give (inputs, labels), labels None where there are none")
    for tensor in tensors_in(batch[0]):
        check_numbers("watch: batch: inputs", tensor)
    watched = WatchedBatch(model, batch[0], batch[1], loss, weight_decay)
    if not watched.examples:
        raise UserError("watch: batch: no examples in its inputs; give one or more")
    return watched


def objective_of(given: Any, labels: Any, loss: Loss | None) -> Objective:
    """What the batch's labels say of the task and of guessing; unknown of labels that only the user's loss reads.

    Raises:
        UserError: labels that do not fit the output, or from which nothing can be learned.
    """
    if not (isinstance(labels, Tensor) and (labels.is_floating_point() or labels.dtype in (torch.int64, torch.bool))):
        if loss:
            return UNKNOWN
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise UserError(f"watch: batch: labels of a wrong type (got {got}); allowed: int64, bool or floating, or loss=")
    check_numbers("watch: batch: labels", labels)
    output, task = first_tensor(given), task_of(None, labels)
    last = task == "classes" or output.shape[:-1] == labels.shape
    classes = output.shape[-1 if last else 1] if output.dim() > 1 else 1
    if labels.dtype == torch.int64:
        check_classes("watch: batch: labels", labels, classes)
    guess = guess_of(task, labels, classes)
    if loss is None and (guess.error == 0 or not guess.loss):
        raise UserError("watch: batch: labels all alike, so that guessing looks like learning; give mixed ones")
    # A model that gives its own loss, as those of transformers do, has that of its outputs and not of zeros.
    if loss and given is output:
        chance_loss = chance_of(given, labels, loss)[0]
        guess = guess._replace(loss=guess.loss if math.isnan(chance_loss) else chance_loss)
    return Objective(task, guess)
