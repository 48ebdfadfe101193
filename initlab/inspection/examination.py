"""An inspection and what goes with it: lint's findings, the same net under other weights, and the remedy tried out."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from initlab.errors import UserError
from initlab.inspection.cause import Cure
from initlab.inspection.inspect import inspect
from initlab.inspection.inspection import Inspection
from initlab.inspection.lint.finding import Finding
from initlab.inspection.lint.lint import lint
from initlab.inspection.subject import Subject
from initlab.inspection.two_inits import Ratios, compare
from initlab.signal.probe import Loss


@dataclass(frozen=True)
class Examination:
    """What was seen of the model of this name; `fixed` is the inspection after the remedy, where there is one."""

    model: str
    inspection: Inspection
    findings: list[Finding]
    ratios: Ratios | None = None
    remedy: Cure | None = None
    fixed: Inspection | None = None


def examine(
    subject: Subject,
    *,
    weight_decay: float | None = None,
    optimizer: str | None = None,
    fix: bool = False,
    against: nn.Module | None = None,
    seed: int = 0,
    loss: Loss | None = None,
    redraws: int | None = None,
) -> Examination:
    """Inspect and lint a model; compare it with another initialisation, and try the advised one on a copy.

    Raises:
        UserError: a model that cannot be inspected or initialised, or nets of different layers.
    """
    model, images, labels = subject.module, subject.images, subject.labels
    options: dict[str, Any] = {"loss": loss, "weight_decay": weight_decay, "optimizer": optimizer, "redraws": redraws}
    remedy: Cure | None = None
    fixed: Inspection | None = None
    try:
        inspection = inspect(model, images, labels, **options)
        findings = lint(model, images)
        ratios = compare(model, against, images, seed=seed) if against is not None else None
        if fix and (remedy := inspection.cure):
            copied, batch = remedy.apply(model, images)
            fixed = inspect(copied, batch, labels, **options)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{subject.name}: {error}") from error
    return Examination(subject.name, inspection, findings, ratios, remedy, fixed)
