"""What a trial is trained for: its loss, its error, and what guessing has of both, by the labels and `train.loss`.

| task | labels | loss | error | chance |
| --- | --- | --- | --- | --- |
| `classes` | int64 (N,) | cross-entropy | share of examples wrong | 1 - share of the commonest class |
| `positions` | int64 (N, T, ...) | cross-entropy | share of positions wrong | 1 - share of the commonest class |
| `regression` | floating (N, ...) | squared error | that over the labels' variance | 1, the mean's |
| `multilabel` | 0 and 1 (N, ...) | binary cross-entropy | share of labels wrong | mean of min(p, 1 - p) |

Outputs are (N, K) for classes; (N, T, ..., K) or else (N, K, T, ...) for positions; as the labels for the others. A
loss of the user's replaces the loss alone: errors follow from the labels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from initlab.data.dataset import Dataset
from initlab.data.examples import IGNORED
from initlab.errors import UserError
from initlab.user_code import import_callable, is_code

Loss = Callable[[Tensor, Tensor], Tensor]
Task = Literal["classes", "positions", "regression", "multilabel"]


class Guess(NamedTuple):
    """What the best constant guess has on the training set."""

    error: float
    spread: float | None  # standard deviation of its error from example to example; None = of errors that are 0 or 1
    loss: float  # of cross-entropy that of equal odds, ln K or ln 2; of squared error the labels' variance


@dataclass(frozen=True)
class Objective:
    """Loss and error of outputs under labels."""

    task: Task
    guess: Guess
    own_loss: Loss | None = None

    def loss(self, output: Tensor, labels: Tensor) -> Tensor:
        """The mean loss of a batch, ()."""
        if self.own_loss:
            values = self.own_loss(output, labels)
            return values.mean() if values.dim() else values
        if self.task == "classes":
            return F.cross_entropy(output, labels)
        fitting = self.fitted(output, labels)
        if self.task == "positions":
            return F.cross_entropy(fitting.flatten(0, -2), labels.flatten(), ignore_index=IGNORED)
        if self.task == "regression":
            return F.mse_loss(fitting, labels)
        return F.binary_cross_entropy_with_logits(fitting, labels.to(fitting.dtype))

    def fitted(self, output: Tensor, labels: Tensor) -> Tensor:
        """The output with classes in its last dimension, or of the labels' shape."""
        if self.task == "classes":
            return output
        if self.task == "positions":
            return output if output.shape[:-1] == labels.shape else output.movedim(1, -1)
        return output.reshape(labels.shape)

    def misses(self, output: Tensor, labels: Tensor) -> Tensor:
        """The error of a batch times its examples, ()."""
        if self.task == "classes":
            return (output.argmax(1) != labels).sum()
        errors, counted = self.errors(output, labels)
        return errors.sum() * (len(labels) / counted)

    def errors(self, output: Tensor, labels: Tensor) -> tuple[Tensor, Tensor | int]:
        """The error of each label, 0 for those that do not count, and how many count."""
        fitting = self.fitted(output, labels)
        if self.task == "regression":
            return (fitting - labels).square().double() / self.guess.loss, labels.numel()
        if self.task == "multilabel":
            return (((fitting > 0) != (labels > 0)) | ~fitting.isfinite()).double(), labels.numel()
        counts = labels != IGNORED
        return ((fitting.argmax(-1) != labels) & counts).double(), counts.sum()

    def figures(self) -> dict[str, Any]:
        """What a trial's status keeps of it, for its verdict."""
        guess = self.guess
        return {"task": self.task, "chance": guess.error, "chance_loss": guess.loss, "chance_spread": guess.spread}

    def check_settings(self, labels: Tensor, heads: Sequence[int], slices: int) -> None:
        """Refuse what only some tasks go with; `labels` are those to train on.

        Raises:
            UserError: auxiliary classifiers, or batches in slices, where each would count positions of its own.
        """
        if self.task != "positions":
            return
        if heads:
            raise UserError("train.auxiliary: heads give one answer for an example (got classes over positions)")
        if slices > 1 and bool((labels == IGNORED).any()):
            text = f"differ in how many positions count (got labels of {IGNORED})"
            raise UserError(f"train.accumulate, --devices: the slices of a batch {text}; give 1 of each")

    def check_output(self, output: Any, labels: Tensor, num_classes: int) -> None:
        """Refuse an output that does not fit the labels, and a loss that nothing can be learned from.

        Raises:
            UserError: says what was given, and what is allowed.
        """
        if not isinstance(output, Tensor):
            raise UserError(f"net.name: gives no tensor (got {type(output).__name__}); return the outputs themselves")
        shape, expected = tuple(output.shape), tuple(labels.shape)
        if self.task in ("classes", "positions"):
            fits = output.dim() == labels.dim() + 1 and (
                (shape[:-1] == expected and shape[-1] >= num_classes)
                or ((shape[0], *shape[2:]) == expected and shape[1] >= num_classes)
            )
            expected = (*expected, num_classes)
        else:
            fits = expected in (shape, (*shape, 1)) or shape == (*expected, 1)
        if not fits:
            text = f"the output does not fit labels of shape {tuple(labels.shape)} (got {shape})"
            raise UserError(f"net.name: {text}; allowed: {expected} for as many examples")
        values = self.own_loss(output, labels) if self.own_loss else self.loss(output, labels)
        if not isinstance(values, Tensor) or (values.dim() and len(values) != len(labels)):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            text = f"neither a mean nor a value for each of {len(labels)} examples (got {got})"
            raise UserError(f"train.loss: {text}; return one of these, as a tensor")
        if not values.requires_grad:
            raise UserError("train.loss: has no gradient (got a tensor cut off from the output); leave out detach")


