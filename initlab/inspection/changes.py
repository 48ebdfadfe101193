"""What a remedy changes: the parameters of a model that differ afterwards, with their sizes before and after."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from initlab.errors import UserError
from initlab.inspection.cause import Cure
from initlab.inspection.inspect import inspect
from initlab.inspection.inspection import Inspection
from initlab.inspection.subject import Subject


@dataclass(frozen=True)
class Change:
    """One parameter before and after; the factor is NaN where it isn't the same numbers in another size."""

    name: str  # as `model.get_parameter` takes it
    shape: tuple[int, ...]
    mean_before: float
    std_before: float
    mean_after: float
    std_after: float
    factor: float

    @property
    def plain(self) -> str:
        """A line of plain torch that makes a parameter of the size after: the same distribution, not the same draw."""
        parameter = f'model.get_parameter("{self.name}")'
        if self.factor == self.factor:
            return f"{parameter}.data.mul_({self.factor:.6g})"
        if self.std_after <= 1e-6 * abs(self.mean_after):
            return f"nn.init.constant_({parameter}, {self.mean_after:.6g})"
        # A mean within sampling error of 0 is 0.
        count = torch.Size(self.shape).numel()
        mean = "" if abs(self.mean_after) < 5 * self.std_after / count**0.5 else f"mean={self.mean_after:.6g}, "
        return f"nn.init.normal_({parameter}, {mean}std={self.std_after:.6g})"


@dataclass(frozen=True)
class Fix:
    """What is wrong with the model of this name and what to do; no cure where nothing is, or where nothing helped."""

    model: str
    inspection: Inspection
    cure: Cure | None
    changes: list[Change]
    num_parameters: int  # tensors of the model

    @property
    def needed(self) -> bool:
        """Whether something is wrong that a fix could mend."""
        return not self.inspection.healthy


def fix_of(subject: Subject, *, weight_decay: float | None = None) -> Fix:
    """Inspect a model, and carry its remedy out on a copy; the model is left as it was.

    Raises:
        UserError: a model that cannot be inspected.
    """
    model, batch, labels = subject.module, subject.images, subject.labels
    try:
        inspection = inspect(model, batch, labels, weight_decay=weight_decay)
        cure, changes = inspection.cure, list[Change]()
        if cure is not None:
            changes = changes_between(model, cure.apply(model, batch)[0])
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{subject.name}: {error}") from error
    return Fix(subject.name, inspection, cure, changes, len(list(model.parameters())))


def changes_between(model: nn.Module, changed: nn.Module) -> list[Change]:
    """The parameters of a copy that differ from the model's, in its order."""
    after = dict(changed.named_parameters())
    changes = []
    for name, before in model.named_parameters():
        pair = before.detach(), after[name].detach()
        if before.is_floating_point() and before.numel() and not torch.equal(*pair):
            (mean, std), (new_mean, new_std) = map(moments, pair)
            changes.append(Change(name, tuple(before.shape), mean, std, new_mean, new_std, factor_between(*pair)))
    return changes


def moments(parameter: Tensor) -> tuple[float, float]:
    """Mean and standard deviation, in float64."""
    values = parameter.double()
    return values.mean().item(), values.std(correction=0).item()


def factor_between(before: Tensor, after: Tensor) -> float:
    """The factor by which all numbers have changed; NaN where there is none."""
    first, second = before.double().flatten(), after.double().flatten()
    factor = float(first @ second / (first @ first)) if first.any() and first.isfinite().all() else float("nan")
    alike = torch.allclose(second, factor * first, rtol=1e-4, atol=1e-6 * float(second.abs().max()))
    return factor if alike and factor != 0 else float("nan")
