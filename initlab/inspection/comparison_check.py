"""What `compare_inits` refuses before anything is drawn: a batch, labels or a loss that do not fit the model."""

from typing import Any

import torch
from torch import Tensor, nn

from initlab.data.examples import IGNORED, check_classes
from initlab.errors import UserError, one_line
from initlab.nets.copies import copied
from initlab.nets.undisturbed import Batch, first_tensor, num_examples, run_model, tensors_in, to_model, untouched
from initlab.signal.probe import Loss, checked_loss
from initlab.signal.start import chance_of


def check_run(model: nn.Module, batch: Batch, labels: Any, loss: Loss | None) -> None:
    """Run the model and its loss once, so that what fails whatever the weights is said once.

    Raises:
        UserError: no model, a batch or labels that it does not take, numbers that are not finite, one class only, or a
            loss that gives no number per example, nor their mean.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"compare_inits: takes an nn.Module (got {type(model).__name__})")
    if not num_examples(model, batch):
        got = "an empty one" if isinstance(batch, Tensor) else type(batch).__name__
        raise UserError(f"batch: no tensor of examples (got {got}); give one with an example or more")
    if loss is not None and labels is None:
        raise UserError("loss: without labels (got None); give labels, which it takes with the output")
    if not any(True for _ in model.parameters()):
        raise UserError(f"model: nothing to initialise (got {type(model).__name__} without parameters); give another")
    try:
        copied(model)
    # Of tensors with a graph, and of what the user's modules hold.
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise UserError(f"model: cannot be copied, which each draw needs (got {one_line(error)})") from error
    if names := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise UserError(f"model: has no numbers (got `{names[0]}` on the device meta); build it on cpu or cuda")
    for what, values in (("batch", batch), ("labels", labels)):
        for tensor in tensors_in(values):
            if tensor.is_floating_point() and not (finite := tensor.isfinite()).all():
                bad = int((~finite).sum())
                raise UserError(f"{what}: {bad} of {tensor.numel()} numbers are NaN or infinite; clean the data first")
    with torch.inference_mode(False), untouched(model, backward=True):
        inputs, targets = to_model(model, batch, labels)
        try:
            output = run_model(model, inputs)
            first = first_tensor(output)
        except torch.OutOfMemoryError:
            raise
        # The user's forward may raise anything.
        except Exception as error:
            raise UserError(
                f"batch: the model does not take it (got {type(error).__name__}: {one_line(error)})"
            ) from error
        if labels is None:
            return
        if loss is None:
            check_labels(first, targets)
        try:
            checked_loss(output, targets, loss)
        except torch.OutOfMemoryError:
            raise
        # The user's loss may raise anything.
        except Exception as error:
            what = "labels" if loss is None else "loss"
            raise UserError(f"{what}: {one_line(error).removeprefix('inspect: ')}") from error


def check_labels(output: Tensor, labels: Any) -> None:
    """Refuse labels that cross-entropy does not take, on the host, where a device would fail for good."""
    if not isinstance(labels, Tensor):
        raise UserError(f"labels: no tensor (got {type(labels).__name__}); give torch.tensor(labels)")
    # Probabilities.
    if labels.is_floating_point():
        return
    classes = chance_of(output, labels, None)[1]
    if not classes:
        raise UserError(f"labels: the output {tuple(output.shape)} has one class (got int labels); give loss=")
    values = labels[labels != IGNORED]
    if not len(values):
        raise UserError(f"labels: none that counts (got {labels.numel()} of {IGNORED}, which are ignored)")
    check_classes("labels", values, classes)
    if len(values) > 1 and bool((values == values[0]).all()):
        got = f"got {len(values)} of class {int(values[0])}"
        raise UserError(f"labels: one class only ({got}); give a batch of several classes")
