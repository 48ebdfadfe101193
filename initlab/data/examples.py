"""A data set of the user's: inputs of any shape and their labels, checked before anything is trained on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from initlab.errors import UserError, one_line

# Of a position that counts neither in the loss nor in the error, as torch's cross_entropy has it.
IGNORED = -100
PARTS = ("train_inputs", "train_labels", "val_inputs", "val_labels")


@dataclass(frozen=True)
class Examples:
    """Inputs (N, ...) and labels of both parts; what the labels are says what is to be learned.

    Inputs are floating-point, or integers such as tokens; uint8 ones (N, channels, height, width) are pictures. Labels:

    - int64 (N,): a class for each example;
    - int64 (N, T, ...): a class for each of its positions, -100 where none counts;
    - floating (N,) or (N, ...): numbers, for regression (for `train.loss: bce` as the next);
    - bool (N, D): several that may hold at once.
    """

    train_inputs: Tensor
    train_labels: Tensor
    val_inputs: Tensor
    val_labels: Tensor
    num_classes: int | None = None  # outputs of the net; None = as the labels have it
    flip: bool = False  # pictures: whether training flips by default
    class_names: tuple[str, ...] = ()  # none = by their numbers

    def __post_init__(self) -> None:
        """Raises a `UserError` that names the part and what is wrong with it."""
        for part in ("train", "val"):
            inputs, labels = getattr(self, f"{part}_inputs"), getattr(self, f"{part}_labels")
            check_numbers(f"data: {part}_inputs", inputs)
            check_numbers(f"data: {part}_labels", labels)
            if not (inputs.dim() and labels.dim() and 0 < len(inputs) == len(labels)):
                got = f"got inputs {tuple(inputs.shape)} and labels {tuple(labels.shape)}"
                raise UserError(f"data: {part}: not a label for each input ({got}); allowed: as many, at least 1")
        for kind in ("inputs", "labels"):
            train, val = getattr(self, f"train_{kind}"), getattr(self, f"val_{kind}")
            if train.shape[1:] != val.shape[1:] or train.dtype != val.dtype:
                got = " and ".join(f"{part.dtype} {tuple(part.shape)}" for part in (train, val))
                raise UserError(f"data: train_{kind} and val_{kind} differ (got {got}); allowed: one type and shape")
        for part in ("train", "val"):
            if (labels := getattr(self, f"{part}_labels")).dtype == torch.int64:
                check_classes(f"data: {part}_labels", labels, self.outputs)
        if len(self.class_names) not in (0, self.outputs):
            raise UserError(f"data: class_names: got {len(self.class_names)}; allowed: none, or {self.outputs}")

    @property
    def outputs(self) -> int:
        """Outputs that a net has for an example or position: the classes, or the numbers of a label."""
        if self.num_classes is not None:
            return self.num_classes
        if self.train_labels.dtype == torch.int64:
            return 1 + max(int(self.train_labels.max()), int(self.val_labels.max()))
        return self.train_labels[0].numel()

    @property
    def pictures(self) -> bool:
        """Whether the inputs are pictures: normalised by their mean image, and augmented."""
        return self.train_inputs.dtype == torch.uint8 and self.train_inputs.dim() == 4


def examples_of(content: Any) -> Examples:
    """What the user's callable gave as `Examples`: itself, or four tensors or arrays in the order of `PARTS`.

    Raises:
        UserError: something else.
    """
    if isinstance(content, Examples):
        return content
    if not isinstance(content, (tuple, list)) or len(content) != len(PARTS):
        got = type(content).__name__ + (f" of {len(content)}" if isinstance(content, (tuple, list)) else "")
        raise UserError(f"data.name: gives no data set (got {got}); return ({', '.join(PARTS)}) or an Examples")
    return Examples(**{name: to_tensor(name, value) for name, value in zip(PARTS, content, strict=True)})


def to_tensor(name: str, value: Any) -> Any:
    """A tensor of what is one, or reads as an array; whole labels become int64."""
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise UserError(f"data: {name}: no array of numbers (got {one_line(error)}); give a tensor or array") from None
    whole = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    return tensor.detach().long() if "labels" in name and whole else tensor.detach()


def check_numbers(where: str, tensor: Any) -> None:
    """Refuse what holds no finite numbers; `where` begins the message, as in `data: train_inputs`."""
    if not isinstance(tensor, Tensor) or tensor.is_complex():
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise UserError(f"{where}: of a wrong type (got {got}); allowed: a tensor of real numbers")
    if tensor.is_floating_point() and (bad := int((~tensor.isfinite()).sum())):
        raise UserError(f"{where}: NaN or infinite in {bad} of {tensor.numel()} places; give finite numbers")


def check_classes(where: str, labels: Tensor, classes: int) -> None:
    """Refuse classes out of range, and examples of which no position counts; `where` as above."""
    counted = labels if labels.dim() == 1 else labels[labels != IGNORED]
    if len(counted) and not (int(counted.min()) >= 0 and int(counted.max()) < classes):
        ignored = "" if labels.dim() == 1 else f", or {IGNORED} for positions that don't count"
        got = f"got {int(counted.min())} to {int(counted.max())}"
        raise UserError(f"{where}: out of range ({got}); allowed: 0 to {classes - 1}{ignored}")
    if labels.dim() > 1 and bool((labels == IGNORED).flatten(1).all(1).any()):
        raise UserError(f"{where}: no position of some example counts (got {IGNORED} in all); leave it out")