def objective_of(loss: str | None, data: Dataset) -> Objective:
    """The objective of a trial with `train.loss` on this data.

    Raises:
        UserError: labels that the loss does not take, or from which nothing can be learned.
    """
    task, labels = task_of(loss, data.train_labels), data.train_labels
    own_loss = import_callable("train.loss", loss) if loss and is_code(loss) else None
    if task == "multilabel" and not bool(((labels == 0) | (labels == 1)).all()):
        low, high = (float(value) for value in (labels.min(), labels.max()))
        raise UserError(f"train.loss: bce takes labels of 0 and 1 (got {low:g} to {high:g}); allowed for these: mse")
    guess = guess_of(task, labels, data.num_classes)
    if guess.error == 0 or not guess.loss:
        raise UserError("data: the training labels are all alike, so that there is nothing to learn; use real ones")
    return Objective(task, guess, own_loss)


def task_of(loss: str | None, labels: Tensor) -> Task:
    """What is to be learned, by the labels and the loss."""
    by_labels = loss is None or is_code(loss)
    if labels.dtype == torch.bool and (by_labels or loss == "bce"):
        return "multilabel"
    if labels.is_floating_point() and loss == "bce":
        return "multilabel"
    if labels.is_floating_point() and (by_labels or loss == "mse"):
        return "regression"
    if labels.dtype == torch.int64 and (by_labels or loss == "cross_entropy"):
        return "classes" if labels.dim() == 1 else "positions"
    allowed = {"cross_entropy": "int64 classes", "mse": "floating-point numbers", "bce": "bool or floating 0 and 1"}
    raise UserError(f"train.loss: {loss} takes other labels (got {labels.dtype}); allowed: {allowed[str(loss)]}")


def guess_of(task: Task, labels: Tensor, num_classes: int) -> Guess:
    """The best constant guess on training labels."""
    if task == "classes":
        most = torch.bincount(labels, minlength=num_classes).max()
        error = 1 - most.item() / len(labels)
        return Guess(error, None, math.log(num_classes))
    if task == "positions":
        counts = labels != IGNORED
        commonest = torch.bincount(labels[counts]).argmax()
        wrong = ((labels != commonest) & counts).flatten(1).sum(1).double()
        counted = counts.flatten(1).sum(1).double()
        error = (wrong.sum() / counted.sum()).item()
        return Guess(error, (wrong / counted).std(correction=0).item(), math.log(num_classes))
    if task == "regression":
        squares = (labels.double() - labels.double().mean(0)).square()
        variance = squares.mean().item()
        of_examples = squares.reshape(len(labels), -1).mean(1)
        return Guess(1.0, (of_examples.std(correction=0) / variance).item() if variance else 0.0, variance)
    ones = labels.double()
    wrong = (ones - (ones.mean(0) > 0.5).double()).abs()
    of_examples = wrong.reshape(len(labels), -1).mean(1)
    return Guess(wrong.mean().item(), of_examples.std(correction=0).item(), math.log(2))
